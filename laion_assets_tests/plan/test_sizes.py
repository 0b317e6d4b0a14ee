"""Tests of the origin of sizes and bandwidth: the dataset, the source, or an estimate that is marked as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laion_assets.errors import SourceError
from laion_assets.plan.bandwidth import tried_bandwidth
from laion_assets.plan.sizes import TYPICAL_ROWS, shard_sizes
from laion_assets.settings import Settings, load_settings
from laion_assets_tests.conftest import SAMPLE_ROWS
from laion_assets_tests.source.fetching import settings_for
from laion_assets_tests.source.misbehaving_server import misbehaving_server

QUICK: dict[str, Any] = {
    "http_tries": 1,
    "http_connect_seconds": 2.0,
    "http_read_seconds": 2.0,
    "http_file_seconds": 5.0,
}


@pytest.fixture(autouse=True)
def _no_proxy_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def served(sample_folder: Path) -> dict[str, bytes]:
    """Returns the sample's files by name, in the form that `misbehaving_server` takes."""
    return {path.name: path.read_bytes() for path in sample_folder.glob("*/*")}


def test_sizes_of_laion_are_known_without_asking_anybody(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="laion400m", data_dir=tmp_path)
    sizes = {size.shard: size for size in shard_sizes(settings, [8, 9, 409])}
    assert {shard: size.rows for shard, size in sizes.items()} == {8: 642_675, 9: 1_000_448, 409: 518_720}
    assert sizes[9].raw_bytes == 2 * 1_024_458_880 + 155 * 1_000_448
    assert {size.origin for size in sizes.values()} == {"known"}


def test_a_folder_is_asked_without_being_told_to(settings: Settings, sample_folder: Path) -> None:
    sizes = shard_sizes(settings, [0, 1, 2, 3])
    assert tuple(size.rows for size in sizes) == SAMPLE_ROWS
    assert sizes[1].raw_bytes == sum(path.stat().st_size for path in sample_folder.glob("*/*_1.*"))
    assert {size.origin for size in sizes} == {"asked"}


def test_a_web_server_is_asked_only_when_told_to(sample_folder: Path, tmp_path: Path) -> None:
    with misbehaving_server(served(sample_folder)) as server:
        settings = settings_for(server.base(), data_dir=tmp_path, **QUICK)
        asked = shard_sizes(settings, [0, 3], ask=True)
        requests = len(server.requests)
        guessed = shard_sizes(settings, [0, 3], typical_rows=700)
        assert len(server.requests) == requests
    assert [size.rows for size in asked] == [SAMPLE_ROWS[0], SAMPLE_ROWS[3]]
    assert [(size.rows, size.origin) for size in guessed] == [(700, "estimated")] * 2


def test_a_source_that_does_not_answer_is_an_error_when_it_was_to_be_asked_and_a_guess_otherwise(
    tmp_path: Path,
) -> None:
    settings = settings_for(tmp_path / "nothing", data_dir=tmp_path / "data", **QUICK)
    with pytest.raises(SourceError):
        shard_sizes(settings, [0], ask=True)
    assert [(size.rows, size.origin) for size in shard_sizes(settings, [0])] == [(TYPICAL_ROWS, "estimated")]


def test_files_of_a_folder_on_the_same_disk_are_linked_and_take_no_time(settings: Settings) -> None:
    bandwidth = tried_bandwidth(settings, 0)
    assert not bandwidth.copies
    assert bandwidth.seconds(10**12) == 0
    assert [path.name for path in settings.data_dir.iterdir()] == [".bandwidth.lock"], "nothing of the trial stays"


def test_a_web_servers_bandwidth_is_tried(sample_folder: Path, tmp_path: Path) -> None:
    with misbehaving_server(served(sample_folder)) as server:
        settings = settings_for(server.base(), data_dir=tmp_path, **QUICK)
        bandwidth = tried_bandwidth(settings, 0)
    assert bandwidth.copies
    assert bandwidth.bytes_per_second is not None
    assert bandwidth.seconds(10**6) > 0
    assert "MB/s from http://127.0.0.1" in bandwidth.how


def test_a_trial_ends_after_its_time(sample_folder: Path, tmp_path: Path) -> None:
    with misbehaving_server(served(sample_folder)) as server:
        settings = settings_for(server.base("dribble=100000"), data_dir=tmp_path, **QUICK)
        bandwidth = tried_bandwidth(settings, 0, seconds=1.0)
        assert server.sent() < sum(path.stat().st_size for path in sample_folder.glob("*/*_0.*")), "it was cut off"
    assert bandwidth.bytes_per_second is not None
    assert bandwidth.bytes_per_second < 3 * 150_000, "three connections of 100 kB/s each"


def test_without_an_answer_bandwidth_is_not_known_and_no_error(tmp_path: Path) -> None:
    bandwidth = tried_bandwidth(settings_for(tmp_path / "nothing", data_dir=tmp_path / "data", **QUICK), 0)
    assert bandwidth.bytes_per_second is None
    assert bandwidth.how.startswith("not known: shard 0")


@pytest.mark.parametrize(("kind", "rows"), [("<f2", 1_000), ("<f4", 1_000), ("<f8", 1_000)])
def test_the_rows_of_an_npy_file_are_those_of_its_header(kind: str, rows: int, tmp_path: Path) -> None:
    """The dataset does not state the width of its numbers, and most datasets have float16."""
    np.save(tmp_path / "img_emb_0.npy", np.zeros((rows, 8), kind))
    (found,) = shard_sizes(_alone(tmp_path, ""), [0])
    assert (found.rows, found.origin) == (rows, "asked")


def test_the_rows_of_a_packed_file_are_estimated(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "e_0.npz", e=np.zeros((1_000, 8), "<f2"))
    (found,) = shard_sizes(_alone(tmp_path, 'image_file = "e_{shard}.npz"\n'), [0])
    assert (found.raw_bytes, found.origin) == ((tmp_path / "e_0.npz").stat().st_size, "estimated")


def _alone(folder: Path, file: str) -> Settings:
    """Writes a dataset that has only image vectors, in a folder."""
    (folder / "d.toml").write_text(
        f'name = "d"\nshards = 1\ndimension = 8\nhas_text = false\nhas_metadata = false\n{file}[[sources]]\n'
        'url = "unused"\n'
    )
    return load_settings(dataset_name=str(folder / "d.toml"), data_dir=folder / "data", source=(str(folder),))

"""Tests that a name put among those of a TOML file makes the shards that it moves stale; they are loaded again."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from laion_assets.automation.update import read_update
from laion_assets.definitions import build_definitions
from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN, LOAD_JOB
from laion_assets.health.upkeep import nothing_is_stale
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets.terminal.load import missing_steps

ROWS = 20


def described(folder: Path, keys: str, *names: str) -> Settings:
    """Settings of a dataset of these files, each with its own vector in every row."""
    (folder / "img_emb").mkdir(exist_ok=True)
    for name in names:
        vectors = np.zeros((ROWS, 8), np.float32)
        vectors[:, ord(name) - ord("a")] = 1
        np.savez(folder / "img_emb" / f"{name}.npz", x=vectors)
    listed = ", ".join(f'"{name}"' for name in names)
    (folder / "pictures.toml").write_text(
        f'name = "pictures"\ndimension = 8\nimage_file = "{{name}}.npz"\nimage_array = "x"\nhas_text = false\n'
        f'has_metadata = false\npartition_keys = "{keys}"\nnames = [{listed}]\n'
        '[defaults]\nurl = ""\ncaption = ""\nNSFW = ""\nsimilarity = 0.0\n'
        f'[[sources]]\nurl = "{folder}"\n'
    )
    return load_settings(dataset_name=str(folder / "pictures.toml"), data_dir=folder / "data", index="none")


def load(settings: Settings, instance: dg.DagsterInstance, shard: int) -> None:
    job = build_definitions(settings).resolve_job_def(LOAD_JOB)
    key = settings.dataset.key_of(shard)
    assert job.execute_in_process(instance=instance, partition_key=key).success


def held(settings: Settings) -> dict[int, str]:
    """The file whose rows each partition has."""
    with connect(settings) as db:
        rows = db.rows(f"SELECT shard, any(indexOf(image_embedding, 1)) FROM {db.table} GROUP BY shard")
    return {int(shard): chr(ord("a") + int(place) - 1) for shard, place in rows}


@pytest.mark.parametrize("keys", ["numbers", "names"])
def test_shards_that_a_new_name_moves_are_loaded_again(tmp_path: Path, keys: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        settings = described(tmp_path, keys, "b", "c")
        for shard in settings.dataset.shards:
            load(settings, instance, shard)
        assert nothing_is_stale(read_histories(instance, settings)).passed
        assert held(settings) == {0: "b", 1: "c"}
        settings = described(tmp_path, keys, "a", "b", "c")
        histories = read_histories(instance, settings)
        finding = nothing_is_stale(histories)
        assert finding.passed is False
        assert "it was fetched as " in finding.seen
        rows = {0: ROWS, 1: ROWS}
        for history in histories:
            assert missing_steps(settings, history, rows.get(history.shard, 0)) == list(CHAIN)
        assert read_update(settings, instance, "0-2").shards == dict.fromkeys(range(3), CHAIN)
        for shard in settings.dataset.shards:
            load(settings, instance, shard)
        assert held(settings) == {0: "a", 1: "b", 2: "c"}
        assert nothing_is_stale(read_histories(instance, settings)).passed
        assert read_update(settings, instance).nothing

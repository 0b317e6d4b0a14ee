"""Tests of further indexes of the service: each has the settings of its own file, and shares nothing of one dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from laion_assets.clip.model import clip_model, model_folder
from laion_assets.errors import LaionError, SettingsError
from laion_assets.recall.figures import (
    Evaluation,
    KindSummary,
    Latency,
    Measurement,
    Recall,
    SearchSettings,
    recall_folder,
    save_evaluation,
)
from laion_assets.service.served import ServedIndex
from laion_assets.settings import Settings, load_settings
from laion_assets.terminal.more_indexes import indexes_of
from laion_assets_tests.conftest import assert_one_line

TOML = 'version = 1\nname = "b"\nshards = 1\ndimension = 512\nclip_model = "ViT-B/32"\n[[sources]]\nurl = "/nowhere"\n'


def keep_report(settings: Settings, rows: int) -> None:
    """Keeps a recall report of graphs over this number of rows."""
    recall, latency = Recall(0.99, 1, 1, 0.99, 0.985, 1, 100), Latency(0.001, None, None)
    measured = Measurement("image_to_image", SearchSettings(16), recall, None, latency)
    kind = KindSummary("image_to_image", "", 100, 0, latency, None, measured)
    evaluation = Evaluation(rows, [0], "graph", "bf16", {}, ["0_abc"], 0.95, 2e-6, 0, 1, False, 1, [kind], [measured])
    recall_folder(settings).mkdir(parents=True)
    save_evaluation(evaluation, recall_folder(settings))


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of LAION-400M with a report and a model of its own, by the environment."""
    monkeypatch.setenv("LAION_DATA_DIR", str(tmp_path / "a"))
    monkeypatch.setenv("LAION_CLIP_DIR", str(tmp_path / "a-openclip"))
    monkeypatch.setenv("LAION_CLICKHOUSE", f"chdb://{tmp_path}/engine")
    monkeypatch.setenv("LAION_EXTRA_COLUMNS", "key")
    monkeypatch.setenv("LAION_HNSW_M", "16")
    settings = load_settings(dataset_name="laion400m")
    keep_report(settings, 407_332_084)
    return settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of another dataset, with its description."""
    made = tmp_path / "b"
    made.mkdir()
    (made / "b.toml").write_text(TOML)
    return made


def settings_file(folder: Path, **variables: object) -> Path:
    """Writes the file of settings of the other dataset. Its paths are relative."""
    given = {"DATASET": "b.toml", "TABLE": "table_b", "CLICKHOUSE": f"chdb://{folder.parent}/engine", **variables}
    path = folder / ".env"
    path.write_text("DAGSTER_HOME=/x\n" + "".join(f"LAION_{name}={value}\n" for name, value in given.items()))
    return path


def test_a_further_index_has_its_own_report_model_and_settings(first: Settings, folder: Path) -> None:
    here = Path.cwd()
    named = indexes_of(first, [settings_file(folder, INDEX="cells")])
    assert Path.cwd() == here
    assert list(named) == ["laion400m", "b"]
    other = named["b"]
    assert (other.data_dir, other.table, other.index, other.hnsw_m) == (folder / "data", "table_b", "cells", 64)
    assert (clip_model(other).name, model_folder(other)) == ("ViT-B/32", folder / "data" / "clip" / "vit-b-32")
    assert other.extra_column_types == {}
    served = {name: ServedIndex(name, each, 5) for name, each in named.items()}
    assert served["laion400m"].health()["recall"]["rows"] == 407_332_084
    assert served["b"].health()["recall"] is None
    indexed = indexes_of(first, [settings_file(folder)])["b"]
    keep_report(indexed, 70)
    assert ServedIndex("b", indexed, 5).health()["recall"]["rows"] == 70


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DATA_DIR": "../a"}, "which is that of laion400m, too"),
        ({"TABLE": "laion"}, "found table laion, which is that of laion400m"),
        ({"CLICKHOUSE": ""}, "found another embedded engine than that of laion400m"),
        ({"DATASET": "laion400m"}, "found laion400m twice"),
        ({"DATASET": "c.toml"}, "c.toml"),
        ({"HNSW_M": "many"}, "LAION_HNSW_M: "),
        ({"DATADIR": "data"}, "LAION_DATADIR: "),
    ],
)
def test_a_file_that_leaves_open_whose_report_or_rows_are_meant_is_refused(
    variables: dict[str, str], said: str, first: Settings, folder: Path
) -> None:
    with pytest.raises(LaionError) as caught:
        indexes_of(first, [settings_file(folder, **variables)])
    assert_one_line(caught.value, "index ", ".env", said)


def test_the_name_of_a_dataset_and_a_table_is_no_file(first: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        indexes_of(first, [Path("b.toml=table_b")])
    assert_one_line(caught.value, "index b.toml=table_b", "write LAION_DATASET, LAION_TABLE, LAION_DATA_DIR")

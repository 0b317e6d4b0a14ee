"""Tests the component in another project: two separate datasets, and a downstream asset."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from laion_assets.component import EmbeddingDataset, component_name
from laion_assets.errors import DatasetError, SettingsError
from laion_assets.resources import EmbeddingTable
from laion_assets_tests.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "hosts"


@pytest.fixture
def project(tmp_path: Path, sample_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the example project, with sample shards in the folder that its YAML names."""
    root = tmp_path / "project"
    shutil.copytree(EXAMPLE, root, ignore=shutil.ignore_patterns("__pycache__", "data", ".dagster"))
    shutil.copytree(sample_folder, root / "data" / "sample")
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    # Settings in the environment belong to another code location, and must not affect the component.
    monkeypatch.setenv("LAION_TABLE", "another")
    yield root
    for name in [name for name in sys.modules if name.split(".")[0] == "hosts"]:
        del sys.modules[name]


def add(project: Path, name: str, **attributes: object) -> None:
    """Adds a component to the project."""
    folder = project / "hosts" / "defs" / name
    folder.mkdir()
    document = {"type": "laion_assets.EmbeddingDataset", "attributes": attributes}
    (folder / "defs.yaml").write_text(yaml.safe_dump(document))


def definitions() -> dg.Definitions:
    """The definitions of the project, as Dagster loads them."""
    loaded: Any = importlib.import_module("hosts.definitions").defs
    made = loaded() if not isinstance(loaded, dg.Definitions) else loaded
    assert isinstance(made, dg.Definitions)
    return made


def keys(defs: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in defs.get_repository_def().asset_graph.get_all_asset_keys()}


def materialize(defs: dg.Definitions, instance: dg.DagsterInstance, *names: str, partition: str | None = None) -> bool:
    selection = [dg.AssetKey(name.split("/")) for name in names]
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(asset_selection=selection, partition_key=partition, instance=instance).success


def test_the_example_loads_two_shards_and_counts_their_hosts(project: Path) -> None:
    defs, instance = definitions(), dg.DagsterInstance.ephemeral()
    chain = [f"pictures/{name}" for name in ("raw_shard", "merged_shard", "clickhouse_partition")]
    for shard in ("0", "1"):
        assert materialize(defs, instance, *chain, partition=shard)
    assert materialize(defs, instance, "frequent_hosts")
    event = instance.get_latest_materialization_event(dg.AssetKey("frequent_hosts"))
    assert event is not None
    assert event.asset_materialization is not None
    hosts: Any = event.asset_materialization.metadata["hosts"]
    assert sum(record.data["rows"] for record in hosts.records) > 0
    assert (project / "data" / "pictures" / "clickhouse").is_dir()
    assert not (project / "data" / "clickhouse").exists()


def test_two_components_are_two_datasets_that_share_nothing(project: Path) -> None:
    add(project, "others", dataset="sample", source=str(project / "data" / "sample"))
    defs, instance = definitions(), dg.DagsterInstance.ephemeral()
    dg.Definitions.validate_loadable(defs)
    assert {"pictures/clickhouse_partition", "others/clickhouse_partition"} <= keys(defs)
    repository = defs.get_repository_def()
    schedules, sensors = repository.schedule_defs, repository.sensor_defs
    names = {schedule.name for schedule in schedules} | {sensor.name for sensor in sensors}
    assert {"pictures_load_next_shards", "others_load_next_shards", "others_index_at_milestones"} <= names
    for name in ("pictures", "others"):
        chain = [f"{name}/{asset}" for asset in ("raw_shard", "merged_shard", "clickhouse_partition")]
        assert materialize(defs, instance, *chain, partition="2")
    shutil.rmtree(project / "hosts" / "defs" / "others")
    shutil.rmtree(project / "data" / "others")
    left = definitions().get_repository_def()
    assert not any(key.startswith("others") for key in keys(definitions()))
    with dg.build_resources(left.get_top_level_resources()) as resources:
        table = resources.pictures_embedding_table
    assert isinstance(table, EmbeddingTable)
    with table.connect() as db:
        assert db.one(f"SELECT count() > 0, uniqExact(shard) FROM {db.table}") == (1, 1)


def test_the_environments_settings_are_not_read(tmp_path: Path) -> None:
    settings = EmbeddingDataset(dataset="sample").settings_in(tmp_path / "flickr", tmp_path)
    assert settings.table == "flickr"
    assert settings.key_prefix == ("flickr",)
    assert settings.data_dir == tmp_path / "data" / "flickr"


def test_a_relative_source_starts_at_the_projects_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path("/"))
    given = ["data/sample", "../my shards", "/mnt/x", "https://a.example/x"]
    expected = [str(tmp_path / "data/sample"), f"{tmp_path}/../my shards", "/mnt/x", "https://a.example/x"]
    for source in (given, "data/sample, '../my shards', /mnt/x, https://a.example/x"):
        component = EmbeddingDataset(dataset="sample", source=source)
        assert list(component.settings_in(tmp_path / "defs" / "pictures", tmp_path).source) == expected


def test_two_components_with_one_prefix_are_refused(project: Path) -> None:
    for name in ("one", "two"):
        add(project, name, dataset="sample", key_prefix="")
    with pytest.raises(Exception, match=r"two \(built\)") as refused:
        definitions()
    assert isinstance(refused.value.__cause__, dg.DagsterInvariantViolationError)
    assert "embedding_table" in str(refused.value.__cause__)


def test_a_dataset_can_be_described_in_the_yaml_or_beside_it(tmp_path: Path) -> None:
    described = {"name": "mine", "shards": 3, "dimension": 8, "clip_model": "sample"}
    inline = EmbeddingDataset(dataset=described, source="x").settings_in(tmp_path / "mine", tmp_path)
    assert (inline.dataset.shards, inline.dataset.dimension) == ((0, 1, 2), 8)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.toml").write_text('name = "mine"\nshards = 4\ndimension = 8\n')
    beside = EmbeddingDataset(dataset="mine.toml", source="x").settings_in(tmp_path / "mine", tmp_path)
    assert beside.dataset.shards == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("attributes", "kind", "words"),
    [
        ({"dataset": "no such"}, DatasetError, "no preset"),
        ({"dataset": {"name": "x"}}, DatasetError, "shards"),
        ({"dataset": "sample", "settings": {"index_frist": 3}}, SettingsError, "index_frist"),
        ({"dataset": "sample", "settings": {"hnsw_m": 0}}, SettingsError, "hnsw_m"),
        ({"dataset": "sample", "settings": {"table": "x"}}, SettingsError, "table in settings"),
        ({"dataset": "sample", "table": "a b"}, SettingsError, "table"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, attributes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        assert EmbeddingDataset(**attributes).settings_in(tmp_path / "x", tmp_path).dataset


@pytest.mark.parametrize(("folder", "name"), [("flickr", "flickr"), ("my set-2", "my_set_2"), ("2b", "dataset_2b")])
def test_a_components_name_is_a_name_in_dagster_and_clickhouse(folder: str, name: str) -> None:
    assert component_name(Path(folder)) == name

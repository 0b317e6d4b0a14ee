"""Tests table and store as Dagster resources: assets use them, tests replace them, Dagster shows no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from laion_assets.component import EmbeddingDataset
from laion_assets.definitions import build_definitions
from laion_assets.errors import SettingsError
from laion_assets.resources import EmbeddingStore, EmbeddingTable
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.store import ShardStore

SIGNS = "hunter2/#?@"
ENCODED = "hunter2%2F%23%3F%40"
"""A password, and the same password escaped for a URL."""


def in_use(definitions: dg.Definitions, name: str) -> Any:
    """The resource that a step gets."""
    with dg.build_resources(definitions.get_repository_def().get_top_level_resources()) as resources:
        return getattr(resources, name)


def shown(definitions: dg.Definitions) -> str:
    """The snapshot of the code location that Dagster's UI gets, as text."""
    from dagster._core.remote_representation.external_data import RepositorySnap

    return dg.serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))


def test_an_asset_reads_the_table_and_a_test_replaces_it(tmp_path: Path) -> None:
    @dg.asset
    def answer(embedding_table: EmbeddingTable) -> int:
        with embedding_table.connect() as db:
            return int(db.one("SELECT 41 + 1")[0])

    settings = load_settings(dataset_name="sample", data_dir=tmp_path)
    ours = build_definitions(settings).get_repository_def().get_top_level_resources()
    result = dg.materialize([answer], resources={"embedding_table": ours["embedding_table"]})
    assert result.output_for_node("answer") == 42
    other = EmbeddingTable(url=f"chdb://{tmp_path / 'other'}", table="other")
    assert dg.materialize([answer], resources={"embedding_table": other}).success
    assert (tmp_path / "other").is_dir()
    assert answer(embedding_table=other) == 42


def test_what_a_resource_connects_with_is_what_the_settings_say(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path, table="mine", clickhouse_wait_seconds=3)
    made = in_use(build_definitions(settings), "embedding_table").settings()
    for field in ("clickhouse_url", "table", "clickhouse_wait_seconds", "index_cache_bytes", "data_dir", "cluster"):
        assert getattr(made, field) == getattr(settings, field), field


def test_the_store_is_that_of_the_dataset(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path)
    store = in_use(build_definitions(settings), "shard_store")
    assert isinstance(store, EmbeddingStore)
    assert store.open() == ShardStore.of(settings)
    described = {"name": "mine", "shards": 3, "dimension": 8, "clip_model": "sample"}
    component = EmbeddingDataset(dataset=described, source="x")
    inline = component.settings_in(tmp_path / "mine", tmp_path)
    assert in_use(build_definitions(inline), "mine_shard_store").open() == ShardStore.of(inline)


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"LAION_CLICKHOUSE": f"http://me:{ENCODED}@db.example:8123/x"}, ("LAION_CLICKHOUSE",)),
        (
            {"LAION_CLICKHOUSE": "http://me@db.example:8123/x", "LAION_CLICKHOUSE_PASSWORD": SIGNS},
            ("LAION_CLICKHOUSE_PASSWORD", "http://me@db.example:8123/x"),
        ),
    ],
)
def test_a_password_of_the_environment_is_shown_by_its_variable(
    variables: dict[str, str], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(dataset_name="sample")
    definitions = build_definitions(settings)
    told = shown(definitions)
    assert "hunter2" not in told
    assert all(name in told for name in names)
    used = in_use(definitions, "embedding_table").settings()
    assert used.clickhouse_url == settings.clickhouse_url
    assert ENCODED in used.clickhouse_url.get_secret_value()


def test_a_password_that_a_program_gave_is_not_shown_at_all() -> None:
    settings = load_settings(dataset_name="sample", clickhouse=f"http://me:{ENCODED}@db.example:8123/x")
    definitions = build_definitions(settings)
    assert "hunter2" not in shown(definitions)
    assert in_use(definitions, "embedding_table").settings().clickhouse_url == settings.clickhouse_url


@pytest.mark.parametrize(
    ("attributes", "shows"),
    [
        ({"clickhouse": "{{ env.DB_URL }}"}, "DB_URL"),
        ({"clickhouse": "http://me@db.example/x", "clickhouse_password": "{{ env.DB_PASSWORD }}"}, "DB_PASSWORD"),
    ],
)
def test_a_components_password_is_shown_by_its_variable(
    attributes: dict[str, str], shows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_URL", f"http://me:{ENCODED}@db.example/x")
    monkeypatch.setenv("DB_PASSWORD", SIGNS)
    component = EmbeddingDataset.resolve_from_yaml(json.dumps({"dataset": "sample", **attributes}))
    settings = component.settings_in(tmp_path / "pictures", tmp_path)
    definitions = build_definitions(settings, with_executor=False, variables=component.variables)
    told = shown(definitions)
    assert "hunter2" not in told
    assert shows in told
    used = in_use(definitions, "pictures_embedding_table").settings()
    assert used.clickhouse_url.get_secret_value() == f"http://me:{ENCODED}@db.example/x"


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"clickhouse": "http://me:hunter2@db.example/x"}, "a password in the text of clickhouse,"),
        ({"clickhouse": "http://me:{{ env.DB_PASSWORD }}@db.example/x"}, "a password in the text of clickhouse,"),
        ({"clickhouse": "http://me@h/x", "clickhouse_password": "hunter2"}, "in the text of clickhouse_password"),
        ({"clickhouse": "{{ env.NOT_SET }}"}, "no variable NOT_SET"),
        ({"clickhouse_password": "{{ env.DB_PASSWORD }}"}, "clickhouse names no server"),
        ({"clickhouse": "{{ env.DB_URL }}", "clickhouse_password": "{{ env.DB_PASSWORD }}"}, "one of two passwords"),
    ],
)
def test_a_password_in_a_yaml_file_is_refused(
    attributes: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_URL", f"http://me:{ENCODED}@db.example/x")
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    component = EmbeddingDataset.resolve_from_yaml(json.dumps({"dataset": "sample", **attributes}))
    with pytest.raises(SettingsError, match=words) as caught:
        component.settings_in(tmp_path / "pictures", tmp_path)
    assert "hunter2" not in str(caught.value)


def test_every_setting_of_a_connection_is_one() -> None:
    from laion_assets.resources import OF_A_CONNECTION

    assert set(OF_A_CONNECTION) <= set(Settings.model_fields)
    of_clickhouse = {name for name in Settings.model_fields if name.startswith("clickhouse_")}
    assert of_clickhouse - set(OF_A_CONNECTION) == {"clickhouse_password", "clickhouse_merged"}

"""Tests the code location: assets and their descriptions, checks, sensors, and an import without side effects."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetCheckKey, AssetKey
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy
from dagster._core.definitions.sensor_definition import SensorType

from laion_assets.assets.location import POOL
from laion_assets.definitions import build_definitions
from laion_assets.health.keys import CHAIN, our_keys
from laion_assets.settings import load_settings

ASSETS = {
    "remote_shard": True,
    "raw_shard": True,
    "merged_shard": True,
    "clickhouse_partition": True,
    "vector_index": False,
    "vector_cells": False,
    "recall_report": False,
    "hnsw_tuning": False,
    "clip_encoders": False,
    "load_report": False,
}
"""Asset keys that users and scripts rely on. True: the asset is partitioned by shard."""

BLOCKING = {
    "raw_shard": {"rows_agree"},
    "merged_shard": {"vectors_are_sound", "rows_are_aligned", "metadata_is_sound"},
    "clickhouse_partition": {"partition_matches_parquet"},
    "vector_index": {"every_part_is_indexed", "index_is_used"},
    "vector_cells": {"every_shard_is_in_cells", "cells_are_used"},
}
TOLD = {
    "vector_cells": {"centroids_fit"},
    "recall_report": {"recall_meets_target", "index_beats_scan"},
    "clip_encoders": {"encoders_fit_table"},
    "load_report": {
        "no_shards_left_failed",
        "table_agrees_with_dagster",
        "ingest_is_moving",
        "nothing_is_stale",
        "index_follows_loads",
        "cells_follow_loads",
        "recall_is_current",
        "partitions_were_audited",
        "engine_is_given_back",
        "disk_space_suffices",
    },
}
"""BLOCKING: checks that stop downstream assets. TOLD: checks that only report."""

TOUCH_THE_TABLE = {"clickhouse_partition", "vector_index", "vector_cells", "recall_report", "hnsw_tuning"}
"""Without `load_report`: it reads the table, but would wait hours for an index build, so it reports a held table."""
CHECKS_OF_THE_TABLE = {
    *("partition_matches_parquet", "every_part_is_indexed", "index_is_used"),
    *("every_shard_is_in_cells", "cells_are_used", "centroids_fit"),
}

HEAVY = (
    "matplotlib",
    "pandas",
    "fastembed",
    "onnx",
    "onnxruntime",
    "polars",
    "chdb",
    "fsspec",
    "s3fs",
    "sqlalchemy",
    "alembic",
)


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(load_settings())


@pytest.fixture(scope="module")
def graph(definitions: dg.Definitions) -> AssetGraph:
    return definitions.get_repository_def().asset_graph


def test_the_assets_are_those_of_the_design(graph: AssetGraph) -> None:
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == set(ASSETS)
    assert our_keys(load_settings()) == graph.get_all_asset_keys()


@pytest.mark.parametrize(("name", "partitioned"), ASSETS.items())
def test_partitions_are_shards_in_the_order_of_their_numbers(graph: AssetGraph, name: str, partitioned: bool) -> None:
    partitions = graph.get(AssetKey(name)).partitions_def
    assert (partitions is not None) == partitioned
    if partitions is not None:
        assert list(partitions.get_partition_keys()) == [str(number) for number in range(410)]


@pytest.mark.parametrize("name", ASSETS)
def test_an_asset_explains_itself(graph: AssetGraph, name: str) -> None:
    node = graph.get(AssetKey(name))
    assert node.group_name in {"shards", "search", "health"}
    assert len(node.description or "") > 40
    assert node.kinds, "an icon in the graph"
    if name == "remote_shard":
        return  # Dagster's observable source assets have no owners and no code version
    assert list(node.owners) == ["team:embeddings"]
    assert (node.code_version or "").startswith("1")


@pytest.mark.parametrize("name", CHAIN)
def test_a_run_of_the_chain_is_of_one_partition(graph: AssetGraph, name: str) -> None:
    """With a backfill policy, a run could have a range of partitions, and checks would record no partition."""
    assert graph.get(AssetKey(name)).backfill_policy is None


def test_the_graph_tells_the_story(graph: AssetGraph) -> None:
    parents = {name: {key.to_user_string() for key in graph.get(AssetKey(name)).parent_keys} for name in ASSETS}
    assert parents["raw_shard"] == {"remote_shard"}
    assert parents["merged_shard"] == {"raw_shard"}
    assert parents["clickhouse_partition"] == {"merged_shard"}
    assert parents["vector_index"] == {"clickhouse_partition"}
    assert parents["vector_cells"] == {"clickhouse_partition"}
    assert parents["recall_report"] == {"vector_index"}
    assert parents["load_report"] == {"clickhouse_partition"}


def test_the_checks_are_all_there_and_no_others(graph: AssetGraph) -> None:
    expected = {
        AssetCheckKey(AssetKey(asset), name) for asset, names in (*BLOCKING.items(), *TOLD.items()) for name in names
    }
    assert set(graph.asset_check_keys) == expected


@pytest.mark.parametrize(
    ("asset", "name"), [(asset, name) for asset, names in BLOCKING.items() for name in sorted(names)]
)
def test_a_check_of_what_is_built_upon_blocks_and_has_the_partitions_of_its_asset(
    graph: AssetGraph, asset: str, name: str
) -> None:
    spec = graph.get_check_spec(AssetCheckKey(AssetKey(asset), name))
    assert spec.blocking
    assert spec.description
    assert spec.partitions_def == graph.get(AssetKey(asset)).partitions_def


@pytest.mark.parametrize(("asset", "name"), [(asset, name) for asset, names in TOLD.items() for name in sorted(names)])
def test_a_check_that_only_tells_blocks_nothing(graph: AssetGraph, asset: str, name: str) -> None:
    spec = graph.get_check_spec(AssetCheckKey(AssetKey(asset), name))
    assert not spec.blocking
    assert spec.description


def test_what_touches_the_table_is_in_its_pool(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    pools = {
        key.to_user_string(): node.op.pool
        for key, node in repository.assets_defs_by_key.items()
        if isinstance(node.node_def, dg.OpDefinition)
    }
    assert {name for name, pool in pools.items() if pool == POOL} == TOUCH_THE_TABLE
    checks = {key.name: check.op.pool for key, check in repository.asset_checks_defs_by_key.items()}
    own = {name for name, pool in checks.items() if pool == POOL}
    assert own == CHECKS_OF_THE_TABLE


@pytest.mark.parametrize("name", ["vector_index", "recall_report"])
def test_what_is_of_the_whole_table_has_a_condition(graph: AssetGraph, name: str) -> None:
    assert graph.get(AssetKey(name)).automation_condition is not None


def test_freshness_belongs_to_the_report_which_has_a_cadence_and_to_nothing_else() -> None:
    graph = build_definitions(load_settings(fresh_hours=3)).get_repository_def().asset_graph
    policy = graph.get(AssetKey("load_report")).freshness_policy
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    assert policy.fail_window.to_timedelta().total_seconds() == 3 * 3600
    assert all(graph.get(AssetKey(other)).freshness_policy is None for other in set(ASSETS) - {"load_report"})


def test_the_milestone_sensor_runs_in_our_process_and_by_itself(definitions: dg.Definitions) -> None:
    (sensor,) = (found for found in definitions.sensors or [] if found.name == "index_at_milestones")
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition)
    # `use_user_code_server=True` sets this type. The daemon's own process does not have our conditions.
    assert sensor.sensor_type == SensorType.AUTOMATION, (
        "without it a condition of ours is never true, and nothing says so"
    )
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_every_asset_with_a_condition_is_looked_at_by_that_sensor(
    definitions: dg.Definitions, graph: AssetGraph
) -> None:
    (sensor,) = (found for found in definitions.sensors or [] if found.name == "index_at_milestones")
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition)
    automated = {key for key in graph.get_all_asset_keys() if graph.get(key).automation_condition is not None}
    assert sensor.asset_selection.resolve(graph) == automated


def test_definitions_load_as_dagster_loads_them(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


PROBE = f"""
import socket, sys
def refused(*_): raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refused
opened = []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        opened.append(arguments[0])
    if event in ("os.mkdir", "sqlite3.connect"):
        opened.append((event, arguments[0]))
sys.dont_write_bytecode = True
sys.addaudithook(hook)
from laion_assets.definitions import defs
defs().get_repository_def()
print([name for name in {HEAVY!r} if name in sys.modules])
print(opened)
"""


def test_importing_the_code_location_is_light_and_touches_neither_network_nor_disk_nor_database(tmp_path: Path) -> None:
    environment = {"LAION_DATA_DIR": str(tmp_path / "store"), "LAION_CLICKHOUSE": "http://user:pass@192.0.2.1:8123/db"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **environment,
        },
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    heavy, opened = result.stdout.splitlines()
    assert heavy == "[]"
    assert opened == "[]"
    assert list(tmp_path.iterdir()) == []


def references(definitions: dg.Definitions) -> dict[str, list[dg.LocalFileCodeReference | dg.UrlCodeReference]]:
    """The source links that the UI shows for each asset."""
    graph = definitions.get_repository_def().asset_graph
    found = {}
    for key in graph.get_all_asset_keys():
        metadata = graph.get(key).metadata.get("dagster/code_references")
        if isinstance(metadata, dg.CodeReferencesMetadataValue):
            found[key.to_user_string()] = list(metadata.code_references)
    return found


def test_an_asset_leads_to_its_source_on_this_machine(definitions: dg.Definitions) -> None:
    for name, (reference, *more) in references(definitions).items():
        assert more == []
        assert isinstance(reference, dg.LocalFileCodeReference)
        lines = Path(reference.file_path).read_text(encoding="utf-8").splitlines()
        assert any(f"def {name}" in line for line in lines[(reference.line_number or 0) - 1 :][:40])
    assert set(references(definitions)) == set(ASSETS)


def test_an_asset_leads_to_git_where_the_setting_says_so() -> None:
    linked = build_definitions(load_settings(git_url="https://github.com/you/laion_assets.git", git_branch="v1"))
    ((reference,), *_) = [found for name, found in references(linked).items() if name == "raw_shard"]
    assert isinstance(reference, dg.UrlCodeReference)
    start = "https://github.com/you/laion_assets/tree/v1/laion_assets/assets/raw_shard.py#L"
    assert reference.url.startswith(start)


def test_owners_are_those_of_the_setting() -> None:
    graph = build_definitions(load_settings(owners="team:search, me@example.org")).get_repository_def().asset_graph
    owners = {key.to_user_string(): list(graph.get(key).owners) for key in graph.get_all_asset_keys()}
    assert {name for name, found in owners.items() if found != ["team:search", "me@example.org"]} == {"remote_shard"}

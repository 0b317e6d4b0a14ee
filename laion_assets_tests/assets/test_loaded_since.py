"""Tests a build inside a backfill with real steps: partitions that are loaded after it are not judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import StepMaterializationData

from laion_assets.definitions import build_definitions
from laion_assets.health.history import COVERED_SHARDS
from laion_assets.health.keys import asset_key
from laion_assets.health.loaded_since import LOADED_SINCE, loaded_since
from laion_assets.health.runs import failure_reason
from laion_assets.recall.compare import kept_evaluations
from laion_assets.sample.shards import write_sample_shard
from laion_assets.table.connect import connect
from laion_assets_tests.automation.recorded import Recorder
from laion_assets_tests.health.test_versions import Chain

BUILDS = ("vector_index", "vector_cells")


class Milestone(Chain):
    """Builds of graphs and cells, and single steps of their runs."""

    def step(self, *assets: str, checks_of: tuple[str, ...] = ()) -> dg.ExecuteInProcessResult:
        """Runs these assets without checks, or the blocking and other checks of assets alone."""
        defs = build_definitions(self.settings)
        known = defs.get_repository_def().asset_graph.asset_check_keys
        job = defs.resolve_implicit_global_asset_job_def().get_subset(
            asset_selection={asset_key(self.settings, asset) for asset in assets},
            asset_check_selection={key for key in known if key.asset_key.path[-1] in checks_of},
        )
        return job.execute_in_process(instance=self.instance, raise_on_error=False)

    def recorded(self, asset: str, key: str) -> object:
        """A value in the metadata of an asset's last materialization."""
        event = self.instance.get_latest_materialization_event(asset_key(self.settings, asset))
        assert event is not None and event.asset_materialization is not None
        return event.asset_materialization.metadata[key].value


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milestone]:
    """Shard 0 is loaded and in both indexes; then shard 1 is loaded before any check runs."""
    with dg.DagsterInstance.ephemeral() as instance:
        fields = {"index": "both", "hnsw_m": 8, "hnsw_ef_construction": 32, "recall_queries": 4}
        chain = Milestone(tmp_path_factory.mktemp("milestone"), instance, **fields)
        write_sample_shard(chain.folder / "sample", 2, 60)
        chain.run(0)
        assert chain.step(*BUILDS).success
        chain.run(1)
        yield chain


def test_a_build_passes_its_checks_after_another_shard_was_loaded(built: Milestone) -> None:
    assert [built.recorded(asset, COVERED_SHARDS) for asset in BUILDS] == ["0", "0"]
    done = built.step(checks_of=BUILDS)
    assert done.success
    found = {check.check_name: check for check in done.get_asset_check_evaluations()}
    assert {name: check.passed for name, check in found.items()} == dict.fromkeys(found, True)
    for name in ("every_part_is_indexed", "index_is_used", "every_shard_is_in_cells"):
        assert "loaded since the build, not judged: 1" in str(found[name].description)
        assert found[name].metadata[LOADED_SINCE].value == "1"
    assert found["every_part_is_indexed"].metadata["partitions"].value == 1
    assert found["index_is_used"].metadata["graphs_searched_by_text"].value == 1


def test_recall_is_measured_over_the_partitions_that_the_build_covers(built: Milestone) -> None:
    done = built.step("recall_report")
    assert done.success, failure_reason(built.instance, done.run_id)
    assert (built.recorded("recall_report", LOADED_SINCE), built.recorded("recall_report", "rows")) == ("1", 60)
    kept = kept_evaluations(built.settings)
    assert {one.method: one.shards for one in kept} == {"graph": [0], "codes": [0]}
    assert [part.partition("_")[0] for part in kept[0].parts] == ["0"]
    assert all(kind.chosen.at_10.mean == 1 for one in kept for kind in one.kinds)


def test_a_partition_that_the_build_should_cover_is_judged_all_the_same(built: Milestone) -> None:
    with connect(built.settings) as db:
        db.command(f"ALTER TABLE {db.table} CLEAR INDEX text_index IN PARTITION 0", settings={"mutations_sync": 2})
    done = built.step(checks_of=("vector_index",))
    failed = {check.check_name: str(check.description) for check in done.get_asset_check_evaluations()}
    assert not done.success
    assert failed["every_part_is_indexed"] == "partition 0 has no text_index; loaded since the build, not judged: 1"
    assert "by text: 0 graphs searched where 1 parts have one" in failed["index_is_used"]
    done = built.step("recall_report")
    assert "partition 0 has no text_index" in failure_reason(built.instance, done.run_id)


def test_a_shard_whose_load_has_swapped_its_partition_in_but_not_ended_is_not_judged(tmp_path: Path) -> None:
    """On a server a load and a build run at the same time."""
    with dg.DagsterInstance.ephemeral() as instance:
        chain = Milestone(tmp_path, instance)
        assert loaded_since(instance, chain.settings, "vector_index") == set(), "without a build all are judged"
        recorder = Recorder(instance, chain.settings)
        recorder.load(0, 1)
        instance.report_runless_asset_event(dg.AssetMaterialization("vector_index", metadata={COVERED_SHARDS: "0-1"}))
        recorder.run(2, dg.DagsterRunStatus.STARTED)
        checking = recorder.run(0, dg.DagsterRunStatus.STARTED)
        assert loaded_since(instance, chain.settings, "vector_index") == {0, 2}
        loaded = dg.AssetMaterialization("clickhouse_partition", partition="0")
        kind, data = "ASSET_MATERIALIZATION", StepMaterializationData(loaded)
        event = dg.DagsterEvent(kind, checking.job_name, event_specific_data=data)
        instance.report_dagster_event(event, checking.run_id)
        instance.report_runless_asset_event(dg.AssetMaterialization("vector_index", metadata={COVERED_SHARDS: "0-1"}))
        recorder.run(3, dg.DagsterRunStatus.QUEUED)
        assert loaded_since(instance, chain.settings, "vector_index") == {2}
        recorder.load(1)
        assert loaded_since(instance, chain.settings, "vector_index") == {1, 2}

"""Tests when recall counts as measured: for all indexes that LAION_INDEX names, and for the targets in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.assets.location import CodeLocation
from laion_assets.assets.recall_report import recall_report_checks
from laion_assets.automation.update import read_update
from laion_assets.definitions import build_definitions
from laion_assets.health.builds import look_at_builds
from laion_assets.health.facts import read_facts
from laion_assets.health.finding import Finding
from laion_assets.health.history import read_histories
from laion_assets.health.keys import BUILD_JOB
from laion_assets.health.upkeep import recall_is_current
from laion_assets.recall.figures import recall_folder, save_evaluation
from laion_assets.terminal.index import current_report
from laion_assets.terminal.status import read_status
from laion_assets_tests.health.test_upkeep import measured
from laion_assets_tests.health.test_versions import Chain

FAST: dict[str, object] = {"index_first": 1, "hnsw_m": 8, "hnsw_ef_construction": 32, "recall_queries": 2}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A loaded shard with only cells as index. Its recall was measured for a low target."""
    with dg.DagsterInstance.local_temp() as instance:
        chain = Chain(tmp_path_factory.mktemp("cells"), instance, index="cells", recall_target=0.1, **FAST)
        chain.run(0)
        build = build_definitions(chain.settings).resolve_job_def(BUILD_JOB)
        assert build.execute_in_process(instance=instance).success
        yield chain


@pytest.fixture
def cells(built: Chain) -> Chain:
    built.with_settings(index="cells", recall_target=0.1, **FAST)
    return built


def finding(chain: Chain) -> Finding:
    """The result of `recall_is_current`."""
    histories = read_histories(chain.instance, chain.settings)
    _, builds = look_at_builds(chain.settings)
    return recall_is_current(read_facts(chain.instance, chain.settings, histories, builds))


def test_cells_alone_are_measured_once(cells: Chain) -> None:
    """This also holds if graphs were built earlier, because the setting no longer asks for graphs."""
    for _ in range(2):
        assert finding(cells).passed, finding(cells).seen
        assert read_update(cells.settings, cells.instance).nothing
        assert current_report(cells.settings, cells.instance) is not None
        status = read_status(cells.settings, cells.instance)
        assert status.recall is not None
        assert set(status.recall.at_10) >= {"text_to_image", "image_to_image"}
        cells.instance.report_runless_asset_event(dg.AssetMaterialization("vector_index"))


def test_other_targets_ask_for_another_measurement(cells: Chain) -> None:
    """The search settings in a report were chosen for the report's targets."""
    cells.with_settings(index="cells", recall_target=0.2, **FAST)
    assert finding(cells).passed is False
    assert "recall was measured for other targets" in finding(cells).seen
    update = read_update(cells.settings, cells.instance)
    assert (update.shards, update.index, update.cells, update.recall) == ({}, False, False, True)
    assert current_report(cells.settings, cells.instance) is None
    cells.with_settings(index="cells", recall_target=0.1, recall_targets="like_by_text=0.2", **FAST)
    assert read_update(cells.settings, cells.instance).recall


@pytest.mark.parametrize(("target", "passes"), [(0.95, True), (0.99, False), (0.9, True)])
def test_the_check_judges_by_the_targets_of_the_settings(tmp_path: Path, target: float, passes: bool) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        settings = Chain(tmp_path, instance, recall_target=target).settings
    recall_folder(settings).mkdir(parents=True)
    save_evaluation(measured(0.96, 0.95), recall_folder(settings))
    verdict = recall_report_checks(CodeLocation(settings))[0]()
    assert isinstance(verdict, dg.AssetCheckResult)
    assert verdict.passed == passes
    assert passes or "a lower bound of 0.99 is wanted" in str(verdict.description)

"""Tests that findings and updates see what the table has lost of its graphs and cells, which Dagster never recorded."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from laion_assets.automation.update import read_update
from laion_assets.definitions import build_definitions
from laion_assets.health.facts import read_facts
from laion_assets.health.history import read_histories
from laion_assets.health.keys import BUILD_JOB
from laion_assets.health.update import Update
from laion_assets.health.upkeep import recall_is_void
from laion_assets.index.cells.schema import cells_table, centroids_table
from laion_assets.table.connect import connect
from laion_assets.terminal.status import read_status
from laion_assets_tests.health.test_versions import Chain
from laion_assets_tests.table.loaded import holder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Two loaded shards with graphs and cells, measured."""
    fast: dict[str, object] = {"index_first": 1, "hnsw_m": 8, "hnsw_ef_construction": 32, "recall_queries": 2}
    with dg.DagsterInstance.local_temp() as instance:
        chain = Chain(tmp_path_factory.mktemp("both"), instance, index="both", recall_target=0.1, **fast)
        for shard in (0, 1):
            chain.run(shard)
        build(chain)
        yield chain


def build(chain: Chain) -> None:
    job = build_definitions(chain.settings).resolve_job_def(BUILD_JOB)
    assert job.execute_in_process(instance=chain.instance).success


def change(chain: Chain, statement: str) -> None:
    with connect(chain.settings) as db:
        names = {"table": db.table, "cells": db.name_of(cells_table(db, "text"))}
        names["centroids"] = db.name_of(centroids_table(db))
        db.command(statement.format(**names), settings={"mutations_sync": 2})


def failing(chain: Chain) -> dict[str, str]:
    """What the findings about builds say that fail."""
    judged = ("index_follows_loads", "cells_follow_loads", "recall_is_current")
    findings = read_status(chain.settings, chain.instance).findings
    return {found.check: found.seen for found in findings if found.check in judged and not found.passed}


@pytest.mark.parametrize(
    ("statement", "made", "said"),
    [
        (
            "OPTIMIZE TABLE {table} FINAL",
            Update({}, index=True, recall=True, cells=True),
            {"index_follows_loads", "cells_follow_loads", "recall_is_current"},
        ),
        (
            "ALTER TABLE {table} UPDATE NSFW = 'NSFW' WHERE shard = 1 AND id % 7 = 0",
            Update({}, index=True, recall=True, cells=True),
            {"cells_follow_loads", "recall_is_current"},
        ),
        ("DROP TABLE {cells}", Update({}, index=False, recall=True, cells=True), {"cells_follow_loads"}),
        ("TRUNCATE TABLE {centroids}", Update({}, index=False, recall=True, cells=True), {"cells_follow_loads"}),
    ],
    ids=["merged by hand", "updated", "cells dropped", "centroids dropped"],
)
def test_what_the_table_lost_is_found_and_made_again(both: Chain, statement: str, made: Update, said: set[str]) -> None:
    assert failing(both) == {}
    assert read_update(both.settings, both.instance).nothing
    change(both, statement)
    found = failing(both)
    assert set(found) == said, found
    assert read_update(both.settings, both.instance) == made
    with holder(both.settings.data_dir):
        assert read_update(both.settings, both.instance).nothing, "only the record is known"
    histories = read_histories(both.instance, both.settings)
    assert recall_is_void(read_facts(both.instance, both.settings, histories)) == ""
    build(both)
    assert failing(both) == {}
    assert read_update(both.settings, both.instance).nothing

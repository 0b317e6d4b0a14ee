"""Tests of a partition whose load was killed during the swap: it must have the new rows, and each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laion_assets.settings import Settings
from laion_assets.shard.merged import MergedShard
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.lease import lease
from laion_assets.table.load import load_partition
from laion_assets.table.recovery import finish_interrupted_swaps
from laion_assets.table.schema import partitions
from laion_assets.table.staging import staging_name
from laion_assets_tests.conftest import Shard, Transport, settings_for

STAGING = "laion_staging_0_00ff00ff"
"""The staging table of a load that was killed."""


@pytest.fixture
def settings(sample_folder: Path, tmp_path: Path, transport: Transport) -> Settings:
    """Settings for the sample shards, with a database that only this test uses."""
    return settings_for(tmp_path / "data", sample_folder, **transport.fresh())


@pytest.fixture
def interrupted(
    settings: Settings, merged_from: Callable[[Shard, int], MergedShard], sample_shards: list[Shard]
) -> Iterator[tuple[Database, MergedShard]]:
    """A table with parts of two files in partition 0, as after a kill during REPLACE PARTITION, and the newer file."""
    with connect(settings) as db:
        load_partition(db, merged_from(sample_shards[1], 0))
        db.command(f"RENAME TABLE {db.table} TO {db.name_of('old')}")
        newer = merged_from(sample_shards[2], 0)
        load_partition(db, newer)
        db.command(f"RENAME TABLE {db.table} TO {db.name_of(STAGING)}, {db.name_of('old')} TO {db.table}")
        db.command(f"ALTER TABLE {db.table} ATTACH PARTITION 0 FROM {db.name_of(STAGING)}")
        (state,) = partitions(db)
        assert (state.parts, state.rows) == (2, sample_shards[1].rows + newer.rows)
        yield db, newer


def rows_and_parts(db: Database) -> tuple[int, int]:
    """Returns the number of rows and of parts of the only partition."""
    (state,) = partitions(db)
    return state.rows, state.parts


def test_the_replaced_part_goes_and_the_swapped_one_stays(interrupted: tuple[Database, MergedShard]) -> None:
    db, newer = interrupted
    if db.embedded:
        # The next process that opens the embedded engine finds each row once, even if it only searches.
        with connect(db.settings) as again:
            assert rows_and_parts(again) == (newer.rows, 1)
    else:
        assert finish_interrupted_swaps(db)
    assert rows_and_parts(db) == (newer.rows, 1)
    assert finish_interrupted_swaps(db) == []
    captions = db.rows(f"SELECT caption FROM {db.table} ORDER BY id")
    assert captions == db.rows(f"SELECT caption FROM {db.name_of(STAGING)} ORDER BY id")
    assert load_partition(db, newer).rows == newer.rows
    assert rows_and_parts(db) == (newer.rows, 1)


def test_a_newer_part_of_somebody_else_stays(interrupted: tuple[Database, MergedShard]) -> None:
    db, newer = interrupted
    db.command(f"INSERT INTO {db.table} SELECT * FROM {db.table} ORDER BY id LIMIT 1")
    finish_interrupted_swaps(db)
    assert rows_and_parts(db) == (newer.rows + 1, 2)


def test_a_swap_whose_load_goes_on_is_left_to_it(interrupted: tuple[Database, MergedShard]) -> None:
    db, _ = interrupted
    with lease(db, "partition 0") as held:
        db.command(f"RENAME TABLE {db.name_of(STAGING)} TO {db.name_of(staging_name(held, 0))}")
        assert finish_interrupted_swaps(db) == []
    assert rows_and_parts(db)[1] == 2


def test_staging_tables_of_a_table_with_a_longer_name_are_not_ours(interrupted: tuple[Database, MergedShard]) -> None:
    db, _ = interrupted
    db.command(f"RENAME TABLE {db.name_of(STAGING)} TO {db.name_of(STAGING.replace('laion', 'laion_b'))}")
    assert finish_interrupted_swaps(db) == []
    assert rows_and_parts(db)[1] == 2


def test_a_staged_part_that_is_not_in_the_table_changes_nothing(
    settings: Settings, merged_from: Callable[[Shard, int], MergedShard], sample_shards: list[Shard]
) -> None:
    with connect(settings) as db:
        load_partition(db, merged_from(sample_shards[1], 0))
        db.command(f"RENAME TABLE {db.table} TO {db.name_of('old')}")
        load_partition(db, merged_from(sample_shards[2], 0))
        db.command(f"RENAME TABLE {db.name_of('old')} TO {db.name_of(STAGING)}")
        db.command(f"INSERT INTO {db.table} SELECT * FROM {db.table}")
        assert finish_interrupted_swaps(db) == []
        assert rows_and_parts(db) == (2 * sample_shards[2].rows, 2)

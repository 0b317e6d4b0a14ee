"""Tests of two loads of one shard, over both transports: one waits for the other, and only checked rows go in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laion_assets.errors import LaionError, LeaseHeldError, LeaseLostError, PartitionCheckError
from laion_assets.settings import Settings
from laion_assets.shard import merge as merge_module
from laion_assets.shard.merged import MergedShard
from laion_assets.table import inserting
from laion_assets.table import load as load_module
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.lease import Lease
from laion_assets.table.load import load_partition
from laion_assets.table.parts import Part
from laion_assets.table.schema import partitions
from laion_assets.table.staging import Staging
from laion_assets.table.swap import swap_in
from laion_assets_tests.conftest import Shard, Transport, assert_one_line, settings_for
from laion_assets_tests.table.test_lease import let_lapse

Merge = Callable[[Shard, int], MergedShard]
Swap = Callable[[Lease, Staging, Part], None]


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each load insert several parts."""
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 50)
    monkeypatch.setattr(inserting, "PART_ROWS", 100)


@pytest.fixture
def settings(sample_folder: Path, tmp_path: Path, transport: Transport) -> Settings:
    """Settings for a database that only this test uses."""
    return settings_for(tmp_path / "data", sample_folder, **transport.fresh(), clickhouse_wait_seconds=60)


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with connect(settings) as opened:
        yield opened


@pytest.fixture
def merged(merged_from: Merge, sample_shards: list[Shard]) -> MergedShard:
    """A merged file of 1,000 rows in the store."""
    return merged_from(sample_shards[0], 0)


@pytest.fixture
def before_swap(monkeypatch: pytest.MonkeyPatch) -> Callable[[Swap], None]:
    """Returns a function that makes a call happen once, between the check of the staged rows and the swap."""

    def happen(what: Swap) -> None:
        def swap_late(held: Lease, staging: Staging, checked: tuple[Part, ...]) -> None:
            monkeypatch.setattr(load_module, "swap_in", swap_in)
            what(held, staging, checked[0])
            swap_in(held, staging, checked)

        monkeypatch.setattr(load_module, "swap_in", swap_late)

    return happen


def state(db: Database) -> list[tuple[int, int, int]]:
    """Returns the shard, rows and parts of each partition."""
    return [(one.shard, one.rows, one.parts) for one in partitions(db)]


def tables(db: Database) -> list[str]:
    """Returns the names of all tables except that of the leases."""
    return sorted(str(name) for (name,) in db.rows("SHOW TABLES") if not str(name).endswith("_leases"))


def test_a_load_that_comes_between_check_and_swap_waits_and_both_succeed(
    db: Database, settings: Settings, merged: MergedShard, before_swap: Callable[[Swap], None]
) -> None:
    waits = threading.Event()
    ends: list[int | LaionError] = []
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    def second() -> None:
        with connect(settings) as other:
            try:
                ends.append(load_partition(other, merged, log=say).rows)
            except LaionError as error:
                ends.append(error)

    thread = threading.Thread(target=second)

    def let_the_other_begin(*_: object) -> None:
        thread.start()
        assert waits.wait(2 if db.embedded else 30) or db.embedded

    before_swap(let_the_other_begin)
    assert load_partition(db, merged).rows == 1_000
    thread.join(60)
    assert ends == [1_000]
    assert db.embedded or "is held by process" in said[0]
    assert state(db) == [(0, 1_000, 1)]
    assert tables(db) == ["laion"]


def test_a_load_that_may_not_wait_says_who_holds_the_shard(
    db: Database, settings: Settings, merged: MergedShard, before_swap: Callable[[Swap], None]
) -> None:
    found: list[LaionError] = []

    def load_meanwhile(*_: object) -> None:
        with connect(settings.model_copy(update={"clickhouse_wait_seconds": 0.0})) as other:
            with pytest.raises(LeaseHeldError) as caught:
                load_partition(other, merged)
            found.append(caught.value)

    before_swap(load_meanwhile)
    load_partition(db, merged)
    assert_one_line(found[0], "the lease of partition 0", "held by", "process")
    assert state(db) == [(0, 1_000, 1)]


def test_another_shard_is_loaded_meanwhile(
    db: Database,
    settings: Settings,
    merged: MergedShard,
    merged_from: Merge,
    sample_shards: list[Shard],
    before_swap: Callable[[Swap], None],
) -> None:
    second = merged_from(sample_shards[1], 1)

    def load_meanwhile(*_: object) -> None:
        with connect(settings) as other:
            load_partition(other, second)

    before_swap(load_meanwhile)
    load_partition(db, merged)
    assert state(db) == [(0, 1_000, 1), (1, 620, 1)]


@pytest.mark.parametrize("change", ["INSERT INTO {0} SELECT * FROM {0} LIMIT 1", "TRUNCATE TABLE {0}"])
def test_a_staging_table_that_changed_after_its_check_is_not_swapped_in(
    change: str, db: Database, merged: MergedShard, merged_from: Merge, before_swap: Callable[[Swap], None]
) -> None:
    load_partition(db, merged)
    before_swap(lambda _held, staging, _checked: db.command(change.format(staging.quoted)))
    with pytest.raises(PartitionCheckError) as caught:
        load_partition(db, merged)
    assert_one_line(caught.value, "partition 0", "staged", "of 1,000 rows that was checked")
    assert state(db) == [(0, 1_000, 1)]
    assert tables(db) == ["laion"]


def test_a_mutation_that_keeps_the_rows_of_staging_is_seen_too(
    db: Database, merged: MergedShard, before_swap: Callable[[Swap], None]
) -> None:
    load_partition(db, merged)
    update = "ALTER TABLE {0} UPDATE caption = 'x' WHERE id = 5"
    before_swap(
        lambda _held, staging, _checked: db.command(update.format(staging.quoted), settings={"mutations_sync": 2})
    )
    with pytest.raises(PartitionCheckError, match="that was checked"):
        load_partition(db, merged)
    assert db.one(f"SELECT countIf(caption = 'x') FROM {db.table}") == (0,)


def test_a_staging_table_that_is_gone_is_no_full_disk(
    db: Database, merged: MergedShard, before_swap: Callable[[Swap], None]
) -> None:
    before_swap(lambda _held, staging, _checked: staging.drop())
    with pytest.raises(LeaseLostError) as caught:
        load_partition(db, merged)
    assert_one_line(caught.value, "no staging table laion_staging_0_", "load the shard again")
    assert "bytes left" not in str(caught.value)
    assert state(db) == []


def test_a_holder_that_slept_through_its_lease_swaps_nothing_in(
    db: Database,
    settings: Settings,
    merged: MergedShard,
    merged_from: Merge,
    sample_shards: list[Shard],
    before_swap: Callable[[Swap], None],
) -> None:
    if db.embedded:
        pytest.skip("the embedded engine's folder belongs to one process, and its lock dies with it")
    newer: list[MergedShard] = []

    def sleep_long(held: Lease, _staging: Staging, _checked: Part) -> None:
        let_lapse(db, held.token)
        newer.append(merged_from(sample_shards[1], 0))
        with connect(settings) as other:
            load_partition(other, newer[0])

    before_swap(sleep_long)
    with pytest.raises(LeaseLostError):
        load_partition(db, merged)
    assert state(db) == [(0, 620, 1)]
    assert tables(db) == ["laion"]


def test_a_swap_that_was_only_delayed_finds_nothing_to_swap_in(
    db: Database,
    settings: Settings,
    merged: MergedShard,
    merged_from: Merge,
    sample_shards: list[Shard],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The holder checks that it still has the lease, and then sleeps before the swap: the worst moment."""
    if db.embedded:
        pytest.skip("the embedded engine's folder belongs to one process, and its lock dies with it")
    command = Database.command
    slept: list[str] = []

    def delayed(self: Database, sql: str, **more: object) -> None:
        if "REPLACE PARTITION" in sql and not slept:
            slept.append(sql)
            let_lapse(db, sql.rpartition("_")[2].strip("`"))
            with connect(settings) as other:
                load_partition(other, merged_from(sample_shards[1], 0))
        command(self, sql, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "command", delayed)
    with pytest.raises(LeaseLostError, match="lease"):
        load_partition(db, merged)
    assert slept
    assert state(db) == [(0, 620, 1)]

"""The bytes of each vector index in each part, kept in a table by the hash of the part's files.

ClickHouse has no table with the size of one index in one part: `system.parts` has the sum over a part's indexes, and
`system.data_skipping_indices` the sum over a table's parts. So a part is measured once, in a scratch table, which takes
10 ms. The part's files never change after that, and `hash_of_all_files` identifies them: a part that is built again,
loaded again or mutated has another hash; a part that is swapped in keeps its hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from clickhouse_connect.driver.binding import format_str

from laion_assets.table.database import Database
from laion_assets.table.parts import parts_by_shard
from laion_assets.table.schema import local_table, storage_policy
from laion_assets.table.scratch import scratch_table

Sizes = dict[str, tuple[int, int]]
"""Compressed and uncompressed bytes by the index's name; a missing index has no entry."""

KEPT_DAYS = 400
"""Older measurements are made again, so that rows about removed parts are removed from the table, too."""


def part_sizes(db: Database, shards: Iterable[int]) -> dict[int, list[Sizes]]:
    """The index sizes of each part of these partitions, by partition. A partition that does not exist has no entry.

    Parts that were never measured are measured now: their partitions are attached, one after the other, to an empty
    table of the same shape, by hard links. Our table is not changed. Raises `TableError`.
    """
    asked = set(shards)
    loaded = parts_by_shard(db, local_table(db.settings))
    hashes = {shard: [part.content for part in parts] for shard, parts in loaded.items() if shard in asked}
    known = _kept(db)
    lacking = {shard for shard, parts in hashes.items() if any(part not in known for part in parts)}
    sizes = {shard: [known[part] for part in parts] for shard, parts in hashes.items() if shard not in lacking}
    if lacking:
        weighed = _measured(db, lacking)
        _keep(db, dict(part for parts in weighed.values() for part in parts))
        sizes |= {shard: [of_part for _, of_part in parts] for shard, parts in weighed.items()}
    return sizes


def index_bytes(db: Database, table: str) -> Sizes:
    """Compressed and uncompressed bytes of each index over all parts of a table, whose name is given unquoted."""
    rows = db.rows(
        "SELECT name, data_compressed_bytes, data_uncompressed_bytes FROM system.data_skipping_indices "
        "WHERE database = {database:String} AND table = {table:String} AND data_compressed_bytes > 0",
        parameters={"database": db.database, "table": table},
    )
    return {str(name): (int(compressed), int(uncompressed)) for name, compressed, uncompressed in rows}


def _measured(db: Database, shards: Iterable[int]) -> dict[int, list[tuple[str, Sizes]]]:
    with _probe_table(db) as probe:
        return {shard: _measure(db, probe, shard) for shard in shards}


@contextmanager
def _probe_table(db: Database) -> Iterator[str]:
    """An empty table with the same columns and indexes, by its unquoted name; removed at the end.

    A table that a killed process left has links to parts that may have been replaced since. The next load, or the next
    scratch table, removes it.
    """
    with scratch_table(db, "probe") as name:
        quoted = db.name_of(name)
        # A plain MergeTree, also if our table is replicated: this table exists for a second, on this replica only.
        policy = storage_policy(db)
        settings = f" SETTINGS {policy}" if policy else ""
        db.command(f"CREATE TABLE {quoted} AS {db.table} ENGINE = MergeTree PARTITION BY shard ORDER BY id{settings}")
        db.command(f"SYSTEM STOP MERGES {quoted}")
        yield name


def _measure(db: Database, probe: str, shard: int) -> list[tuple[str, Sizes]]:
    """The hash of each part of one partition, and its index sizes; two parts may have the same files.

    The probe table is empty before and after this call.
    """
    quoted = db.name_of(probe)
    db.command(f"ALTER TABLE {quoted} ATTACH PARTITION {shard} FROM {db.table}")
    left = index_bytes(db, probe)
    parts = []
    # Parts are removed one by one: the bytes by which the total falls are those of the removed part.
    for part in parts_by_shard(db, probe).get(shard, []):
        db.command(f"ALTER TABLE {quoted} DROP PART {{part:String}}", parameters={"part": part.name})
        now = index_bytes(db, probe)
        parts.append((part.content, _lost(left, now)))
        left = now
    return parts


def _lost(before: Sizes, after: Sizes) -> Sizes:
    lost = {}
    for name, (compressed, uncompressed) in before.items():
        compressed_left, uncompressed_left = after.get(name, (0, 0))
        if compressed > compressed_left:
            lost[name] = (compressed - compressed_left, uncompressed - uncompressed_left)
    return lost


def _kept(db: Database) -> dict[str, Sizes]:
    """Earlier measurements, by the part's hash."""
    if not db.rows(
        "SELECT 1 FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        parameters={"database": db.database, "table": f"{local_table(db.settings)}_part_sizes"},
    ):
        return {}
    rows = db.rows(f"SELECT part, mapKeys(sizes), mapValues(sizes) FROM {_table(db)}")
    return {
        str(part): {str(name): (int(size[0]), int(size[1])) for name, size in zip(names, sizes, strict=True)}
        for part, names, sizes in rows
    }


def _keep(db: Database, parts: Mapping[str, Sizes]) -> None:
    if not parts:
        return
    db.command(
        f"CREATE TABLE IF NOT EXISTS {_table(db)} (part String, sizes Map(String, Tuple(UInt64, UInt64)), "
        "weighed DateTime('UTC') DEFAULT now('UTC')) ENGINE = MergeTree ORDER BY part "
        f"TTL weighed + toIntervalDay({KEPT_DAYS}) COMMENT 'laion_assets: bytes of each index by the part''s hash'"
    )
    values = ", ".join(f"('{part}', {_map_sql(sizes)})" for part, sizes in parts.items())
    db.command(f"INSERT INTO {_table(db)} (part, sizes) VALUES {values}")


def _map_sql(sizes: Sizes) -> str:
    pairs = ", ".join(f"{format_str(name)}, {size}" for name, size in sizes.items())
    return f"CAST(map({pairs}), 'Map(String, Tuple(UInt64, UInt64))')"


def _table(db: Database) -> str:
    return db.name_of(f"{local_table(db.settings)}_part_sizes")

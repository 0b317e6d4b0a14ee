"""Scratch tables for tuning: a sample of the table's rows in another layout, always removed. It judges nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import TableError
from laion_assets.index.parameters import IndexParameters
from laion_assets.table.database import Database
from laion_assets.table.schema import PAGE_COLUMNS, VECTOR_COLUMNS, create_table
from laion_assets.table.scratch import scratch_table
from laion_assets.table.staging import MERGE_SETTINGS
from laion_assets.table.vectors import Ids, Vectors, of_shards, vector_sql

EXPERIMENTAL_SETTINGS: dict[str, object] = {"enable_quantized_codec": 1, "enable_qbit_type": 1}


@dataclass(frozen=True)
class StoredForm:
    """A way to store vectors for scans without HNSW: column type, distance and settings."""

    name: str
    column: str
    distance: str
    settings: tuple[tuple[str, object], ...] = ()
    experimental: bool = True


@dataclass(frozen=True)
class ScanTrial:
    """The result of searches in one stored form: ids for each query, seconds of each, bytes on disk a vector.

    `refused` is the engine's reason if it does not have that form; then the other fields are empty.
    """

    form: StoredForm
    ids: list[list[int]]
    seconds: list[float]
    bytes_a_vector: float
    refused: str = ""


def stored_forms(dimension: int) -> list[StoredForm]:
    """The stored forms that ClickHouse 26.9 has besides Array(Float32). A `Quantized` codec stores codes beside the
    vectors; the vectors rescore ten candidates a neighbour."""
    rescored = (("vector_search_use_quantized_codes", 1), ("vector_search_index_fetch_multiplier", 10.0))
    plain = "cosineDistance(v, target)"
    return [
        StoredForm("Array(Float32), exact", "Array(Float32) CODEC(NONE)", plain, (("use_skip_indexes", 0),), False),
        StoredForm("Array(BFloat16)", "Array(BFloat16) CODEC(NONE)", plain, experimental=False),
        StoredForm("QBit, 8 of 16 bits", f"QBit(BFloat16, {dimension})", "cosineDistanceTransposed(v, target, 8)"),
        StoredForm("QBit, 4 of 16 bits", f"QBit(BFloat16, {dimension})", "cosineDistanceTransposed(v, target, 4)"),
        *(
            StoredForm(
                f"Quantized('{method}')", f"Array(Float32) CODEC(Quantized('{method}', {dimension}))", plain, rescored
            )
            for method in ("int8", "rabitq")
        ),
    ]


@contextmanager
def trial_table(
    db: Database,
    *,
    rows: int,
    partitions: int,
    seed: int,
    index_granularity: int,
    parameters: IndexParameters,
    kept_out: int = 0,
    shards: Sequence[int] | None = None,
) -> Iterator[Database]:
    """A scratch table of `rows` random rows in equal partitions of one part each, as a database of its own.

    Everything that works on the table works on the scratch table, with these index parameters. It does not have the
    `kept_out` rows that `draw_rows(db, kept_out, seed, shards)` returns; they can be its queries. With `shards`, only
    rows of these partitions are used. The table is removed at the end. Raises `TableError`.
    """
    with scratch_table(db, "trial") as name:
        trial = with_parameters(db, parameters, table=name, index_granularity=index_granularity)
        create_table(trial)
        _fill(db, trial, partitions, _Drawn(rows, kept_out, seed, shards))
        yield trial


def with_parameters(db: Database, parameters: IndexParameters, **settings: object) -> Database:
    """The same connection, with these parameters in its settings."""
    changed = {
        "hnsw_quantization": parameters.quantization,
        "hnsw_m": parameters.m,
        "hnsw_ef_construction": parameters.ef_construction,
        "extra_columns": (),
        **settings,
    }
    return replace(db, settings=db.settings.model_copy(update=changed))


@dataclass(frozen=True)
class _Drawn:
    """Which rows of the table are used: `rows` in the order of a hash with `seed`, after the first `kept_out`."""

    rows: int
    kept_out: int
    seed: int
    shards: Sequence[int] | None

    def sql(self, db: Database) -> str:
        return (
            f"SELECT id FROM {db.table} WHERE {of_shards(self.shards)} ORDER BY cityHash64(id, {int(self.seed)}), id "
            f"LIMIT {int(self.rows)} OFFSET {int(self.kept_out)}"
        )


def _fill(db: Database, trial: Database, partitions: int, drawn: _Drawn) -> None:
    """Rows get new ids, consecutive within each partition, as a loaded shard has them."""
    others = [name for name in PAGE_COLUMNS if name not in ("id", *VECTOR_COLUMNS)]
    empty = ", ".join(f"{'0' if PAGE_COLUMNS[name] == 'Float32' else repr('')} AS {name}" for name in others)
    vectors = ", ".join(VECTOR_COLUMNS)
    db.command(
        f"INSERT INTO {trial.table} (id, {', '.join(others)}, {vectors}, shard) "
        f"SELECT (n % {partitions}) * {ID_STRIDE} + intDiv(n, {partitions}), {empty}, {vectors}, n % {partitions} "
        f"FROM (SELECT rowNumberInAllBlocks() AS n, {vectors} FROM {db.table} "
        f"WHERE id IN ({drawn.sql(db)}))",
        # With one thread numbers and blocks come in the table's own order, the same each time. Every block has rows of
        # every partition; by default ClickHouse allows 100 partitions in a block.
        settings={
            "max_threads": 1,
            "max_insert_threads": 1,
            "materialize_skip_indexes_on_insert": 0,
            "max_partitions_per_insert_block": 0,
        },
    )
    db.command(f"OPTIMIZE TABLE {trial.table} FINAL", settings=MERGE_SETTINGS)


def scan_trial(trial: Database, form: StoredForm, queries: Vectors, own: Ids, k: int) -> ScanTrial:
    """Copies the trial's image vectors into one stored form and searches each query, (q, d), without its own row."""
    quoted = trial.name_of(f"{trial.settings.table}_form")
    ids: list[list[int]] = []
    seconds: list[float] = []
    trial.command(f"DROP TABLE IF EXISTS {quoted} SYNC")
    try:
        size = _store_as(trial, form, quoted)
        for query, excluded in zip(queries, own.tolist(), strict=True):
            started = time.perf_counter()
            rows = trial.rows(
                f"WITH {vector_sql(query)} AS target SELECT id, {form.distance} AS distance FROM {quoted} "
                f"ORDER BY distance LIMIT {k + 1}",
                settings=EXPERIMENTAL_SETTINGS | dict(form.settings),
            )
            seconds.append(time.perf_counter() - started)
            ids.append([int(row[0]) for row in rows if row[0] != excluded][:k])
    except TableError as error:
        return ScanTrial(form, [], [], 0.0, refused=error.found)
    finally:
        trial.command(f"DROP TABLE IF EXISTS {quoted} SYNC")
    return ScanTrial(form, ids, seconds, size)


def _store_as(trial: Database, form: StoredForm, quoted: str) -> float:
    """Makes and fills the table of one stored form; returns its bytes on disk a row."""
    trial.command(
        f"CREATE TABLE {quoted} (id Int64, v {form.column}) ENGINE = MergeTree ORDER BY id "
        f"SETTINGS index_granularity = {trial.settings.index_granularity}",
        settings=EXPERIMENTAL_SETTINGS,
    )
    trial.command(f"INSERT INTO {quoted} SELECT id, image_embedding FROM {trial.table}", settings=EXPERIMENTAL_SETTINGS)
    trial.command(f"OPTIMIZE TABLE {quoted} FINAL", settings=MERGE_SETTINGS)
    (size,) = trial.one(
        "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts WHERE database = {database:String} "
        "AND table = {table:String} AND active",
        parameters={"database": trial.database, "table": f"{trial.settings.table}_form"},
    )
    return float(size)

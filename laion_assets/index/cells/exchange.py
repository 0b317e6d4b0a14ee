"""Puts the rows of one shard into the cells: assigns clusters, stages, compares with the table, attaches all at
once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import TableError
from laion_assets.index.cells.centroids import Centroids, Clusters
from laion_assets.index.cells.events import record
from laion_assets.index.cells.schema import (
    CODEC_SETTINGS,
    cells_table,
    code_dimension,
    columns_without_vectors,
    create_cells,
)
from laion_assets.progress import Progress
from laion_assets.table.database import Database
from laion_assets.table.lease import Lease
from laion_assets.table.parts import PartitionContent, partition_contents
from laion_assets.table.scratch import scratch_table
from laion_assets.table.vectors import BLOCK_ROWS, Block, By

SORTED_IDS = 64 * BLOCK_ROWS
"""Ids whose rows are sorted by cluster in one statement: all of a LAION-400M shard. Their clusters are 8 MB of SQL."""

SORTED_ON_DISK = {
    "max_bytes_before_external_sort": 128 << 20,
    "max_bytes_ratio_before_external_sort": 0,
    "max_threads": 1,
    "max_block_size": 8_192,
}
"""Above 128 MB rows are sorted on disk. ClickHouse 26.9 uses the limit in bytes only if the ratio is 0: with its
default ratio of 0.5 all rows were sorted in memory. With these settings an INSERT of 300,000 rows of 512 dimensions
took 0.87 GB and 6.5 core seconds. With the default ratio, two threads and blocks of 65,409 rows it took 1.79 GB and 6.1
core seconds."""

ROWS_A_PART = 16 * BLOCK_ROWS
"""262,144 rows, 0.3 GB of 512 dimensions: the engine holds them in memory until they are written."""

NO_CLUSTER = 0xFFFFFFFF
"""The cluster number for an id that no row has."""

PRIME = 4093
"""A prime. The elements of a fixed vector are computed from its residues. The hash of a vector is the hash of its
product with that fixed vector. Two different vectors have the same product only by accident."""


@dataclass(frozen=True)
class Content:
    """Tells whether two sets of rows are the same: the number of rows, and sums of hashes of the columns that the cells
    copy and of the vectors."""

    rows: int
    columns: int
    vectors: int


def exchange_shard(
    held: Lease,
    by: By,
    generation: int,
    centroids: Centroids,
    source: PartitionContent,
    progress: Progress | None = None,
) -> None:
    """Replaces the rows of a shard in the cells by the present rows of the table.

    Searches see the old rows until the last statement, and the new ones after it. Raises `TableError` if the cells
    would differ from the table, or if the shard is loaded again during the exchange, and `LeaseLostError` if another
    process has taken the lease; rows that were attached then never count.
    """
    db = held.db
    subject = f"{db.subject}, {by} cells of shard {source.shard}"
    with scratch_table(db, "cells") as staging:
        create_cells(db, staging, ", max_bytes_to_merge_at_max_space_in_pool = 1")
        (rows,) = db.one(f"SELECT count() FROM {db.table} WHERE shard = {source.shard}")
        recorded = source._replace(rows=int(rows))
        load = record(db, by, "begun", generation, source=recorded)
        distance = _fill(db, by, staging, (generation, load), centroids, source, progress)
        staged, wanted = cells_content(db, staging), table_content(db, by, f"shard = {source.shard}")
        if staged != wanted:
            raise TableError(
                subject,
                found=f"{staged} staged",
                expected=f"{wanted}, as the table has them",
                advice="materialize vector_cells again; searches scan the shard until then",
            )
        if partition_contents(db).get(source.shard) != source:
            raise TableError(
                subject,
                found="the shard loaded again, or removed, while its cells were made",
                expected="an unchanged shard until its cells are made",
                advice="materialize vector_cells again; searches scan the shard until then",
            )
        cells = db.name_of(cells_table(db, by))
        # Whoever took over may have swept this load already, and would not look for rows of it again.
        held.require()
        db.command(f"ALTER TABLE {cells} ATTACH PARTITION {generation} FROM {db.name_of(staging)}")
        held.require()
        record(db, by, "live", generation, load=load, source=recorded, distance=distance)


def cells_content(db: Database, table: str, condition: str = "1") -> Content:
    """The content of rows of a table of cells, or of its staging table, by the unquoted name."""
    return _content(db, table, condition, "cells_vector")


def table_content(db: Database, by: By, condition: str) -> Content:
    """The content of rows of the main table, with their vectors in the form that the cells store."""
    return _content(db, db.settings.table, condition, stored_vector(db, by))


def stored_vector(db: Database, by: By) -> str:
    """The SQL expression of a row's vector in the form that the cells store."""
    vector, dimension = f"{by}_embedding", code_dimension(db)
    padded = vector if dimension == db.settings.dataset.dimension else f"arrayResize({vector}, {dimension}, 0)"
    return f"CAST({padded}, 'Array(BFloat16)')"


def _content(db: Database, table: str, condition: str, vector: str) -> Content:
    """Hashing all elements took 7 core seconds a million vectors of 512; hashing one product with them took 1.4."""
    fixed = [(place * 1103515245 + 12345) % PRIME / PRIME - 0.5 for place in range(code_dimension(db))]
    projection = "reinterpret(unhex('{}'), 'Array(Float32)')".format(np.array(fixed, "<f4").tobytes().hex())
    copied = ", ".join(quote_identifier(name) for name in columns_without_vectors(db))
    row = db.one(
        f"SELECT count(), sum(cityHash64({copied})), sum(cityHash64(id, reinterpretAsUInt32(toFloat32("
        f"dotProduct(CAST({vector}, 'Array(Float32)'), {projection}))))) "
        f"FROM {db.name_of(table)} WHERE {condition}"
    )
    return Content(*(int(value) for value in row))


def _fill(
    db: Database,
    by: By,
    staging: str,
    marks: tuple[int, int],
    centroids: Centroids,
    source: PartitionContent,
    progress: Progress | None,
) -> float:
    """Writes the shard's rows with their clusters; returns the mean cosine distance of their vectors to the
    centroids."""
    shard = f"shard = {source.shard}"
    low, high = db.one(f"SELECT min(id), max(id) FROM {db.table} WHERE {shard}")
    total, rows = 0.0, 0
    for start in range(min(source.shard * ID_STRIDE, int(low)), int(high) + 1, SORTED_IDS):
        clusters = np.full(min(SORTED_IDS, int(high) + 1 - start), NO_CLUSTER, "<u4")
        before, end = rows, start + len(clusters)
        for first in range(start, end, BLOCK_ROWS):
            block = _read_stored(db, by, f"{shard} AND id >= {first} AND id < {min(first + BLOCK_ROWS, end)}")
            found, similar = centroids.nearest(block.vectors)
            clusters[block.ids - start] = found
            total += float((1 - similar).sum(dtype=np.float64))
            rows += len(found)
            if progress is not None:
                progress.advance(len(found))
        if rows > before:
            _insert(db, by, staging, marks, source.shard, start, clusters)
    return total / max(rows, 1)


def _read_stored(db: Database, by: By, condition: str) -> Block:
    """Ids and vectors that meet a condition, in the form that the cells store.

    Vectors are read as fixed strings of BFloat16. That takes 3.4 core seconds a million vectors of 512; an array of
    Float32, which is written element by element, took 9.3.
    """
    dimension, stored = db.settings.dataset.dimension, code_dimension(db)
    record_type = np.dtype([("id", "<i8"), ("vector", "<u2", (stored,))])
    # ClickHouse leaves out zeros at a string's end; toFixedString adds them again.
    answer = db.raw(
        f"SELECT id, toFixedString(reinterpretAsString({stored_vector(db, by)}), {2 * stored}) FROM {db.table} "
        f"WHERE {condition} AND length({by}_embedding) = {dimension} ORDER BY shard, id",
        "RowBinary",
        settings={"max_threads": 1},
    )
    records = np.frombuffer(answer, record_type)
    vectors = np.left_shift(records["vector"][:, :dimension], 16, dtype=np.uint32).view(np.float32)
    return Block(records["id"].astype(np.int64), vectors)


def _insert(
    db: Database, by: By, staging: str, marks: tuple[int, int], shard: int, start: int, clusters: Clusters
) -> None:
    """Writes rows of the ids from `start` on, whose clusters are given, in the order of their clusters.

    The rows are copied from table to table within the engine; only the cluster numbers are sent to it. Each part has
    its own range of clusters, so that nothing needs merging: merging parts computes and writes their codes again, at 16
    core seconds a million vectors; sorting took 4.
    """
    generation, load = marks
    copied = ", ".join(quote_identifier(name) for name in columns_without_vectors(db))
    values = clusters.astype("<u4", copy=False).tobytes().hex()
    db.command(
        f"INSERT INTO {db.name_of(staging)} (cells_generation, cells_cluster, cells_load, {copied}, cells_vector) "
        f"SELECT {generation}, reinterpretAsUInt32(substring(unhex('{values}'), 4 * (id - {start}) + 1, 4)) "
        f"AS cells_cluster, {load}, {copied}, {stored_vector(db, by)} FROM {db.table} "
        f"WHERE id >= {start} AND id < {start + len(clusters)} AND shard = {shard} "
        f"AND length({by}_embedding) = {db.settings.dataset.dimension} ORDER BY cells_cluster, id",
        # One block becomes one part.
        settings=CODEC_SETTINGS
        | {"max_query_size": 1 << 26, "max_insert_threads": 1, "min_insert_block_size_rows": ROWS_A_PART}
        | {"min_insert_block_size_bytes": 1 << 32, **SORTED_ON_DISK},
    )

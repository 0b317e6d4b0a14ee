"""Vectors of the table as numpy arrays: streamed, drawn at random by seed, read by id. It ranks nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.dataset import ID_STRIDE
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions

By = Literal["image", "text"]
"""Which vectors of the table are searched."""

BLOCK_ROWS = 16_384
"""Rows of a block: 33 MB of 512 float32. RowBinary gave 0.2 million vectors a second, Arrow 0.1."""

NUMBERS_AT_ONCE = 200_000
"""Ids in one statement: 4 MB of digits."""

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class Block(NamedTuple):
    """Ids, int64 (n,), and their vectors, float32 (n, d)."""

    ids: Ids
    vectors: Vectors


def stream_vectors(db: Database, by: By, shards: Collection[int] | None = None) -> Iterator[Block]:
    """All vectors of one column, block by block, by shard and id; memory is that of a block. Raises `TableError`.

    With `shards`, only vectors of these partitions.

    Vectors of another length are left out: an array cannot hold them, and they have no distance.
    """
    for state in partitions(db):
        if shards is not None and state.shard not in shards:
            continue
        first = state.shard * ID_STRIDE
        low, high = db.one(f"SELECT min(id), max(id) FROM {db.table} WHERE shard = {state.shard}")
        for start in range(min(first, int(low)), int(high) + 1, BLOCK_ROWS):
            block = _block(db, by, f"shard = {state.shard} AND id >= {start} AND id < {start + BLOCK_ROWS}")
            if len(block.ids):
                yield block


def draw_rows(db: Database, count: int, seed: int, shards: Sequence[int] | None = None) -> Ids:
    """Ids of `count` loaded rows, or of all if there are fewer, chosen by seed: the same for the same rows.

    With `shards`, only rows of these partitions.
    """
    rows = db.rows(
        f"SELECT id FROM {db.table} WHERE {of_shards(shards)} "
        f"ORDER BY cityHash64(id, {{seed:Int64}}), id LIMIT {int(count)}",
        parameters={"seed": seed},
    )
    return np.array([row_id for (row_id,) in rows], dtype=np.int64)


def of_shards(shards: Sequence[int] | None) -> str:
    """The condition that a row is in these partitions; true for every row if `shards` is None."""
    return "1" if shards is None else f"shard IN ({', '.join(str(int(shard)) for shard in shards) or 'NULL'})"


def vectors_of(db: Database, by: By, ids: Sequence[int] | Ids) -> Block:
    """The vectors of these rows, by id; rows that do not exist are left out. Raises `TableError`."""
    wanted = np.unique(np.asarray(ids, dtype=np.int64))
    found = [
        _block(db, by, f"id IN ({', '.join(map(str, wanted[start : start + BLOCK_ROWS].tolist()))})")
        for start in range(0, len(wanted), BLOCK_ROWS)
    ]
    if not found:
        return Block(np.empty(0, np.int64), np.empty((0, db.settings.dataset.dimension), np.float32))
    return Block(np.concatenate([block.ids for block in found]), np.concatenate([block.vectors for block in found]))


def ids_by(db: Database, column: str, values: npt.NDArray[np.int64]) -> dict[int, int]:
    """Ids of the rows that have one of these whole numbers in a column, by that number. Raises `TableError`."""
    found: dict[int, int] = {}
    name = quote_identifier(column)
    for start in range(0, len(values), NUMBERS_AT_ONCE):
        wanted = ", ".join(map(str, values[start : start + NUMBERS_AT_ONCE].tolist()))
        rows = db.rows(
            f"SELECT toInt64({name}), id FROM {db.table} WHERE {name} IN ({wanted})",
            settings={"max_query_size": 1 << 24},
        )
        found.update((int(value), int(row_id)) for value, row_id in rows)
    return found


def _block(db: Database, by: By, condition: str) -> Block:
    return read_vectors(db, f"{by}_embedding", condition)


def read_vectors(db: Database, column: str, condition: str) -> Block:
    """Vectors of a column for rows that meet a condition, by shard and id, in one answer. Raises `TableError`."""
    dimension = db.settings.dataset.dimension
    # RowBinary: the id, the array's length as a varint, its elements. All records have the same size.
    record = np.dtype([("id", "<i8"), ("length", f"S{_varint_bytes(dimension)}"), ("vector", "<f4", (dimension,))])
    sql = f"SELECT id, {column} FROM {db.table} WHERE {condition} AND length({column}) = {dimension}"
    answer = db.raw(f"{sql} ORDER BY shard, id", "RowBinary", settings={"max_query_size": 1 << 24})
    records = np.frombuffer(answer, dtype=record)
    return Block(records["id"].astype(np.int64), np.ascontiguousarray(records["vector"], dtype=np.float32))


def _varint_bytes(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def vector_sql(vector: npt.NDArray[np.float32]) -> str:
    """A vector in a statement, by its bytes, little endian.

    As a parameter `{target:Array(Float32)}` its numbers are parsed as text, one by one: a query of nothing else with
    512 elements takes 2.3 ms of CPU time. With the bytes as a parameter it takes 1.7 (`SELECT 1` takes 1.1), and 0.25
    of these are for searching 4,096 digits for characters to escape.
    """
    return f"reinterpret(unhex('{vector.astype('<f4', copy=False).tobytes().hex()}'), 'Array(Float32)')"

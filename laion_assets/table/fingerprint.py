"""Numbers that identify the rows of a partition, computed by SQL and from a merged file: one for all columns but the
vectors, and one for each vector column. They judge nothing.

The first number is the sum, modulo 2^64, of a hash of each row: it is equal in any order, and unequal if a row is
missing, doubled or changed. The hash is the first eight bytes of the MD5 of the row's columns. So our file and a table
on a server that cannot see the file give the same number by two readers that share no code. The second is in
shard/vector_sum.py.
"""

from __future__ import annotations

from hashlib import md5
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.settings import Settings
from laion_assets.shard.merged import MergedShard, reading
from laion_assets.shard.vector_sum import file_vector_sum

BATCH_ROWS = 8_192

FLOAT_BITS = {"Float32": np.uint32, "Float64": np.uint64}
"""Floats are hashed by their bits, since two programs may write their digits in different ways."""

ROW_COLUMNS = {"id": "Int64", "url": "String", "caption": "String", "NSFW": "String", "similarity": "Float32"}


def hashed_columns(settings: Settings) -> dict[str, str]:
    """Name and ClickHouse type of the hashed columns, in order."""
    return {**ROW_COLUMNS, **settings.extra_column_types}


def fingerprint_sql(settings: Settings) -> str:
    """The aggregate expression. Before each text comes its length, so that different rows never look the same."""
    parts = []
    for name, kind in hashed_columns(settings).items():
        column = quote_identifier(name)
        if kind == "String":
            parts += [f"toString(length({column}))", "':'", column]
        elif kind == "Float32":
            # NaN has one text, since its bits may differ.
            parts += [f"if(isNaN({column}), 'nan', toString(reinterpretAsUInt32({column})))", "','"]
        elif kind == "Float64":
            parts += [f"if(isNaN({column}), 'nan', toString(reinterpretAsUInt64({column})))", "','"]
        else:
            parts += [f"toString({column})", "','"]
    return f"sum(reinterpretAsUInt64(MD5(concat({', '.join(parts)}))))"


def file_fingerprint(settings: Settings, merged: MergedShard) -> tuple[int, int]:
    """Rows and fingerprint of a merged file, read in this process, block by block. Raises `ShardFileError`.

    The checksums of these columns' pages are compared, as the footer's sums are for vectors. Files of earlier releases
    have none.
    """
    columns = hashed_columns(settings)
    rows, total = 0, 0
    with reading(merged) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
            rows += batch.num_rows
            total += _sum_of_hashes(batch, columns)
    return rows, total % 2**64


def vector_sums(settings: Settings, merged: MergedShard) -> dict[str, int]:
    """The sum over every element of each vector column, from the footer; if the footer has none, from the rows.

    Raises `ShardFileError`.
    """
    columns, dimension = settings.dataset.vector_columns, settings.dataset.dimension
    if set(merged.vector_sums) == set(columns):
        return merged.vector_sums
    with reading(merged) as source, pq.ParquetFile(source) as file:
        return {column: file_vector_sum(file, column, dimension) for column in columns}


def _sum_of_hashes(batch: pa.RecordBatch, columns: dict[str, str]) -> int:
    parts: list[pa.Array] = []
    for name, kind in columns.items():
        column = batch.column(name)
        if kind == "String":
            parts += [_text(pc.binary_length(column)), b":", column.cast(pa.binary())]
        else:
            parts += [_text(_bits(column) if kind in FLOAT_BITS else column), b","]
    joined = pc.binary_join_element_wise(*parts, b"")
    ends = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset : joined.offset + len(joined) + 1].tolist()
    content = memoryview(joined.buffers()[2] or b"")
    digests = b"".join(md5(content[a:b], usedforsecurity=False).digest() for a, b in pairwise(ends))
    return int(np.frombuffer(digests, "<u8")[::2].sum(dtype=np.uint64))


def _text(column: pa.Array) -> pa.Array:
    return column.cast(pa.string()).cast(pa.binary())


def _bits(column: pa.Array) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False)
    bits = pa.array(values.view(FLOAT_BITS[f"Float{8 * values.itemsize}"])).cast(pa.string())
    return pc.if_else(pa.array(np.isnan(values)), "nan", bits)

"""Helpers that write one shard's rows into each kind of Parquet file, with the libraries that people use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets_tests.conftest import Shard

Floats = npt.NDArray[np.floating]


def with_lists(shard: Shard, kind: Callable[[Floats], pa.Array]) -> pa.Table:
    """Returns the metadata with the vectors as further columns, each made by `kind`."""
    return shard.table.append_column("img", kind(shard.images)).append_column("txt", kind(shard.texts))


def fixed(value: pa.DataType) -> Callable[[Floats], pa.Array]:
    """Returns a function that makes Arrow lists of a fixed size with this type of number."""
    return lambda vectors: pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1).astype(value.to_pandas_dtype())), vectors.shape[1]
    )


def lists(value: pa.DataType, make: Callable[[pa.DataType], pa.DataType]) -> Callable[[Floats], pa.Array]:
    """Returns a function that makes Arrow lists of variable size."""
    return lambda vectors: fixed(value)(vectors).cast(make(value))


def by_pandas(shard: Shard, path: Path) -> None:
    """Writes a pandas frame as tutorials do: Python lists of doubles, with an index."""
    frame = pd.DataFrame(shard.table.to_pandas())
    frame["img"] = [[float(value) for value in row] for row in shard.images]
    frame["txt"] = [np.asarray(row, np.float32) for row in shard.texts]
    frame.to_parquet(path)


def by_polars(shard: Shard, path: Path) -> None:
    """Writes a polars frame with a List column and an Array column; its strings are views."""
    frame = pl.DataFrame(pl.from_arrow(shard.table))
    images = pl.Series("img", [row.tolist() for row in shard.images], dtype=pl.List(pl.Float32))
    texts = pl.Series("txt", shard.texts.astype(np.float32), dtype=pl.Array(pl.Float32, shard.texts.shape[1]))
    frame.with_columns(images, texts).write_parquet(path, row_group_size=100)


def by_pyarrow(kind: Callable[[Floats], pa.Array], **options: object) -> Callable[[Shard, Path], None]:
    """Returns a function that writes a table with pyarrow."""
    return lambda shard, path: pq.write_table(with_lists(shard, kind), path, **options)


PARQUET: dict[str, Callable[[Shard, Path], None]] = {
    "pandas": by_pandas,
    "polars": by_polars,
    "float16": by_pyarrow(lists(pa.float16(), pa.list_), row_group_size=33),
    "float32": by_pyarrow(lists(pa.float32(), pa.list_), compression="zstd"),
    "float64": by_pyarrow(lists(pa.float64(), pa.list_), compression="none", data_page_version="2.0"),
    "large lists": by_pyarrow(lists(pa.float32(), pa.large_list), row_group_size=7),
    "fixed size": by_pyarrow(fixed(pa.float32()), use_dictionary=False),
    "fixed size of float16": by_pyarrow(fixed(pa.float16())),
    "byte stream split": by_pyarrow(
        lists(pa.float32(), pa.list_), use_dictionary=False, use_byte_stream_split=["img.list.element"]
    ),
}
"""Ways of writing vectors into the metadata's own file, as the columns img and txt."""

"""Tests of files of given queries and neighbours: good files are read as written, bad ones are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.errors import LaionError
from laion_assets.file_layout import Given
from laion_assets.recall.given import read_neighbours, read_queries
from laion_assets_tests.conftest import assert_one_line

GIVEN = Given(
    queries="test.parquet",
    queries_array="emb",
    neighbours="neighbors.parquet",
    neighbours_array="neighbors_id",
    ids="source_id",
)
VECTORS = np.eye(3, 4, dtype=np.float32)


def write(path: Path, **columns: object) -> Path:
    """Writes a file of these columns."""
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
    return path


def test_queries_and_neighbours_are_read_in_their_order(tmp_path: Path) -> None:
    queries = write(tmp_path / GIVEN.queries, id=[0, 1, 2], emb=VECTORS.tolist())
    assert np.array_equal(read_queries(queries, GIVEN, 4), VECTORS)
    neighbours = write(tmp_path / GIVEN.neighbours, id=[0, 1, 2], neighbors_id=[[5, 3], [9], []])
    assert [row.tolist() for row in read_neighbours(neighbours, GIVEN, 3)] == [[5, 3], [9], []]


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no column of queries": (lambda p: read_queries(write(p, id=[1]), GIVEN, 4), "no column emb"),
    "another dimension": (lambda p: read_queries(write(p, emb=[[1.0, 2.0]]), GIVEN, 4), "no vectors"),
    "not finite": (lambda p: read_queries(write(p, emb=[[1.0, 2.0, 3.0, float("nan")]]), GIVEN, 4), "no vectors"),
    "no queries": (lambda p: read_queries(write(p, emb=pa.array([], pa.list_(pa.float32()))), GIVEN, 4), "0 rows"),
    "no file of queries": (lambda p: read_queries(_put(p), GIVEN, 4), "sound Parquet file"),
    "no column of neighbours": (lambda p: read_neighbours(write(p, id=[1]), GIVEN, 1), "lists of ids"),
    "fewer neighbours": (lambda p: read_neighbours(write(p, neighbors_id=[[1]]), GIVEN, 2), "1 rows, expected 2"),
    "neighbours of text": (lambda p: read_neighbours(write(p, neighbors_id=[["a"]]), GIVEN, 1), "lists of ids"),
    "null neighbours": (lambda p: read_neighbours(write(p, neighbors_id=[[1], None]), GIVEN, 2), "lists of ids"),
    "no file of neighbours": (lambda p: read_neighbours(_put(p), GIVEN, 1), "lists of ids"),
}


def _put(path: Path) -> Path:
    path.write_bytes(b"<html>")
    return path


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_none_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    read, said = BAD[name]
    with pytest.raises(LaionError) as caught:
        read(tmp_path / "given.parquet")
    assert_one_line(caught.value, "given queries, given.parquet", said)

"""Vector indexes of other databases, with the interface of search_engines.py."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.search_data import Say
from benchmarks.search_engines import Engine, Floats, K, Searcher, Setting
from laion_assets.index.parameters import IndexParameters

COLUMNS = ["id", "url", "caption"]


def rows_of(vectors: Floats) -> pa.Table:
    """An id, a url and a caption for each vector, as in our table."""
    numbers = np.arange(len(vectors), dtype=np.int64)
    names = pa.array([str(number) for number in numbers])
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table({"id": numbers, "url": names, "caption": names, "vector": values})


@dataclass
class LanceDB(Engine):
    """A LanceDB table on disk. `refine` candidates per neighbour are ranked by their stored vectors."""

    index: str = "IVF_PQ"
    parameters: IndexParameters = field(default_factory=IndexParameters)
    _table: Any = None

    def build(self, vectors: Floats, folder: Path, _say: Say) -> None:
        """Builds the index. IVF_PQ has √rows lists and a byte for eight elements. IVF_HNSW_SQ has one list and a byte
        for each element."""
        place = folder / "lance" / self.index
        self._table = importlib.import_module("lancedb").connect(str(place)).create_table("rows", rows_of(vectors))
        before = _bytes_in(place)
        options: dict[str, Any] = {"num_partitions": max(1, round(len(vectors) ** 0.5))}
        if self.index == "IVF_PQ":
            options["num_sub_vectors"] = vectors.shape[1] // 8 if vectors.shape[1] % 8 == 0 else vectors.shape[1] // 2
        else:
            options |= {"num_partitions": 1, "m": self.parameters.m, "ef_construction": self.parameters.ef_construction}
        with self._timed():
            self._table.create_index(
                metric="cosine", vector_column_name="vector", index_type=self.index, replace=True, **options
            )
        self.bytes_a_vector = (_bytes_in(place) - before) / len(vectors)

    @contextmanager
    def searcher(self, setting: Setting) -> Iterator[Searcher]:
        """One query per call, with url and caption of each answer."""
        width, refine = setting

        def find(vector: Floats) -> list[int]:
            query = self._table.search(vector, vector_column_name="vector").distance_type("cosine").limit(K)
            query = query.nprobes(width) if self.index == "IVF_PQ" else query.nprobes(1).ef(width)
            if refine:
                query = query.refine_factor(refine)
            ids: list[int] = query.select([*COLUMNS, "_distance"]).to_arrow()["id"].to_pylist()
            return ids

        yield find


@dataclass
class DuckDB(Engine):
    """DuckDB with its extension vss, which has usearch's HNSW index in float32, in memory."""

    parameters: IndexParameters = field(default_factory=IndexParameters)
    _db: Any = None
    _dimension: int = 0

    def build(self, vectors: Floats, _folder: Path, _say: Say) -> None:
        """Makes the table, then the index. Raises `RuntimeError` when a search does not use the index."""
        self._db, self._dimension = importlib.import_module("duckdb").connect(), vectors.shape[1]
        found = importlib.util.find_spec("duckdb_extension_vss")
        assert found is not None and found.origin is not None
        (extension,) = Path(found.origin).parent.glob("extensions/*/vss.duckdb_extension")
        self._db.execute(f"LOAD '{extension}'")
        self._db.register("given", rows_of(vectors))
        self._db.execute(
            f"CREATE TABLE rows AS SELECT * REPLACE (vector::FLOAT[{self._dimension}] AS vector) FROM given"
        )
        one = self.parameters
        with self._timed():
            self._db.execute(
                "CREATE INDEX graph ON rows USING HNSW (vector) WITH (metric = 'cosine', "
                f"M = {one.m}, M0 = {2 * one.m}, ef_construction = {one.ef_construction})"
            )
        (size,) = self._db.execute("SELECT approx_memory_usage FROM pragma_hnsw_index_info()").fetchone()
        self.bytes_a_vector = size / len(vectors)
        plan = self._db.execute(f"EXPLAIN {self._sql()}", [vectors[0].tolist()]).fetchall()
        if "HNSW_INDEX_SCAN" not in str(plan):
            raise RuntimeError(f"DuckDB does not use its index: {plan}")

    def _sql(self) -> str:
        return (
            f"SELECT {', '.join(COLUMNS)}, array_cosine_distance(vector, ?::FLOAT[{self._dimension}]) AS distance "
            f"FROM rows ORDER BY distance LIMIT {K}"
        )

    @contextmanager
    def searcher(self, setting: Setting) -> Iterator[Searcher]:
        """Searches with a separate cursor, with one thread per query."""
        cursor, sql = self._db.cursor(), self._sql()
        cursor.execute(f"SET hnsw_ef_search = {setting[0]}")
        yield lambda vector: [row[0] for row in cursor.execute(sql, [vector]).fetchall()]


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

"""Metadata in the order of the vectors, matched by a key. Memory is 64 bytes a row and one bucket.

Keys of the vectors are kept in memory as hashes. The metadata is read once: its rows are written to temporary files,
one for each bucket of neighbouring vectors, and are put in order bucket by bucket. The files have no name, so they
disappear with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from laion_assets.columns import ColumnType, null_value
from laion_assets.errors import ShardFileError
from laion_assets.shard.arrow_values import ARROW_TYPES
from laion_assets.shard.keys import Hashes, read_keys
from laion_assets.shard.metadata import MetadataReader
from laion_assets.shard.store import ShardFiles
from laion_assets.shard.store_errors import store_errors
from laion_assets.shard.vector_rows import RowFaults

BUCKET_ROWS = 65_536
"""Rows of a bucket, which are put in order at once; ten million rows need 153 files."""

TARGET = "_vector_row"

NO_KEY = "without a key"
TWICE = "with the key of an earlier row"
NO_METADATA = "without metadata of its key"
SEVERAL = "with several rows of metadata of its key"


class JoinedMetadata:
    """The metadata of a shard whose rows are matched by `[join]` of its dataset. Opening raises `ShardFileError`.

    A vector's row is refused if it has no metadata, several rows of metadata, or the key of an earlier vector. Metadata
    without a vector is counted in `unmatched`, and refused above the dataset's limit.
    """

    def __init__(self, files: ShardFiles, extra_columns: dict[str, ColumnType], rows: int) -> None:
        join = files.dataset.join
        assert join is not None, "only joined datasets come here"
        self._reader = MetadataReader(
            files.metadata, files.dataset, subject=files.subject("metadata"), extra_columns=extra_columns
        )
        self.rows, self.columns, self.nulls = rows, self._reader.columns, self._reader.nulls
        self._folder, self._subject = files.folder, f"shard {files.shard}"
        default = files.dataset.default
        self._fillers = {
            column: pa.scalar(null_value(kind) if default(column) is None else default(column), type=ARROW_TYPES[kind])
            for column, kind in self._reader.types.items()
        }
        container = files.dataset.container("image")
        subject = files.subject("image")
        keys = [*read_keys(files.path("image"), join.image, container, subject=subject)]
        vectors = _Vectors(_stacked(keys), _nulls(keys))
        if len(vectors.faults) != rows:
            raise ShardFileError(subject, found=f"{len(vectors.faults):,} keys in {join.image}", expected=f"{rows:,}")
        subject = files.subject("metadata")
        found = [
            vectors.take(hashes, nulls)
            for hashes, nulls in read_keys(files.metadata, join.metadata, "parquet", subject=subject)
        ]
        self._targets = np.concatenate(found) if found else np.empty(0, np.int64)
        self.unmatched = vectors.unmatched
        self._faults = vectors.faults_of_all()
        limit = int(join.unmatched * len(self._targets))
        if self.unmatched > limit:
            raise ShardFileError(
                subject,
                found=f"{self.unmatched:,} of {len(self._targets):,} rows whose {join.metadata} no vector has",
                expected=f"at most {limit:,}",
                advice="raise unmatched under [join] in the dataset's TOML file, if they are to be left out",
            )

    def faults(self, first: int, rows: int) -> RowFaults | None:
        """Why rows from `first` on have no metadata; None if all have some."""
        faults = self._faults[first : first + rows]
        return faults if (faults != "").any() else None

    def blocks(self, block_rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of `block_rows` rows in the vectors' order: see `MetadataReader`. Also raises `StoreError`."""
        size = max(1, BUCKET_ROWS // block_rows) * block_rows
        with ExitStack() as stack:
            files = self._spill(size, stack)
            for number in range(-(-self.rows // size)):
                first = number * size
                table = self._ordered(files.get(number), first, min(size, self.rows - first))
                for start in range(0, table.num_rows, block_rows):
                    block = table.slice(start, block_rows)
                    yield {name: block.column(name).combine_chunks() for name in self._fillers}

    def _spill(self, size: int, stack: ExitStack) -> dict[int, IO[bytes]]:
        """Writes the metadata's rows into one file for each bucket of `size` vectors, with the vector's row of each."""
        files: dict[int, IO[bytes]] = {}
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        done = 0
        with store_errors(f"{self._subject}, join in {self._folder}"):
            for block in self._reader.blocks(BUCKET_ROWS):
                count = len(block["url"])
                targets = self._targets[done : done + count]
                batch = pa.record_batch({**block, TARGET: pa.array(targets)})
                done += count
                buckets = np.where(targets < 0, -1, targets // size)
                for bucket in np.unique(buckets[buckets >= 0]).tolist():
                    if bucket not in files:
                        files[bucket] = stack.enter_context(self._nameless_file())
                        writers[bucket] = pa.ipc.new_stream(files[bucket], batch.schema)
                    writers[bucket].write_batch(batch.take(pa.array(np.flatnonzero(buckets == bucket))))
            for writer in writers.values():
                writer.close()
        return files

    def _nameless_file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder)

    def _ordered(self, file: IO[bytes] | None, first: int, rows: int) -> pa.Table:
        """A bucket's rows in order, with defaults for missing rows."""
        if file is None:
            return pa.table({name: pa.repeat(filler, rows) for name, filler in self._fillers.items()})
        file.seek(0)
        with pa.ipc.open_stream(file) as stream:
            table = stream.read_all()
        places = np.full(rows, -1, np.int64)
        places[table.column(TARGET).to_numpy() - first] = np.arange(table.num_rows)
        taken = table.drop_columns([TARGET]).take(pa.array(places, mask=places < 0))
        if not (places < 0).any():
            return taken
        filled = {name: pc.fill_null(taken.column(name), filler) for name, filler in self._fillers.items()}
        return pa.table(filled)


class _Vectors:
    """Finds vectors by key, and remembers which row of metadata each vector has."""

    def __init__(self, hashes: Hashes, nulls: npt.NDArray[np.bool_]) -> None:
        rows = len(hashes)
        self.faults: npt.NDArray[np.object_] = np.full(rows, "", dtype=object)
        self._order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        self._sorted = hashes[self._order]
        again = np.zeros(rows, bool)
        again[1:] = (self._sorted[1:] == self._sorted[:-1]).all(axis=1)
        self.faults[self._order[again]] = TWICE
        self.faults[nulls] = NO_KEY
        self._found = np.zeros(rows, np.uint8)
        self.unmatched = 0

    def take(self, hashes: Hashes, nulls: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """The vector's row for each row of metadata, in batches; -1 if no vector has its key."""
        rows = np.full(len(hashes), -1, np.int64)
        if len(self._order):
            # If first hashes are equal, the second decides. More than two such keys have a probability of 2^-64.
            places = np.searchsorted(self._sorted[:, 0], hashes[:, 0])
            places = np.minimum(places, len(self._order) - 1)
            same = (self._sorted[places] == hashes).all(axis=1) & ~nulls
            rows[same] = self._order[places[same]]
        self.unmatched += int((rows < 0).sum())
        there = rows[rows >= 0]
        found, times = np.unique(there, return_counts=True)
        self._found[found] = np.minimum(self._found[found] + times, 2)
        return rows

    def faults_of_all(self) -> npt.NDArray[np.object_]:
        """Why each vector has no metadata of its own, "" for vectors that have some."""
        self.faults[(self.faults == "") & (self._found == 0)] = NO_METADATA
        self.faults[(self.faults == "") & (self._found > 1)] = SEVERAL
        return self.faults


def _stacked(keys: list[tuple[Hashes, npt.NDArray[np.bool_]]]) -> Hashes:
    return np.concatenate([hashes for hashes, _ in keys]) if keys else np.empty((0, 2), np.uint64)


def _nulls(keys: list[tuple[Hashes, npt.NDArray[np.bool_]]]) -> npt.NDArray[np.bool_]:
    return np.concatenate([nulls for _, nulls in keys]) if keys else np.empty(0, bool)

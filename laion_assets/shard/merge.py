"""Merges a shard's raw files into one Parquet file, block by block, with refused rows in another. It loads nothing."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.columns import ColumnType
from laion_assets.dataset import ID_STRIDE, Dataset
from laion_assets.errors import TooManyBadRowsError
from laion_assets.file_layout import Part
from laion_assets.read_ahead import read_ahead
from laion_assets.shard.alignment import AlignmentCounter
from laion_assets.shard.any_metadata import open_metadata
from laion_assets.shard.digest import digest_of
from laion_assets.shard.files import Location, remove_file, sha256_of, sweep
from laion_assets.shard.inspect import ShardInspection, inspect_shard
from laion_assets.shard.merge_rules import merge_rules
from laion_assets.shard.merged import FORMAT, MergedShard, merged_schema, open_writer, read_merged
from laion_assets.shard.raw_version import raw_version
from laion_assets.shard.soundness import vector_faults
from laion_assets.shard.store import ShardFiles, ShardStore
from laion_assets.shard.vector_rows import Float32Rows, RowFaults, VectorHeader, VectorReader
from laion_assets.shard.vector_sum import MODULUS, vector_sum
from laion_assets.shard.vectors import open_vectors

BLOCK_ROWS = 8_192
"""Rows of a block and of a row group. From 2,048 to 16,384 rows the file's size and the writer's time differ by less
than 5 %; at 8,192 two blocks of two float32 vectors take 67 MB (benchmarks/merge_encodings.py)."""

RowProgress = Callable[[int], None]
"""Called with the number of rows done since the last call."""


@dataclass
class _Tally:
    """Counts over the blocks so far."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    counter: AlignmentCounter = field(default_factory=AlignmentCounter)
    vector_sums: Counter[str] = field(default_factory=Counter)
    first_refused: list[str] = field(default_factory=list)

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    @property
    def none_has_the_dimension(self) -> bool:
        """Whether all rows so far were refused, and only because of their vectors' dimension."""
        return not self.rows and all(reason.endswith(" dimension") for reason in self.reasons)

    @property
    def none_is_normalised(self) -> bool:
        """Whether all rows so far were refused, and only because of their vectors' length."""
        return not self.rows and all(reason.endswith(" length") for reason in self.reasons)


@dataclass(frozen=True)
class _Block:
    """One block of rows, in the form for the two files."""

    sound: pa.RecordBatch
    refused: pa.RecordBatch | None
    rows: int


def merge_shard(
    store: ShardStore,
    shard: int,
    *,
    max_bad_fraction: float,
    extra_columns: dict[str, ColumnType] | None = None,
    progress: RowProgress | None = None,
) -> MergedShard:
    """Writes `merged_N.parquet` from the raw files of a shard, and `quarantine_N.parquet` if rows were refused.

    Both files appear completely or not at all. A row is refused if a vector is not finite, zero, or (in a normalised
    dataset) far from length 1. Raises `StoreError` if raw files are missing, `ShardFileError` if they do not fit
    together, and `TooManyBadRowsError` if more than `max_bad_fraction` of the rows were refused, or all. After
    `TooManyBadRowsError` the quarantine file has the refused rows so far, and an earlier merged file is unchanged.
    """
    files = store.require_raw(shard)
    inspection = inspect_shard(files, extra_columns)
    limit = int(max_bad_fraction * inspection.rows)
    merger = _Merger(store, files, inspection, extra_columns or {})
    merged_path, quarantine_path = store.merged_path(shard), store.quarantine_path(shard)
    with store.replacing(merged_path, subject=f"shard {shard}") as temporary:
        sweep(temporary.parent)
        refused = merger.write(temporary, quarantine_path, limit, progress)
        if refused > limit or (refused and not merger.tally.rows):
            raise _too_many(merger.tally, inspection.rows, limit, shard, quarantine_path)
        if not refused:
            remove_file(quarantine_path)
        # Computed from the file on this machine: a bucket would have to send its copy back.
        digest = sha256_of(temporary)
    return replace(read_merged(merged_path, dataset=store.dataset, shard=shard), digest=digest)


def _too_many(tally: _Tally, rows: int, limit: int, shard: int, quarantine: Location) -> TooManyBadRowsError:
    advice = "correct the source, or raise LAION_MAX_BAD_FRACTION"
    if not tally.rows:
        advice = "correct the source"
    if tally.none_is_normalised:
        advice = "if its vectors were never normalised, say normalised = false in the dataset's file"
    if tally.none_has_the_dimension:
        advice = "if its vectors are of that dimension, say so in the dataset's file"
    return TooManyBadRowsError(
        f"shard {shard}",
        found=f"{tally.quarantined:,} bad rows or more, such as {'; '.join(tally.first_refused)}",
        expected=f"at most {min(limit, max(rows - 1, 0)):,} of {rows:,}",
        advice=f"see {quarantine}; {advice}",
    )


class _Merger:
    """One merge: a thread reads the next blocks while earlier blocks are encoded and written."""

    def __init__(
        self, store: ShardStore, files: ShardFiles, inspection: ShardInspection, extra: dict[str, ColumnType]
    ) -> None:
        self._store = store
        self._files = files
        self._dataset: Dataset = files.dataset
        self._inspection = inspection
        self._extra = extra
        self._schema = merged_schema(files.dataset, extra)
        self._refused_schema = self._schema.append(pa.field("reason", pa.string()))
        self._metadata = open_metadata(files, extra, rows=inspection.rows)
        self._not_vectors = [name for name in self._schema.names if name not in files.dataset.vector_columns]
        self._written = hashlib.sha256()
        self._offsets = pa.array(np.arange(BLOCK_ROWS + 1, dtype=np.int32) * np.int32(files.dataset.dimension))
        self.tally = _Tally()

    def write(self, merged: Path, quarantine: Location, limit: int, progress: RowProgress | None) -> int:
        """Writes both files; returns the number of refused rows. It stops at the first block that exceeds `limit`."""
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(open_writer(merged, self._schema, self._dataset))
            quarantine_writer: pq.ParquetWriter | None = None
            for block in read_ahead(self._blocks()):
                if block.sound.num_rows:
                    self._written.update(block.sound.select(self._not_vectors).serialize())
                    writer.write_table(pa.Table.from_batches([block.sound]), row_group_size=BLOCK_ROWS)
                if block.refused is not None:
                    if quarantine_writer is None:
                        path = stack.enter_context(
                            self._store.replacing(quarantine, subject=f"shard {self._files.shard}")
                        )
                        quarantine_writer = open_writer(path, self._refused_schema, self._dataset)
                        stack.enter_context(quarantine_writer)
                    quarantine_writer.write_table(pa.Table.from_batches([block.refused]))
                if progress is not None:
                    progress(block.rows)
                if self.tally.quarantined > limit:
                    break
            writer.add_key_value_metadata(self._facts(merged).footer())
        return self.tally.quarantined

    def _facts(self, path: Path) -> MergedShard:
        sums = {name: total % MODULUS for name, total in self.tally.vector_sums.items()}
        return MergedShard(
            path=path,
            dataset=self._dataset.name,
            shard=self._files.shard,
            rows=self.tally.rows,
            quarantined=self.tally.quarantined,
            reasons=dict(self.tally.reasons),
            nulls=self._metadata.nulls.by_column,
            unmatched=self._metadata.unmatched,
            extra_columns=self._extra,
            source_bytes={path.name: path.stat().st_size for path in self._files.paths().values()},
            alignment=self.tally.counter.alignment,
            dimension=self._dataset.dimension,
            rules=merge_rules(self._dataset, self._extra),
            contents=self._contents(sums),
            raw_version=raw_version(self._files),
            vector_sums=sums,
        )

    def _contents(self, sums: dict[str, int]) -> str:
        """A digest of the rows: of all columns but the vectors as they were written, and of the vectors' sums."""
        columns = [(each.name, str(each.type)) for each in self._schema]
        facts = (FORMAT, columns, self._dataset.dimension, self.tally.rows, sums, self._written.hexdigest())
        return digest_of(facts)

    def _blocks(self) -> Iterator[_Block]:
        """Blocks in order. A block's vectors are valid until two more blocks were asked for: two sets of buffers are
        used alternately, since touching new memory cost as much as the conversion that fills it."""
        shape = (BLOCK_ROWS, self._dataset.dimension)
        columns = self._dataset.vector_columns
        buffers = [{name: np.empty(shape, np.float32) for name in columns} for _ in range(2)]
        row = 0
        with contextlib.ExitStack() as stack:
            readers = {name: stack.enter_context(reader) for name, reader in self._readers().items()}
            for number, texts in enumerate(self._metadata.blocks(BLOCK_ROWS)):
                rows = len(texts["url"])
                vectors = {name: buffers[number % 2][name][:rows] for name in columns}
                misfits = {name: readers[name].read_into(vectors[name]) for name in columns}
                yield self._judge(row, texts, vectors, misfits, self._metadata.faults(row, rows))
                row += rows

    def _readers(self) -> dict[str, VectorReader]:
        """A reader for each vector column."""
        headers: dict[Part, VectorHeader | None] = {"image": self._inspection.image, "text": self._inspection.text}
        return {
            f"{part}_embedding": open_vectors(self._files, part, header, block_rows=BLOCK_ROWS)
            for part, header in headers.items()
            if header is not None
        }

    def _judge(
        self,
        row: int,
        texts: dict[str, pa.Array],
        vectors: dict[str, Float32Rows],
        misfits: dict[str, RowFaults | None],
        lost: RowFaults | None,
    ) -> _Block:
        """Separates sound rows from refused ones. `row` is the shard's row at which the block begins, `misfits` are
        faults that the readers found, `lost` says why rows have no metadata."""
        rows = len(texts["url"])
        batch = self._batch(row, texts, vectors)
        reasons = self._reasons(vectors, misfits, lost)
        ids = batch["id"].to_numpy()
        if reasons is None:
            self._count(ids, vectors, texts["caption"], texts["similarity"])
            return _Block(batch, None, rows)
        bad = reasons != ""
        for reason in reasons[bad]:
            self.tally.reasons[re.sub(r" (length|dimension) \S+", r" \1", str(reason))] += 1
        for index in np.flatnonzero(bad)[: max(0, 3 - len(self.tally.first_refused))]:
            self.tally.first_refused.append(f"row {row + int(index):,}: {reasons[index]}")
        sound = np.flatnonzero(~bad)
        kept = {name: values[sound] for name, values in vectors.items()}
        kept_rows = pa.array(sound)
        self._count(ids[sound], kept, texts["caption"].take(kept_rows), texts["similarity"].take(kept_rows))
        refused = batch.filter(pa.array(bad)).append_column("reason", pa.array(reasons[bad].tolist(), pa.string()))
        return _Block(batch.filter(pa.array(~bad)), refused, rows)

    def _batch(self, row: int, texts: dict[str, pa.Array], vectors: dict[str, Float32Rows]) -> pa.RecordBatch:
        rows = len(texts["url"])
        first = self._files.shard * ID_STRIDE + row
        values: dict[str, pa.Array] = {"id": pa.array(np.arange(first, first + rows, dtype=np.int64)), **texts}
        offsets = self._offsets.slice(0, rows + 1)
        for name, block in vectors.items():
            kind = self._schema.field(name).type
            values[name] = pa.ListArray.from_arrays(offsets, pa.array(block.reshape(-1)), type=kind)
        return pa.record_batch([values[name] for name in self._schema.names], schema=self._schema)

    def _reasons(
        self, vectors: dict[str, Float32Rows], misfits: dict[str, RowFaults | None], lost: RowFaults | None
    ) -> RowFaults | None:
        """Why rows are refused, "" for sound ones; None if all rows of the block are sound."""
        reasons: RowFaults | None = None if lost is None else lost.copy()
        for name, block in vectors.items():
            misfit = misfits[name]
            faults = vector_faults(block, normalised=self._dataset.normalised)
            if misfit is not None:
                faults = misfit if faults is None else np.where(misfit != "", misfit, faults)
            if faults is None:
                continue
            if reasons is None:
                reasons = np.full(len(block), "", dtype=object)
            for index in np.flatnonzero(faults != ""):
                said = f"{name} {faults[index]}"
                reasons[index] = f"{reasons[index]} and {said}" if reasons[index] else said
        return reasons

    def _count(
        self, ids: npt.NDArray[np.int64], vectors: dict[str, Float32Rows], captions: pa.Array, similarity: pa.Array
    ) -> None:
        self.tally.rows += len(ids)
        for name, block in vectors.items():
            self.tally.vector_sums[name] += vector_sum(ids, block)
        if len(vectors) == 2 and self._dataset.alignment == "check":
            images, texts = vectors.values()
            self.tally.counter.add(images, texts, captions, similarity.to_numpy(zero_copy_only=False))

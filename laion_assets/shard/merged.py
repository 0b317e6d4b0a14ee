"""The format of a merged Parquet file: its columns and the facts in its footer. merge.py writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.columns import PAGE_TYPES, ColumnType
from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError, first_line
from laion_assets.shard.alignment import Alignment
from laion_assets.shard.arrow_values import ARROW_TYPES
from laion_assets.shard.files import Location
from laion_assets.shard.places import readable

FACTS_KEY = b"laion_assets"
FORMAT = 2
"""Format number of merged files. If a file has another number, the shard must be merged again. A fact that is added to
the footer needs another number only if earlier releases must not read the file: facts that they do not know are left
out."""


@dataclass(frozen=True)
class MergedShard:
    """A merged shard and its facts.

    `rows` are in the file, `quarantined` were refused (`reasons` counts them by reason), `nulls` counts the nulls that
    were replaced, by column, `unmatched` counts rows of joined metadata without a vector, `source_bytes` are the sizes
    of the raw files, by name. `digest` is the file's SHA-256 if it was just written.

    `rules` is the digest of the description that the file was merged by (`merge_rules`), "" in files of versions that
    did not write it. Such files are used as before: what Dagster recorded tells whether they are stale.

    `contents` is a digest of the rows: merges of the same raw files have the same. `raw_version` tells which raw files
    were merged (`shard/raw_version.py`), "" if that is not known. Both are "" in files of versions that did not write
    them.
    """

    path: Location
    dataset: str
    shard: int
    rows: int
    quarantined: int
    reasons: dict[str, int]
    nulls: dict[str, int]
    extra_columns: dict[str, ColumnType]
    source_bytes: dict[str, int]
    alignment: Alignment
    dimension: int = 0
    unmatched: int = 0
    vector_sums: dict[str, int] = field(default_factory=dict)
    rules: str = ""
    contents: str = ""
    raw_version: str = ""
    file_bytes: int = 0
    digest: str = field(default="", compare=False)
    format: int = field(default=FORMAT)

    @property
    def subject(self) -> str:
        """The file's name in errors."""
        return f"shard {self.shard}, {self.path.name}"

    def footer(self) -> dict[bytes, bytes]:
        """The facts, as Parquet key-value metadata."""
        facts = asdict(self)
        del facts["path"], facts["file_bytes"], facts["digest"]
        return {FACTS_KEY: json.dumps(facts).encode()}


def read_merged(path: Location, *, dataset: Dataset, shard: int) -> MergedShard:
    """The facts of a merged file from its footer, in milliseconds.

    Raises `ShardFileError`, also for a file of another shard or dataset, or of the dataset with an earlier description
    (another dimension, with or without texts, from other files or other shares of them), and `StoreError`.
    """
    subject = f"shard {shard}, {path.name}"
    again = remedy(shard)
    try:
        with readable(path, subject=subject) as source:
            metadata = pq.read_metadata(source)
            size = path.stat().st_size
    except (OSError, pa.ArrowException) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else first_line(error)
        raise ShardFileError(subject, found=reason, expected="a merged Parquet file", advice=again) from error
    try:
        facts: dict[str, Any] = json.loads((metadata.metadata or {})[FACTS_KEY])
        number = int(facts["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise ShardFileError(
            subject, found="a footer without laion_assets metadata", expected="a merged Parquet file", advice=again
        ) from error
    if number != FORMAT:
        newer = "use the release that wrote it, or " if number > FORMAT else ""
        raise ShardFileError(subject, found=f"format {number}", expected=f"format {FORMAT}", advice=f"{newer}{again}")
    try:
        merged = _of_facts(path, size, facts)
    except (KeyError, TypeError, ValueError) as error:
        raise ShardFileError(
            subject, found=f"a footer that lacks facts: {first_line(error)}", expected="those of a merge", advice=again
        ) from error
    columns = {metadata.schema.column(number).path.partition(".")[0] for number in range(metadata.num_columns)}
    found = _identity(merged.dataset, merged.shard, metadata.num_rows, "text_embedding" in columns)
    expected = _identity(dataset.name, shard, merged.rows, dataset.has_text)
    if merged.dimension:
        found += f", dimension {merged.dimension}"
        expected += f", dimension {dataset.dimension}"
    files = sorted(dataset.file_name(kind, shard) for kind in dataset.file_kinds)
    if merged.source_bytes and sorted(merged.source_bytes) != files:
        found += f", made from {', '.join(sorted(merged.source_bytes))}"
        expected += f", made from {', '.join(files)}"
    if found != expected:
        raise ShardFileError(subject, found=found, expected=expected, advice=again)
    return merged


def remedy(shard: int) -> str:
    """How to replace a merged file that cannot be used. Its raw files were probably removed after its merge."""
    return f"run `laion-assets load --again {shard}`, or materialize raw_shard and merged_shard for partition {shard}"


def _of_facts(path: Location, size: int, facts: dict[str, Any]) -> MergedShard:
    known = {each.name for each in fields(MergedShard)} - {"path", "file_bytes", "digest"}
    taken = {name: value for name, value in facts.items() if name in known}
    taken["alignment"] = Alignment(**taken["alignment"])
    return MergedShard(path=path, file_bytes=size, **taken)


def _identity(dataset: str, shard: int, rows: int, has_text: bool) -> str:
    texts = "with" if has_text else "without"
    return f"dataset {dataset}, shard {shard}, {rows:,} rows {texts} text vectors"


def require_whole(merged: MergedShard) -> None:
    """Reads every page of a merged file, some 30 MB at a time. Raises `ShardFileError` for damage, `StoreError`."""
    with reading(merged) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group)


@contextmanager
def reading(merged: MergedShard) -> Iterator[Path | IO[bytes]]:
    """What pyarrow can read a merged file's rows from. Raises `ShardFileError` if they cannot be read, `StoreError`."""
    try:
        with readable(merged.path, subject=merged.subject) as source:
            yield source
    except (OSError, pa.ArrowException) as error:
        raise ShardFileError(
            merged.subject,
            found=first_line(error),
            expected="a whole Parquet file",
            advice=remedy(merged.shard),
        ) from error


def merged_schema(dataset: Dataset, extra_columns: dict[str, ColumnType]) -> pa.Schema:
    """The Arrow schema of a merged file: id, the page's columns, the vectors, the extra columns; no column is nullable.

    Vectors are lists of float32, which every reader supports. ClickHouse misread FLOAT16 (its pull request 73836), and
    polars reads FLOAT16 as bytes. ClickHouse loads lists up to twice as fast as fixed-size lists.
    """
    vectors = pa.list_(pa.field("element", pa.float32(), nullable=False))
    fields = [pa.field("id", pa.int64(), nullable=False)]
    fields += [pa.field(name, ARROW_TYPES[kind], nullable=False) for name, kind in PAGE_TYPES.items()]
    fields += [pa.field(name, vectors, nullable=False) for name in dataset.vector_columns]
    fields += [pa.field(name, ARROW_TYPES[kind], nullable=False) for name, kind in extra_columns.items()]
    return pa.schema(fields)


def open_writer(path: Path, schema: pa.Schema, dataset: Dataset) -> pq.ParquetWriter:
    """A Parquet writer for merged files, with the encodings that benchmarks/merge_encodings.py chose.

    BYTE_STREAM_SPLIT separates the four bytes of each float32. In widened float16 two of them are almost constant, so
    ZSTD compresses the 4,096 bytes of two vectors to about 1,850.
    """
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["NSFW"],
        write_statistics=["id"],
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in dataset.vector_columns},
        store_schema=False,
        # A changed letter in a page makes another valid file. The checksums cost no time that could be measured.
        write_page_checksum=True,
    )

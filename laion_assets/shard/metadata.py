"""Reads a shard's metadata Parquet file in blocks, only the columns that the table needs, and fills its nulls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_assets.columns import PAGE_TYPES, ColumnType, null_value
from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError
from laion_assets.shard.arrow_values import ARROW_TYPES, as_type

MAX_BYTES_A_ROW = 65_536
"""A file with more bytes of text a row on average is refused: LAION's longest URL has 3,487 bytes, its longest caption
about 2,100. This limits the memory of one block to about half a gigabyte."""

UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""Errors that pyarrow raises for a damaged file; the last one is for names that are not UTF-8."""

TEXT_ONLY = ("url", "caption")
"""Columns in which a number is a mistake: the wrong column was named for them."""


@dataclass
class NullCounts:
    """Nulls so far, by column. A null becomes the dataset's default for the column, else empty text, NaN, 0, false."""

    by_column: dict[str, int] = field(default_factory=dict)


class MetadataReader:
    """Reads one metadata file: opens it, finds its columns, yields blocks of arrays.

    `columns` maps each wanted column to its name in the file, or to None if the dataset's default is used. The
    constructor raises `ShardFileError` if the file is not a Parquet file, or lacks columns.
    """

    unmatched = 0

    def __init__(
        self, path: Path, dataset: Dataset, *, subject: str, extra_columns: dict[str, ColumnType] | None = None
    ) -> None:
        self._subject = subject
        self._dataset = dataset
        self.types: dict[str, ColumnType] = PAGE_TYPES | (extra_columns or {})
        try:
            self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
            self._schema = self._file.schema_arrow
            self.rows: int = self._file.metadata.num_rows
            self.columns = self._find_columns()
            self._refuse_huge_text()
        except UNREADABLE as error:
            raise self._unreadable(error) from error
        self.nulls = NullCounts(dict.fromkeys(self.types, 0))

    def blocks(self, block_rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of `block_rows` rows (the last may be shorter): a dict of column name to an Arrow array without nulls.

        Text is passed on unchanged, including quotes, newlines, NUL bytes and bytes that are not UTF-8. Raises
        `ShardFileError` on a corrupt page, or if the number of rows is not that of the footer.
        """
        names = [name for name in self.columns.values() if name is not None]
        if not names:
            # pyarrow's tables without columns lose their number of rows when they are cut.
            for first in range(0, self.rows, block_rows):
                yield self._defaults(min(block_rows, self.rows - first))
            return
        seen = 0
        pending: list[pa.RecordBatch] = []
        waiting = 0
        try:
            for batch in self._file.iter_batches(block_rows, columns=names, use_threads=False):
                pending.append(batch)
                waiting += batch.num_rows
                while waiting >= block_rows:
                    table = pa.Table.from_batches(pending)
                    yield self._fill(table.slice(0, block_rows), seen)
                    seen, waiting = seen + block_rows, waiting - block_rows
                    pending = table.slice(block_rows).to_batches()
            if waiting:
                yield self._fill(pa.Table.from_batches(pending), seen)
                seen += waiting
        except UNREADABLE as error:
            raise self._unreadable(error) from error
        if seen != self.rows:
            raise ShardFileError(self._subject, found=f"{seen:,} rows", expected=f"{self.rows:,}, as its footer says")

    def faults(self, first: int, rows: int) -> None:
        """None: if a value does not fit, the whole shard is refused, not the row."""

    def _find_columns(self) -> dict[str, str | None]:
        names = self._schema.names
        columns: dict[str, str | None] = {}
        missing = []
        for column in self.types:
            aliases = self._dataset.aliases(column)
            name = next((alias for alias in aliases if alias in names), None)
            if name is None and self._dataset.default(column) is None:
                missing.append(f"{column} (looked for {', '.join(aliases)})")
            elif name is not None and names.count(name) > 1:
                raise ShardFileError(self._subject, found=f"{names.count(name)} columns named {name}", expected="one")
            else:
                columns[column] = name
        if missing:
            shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            raise ShardFileError(
                self._subject,
                found=f"no column for {'; '.join(missing)} among: {shown}",
                advice=f"name the columns in the dataset's TOML file under [columns] ({missing[0].split()[0]} = "
                f'"{names[0] if names else "…"}"), or what to write in their place under [defaults] '
                '(NSFW = "", similarity = nan)',
            )
        return columns

    def _refuse_huge_text(self) -> None:
        limit = max(self.rows, 1_000) * MAX_BYTES_A_ROW
        groups = [self._file.metadata.row_group(group) for group in range(self._file.metadata.num_row_groups)]
        # Columns are checked one by one only if all together are too large: pyarrow 26 ends the process on a column
        # whose entry in the footer is damaged.
        if sum(group.total_byte_size for group in groups) <= limit:
            return
        wanted = {name for name in self.columns.values() if name is not None}
        chunks = (group.column(index) for group in groups for index in range(group.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if _top_level(chunk.path_in_schema, wanted))
        if size > limit:
            raise ShardFileError(
                self._subject,
                found=f"{size:,} bytes of text in {self.rows:,} rows",
                expected=f"at most {MAX_BYTES_A_ROW:,} a row",
            )

    def _defaults(self, rows: int) -> dict[str, pa.Array]:
        """Rows of which every column has its default."""
        return {column: pa.repeat(self._filler(column, kind), rows) for column, kind in self.types.items()}

    def _filler(self, column: str, kind: ColumnType) -> pa.Scalar:
        """What is in the place of a null."""
        default = self._dataset.default(column)
        return pa.scalar(null_value(kind) if default is None else default, type=ARROW_TYPES[kind])

    def _fill(self, table: pa.Table, first_row: int) -> dict[str, pa.Array]:
        block: dict[str, pa.Array] = {}
        for column, kind in self.types.items():
            name, filler = self.columns[column], self._filler(column, kind)
            if name is None:
                block[column] = pa.repeat(filler, table.num_rows)
                continue
            values = as_type(
                table.column(name),
                kind,
                subject=f"{self._subject}, column {name}",
                first_row=first_row,
                text_only=column in TEXT_ONLY,
            )
            if values.null_count:
                self.nulls.by_column[column] += values.null_count
                values = pc.fill_null(values, filler)
            block[column] = values
        return block

    def _unreadable(self, error: Exception) -> ShardFileError:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return ShardFileError(
            self._subject, found=f"{reason}", expected="a sound Parquet file", advice="fetch the file again"
        )


def _top_level(path: str, names: set[str]) -> bool:
    """Whether a leaf such as `caption.list.element` belongs to one of these columns."""
    return path in names or any(path.startswith(f"{name}.") for name in names)

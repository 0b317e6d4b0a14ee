"""Finds what is wrong with a shard by comparing the headers and footers of its files. It reads no row."""

from __future__ import annotations

from dataclasses import dataclass

from laion_assets.columns import ColumnType
from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import ShardFileError
from laion_assets.file_layout import Part
from laion_assets.shard.any_metadata import open_metadata
from laion_assets.shard.store import ShardFiles
from laion_assets.shard.vector_rows import VectorHeader
from laion_assets.shard.vectors import vector_header

TWO_DIMENSIONS = (
    "images and texts are searched with one another, so that both have one dimension: use text vectors of the same "
    "model, or leave them out with has_text = false in the dataset's TOML file"
)


@dataclass(frozen=True)
class ShardInspection:
    """The facts of the headers. `text` is None for datasets without text embeddings."""

    rows: int
    image: VectorHeader
    text: VectorHeader | None

    @property
    def vector_bytes(self) -> int:
        """Bytes of the vectors, uncompressed."""
        return self.image.bytes + (self.text.bytes if self.text else 0)


def inspect_shard(files: ShardFiles, extra_columns: dict[str, ColumnType] | None = None) -> ShardInspection:
    """Reads headers and footers. Raises `ShardFileError` if one is not valid or their row counts are not equal.

    Row k of each file is one sample. With unequal counts some row would get another row's caption: pandas fills such
    files up with NaN, which silently damaged shards before.
    """
    image = vector_header(files, "image")
    text = vector_header(files, "text", advice=TWO_DIMENSIONS) if files.dataset.has_text else None
    # Opening a join reads all keys, so only the merge opens it, once.
    joined = files.dataset.join is not None
    metadata = None if joined else open_metadata(files, extra_columns or {}, rows=image.rows)
    counts = {_named(files, "image"): image.rows}
    if metadata is not None and files.dataset.has_metadata:
        counts[files.metadata.name] = metadata.rows
    if text is not None:
        counts[_named(files, "text")] = text.rows
    if len(set(counts.values())) > 1:
        raise ShardFileError(
            f"shard {files.shard}",
            found=", ".join(f"{rows:,} rows in {name}" for name, rows in counts.items()),
            expected="the same number in each",
            advice="one of these files is of another release or is incomplete: fetch it again",
        )
    if image.rows > ID_STRIDE:
        raise ShardFileError(
            f"shard {files.shard}", found=f"{image.rows:,} rows", expected=f"at most {ID_STRIDE:,}, the stride of ids"
        )
    return ShardInspection(image.rows, image, text)


def _named(files: ShardFiles, part: Part) -> str:
    """A file's name, with the array in it if the file may hold several."""
    array = files.dataset.array(part)
    return f"{array} of {files.path(part).name}" if array else files.path(part).name

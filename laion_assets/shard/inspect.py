"""What is wrong with a shard: its three files looked at together, by their headers alone. It reads no row."""

from __future__ import annotations

from dataclasses import dataclass

from laion_assets.columns import ColumnType
from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import ShardFileError
from laion_assets.shard.metadata import MetadataReader
from laion_assets.shard.npy import NpyHeader, read_header
from laion_assets.shard.store import ShardFiles

TWO_DIMENSIONS = (
    "images and texts are searched with one another, so that both have one dimension: use text vectors of the same "
    "model, or leave them out with has_text = false in the dataset's TOML file"
)


@dataclass(frozen=True)
class ShardInspection:
    """What the headers say. `text` is None for datasets without text embeddings."""

    rows: int
    image: NpyHeader
    text: NpyHeader | None
    metadata_columns: dict[str, str | None]

    @property
    def vector_bytes(self) -> int:
        """Bytes of vectors in the npy files."""
        headers = [self.image, *([self.text] if self.text else [])]
        return sum(header.rows * header.dimension * header.dtype.itemsize for header in headers)


def inspect_shard(files: ShardFiles, extra_columns: dict[str, ColumnType] | None = None) -> ShardInspection:
    """Reads the three headers. Raises `ShardFileError` when one is not valid or their row counts are not equal.

    Row k of the three is one sample, so unequal counts mean that some row would get another's caption: pandas pads
    such files with NaN, which is how shards were silently damaged before.
    """
    dimension = files.dataset.dimension
    image = read_header(files.image, subject=files.subject("image"), dimension=dimension)
    text = None
    if files.text is not None:
        text = read_header(files.text, subject=files.subject("text"), dimension=dimension, advice=TWO_DIMENSIONS)
    metadata = MetadataReader(
        files.metadata, files.dataset, subject=files.subject("metadata"), extra_columns=extra_columns
    )
    counts = {files.image.name: image.rows, files.metadata.name: metadata.rows}
    if text is not None and files.text is not None:
        counts[files.text.name] = text.rows
    if len(set(counts.values())) > 1:
        raise ShardFileError(
            f"shard {files.shard}",
            found=", ".join(f"{rows:,} rows in {name}" for name, rows in counts.items()),
            expected="the same number in each",
            advice="one of them is of another release, or was cut: fetch it again",
        )
    if image.rows > ID_STRIDE:
        raise ShardFileError(
            f"shard {files.shard}", found=f"{image.rows:,} rows", expected=f"at most {ID_STRIDE:,}, the stride of ids"
        )
    return ShardInspection(image.rows, image, text, metadata.columns)

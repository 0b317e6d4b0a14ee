"""The interface for reading vectors from any file: a header with the number of rows, and a reader that gives blocks."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from laion_assets.errors import ShardFileError

Float32Rows = npt.NDArray[np.float32]

RowFaults = npt.NDArray[np.object_]
"""Why each row of a block is refused, (n,) of text, "" for a row that is not."""


@dataclass(frozen=True)
class VectorHeader:
    """A file's facts about its vectors, before any is read: `rows` × `dimension` values of `dtype`."""

    rows: int
    dimension: int
    dtype: np.dtype[np.floating]

    @property
    def bytes(self) -> int:
        """Bytes of the vectors, uncompressed."""
        return self.rows * self.dimension * self.dtype.itemsize

    def require_same(self, again: VectorHeader, subject: str) -> None:
        """Raises `ShardFileError` if the file's header is different from the header that was read before."""
        if again != self:
            raise ShardFileError(subject, found=f"{again.rows:,} rows", expected=f"{self.rows:,}, as it had before")


class VectorReader(Protocol):
    """Reads the vectors of one file in order; memory is one block, whatever the file's size."""

    def __enter__(self) -> VectorReader:
        """Returns itself."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes the file."""

    def read_into(self, out: Float32Rows) -> RowFaults | None:
        """Fills `out`, float32 (n, dimension), with the next n rows. Values too large for float32 become infinite.

        Returns what is wrong with rows that are not vectors of that dimension; `out` has zeros for them. Returns None
        if all rows are vectors. Raises `ShardFileError` if the file cannot be read, or ends early.
        """

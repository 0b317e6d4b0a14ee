"""Reads one vector from a file that a user names: numpy's format, or a JSON list. It searches nothing."""

from __future__ import annotations

import json
import math
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laion_assets.errors import SearchError
from laion_assets.searching.query_vector import real_numbers
from laion_assets.shard.npy import parse_header
from laion_assets.text_file import read_text

MOST_BYTES = 64 << 20
"""Most bytes of the file: 65,536 numbers, the most that a dataset's vectors have, take some 1.5 MB as JSON."""

UNREADABLE = (OSError, ValueError, TypeError, EOFError, RecursionError, OverflowError, tokenize.TokenError)


def read_vector_file(path: Path) -> npt.NDArray[np.float64]:
    """A vector from a .npy file of shape (d,) or (1, d), or a JSON list of numbers. Raises `SearchError`."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("a folder, a pipe or a device" if path.exists() else "no such file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{size:,} bytes, more than any vector has")
        npy = path.suffix.lower() == ".npy"
        return real_numbers(_npy_array(path, size) if npy else np.asarray(json.loads(read_text(path))))
    except (SearchError, *UNREADABLE) as error:
        found = error.found if isinstance(error, SearchError) else " ".join(str(error).split())[:200]
        raise SearchError(f"vector file {path}", found=found, expected="a .npy file or a JSON list") from error


def _npy_array(path: Path, size: int) -> npt.NDArray[Any]:
    """The array, if the file is as long as its header says: numpy would allocate memory by the header first."""
    with path.open("rb") as file:
        shape, _, dtype = parse_header(file, lambda found, _: SearchError(str(path), found=found))
        if dtype.hasobject or file.tell() + math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"a header of shape {shape} and {dtype}, which the file does not hold")
    return np.asarray(np.load(path, allow_pickle=False))

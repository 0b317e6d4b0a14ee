"""Checks the vector that is searched for and scales it to length 1. It asks no database."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laion_assets.errors import SearchError


def checked_vector(vector: npt.ArrayLike, dimension: int) -> npt.NDArray[np.float32]:
    """The vector's direction as float32 (dimension,), of length 1.

    The vector may have any length but 0. ClickHouse computes cosine distances in float32, in which the square of 1e20
    is infinite and that of 1e-23 is 0. So the vector is scaled here, in float64, first by its largest element.

    Raises `SearchError` for another shape, zeros, NaN or infinity.
    """
    try:
        numbers = real_numbers(np.asarray(vector))
    except (TypeError, ValueError, OverflowError) as error:
        found = " ".join(str(error).split())[:200]
        raise SearchError("query vector", found=found, expected=f"{dimension} numbers") from error
    if numbers.shape not in ((dimension,), (1, dimension)):
        raise SearchError("query vector", found=f"shape {numbers.shape}", expected=f"({dimension},)")
    numbers = numbers.reshape(dimension)
    if not numbers.any():
        raise SearchError("query vector", found="only zeros", expected="a direction: cosine distance needs a length")
    scaled = numbers / np.abs(numbers).max()
    unit: npt.NDArray[np.float64] = scaled / np.linalg.norm(scaled)
    return unit.astype(np.float32)


def real_numbers(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The same numbers as float64. Raises `ValueError` for values that are not real, or not finite as float64."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"values of type {_kinds(array)}, not real numbers of at most 64 bits")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("NaN or infinity in it")
    return numbers


def _kinds(array: npt.NDArray[Any]) -> str:
    """The types of an array's values; Python's types if numpy has no own type for them."""
    if array.dtype.kind != "O":
        return str(array.dtype)
    return ", ".join(sorted({type(each).__name__ for each in array.flat})[:5])

"""Which vectors the table may have. This module works on numbers and reads no files."""

from __future__ import annotations

import numpy as np

from laion_assets.shard.vector_rows import Float32Rows, RowFaults

SQUARED_LENGTH_TOLERANCE = 0.05
"""How far a normalised vector's squared length may be from 1: LAION's float16 vectors are within 0.0006."""

SQUARED_LENGTH_RANGE = (1e-20, 1e20)
"""Range in which float32 arithmetic is right for a vector that is not normalised: at 1e30 the index gives a false 0."""


def vector_faults(vectors: Float32Rows, *, normalised: bool) -> RowFaults | None:
    """Why each of the vectors, float32 (n, d), is refused: n texts, "" for a sound vector; None if all are sound.

    Faults: "not finite", "zero", "length L" (with L to three digits).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("ij,ij->i", vectors, vectors)
    if normalised:
        sound = np.abs(squared - 1) < SQUARED_LENGTH_TOLERANCE
    else:
        sound = (squared > SQUARED_LENGTH_RANGE[0]) & (squared < SQUARED_LENGTH_RANGE[1])
    if bool(sound.all()):
        return None
    faults = np.full(len(vectors), "", dtype=object)
    for row in np.flatnonzero(~sound):
        if not np.isfinite(vectors[row]).all():
            faults[row] = "not finite"
        elif not vectors[row].any():
            faults[row] = "zero"
        else:
            faults[row] = f"length {np.linalg.norm(vectors[row].astype(np.float64)):.3g}"
    return faults

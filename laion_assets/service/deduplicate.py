"""Leaves out results that are near duplicates of an earlier one, as clip-retrieval's `deduplicate` does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SAME = 0.94
"""Above this inner product of unit vectors clip-retrieval treats two pictures as the same."""

_BLOCK = 512
"""Rows that are compared with all earlier rows in one matrix product: 20 MB of float32 for 10,000 results."""


def first_of_each(vectors: npt.NDArray[np.float32], *, same: float = SAME) -> npt.NDArray[np.int64]:
    """The positions that stay, ascending, int64 (k,), of `vectors`, (n, dimension), in the order of the answer.

    Two rows are connected if the cosine of their vectors is above `same`. The first row of each connected component
    stays. A zero vector is connected with no other vector.
    """
    rows = len(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    component = np.arange(rows)
    for begin in range(0, rows, _BLOCK):
        end = min(begin + _BLOCK, rows)
        near = unit[begin:end] @ unit[:end].T > same
        for row in range(begin, end):
            others = component[: row + 1][near[row - begin, : row + 1]]
            joined = np.unique(np.append(others, component[row]))
            if len(joined) > 1:
                component[np.isin(component, joined)] = joined[0]
    return np.unique(component)

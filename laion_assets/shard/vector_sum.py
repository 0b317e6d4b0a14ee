"""One number for all vectors of a column, in any order: computed from numpy blocks, from a merged file, or by SQL.

The number is Σ over rows of m(id) · Σ over elements of w(j) · bits, modulo 2^64, where `bits` is a float32 as an
unsigned integer, m(id) = intHash64(id) | 1 and w(j) = intHash64(j) | 1 with ClickHouse's `intHash64`. The factors are
odd, so changing one element always changes the sum. Rows that are exchanged, lost or doubled, elements that slipped,
and several changes at once leave the sum the same with a probability of only about 1 in 2^60. (Carter and Wegman's
multilinear hash, 1979.)

The merge computes the sum of the blocks that it writes, and writes it into the file's footer. The load compares it with
the engine's sum. `python -m benchmarks vector_proof` measures the cost of both: reading the file's vectors once more
with pyarrow would cost a fifth of the load.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_assets.shard.vector_rows import Float32Rows

MODULUS = 2**64
BATCH_ROWS = 8_192

Words = npt.NDArray[np.uint64]


def vector_sum(ids: npt.NDArray[np.int64], vectors: Float32Rows) -> int:
    """The sum of a block: ids (n,), vectors float32 (n, d), C order."""
    bits = vectors.view(np.uint32)
    rows = np.einsum("ij,j->i", bits, _odd_hash(np.arange(bits.shape[1], dtype=np.uint64)))
    return int((rows * _odd_hash(ids.view(np.uint64))).sum(dtype=np.uint64))


def vector_sum_sql(column: str, dimension: int) -> str:
    """The aggregate expression over a column of a table that has `id`. All vectors must have `dimension` elements."""
    weights = f"arrayMap(place -> bitOr(intHash64(place), 1), range(toUInt64({dimension})))"
    bits = f"arrayMap(element -> reinterpretAsUInt32(element), {column})"
    return f"sum(bitOr(intHash64(id), 1) * arrayDotProduct({bits}, {weights}))"


def file_vector_sum(file: pq.ParquetFile, column: str, dimension: int) -> int:
    """The sum over a column of a merged file, read batch by batch; for files without a sum in the footer.

    Raises `ValueError` if a vector has another length, and pyarrow's errors.
    """
    total = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=["id", column]):
        values = pc.list_flatten(batch.column(1)).to_numpy(zero_copy_only=False)
        total += vector_sum(batch.column(0).to_numpy(), values.reshape(batch.num_rows, dimension))
    return total % MODULUS


def _odd_hash(numbers: Words) -> Words:
    """ClickHouse's intHash64 (the finalizer of MurmurHash3 over a number that is XORed with a constant), made odd."""
    hashed = numbers ^ np.uint64(0x4CF2D2BAAE6DA887)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashed = (hashed ^ (hashed >> np.uint64(33))) * np.uint64(factor)
    hashed ^= hashed >> np.uint64(33)
    odd: Words = hashed | np.uint64(1)
    return odd

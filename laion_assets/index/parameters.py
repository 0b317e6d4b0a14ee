"""The parameters of an HNSW index, and what such an index takes: bytes of memory, core-seconds to build it."""

from __future__ import annotations

from dataclasses import dataclass

from laion_assets.settings import Settings
from laion_assets.settings.fields import Quantization

BITS: dict[Quantization, int] = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i8": 8, "b1": 1}
"""Bits of each element in the graph."""


@dataclass(frozen=True)
class IndexParameters:
    """The parameters of an HNSW index: the number format of its vectors, M (links a vector) and ef_construction."""

    quantization: Quantization = "bf16"
    m: int = 64
    ef_construction: int = 256

    @classmethod
    def of(cls, settings: Settings) -> IndexParameters:
        """The parameters that the settings ask for."""
        return cls(settings.hnsw_quantization, settings.hnsw_m, settings.hnsw_ef_construction)

    def type_sql(self, dimension: int) -> str:
        """The index type in SQL, for example `vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 64, 256)`."""
        return (
            f"vector_similarity('hnsw', 'cosineDistance', {dimension}, '{self.quantization}', {self.m}, "
            f"{self.ef_construction})"
        )

    def bytes_a_vector(self, dimension: int) -> float:
        """Bytes in memory a vector: its elements, 2·M links of 4 bytes in the lowest layer, 21 bytes for the rest.

        Within 1 % of what ClickHouse 26.9 reported for bf16 and M 64, 16 and 8, for i8 and for b1 (512 dimensions).
        """
        return dimension * BITS[self.quantization] / 8 + 8 * self.m + 21

    def core_seconds(self, rows: int, dimension: int) -> float:
        """About how many seconds one core needs to index `rows` vectors: an estimate for logs, good to a factor of two.

        From a million rows of 512 dimensions in one part: bf16, M 64, ef_construction 256: 1,556 s; bf16, 16, 64:
        315 s; i8: 310 s; b1: 118 s. The time grows with ef_construction and little with M.
        """
        million = (118 if self.quantization == "b1" else 315) * (self.ef_construction / 64) * (self.m / 16) ** 0.15
        return float(million * rows / 1e6) * (0.2 + 0.8 * dimension / 512)

    def __str__(self) -> str:
        return f"{self.quantization}, M {self.m}, ef_construction {self.ef_construction}"

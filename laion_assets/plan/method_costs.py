"""What each method of searching takes for a number of rows: memory, disk, core hours, latency. Measures nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from laion_assets.index.cells.centroids import GROUPS_SEARCHED, ITERATIONS, ROWS_A_CENTROID, clusters_for
from laion_assets.index.cells.schema import MERGED_PARTS, code_bytes, padded_dimension
from laion_assets.index.parameters import IndexParameters
from laion_assets.searching.cells_settings import default_probes
from laion_assets.words import size

SCAN_CORE_SECONDS = 1.1
"""Core seconds a million rows of an exact search over Float32, the vectors in the page cache: 1.08 of 200,000 sample
rows (quiet machine), 1.04 to 1.17 of 1,000,448, 1.19 of 4,001,792."""

CODES_CORE_SECONDS = 0.09
"""Core seconds a million rows of a search of all codes, beside its candidates: 0.06 in 1,000,448 rows, 0.09 in
4,001,792."""

PROBED_CORE_SECONDS = 0.30
"""Core seconds a million rows of probed clusters, which lie in many ranges: 0.22 in 1,000,448 rows, 0.42 in 4,001,792,
whose files did not fit into the page cache."""

CANDIDATES_CORE_SECONDS = 0.11
"""Core seconds for candidates, the answer's rows and the statements' analysis, whatever the number of rows: a search of
a tenth of 1,000,448 rows took 0.11, of a fifth 0.14, with 200 candidates a neighbour."""

WRITING_CORE_SECONDS = 28.0
"""Core seconds to read, sort, write and compare a million vectors: 200,000 sample rows of 512 dimensions, on a busy
machine. With the assignment to clusters it was 36 to 41."""

ASSIGNING_CORE_SECONDS, A_CENTROID_CORE_SECONDS = 4.0, 0.0205
"""Core seconds to assign a million vectors, and those for each centroid that a vector is compared with. Measured were
8.4 core seconds for 1,789 centroids, and 33 for 80,736 made-up ones."""

MERGING_CORE_SECONDS = 16.0
"""Core seconds to merge parts of a million vectors, which computes their codes again."""

TRAINING_CORE_SECONDS = 49.0 / (12 * 114_496 * 1_789**0.5)
"""Core seconds for each iteration, row and √clusters: 48 to 51 core seconds for 114,496 rows and 1,789 clusters."""

CELLS_ROW_BYTES = 70.0
"""Bytes on disk for each row besides vector and code, 67 to 72: texts, ids, numbers, and 8 for the vector's length."""

SCANNED_512 = 512.0


@dataclass(frozen=True)
class MethodCost:
    """A method of searching: bytes that should be in memory, bytes on disk beside the table, core hours to build.

    Graphs must be in memory. Codes are in the page cache, and those that do not fit are read from disk. `seconds` is
    the time of a search on all cores; None if no formula is known.
    """

    name: Literal["exact", "graph", "codes", "cells"]
    memory_bytes: float
    disk_bytes: float
    core_hours: float
    seconds: float | None
    sure: str


@dataclass(frozen=True)
class Methods:
    """All methods, and the one that fits a machine with this much memory, with the reason."""

    costs: list[MethodCost]
    named: str
    reason: str


def method_costs(
    rows: int, columns: int, dimension: int, parameters: IndexParameters, *, partitions: int, cores: int, memory: int
) -> Methods:
    """What each method takes for a table of `rows` rows and some vector columns, on `cores` cores, and which one fits.

    Figures of 512 dimensions are scaled by the dimension. Above four million rows they are extrapolated.
    """
    vectors, millions = rows * columns, rows / 1e6
    scale = dimension / SCANNED_512
    clusters = clusters_for(rows)
    probes = default_probes(clusters, rows)
    share = probes / clusters if probes else 1.0
    code = code_bytes(padded_dimension(dimension))
    cells_disk = vectors * (2 * padded_dimension(dimension) + code + CELLS_ROW_BYTES)
    training = TRAINING_CORE_SECONDS * ITERATIONS * ROWS_A_CENTROID * clusters * math.sqrt(clusters) * columns
    building = cells_core_seconds(clusters, partitions) * vectors / 1e6
    graphs = vectors * parameters.bytes_a_vector(dimension)
    projected = "measured" if rows <= 4_000_000 else "projected from up to 4,001,792 made-up rows"
    scan = SCAN_CORE_SECONDS * millions * scale / cores
    codes = (CODES_CORE_SECONDS * millions * scale + CANDIDATES_CORE_SECONDS) / cores
    cells = (PROBED_CORE_SECONDS * millions * share * scale + CANDIDATES_CORE_SECONDS) / cores
    core_hours = parameters.core_seconds(vectors, dimension) / 3600
    costs = [
        MethodCost("exact", 0.0, 0.0, 0.0, scan, projected),
        MethodCost(
            "graph", graphs, graphs, core_hours, None, f"memory within 1 %; latency grows with {partitions} parts"
        ),
        MethodCost("codes", vectors * code, cells_disk, building / 3600, codes, projected),
        MethodCost("cells", vectors * code, cells_disk, (building + training) / 3600, cells, projected),
    ]
    return _named(costs, rows, graphs, memory)


def cells_core_seconds(clusters: int, partitions: int) -> float:
    """Core seconds for each million vectors of 512 dimensions, without training, in a table of `partitions` full
    shards.

    A vector is compared with √k groups and the members of some of them. Parts of a shard are merged with parts of other
    shards, 32 at a time; the parts of a single shard need no merging.
    """
    compared = (1 + GROUPS_SEARCHED) * math.sqrt(clusters)
    merges = math.ceil(math.log(PARTS_A_SHARD * partitions, MERGED_PARTS)) if partitions > 1 else 0
    return (
        WRITING_CORE_SECONDS
        + ASSIGNING_CORE_SECONDS
        + A_CENTROID_CORE_SECONDS * compared
        + MERGING_CORE_SECONDS * merges
    )


PARTS_A_SHARD = 4
"""Parts of 262,144 rows in a shard of LAION-400M."""

EXACT_ROWS = 100_000
"""With fewer rows than this an exact search takes a few milliseconds."""

MEMORY_SHARE = 0.5
"""The fraction of the machine's memory that graphs may take. The engine and the page cache need the rest."""


def _named(costs: list[MethodCost], rows: int, graphs: float, memory: int) -> Methods:
    if rows < EXACT_ROWS:
        return Methods(costs, "exact", f"below {EXACT_ROWS:,} rows nothing is faster by more than milliseconds")
    if graphs <= MEMORY_SHARE * memory:
        return Methods(costs, "graph", f"its graphs fit into half of the {size(memory)} of memory here")
    return Methods(costs, "cells", f"graphs of {size(graphs)} do not fit into half of the {size(memory)} here")

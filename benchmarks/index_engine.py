"""Measured program: ClickHouse builds an index of one column, as the project does. It compares nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.alone import index_parameters
from benchmarks.search_data import vector_table
from benchmarks.stage import StageReport
from laion_assets.index.cover import index_sizes
from laion_assets.index.graphs import build_indexes


def main() -> None:
    """`python -m benchmarks.index_engine VECTORS.npy FOLDER bf16,64,256`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("vectors", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parameters", type=index_parameters)
    given = parser.parse_args()
    report = StageReport()
    vectors = np.load(given.vectors)
    with vector_table(
        given.folder, "vectors", vectors, given.parameters, lambda line: print(line, file=sys.stderr)
    ) as db:
        with report.phase("build"):
            built = build_indexes(db)
        if built.core_seconds is None or built.vectors != len(vectors):
            raise SystemExit(
                f"the index has {built.vectors} of {len(vectors)} vectors, CPU seconds: {built.core_seconds}"
            )
        size = index_sizes(built.cover).memory_bytes_a_vector
        report.say(core_seconds=built.core_seconds, bytes_a_vector=size)
    report.close()


if __name__ == "__main__":
    main()

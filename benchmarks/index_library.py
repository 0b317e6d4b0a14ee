"""Measured program: the usearch library builds the same index as index_engine.py. It compares nothing."""

from __future__ import annotations

import argparse
import importlib
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.alone import index_parameters
from benchmarks.stage import StageReport


def main() -> None:
    """`python -m benchmarks.index_library VECTORS.npy bf16,64,256`.

    ClickHouse passes M to usearch as `connectivity` (the lowest layer has twice as many links in both) and
    ef_construction as `expansion_add`, and has no table of keys. Both indexes have the same number of bytes per vector,
    which confirms this.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("vectors", type=Path)
    parser.add_argument("parameters", type=index_parameters)
    given = parser.parse_args()
    report = StageReport()
    vectors = np.load(given.vectors).astype(np.float32)
    index = importlib.import_module("usearch.index").Index(
        ndim=vectors.shape[1],
        metric="cos",
        dtype=given.parameters.quantization,
        connectivity=given.parameters.m,
        expansion_add=given.parameters.ef_construction,
        enable_key_lookups=False,
    )
    keys = np.arange(len(vectors), dtype=np.uint64)
    cores = time.process_time()
    with report.phase("build"):
        index.add(keys, vectors, threads=os.cpu_count() or 1, copy=True)
    report.say(core_seconds=time.process_time() - cores, bytes_a_vector=index.serialized_length / len(vectors))
    report.close()


if __name__ == "__main__":
    main()

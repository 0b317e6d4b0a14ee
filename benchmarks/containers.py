"""Benchmark: one shard from raw files to table, by the file format of its vectors: npy, Parquet, npz, HDF5."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Bench, Command, Peer, compare, cpu, peak, ratio, spread, wall
from benchmarks.ingest import inspection
from benchmarks.process import python
from benchmarks.report import Figure, Section, installed, stages_table
from benchmarks.shards import SHARD, SampleShard, sample_shard

ROWS, QUICK_ROWS = 1_000_448, 20_000
BLOCK_ROWS = 65_536
DIMENSION = 512

NPY, LISTS, NPZ, HDF5 = "npy", "Parquet lists", "npz, compressed", "HDF5"
GOALS = {LISTS: 1.15, NPZ: 1.5, HDF5: None}

ABOUT = """\
Merge and load of the same {rows:,} sample rows, in one process, from four file formats. *npy* is two npy files and the
metadata. *Parquet lists* is one Parquet file with two list columns of float32 beside the metadata's columns (row groups
of 65,536 rows, Snappy). *npz, compressed* is what `numpy.savez_compressed` writes of the float16 arrays. *HDF5* is an
HDF5 file of these arrays. The formats take turns. Ratios compare with npy in the same round."""

LAYOUTS = {
    LISTS: ("rows_{shard}.parquet", "rows_{shard}.parquet"),
    NPZ: ("{shard}.npz", "metadata_{shard}.parquet"),
    HDF5: ("{shard}.h5", "metadata_{shard}.parquet"),
}
"""The names of the file of vectors and of the file of metadata."""


def _toml(name: str) -> str:
    vectors, metadata = LAYOUTS[name]
    return f"""name = "sample"
shards = 4
dimension = {DIMENSION}
image_file = "{vectors}"
text_file = "{vectors}"
metadata_file = "{metadata}"
image_array = "image"
text_array = "text"
[[sources]]
url = "."
"""


def _as_lists(shard: SampleShard, path: Path) -> None:
    """Writes the metadata and the vectors as columns of one file, block by block."""
    images, texts = (np.load(each, mmap_mode="r") for each in (shard.image, shard.text))
    writer = None
    metadata = pq.read_table(shard.metadata)
    for first in range(0, shard.rows, BLOCK_ROWS):
        table = metadata.slice(first, BLOCK_ROWS)
        for name, vectors in (("image", images), ("text", texts)):
            block = np.ascontiguousarray(vectors[first : first + BLOCK_ROWS]).astype(np.float32)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIMENSION)
            table = table.append_column(name, lists.cast(pa.list_(pa.float32())))
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=False)
        writer.write_table(table, row_group_size=BLOCK_ROWS)
    if writer is not None:
        writer.close()


def _as_npz(shard: SampleShard, path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, image=np.load(shard.image), text=np.load(shard.text))


def _as_hdf5(shard: SampleShard, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, source in (("image", shard.image), ("text", shard.text)):
            file.create_dataset(name, data=np.load(source, mmap_mode="r"))


WRITERS: dict[str, Callable[[SampleShard, Path], None]] = {LISTS: _as_lists, NPZ: _as_npz, HDF5: _as_hdf5}


def _made(shard: SampleShard, name: str) -> Path:
    """The file of vectors in one format. It is made if it does not exist."""
    path = shard.image.parents[1] / LAYOUTS[name][0].replace("{shard}", str(SHARD))
    if not path.exists():
        sys.stderr.write(f"  making {path.name}\n")
        temporary = path.with_name(f"tmp-{path.name}")
        WRITERS[name](shard, temporary)
        temporary.rename(path)
    return path


def _npy_peer(shard: SampleShard) -> Peer:
    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder / "raw")
        return {"merge and load": python("benchmarks.ours", "both", folder)}

    return Peer(NPY, prepare, shard.paths, inspection)


def _peer(shard: SampleShard, name: str) -> Peer:
    path = _made(shard, name)
    paths = (path,) if name == LISTS else (path, shard.metadata)

    def prepare(folder: Path) -> dict[str, Command]:
        (folder / "raw").mkdir(parents=True)
        for each in paths:
            os.link(each, folder / "raw" / each.name)
        (folder / "dataset.toml").write_text(_toml(name), encoding="utf-8")
        return {"merge and load": python("benchmarks.ours", "both", folder)}

    return Peer(name, prepare, paths, inspection)


def run(bench: Bench) -> Section:
    """Runs the benchmark. Raises `RuntimeError` when the tables differ."""
    shard = sample_shard(bench.scratch, bench.rows(ROWS, QUICK_ROWS))
    names = [name for name in WRITERS if name not in bench.without and (name != HDF5 or installed("h5py"))]
    rounds = compare(bench, [_npy_peer(shard), *(_peer(shard, name) for name in names)])
    found = {(one.outcome["rows"], one.outcome["checksum"]) for runs in rounds.values() for one in runs}
    if len(found) != 1:
        raise RuntimeError(f"the file formats must load the same rows, but they loaded different ones: {found}")
    figures = []
    for name in names:
        figures.append(
            Figure(f"merge and load from {name}: time / npy's time", ratio(rounds, name, NPY, wall), goal=GOALS[name])
        )
        figures.append(Figure(f"merge and load from {name}: CPU time / npy's CPU time", ratio(rounds, name, NPY, cpu)))
        figures.append(
            Figure(f"merge and load from {name}: peak memory / npy's peak memory", ratio(rounds, name, NPY, peak))
        )
    figures.append(Figure("merge and load from npy", spread(rounds, NPY, wall), "s", form=".1f"))
    return Section(
        "containers", ABOUT.format(rows=shard.rows), figures, {"Time and memory": stages_table(rounds)}, rounds
    )

"""Tables for search benchmarks: sample or given vectors, loaded by the project's own merge and load.

It measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.index.cover import cache_bytes
from laion_assets.index.parameters import IndexParameters
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.files import remove_file
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition

SHARD = 0
GIB = 2**30

ONE_COLUMN = """\
name = "{name}"
shards = 1
dimension = {dimension}
dtype = "{dtype}"
normalised = true
has_text = false

[defaults]
NSFW = ""
similarity = nan

[[sources]]
url = "{{data_dir}}/none"
"""
"""A dataset of vectors alone, in the image column."""

Say = Callable[[str], None]


@contextmanager
def sample_table(
    folder: Path,
    rows: int,
    parameters: IndexParameters,
    say: Say,
    *,
    granularity: int | None = None,
    partitions: int = 1,
    loading: AbstractContextManager[None] | None = None,
) -> Iterator[Database]:
    """A table of sample rows in equal partitions, with both vector columns, without index. Files are removed as soon as
    they are not needed.

    The load of the only partition runs within `loading`.
    """
    settings = _settings("sample", folder, parameters, granularity, 2 * rows, 512)
    store = ShardStore(settings.data_dir, settings.dataset)
    store.raw_folder.mkdir(parents=True, exist_ok=True)
    with connect(settings) as db:
        for shard in range(partitions):
            say(f"making {rows // partitions:,} sample rows")
            for path in write_sample_shard(folder / "sample", shard, rows // partitions):
                path.replace(store.raw_folder / path.name)
            _load(db, store, shard, say, loading)
        yield db


@contextmanager
def vector_table(
    folder: Path, name: str, vectors: npt.NDArray[np.floating], parameters: IndexParameters, say: Say
) -> Iterator[Database]:
    """A table of one partition with the given vectors, (n, d), float16 or float32, of length 1, in the image column."""
    rows, dimension = vectors.shape
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / f"{name}.toml"
    description.write_text(ONE_COLUMN.format(name=name, dimension=dimension, dtype=vectors.dtype.str))
    settings = _settings(str(description), folder, parameters, None, rows, dimension)
    store = ShardStore(settings.data_dir, settings.dataset)
    store.raw_folder.mkdir(parents=True, exist_ok=True)
    files = store.raw_files(SHARD).paths()
    np.save(files["image"], vectors)
    numbers = [str(row) for row in range(rows)]
    pq.write_table(pa.table({"url": numbers, "caption": numbers}), files["metadata"])
    with connect(settings) as db:
        _load(db, store, SHARD, say)
        yield db


def _settings(
    dataset: str, folder: Path, parameters: IndexParameters, granularity: int | None, vectors: int, dimension: int
) -> Settings:
    """Settings whose index cache is large enough for every index: otherwise the benchmark would measure how often
    indexes are read. Granules have their default size unless one is given."""
    cache = cache_bytes(int(1.25 * vectors * parameters.bytes_a_vector(dimension)), graphs=200)
    return load_settings(
        dataset_name=dataset,
        data_dir=folder,
        **({} if granularity is None else {"index_granularity": granularity}),
        index_cache_bytes=max(5 * GIB, cache),
        hnsw_quantization=parameters.quantization,
        hnsw_m=parameters.m,
        hnsw_ef_construction=parameters.ef_construction,
    )


def _load(
    db: Database, store: ShardStore, shard: int, say: Say, loading: AbstractContextManager[None] | None = None
) -> None:
    merged = merge_shard(store, shard, max_bad_fraction=0.01)
    store.remove_raw(shard)
    say(f"merged, {merged.file_bytes / 1e6:,.0f} MB; loading")
    with loading or nullcontext():
        loaded = load_partition(db, merged)
    remove_file(merged.path)
    say(f"{loaded.rows:,} rows loaded, {loaded.bytes_on_disk / 1e6:,.0f} MB")

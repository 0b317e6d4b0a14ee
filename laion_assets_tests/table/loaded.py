"""Helpers for tests that need a loaded table: they load generated shards, or hold the embedded engine's folder."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition

FAST = {"hnsw_m": 8, "hnsw_ef_construction": 32}
"""Index parameters for tests that are not about recall: building for a thousand rows takes 0.1 s."""


def sample_settings(folder: Path, **overrides: object) -> Settings:
    """Settings for the sample dataset with its store in `folder`, and a fast index."""
    return load_settings(dataset_name="sample", data_dir=folder, **{**FAST, **overrides})


def load_sample(
    settings: Settings, rows: dict[int, int], *, copies: int = 0, seed: int = 7, shards: tuple[int, ...] | None = None
) -> None:
    """Writes, merges and loads shards with these numbers of rows. The first `copies` rows have row 0's image and text.

    If the folder has no engine's files yet, the files that the first equal call in this process wrote are copied
    into it: for two shards, this takes 0.1 s instead of 1 s. Otherwise, or on a server, the shards are loaded.
    """
    wanted = {shard: count for shard, count in rows.items() if shards is None or shard in shards}
    if settings.clickhouse or settings.dataset_name != "sample" or (settings.data_dir / "clickhouse").exists():
        _load(settings, wanted, copies, seed)
        return
    named = settings.model_dump(exclude={"data_dir", *FAST})
    made = _folder_of(repr((named, wanted, copies, seed)))
    if not any(made.iterdir()):
        _load(settings.model_copy(update={"data_dir": made}), wanted, copies, seed)
    shutil.copytree(made, settings.data_dir, symlinks=True, dirs_exist_ok=True)


@functools.cache
def _folder_of(what: str) -> Path:
    """Returns an empty folder for files that several tests copy; it is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="laion_assets_loaded_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _load(settings: Settings, rows: dict[int, int], copies: int, seed: int) -> None:
    store = ShardStore(settings.data_dir, settings.dataset)
    store.raw_folder.mkdir(parents=True, exist_ok=True)
    for shard, count in rows.items():
        for path in write_sample_shard(settings.data_dir / "sample", shard, count, seed=seed):
            path.replace(store.raw_folder / path.name)
        if copies:
            files = store.raw_files(shard)
            for path in (files.paths()["image"], files.paths()["text"]):
                vectors: npt.NDArray[np.float16] = np.load(path)
                vectors[:copies] = vectors[0]
                np.save(path, vectors)
        merged = merge_shard(store, shard, max_bad_fraction=0.01, extra_columns=settings.extra_column_types)
        with connect(settings) as db:
            load_partition(db, merged)
        store.remove_raw(shard)


def insert_behind_our_back(db: Database, shard: int, row_id: int, column: str, vector: str) -> None:
    """Inserts a copy of row `row_id` into its partition as row `row_id + 500000`, with a SQL expression as `column`."""
    row = f"(SELECT * FROM {db.table} WHERE shard = {shard} AND id = {row_id})"
    db.command(
        f"INSERT INTO {db.table} SELECT * REPLACE ({vector} AS {column}, id + 500000 AS id) FROM {row}",
        settings={"materialize_skip_indexes_on_insert": 0},
    )


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts a process that holds the embedded engine's folder until a line is written to it."""
    program = """
    import sys
    from laion_assets.settings import load_settings
    from laion_assets.table.connect import connect
    with connect(load_settings(dataset_name="sample", data_dir=sys.argv[1])) as db:
        db.one("SELECT 1")
        print("held", flush=True)
        sys.stdin.readline()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()

"""Loads a shard of three million rows, counts all rows, and compares rows in twenty places.

`python -m laion_assets_tests.torture.large`. Vectors are short (16 dimensions), because the trial is about rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.dataset import ID_STRIDE
from laion_assets.settings import load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import fetch_shard
from laion_assets.table.connect import connect
from laion_assets.table.load import load_partition
from laion_assets.table.schema import partitions

ROWS, DIMENSION, SHARD = 3_000_000, 16, 1
PLACES, RUN = 20, 500


def write(folder: Path) -> None:
    """Writes random unit vectors, and captions and URLs that contain the row number."""
    generator = np.random.default_rng(3)
    for name in ("img_emb", "text_emb"):
        (folder / name).mkdir(parents=True)
        vectors = generator.standard_normal((ROWS, DIMENSION), np.float32)
        # A text vector is half its image's vector, so that matching rows have a higher cosine than other rows.
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        if name == "text_emb":
            vectors = vectors + np.load(folder / "img_emb" / f"img_emb_{SHARD}.npy").astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(folder / name / f"{name}_{SHARD}.npy", vectors.astype("<f2"))
    (folder / "metadata").mkdir()
    numbers = [str(row) for row in range(ROWS)]
    table = pa.table(
        {
            "url": pa.array([f"https://example.org/{number}" for number in numbers]),
            "caption": pa.array([f'row "{number}"' for number in numbers]),
            "NSFW": pa.array(["UNLIKELY"] * ROWS),
            "similarity": pa.nulls(ROWS, pa.float64()),
        }
    )
    pq.write_table(table, folder / "metadata" / f"metadata_{SHARD}.parquet", row_group_size=ROWS)


def run(folder: Path) -> dict[str, object]:
    """Writes and loads the shard, and returns the faults."""
    write(folder / "source")
    described = folder / "large.toml"
    described.write_text(f'name = "large"\nshards = 2\ndimension = {DIMENSION}\n', encoding="utf-8")
    settings = load_settings(
        dataset_name=str(described), source=(str(folder / "source"),), data_dir=folder / "data", keep_raw=True
    )
    store = ShardStore(settings.data_dir, settings.dataset)
    started = time.process_time()
    fetch_shard(settings, SHARD, store.raw_folder)
    merged = merge_shard(store, SHARD, max_bad_fraction=0)
    faults = []
    with connect(settings) as db:
        load_partition(db, merged)
        states = [(state.shard, state.rows, state.parts) for state in partitions(db)]
        first = SHARD * ID_STRIDE
        ids = tuple(db.one(f"SELECT count(), uniqExact(id), min(id), max(id) FROM {db.table}"))
        if states != [(SHARD, ROWS, 1)] or ids != (ROWS, ROWS, first, first + ROWS - 1):
            faults.append(f"{states} {ids}")
        files = store.raw_files(SHARD)
        images = np.load(files.image, mmap_mode="r")
        for start in np.linspace(0, ROWS - RUN, PLACES, dtype=int).tolist():
            found = db.rows(
                f"SELECT id - {first}, caption, image_embedding FROM {db.table} "
                f"WHERE id BETWEEN {first + start} AND {first + start + RUN - 1} ORDER BY id"
            )
            vectors = np.array([row[2] for row in found], np.float32)
            named = [(row, f'row "{row}"') for row in range(start, start + RUN)]
            right = np.array_equal(vectors, images[start : start + RUN].astype(np.float32))
            if [(int(row[0]), row[1]) for row in found] != named or not right:
                faults.append(f"rows from {start:,} are wrong")
    return {"rows": ROWS, "cpu_seconds": round(time.process_time() - started, 1), "faults": faults}


def main() -> None:
    """Runs the trial and prints the result."""
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        found = run(Path(folder))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()

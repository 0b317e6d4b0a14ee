"""Tests files with other layouts: the commands describe, load, index, recall and search need no further options."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets_tests.conftest import class_shard
from laion_assets_tests.forked.process import run_forked

ROWS = 240
QUICK = {"LAION_HNSW_M": "8", "LAION_HNSW_EF_CONSTRUCTION": "32", "LAION_RECALL_QUERIES": "2"}
DAGSTER_YAML = "telemetry: {enabled: false}\nconcurrency:\n  pools: {default_limit: 1, granularity: op}\n"


def run(
    folder: Path, *words: str, dataset: Path | None = None, code: int | tuple[int, ...] = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a command without the caller's settings, and checks that its exit code is `code` or in `code`.

    Graphs are coarse and queries few, because these tests do not check recall.
    """
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAION_", "DAGSTER_"))}
    variables = {**QUICK, "DAGSTER_HOME": str(home), "LAION_DATA_DIR": str(folder / "data")}
    if dataset is not None:
        variables["LAION_DATASET"] = str(dataset)
    done = run_forked("-m", "laion_assets.cli", *words, cwd=folder, env=kept | variables, timeout=600)
    assert "Traceback" not in done.stderr
    assert done.returncode in ((code,) if isinstance(code, int) else code), done.stdout + done.stderr
    return done


def write(folder: Path, image: str, text: str | None, metadata: str, columns: dict[str, Any], shard: int = 0) -> None:
    """Writes a shard sorted by class, with these file names and metadata columns."""
    rows = class_shard([row // 30 for row in range(ROWS)], seed=shard)
    for name, vectors in ((image, rows.images), (text, rows.texts)):
        if name is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / name, vectors)
    (folder / metadata).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / metadata)


def padded_with_holes(folder: Path) -> list[int]:
    """Writes shards 1, 2 and 4 with zero-padded numbers and other column types."""
    for shard in (1, 2, 4):
        columns = {
            "URL": pa.array([f"https://x/{shard}/{row}.jpg" for row in range(ROWS)], pa.string_view()),
            "TEXT": pa.array([[f"thing {row // 30}", "more"] for row in range(ROWS)]),
            "NSFW": [row % 7 == 0 for row in range(ROWS)],
            "punsafe": np.linspace(0, 1, ROWS),
            "width": np.where(np.arange(ROWS) % 9 == 0, np.nan, 640.0),
        }
        number = f"{shard:05d}"
        names = (
            f"img_emb/img_emb_{number}.npy",
            f"text_emb/text_emb_{number}.npy",
            f"metadata/metadata_{number}.parquet",
        )
        write(folder, *names, columns, shard)
    return [1, 2, 4]


def images_alone(folder: Path) -> list[int]:
    """Writes image vectors and paths into one folder, without texts."""
    for shard in range(2):
        columns = {"image_path": [f"/pictures/{shard}/{row}.jpg" for row in range(ROWS)]}
        write(folder, f"img_emb_{shard}.npy", None, f"metadata_{shard}.parquet", columns, shard)
    return [0, 1]


def sorted_by_class(folder: Path) -> list[int]:
    """Writes other file and column names, with rows sorted by class and classes as captions."""
    for shard in range(2):
        columns = {
            "file": [f"/p/{row}.jpg" for row in range(ROWS)],
            "label": [f"class {row // 30}" for row in range(ROWS)],
        }
        write(folder, f"pics/image-{shard}.npy", f"words/text-{shard}.npy", f"meta/m-{shard}.parquet", columns, shard)
    return [0, 1]


@pytest.mark.parametrize("layout", [padded_with_holes, images_alone, sorted_by_class], ids=lambda made: made.__name__)
def test_a_stranger_describes_loads_indexes_and_searches_files_of_another_layout(layout: Any, tmp_path: Path) -> None:
    shards = layout(tmp_path / "files")
    described = tmp_path / "mine.toml"
    assert "wrote" in run(tmp_path, "describe", str(tmp_path / "files"), "--output", str(described)).stderr
    if layout is padded_with_holes:
        text = described.read_text().replace("# [extra_columns]", "[extra_columns]")
        described.write_text(text.replace("# punsafe", "punsafe").replace("# width", "width"))
    loaded = json.loads(run(tmp_path, "load", "all", "--json", dataset=described).stdout)
    assert [(shard["shard"], shard["rows"]) for shard in loaded["shards"]] == [(shard, ROWS) for shard in shards]
    # Exit code 1 means that a target was missed. With so few rows, this can happen by chance.
    run(tmp_path, "index", dataset=described, code=(0, 1))
    measured = json.loads(run(tmp_path, "recall", "--json", dataset=described, code=(0, 1)).stdout)
    kinds = {kind["kind"] for kind in measured["kinds"]}
    assert "image_to_image" in kinds
    assert ("text_to_image" in kinds) == (layout is not images_alone)
    where = ["--where", "punsafe > 0.5 AND width = 640"] if layout is padded_with_holes else []
    like = shards[-1] * 10_000_000 + 200
    # Without a method, a search compares all rows if recall missed its target, or if that is cheaper.
    asked = ["search", "--like", str(like), "--json", "--method", "graph", *where]
    found = json.loads(run(tmp_path, *asked, dataset=described).stdout)
    assert found["neighbours"][0]["id"] == like
    assert where or not found["exact"]
    assert found["neighbours"][0]["url"].endswith(".jpg")
    if layout is padded_with_holes:
        assert found["neighbours"][0]["caption"] == "thing 6"
    again = run(tmp_path, "describe", str(tmp_path / "files"), "-o", str(described), code=2)
    assert "a file of that name" in again.stderr

"""Tests the commands describe, load, index and search with small copies of published datasets. The copies follow
the public descriptions, and are served on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.dataset import load_dataset
from laion_assets.plan.sizes import shard_sizes
from laion_assets_tests.assets.test_layouts import run
from laion_assets_tests.source.fetching import settings_for
from laion_assets_tests.source.loopback_hub import loopback_hub
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server

ROWS = 300
DIMENSION = 768


def unit(seed: int, rows: int = ROWS, dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    """Random vectors of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((rows, dimension))
    vectors: npt.NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def lists(vectors: npt.NDArray[np.float32]) -> pa.Array:
    """Vectors as a list column."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return flat.cast(pa.list_(pa.float32()))


def laion5b(folder: Path) -> None:
    """Writes ClickHouse's copy of LAION-5B: documented columns, files numbered from 1, ten shards in each file."""
    rows = 10 * ROWS
    columns: dict[str, Any] = {
        "id": pa.array(np.arange(rows), pa.uint32()),
        "image_path": [f"{row:09d}" for row in range(rows)],
        "caption": [f"thing {row}" for row in range(rows)],
        "NSFW": [None if row % 50 == 0 else "UNLIKELY" for row in range(rows)],
        "similarity": pa.array(np.full(rows, 0.3), pa.float32()),
        "LICENSE": pa.nulls(rows, pa.string()),
        "url": [f"https://example.org/{row}.jpg" for row in range(rows)],
        "key": [f"{row:09d}" for row in range(rows)],
        "status": pa.array(["success"] * rows).dictionary_encode(),
        "width": pa.array(np.full(rows, 256), pa.int32()),
        "md5": ["0" * 32] * rows,
        "vector": lists(unit(1, rows)),
    }
    for file in (1, 2):
        pq.write_table(
            pa.table(columns),
            folder / f"laion5b_100m_part_{file}_of_10.parquet",
            row_group_size=ROWS // 2,
            use_dictionary=False,
        )


def vdbbench(folder: Path) -> None:
    """Writes VectorDBBench's LAION: rows of an id and a vector, and further files of queries and their neighbours."""
    for file in range(2):
        columns = {"id": np.arange(ROWS) + file * ROWS, "emb": lists(unit(file))}
        pq.write_table(pa.table(columns), folder / f"train-{file:02d}-of-100.parquet", use_dictionary=False)
    every, queries = np.concatenate([unit(0), unit(1)]), unit(7, 40)
    nearest = np.argsort(-(queries @ every.T), axis=1, kind="stable")[:, :100]
    pq.write_table(pa.table({"id": np.arange(40), "emb": lists(queries)}), folder / "test.parquet")
    pq.write_table(pa.table({"id": np.arange(40), "neighbors_id": nearest.tolist()}), folder / "neighbors.parquet")


@contextmanager
def served(make: Callable[[Path], None], folder: Path) -> Iterator[MisbehavingServer]:
    """Serves a dataset's files on a web server that cannot list files."""
    folder.mkdir()
    make(folder)
    with misbehaving_server({path.name: path.read_bytes() for path in folder.iterdir()}) as server:
        yield server


@pytest.mark.parametrize(
    ("preset", "make", "shard"), [("laion5b-100m", laion5b, 12), ("vdbbench-laion-100m", vdbbench, 1)]
)
def test_a_presets_layout_is_loaded_indexed_and_searched(
    preset: str, make: Callable[[Path], None], shard: int, tmp_path: Path
) -> None:
    with served(make, tmp_path / "files") as server:
        chosen = ("--dataset", preset, "--source", server.base())
        settings = settings_for(server.base(), data_dir=tmp_path / "sizes", dataset=preset)
        (size,) = shard_sizes(settings, [shard], ask=True)
        # The rows of a Parquet file are estimated from its size. Random numbers cannot be compressed.
        assert (size.origin, size.rows == pytest.approx(ROWS, rel=0.15)) == ("estimated", True)
        loaded = json.loads(run(tmp_path, "load", str(shard), "--json", *chosen).stdout)
        assert [(each["shard"], each["rows"]) for each in loaded["shards"]] == [(shard, ROWS)]
        name = load_dataset(preset).remote_name("metadata", shard)
        other = [request.path for request in server.requests if name not in request.path]
        assert not other
    run(tmp_path, "index", "--dataset", preset, code=(0, 1))
    like = shard * 10_000_000 + 123
    found = json.loads(run(tmp_path, "search", "--like", str(like), "--json", "--dataset", preset).stdout)
    assert found["neighbours"][0]["id"] == like
    if preset == "laion5b-100m":
        # The shard is the third part of the second file: its row k is row 600 + k of the file.
        assert found["neighbours"][0]["url"] == "https://example.org/723.jpg"


@pytest.mark.parametrize("loaded", ["0,1", "1"])
def test_recall_is_measured_against_the_neighbours_that_a_set_brings(loaded: str, tmp_path: Path) -> None:
    with served(vdbbench, tmp_path / "files") as server:
        chosen = ("--dataset", "vdbbench-laion-100m", "--source", server.base())
        run(tmp_path, "load", loaded, *chosen)
        run(tmp_path, "index", *chosen, code=(0, 1))
    report = json.loads(run(tmp_path, "recall", "--json", "--dataset", "vdbbench-laion-100m", code=(0, 1)).stdout)
    (given,) = [kind for kind in report["kinds"] if kind["kind"] == "given_by_image"]
    # About 50 of the 100 given neighbours are in each of the two shards, and are the nearest rows there.
    assert given["origin"] == (
        "test.parquet with the neighbours of neighbors.parquet, of which our exact search finds 1.0000"
    )
    # A graph of random vectors finds 0.8 to 1 of them, by chance. It would find none of wrong neighbours.
    assert given["chosen"]["at_10"]["mean"] > 0.6
    assert (given["chosen"]["at_100"] is None) == (loaded == "1"), "recall@100 needs all 100 of them"


def datacomp(folder: Path) -> list[str]:
    """Writes pairs of a Parquet and an npz file, named by hashes, with image and text vectors of two models."""
    names = [f"{seed * 0x9E3779B97F4A7C15:032x}"[:32] for seed in (1, 2, 3)]
    for seed, name in enumerate(names):
        columns = {
            "uid": [f"{seed}-{row}" for row in range(ROWS)],
            "url": [f"https://example.org/{seed}/{row}.jpg" for row in range(ROWS)],
            "text": [f"thing {row}" for row in range(ROWS)],
            "clip_l14_similarity_score": np.full(ROWS, 0.3, np.float32),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        images = unit(seed).astype(np.float16)
        texts = (unit(seed) + 0.5 * unit(seed + 50)) / np.linalg.norm(unit(seed) + 0.5 * unit(seed + 50), axis=1)[
            :, None
        ]
        arrays = {"l14_img": images, "l14_txt": texts.astype(np.float16), "b32_img": unit(9, ROWS, 512)}
        np.savez_compressed(folder / f"{name}.npz", **arrays)
    return sorted(names)


def test_datacomps_layout_is_listed_on_a_hub_loaded_indexed_and_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    names = datacomp(tmp_path / "files")
    with loopback_hub() as hub:
        pool = {f"small/{path.name}": path.read_bytes() for path in (tmp_path / "files").iterdir()}
        hub.commit("mlfoundations/datacomp_pools", {**pool, "README.md": b"card", "medium/x.parquet": b"PAR1"})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        toml = tmp_path / "datacomp-small.toml"
        said = run(tmp_path, "load", "0", "--dataset", "datacomp-small", code=2).stderr
        assert "laion-assets describe datacomp-small --output datacomp-small.toml --lock" in " ".join(said.split())
        run(tmp_path, "describe", "datacomp-small", "--output", str(toml), "--lock")
        assert load_dataset(str(toml)).names == dict(enumerate(names))
        loaded = json.loads(run(tmp_path, "load", f"0,{names[2]}", "--json", dataset=toml).stdout)
        assert [(each["shard"], each["rows"]) for each in loaded["shards"]] == [(0, ROWS), (2, ROWS)]
    run(tmp_path, "index", dataset=toml, code=(0, 1))
    found = json.loads(run(tmp_path, "search", "--like", "20000007", "--json", dataset=toml).stdout)
    assert found["neighbours"][0]["id"] == 20_000_007


def test_names_are_partition_keys_where_the_description_says_so(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    names = datacomp(tmp_path / "files")
    toml = tmp_path / "datacomp.toml"
    run(tmp_path, "describe", str(tmp_path / "files"), "--output", str(toml), "--lock")
    toml.write_text(toml.read_text().replace("version = 1", 'version = 1\npartition_keys = "names"'))
    loaded = json.loads(run(tmp_path, "load", f"{names[2]},0", "--json", dataset=toml).stdout)
    assert [(each["shard"], each["rows"]) for each in loaded["shards"]] == [(0, ROWS), (2, ROWS)]
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        for asset in ("raw_shard", "merged_shard", "clickhouse_partition"):
            assert instance.get_materialized_partitions(dg.AssetKey(asset)) == {names[0], names[2]}
    again = json.loads(run(tmp_path, "load", "0,2", "--json", dataset=toml).stdout)
    assert [each["skipped"] for each in again["shards"]] == [True, True]
    run(tmp_path, "index", dataset=toml, code=(0, 1))
    status = json.loads(run(tmp_path, "status", "--json", dataset=toml, code=(0, 1)).stdout)
    findings = {finding["check"]: finding for finding in status["findings"]}
    assert (status["shards"]["loaded"], status["partitions"], status["indexed_partitions"]) == (2, 2, 2)
    assert findings["table_agrees_with_dagster"]["passed"]
    assert findings["index_follows_loads"]["passed"]
    assert findings["listing_is_as_locked"] == {
        "check": "listing_is_as_locked",
        "passed": True,
        "seen": "3 shards as in the lock file",
        "figures": {},
    }
    one = json.loads(run(tmp_path, "status", "--shard", names[2], "--json", dataset=toml).stdout)
    assert (one["history"]["key"], one["history"]["progress"]) == (names[2], "loaded")
    said = run(tmp_path, "bring-up-to-date", names[1], "--dry-run", dataset=toml).stdout
    assert "1 shard (1)" in said
    found = json.loads(run(tmp_path, "search", "--like", "20000007", "--json", dataset=toml).stdout)
    assert found["neighbours"][0]["id"] == 20_000_007

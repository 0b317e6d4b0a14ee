"""Fixtures and helpers for tests of several rooms: sample shards, ways to damage them, settings, a store."""

from __future__ import annotations

import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.dataset import Dataset, load_dataset
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.merged import MergedShard
from laion_assets.shard.store import ShardFiles, ShardStore
from laion_assets_tests.endpoint.process import ServerProcess, endpoint_process

REPOSITORY = Path(__file__).parents[1]
REAL = REPOSITORY.parent / "shared" / "real"
"""Real LAION files, which are not in the repository."""

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"genuine files are not at {REAL}")

SAMPLE = load_dataset("sample")
SAMPLE_ROWS = (1_000, 620, 250, 400)
"""Rows of each sample shard. 620 rows are enough to contain all 20 awkward captions."""

VECTORS = ("image_embedding", "text_embedding")

# Tests start about two hundred Python processes. Without bytecode files, each of them would compile Dagster again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONGEST = (
    "automation/test_control.py",
    "automation/test_real_daemons.py",
    "automation/test_postgres.py",
    "automation/test_browser.py",
    "torture/test_termination.py",
    "torture/test_sudden_death.py",
    "test_cli.py",
    "torture/test_corruptions.py",
    "torture/test_adversity.py",
    "recall/test_evaluate.py",
    "terminal/test_commands.py",
    "recall/test_unseen.py",
    "torture/test_altered.py",
    "assets/test_search_assets.py",
    "recall/test_measured_index.py",
    "recall/test_tuning.py",
    "table/test_load.py",
    "health/test_update.py",
    "terminal/test_plan.py",
)
"""The slowest modules start first, so that no worker starts one of them after the other workers have finished."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest modules first. `--dist loadfile` keeps tests of a module, which share tables, in one worker."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


@dataclass(frozen=True)
class Shard:
    """One shard in memory, as numpy and pyarrow read it. Tests damage it and write it."""

    images: npt.NDArray[Any]
    texts: npt.NDArray[Any]
    table: pa.Table

    @classmethod
    def read(cls, folder: Path, shard: int) -> Shard:
        """Reads a shard from a folder in LAION's layout."""
        return cls(
            np.load(folder / "img_emb" / f"img_emb_{shard}.npy"),
            np.load(folder / "text_emb" / f"text_emb_{shard}.npy"),
            pq.read_table(folder / "metadata" / f"metadata_{shard}.parquet"),
        )

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.table.num_rows)

    def head(self, rows: int) -> Shard:
        """A shard with only the first `rows` rows."""
        return Shard(self.images[:rows], self.texts[:rows], self.table.slice(0, rows))

    def with_column(self, name: str, values: pa.Array) -> Shard:
        """A copy of the shard with one metadata column replaced or added."""
        if name in self.table.column_names:
            return replace(self, table=self.table.set_column(self.table.column_names.index(name), name, values))
        return replace(self, table=self.table.append_column(name, values))

    def with_vector(self, row: int, values: npt.ArrayLike, *, kind: str = "images") -> Shard:
        """A copy of the shard with one vector replaced."""
        spoilt = np.array(getattr(self, kind))
        spoilt[row] = values
        return replace(self, images=spoilt) if kind == "images" else replace(self, texts=spoilt)

    def texts_of_column(self, name: str) -> list[bytes]:
        """A text column as bytes, with empty bytes for null."""
        return [text or b"" for text in self.table[name].cast(pa.binary()).to_pylist()]

    def write(self, folder: Path, shard: int) -> None:
        """Writes the shard in LAION's layout: three folders."""
        for name in ("img_emb", "text_emb", "metadata"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        np.save(folder / "img_emb" / f"img_emb_{shard}.npy", self.images)
        np.save(folder / "text_emb" / f"text_emb_{shard}.npy", self.texts)
        pq.write_table(self.table, folder / "metadata" / f"metadata_{shard}.parquet", compression="snappy")

    def place(self, store: ShardStore, shard: int = 0) -> ShardFiles:
        """Writes the shard's raw files into a store."""
        files = store.raw_files(shard)
        store.raw_folder.mkdir(parents=True, exist_ok=True)
        np.save(files.image, self.images)
        if files.text is not None:
            np.save(files.text, self.texts)
        pq.write_table(self.table, files.metadata)
        return files


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes settings and `DAGSTER_HOME` from the environment: the caller's own must not affect the tests."""
    for name in [*os.environ]:
        if name.startswith("LAION_") or name == "DAGSTER_HOME":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four sample shards in LAION's layout. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("sample")
    for shard, rows in enumerate(SAMPLE_ROWS):
        write_sample_shard(folder, shard, rows, seed=11)
    return folder


@pytest.fixture(scope="session")
def sample_shards(sample_folder: Path) -> list[Shard]:
    """The shards of `sample_folder` as arrays and tables."""
    return [Shard.read(sample_folder, shard) for shard in range(len(SAMPLE_ROWS))]


@dataclass(frozen=True)
class Transport:
    """How tests reach ClickHouse: chDB in the test process, or a server over HTTP."""

    server: ServerProcess | None

    def fresh(self) -> dict[str, object]:
        """Settings fields for a new, empty database."""
        return {"clickhouse": self.server.url()} if self.server else {}


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server process for all tests. Each test uses a separate database."""
    with endpoint_process(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module", params=["embedded", "server"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Runs each test of the table, its indexes and its search on both transports.

    Tests above these rooms (Dagster, the command line, CLIP) use only the embedded engine: they call the same table
    functions, so a second transport would double the time and find nothing more. Tuning tests also use only the
    embedded engine, since they run thousands of searches. test_grants tunes once on a server.
    """
    return Transport(request.getfixturevalue("clickhouse_server") if request.param == "server" else None)


@pytest.fixture
def settings(sample_folder: Path, tmp_path: Path) -> Settings:
    """Settings for the sample shards, with a separate store for each test."""
    return settings_for(tmp_path / "data", sample_folder)


@pytest.fixture
def store(settings: Settings) -> ShardStore:
    """The store of the `settings` fixture."""
    return ShardStore(settings.data_dir, settings.dataset)


@pytest.fixture
def merged_from(store: ShardStore) -> Callable[[Shard, int], MergedShard]:
    """A function that merges a shard from memory as shard `number` of the store."""

    def merge(shard: Shard, number: int = 0) -> MergedShard:
        shard.place(store, number)
        return merge_shard(store, number, max_bad_fraction=0.001)

    return merge


def settings_for(data_dir: Path, source: Path, **fields: object) -> Settings:
    """Settings for a store and a folder of shards."""
    named: dict[str, object] = {"dataset_name": "sample", "clickhouse_wait_seconds": 0.5}
    return load_settings(**{**named, "source": (str(source),), "data_dir": data_dir, **fields})


def sample_dataset(**fields: object) -> Dataset:
    """The sample dataset with some fields changed."""
    return Dataset.model_validate({**SAMPLE.model_dump(), **fields})


def copy_sample(sample_folder: Path, folder: Path) -> Path:
    """A copy of the sample shards that a test may damage."""
    return Path(shutil.copytree(sample_folder, folder))


def class_shard(names: list[int], *, dimension: int = 64, seed: int = 0) -> Shard:
    """A shard whose row k is a picture of class `names[k]`, captioned with it. Each class has one text vector."""
    random = np.random.default_rng(seed)

    def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    texts = unit(random.standard_normal((max(names) + 1, dimension)))[names]
    images = unit(0.33 * texts + unit(random.standard_normal((len(names), dimension))))
    table = {
        "url": [f"https://pictures.example/{row}.jpg" for row in range(len(names))],
        "caption": [f"a photo of class {name}" for name in names],
        "NSFW": ["UNLIKELY"] * len(names),
        "similarity": pa.nulls(len(names), pa.float64()),
    }
    return Shard(images.astype("<f2"), texts.astype("<f2"), pa.table(table))


@contextmanager
def at_most_bytes(limit: int) -> Iterator[None]:
    """Checks that Python and numpy use at most `limit` bytes of memory within the block."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= limit


def assert_one_line(error: BaseException, *parts: str) -> None:
    """Checks that an error message is one line and contains all `parts`."""
    message = str(error)
    assert "\n" not in message
    for part in parts:
        assert part in message

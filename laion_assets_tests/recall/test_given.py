"""Tests of given queries and neighbours: good files are read as written, bad ones are refused in one line, and lists
that are not the nearest rows measure nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.errors import LaionError
from laion_assets.file_layout import Given
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.given import GivenQueries, given_queries, read_neighbours, read_queries
from laion_assets.recall.hits import HitCounter
from laion_assets.recall.methods import Exact
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition
from laion_assets_tests.conftest import assert_one_line

GIVEN = Given(
    queries="test.parquet",
    queries_array="emb",
    neighbours="neighbors.parquet",
    neighbours_array="neighbors_id",
    ids="source_id",
)
VECTORS = np.eye(3, 4, dtype=np.float32)


def write(path: Path, **columns: object) -> Path:
    """Writes a file of these columns."""
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
    return path


def test_queries_and_neighbours_are_read_in_their_order(tmp_path: Path) -> None:
    queries = write(tmp_path / GIVEN.queries, id=[0, 1, 2], emb=VECTORS.tolist())
    assert np.array_equal(read_queries(queries, GIVEN, 4), VECTORS)
    neighbours = write(tmp_path / GIVEN.neighbours, id=[0, 1, 2], neighbors_id=[[5, 3], [9], []])
    assert [row.tolist() for row in read_neighbours(neighbours, GIVEN, 3)] == [[5, 3], [9], []]


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no column of queries": (lambda p: read_queries(write(p, id=[1]), GIVEN, 4), "no column emb"),
    "another dimension": (lambda p: read_queries(write(p, emb=[[1.0, 2.0]]), GIVEN, 4), "no vectors"),
    "not finite": (lambda p: read_queries(write(p, emb=[[1.0, 2.0, 3.0, float("nan")]]), GIVEN, 4), "no vectors"),
    "no queries": (lambda p: read_queries(write(p, emb=pa.array([], pa.list_(pa.float32()))), GIVEN, 4), "0 rows"),
    "no file of queries": (lambda p: read_queries(_put(p), GIVEN, 4), "sound Parquet file"),
    "no column of neighbours": (lambda p: read_neighbours(write(p, id=[1]), GIVEN, 1), "lists of ids"),
    "fewer neighbours": (lambda p: read_neighbours(write(p, neighbors_id=[[1]]), GIVEN, 2), "1 rows, expected 2"),
    "neighbours of text": (lambda p: read_neighbours(write(p, neighbors_id=[["a"]]), GIVEN, 1), "lists of ids"),
    "null neighbours": (lambda p: read_neighbours(write(p, neighbors_id=[[1], None]), GIVEN, 2), "lists of ids"),
    "no file of neighbours": (lambda p: read_neighbours(_put(p), GIVEN, 1), "lists of ids"),
}


def _put(path: Path) -> Path:
    path.write_bytes(b"<html>")
    return path


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_none_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    read, said = BAD[name]
    with pytest.raises(LaionError) as caught:
        read(tmp_path / "given.parquet")
    assert_one_line(caught.value, "given queries, given.parquet", said)


ROWS, QUERIES = 600, 30
DESCRIBED = """
name = "given"
shards = 1
dimension = 16
dtype = "<f4"
normalised = false
has_text = false

[defaults]
NSFW = ""
similarity = nan

[given]
queries = "test.parquet"
queries_array = "emb"
neighbours = "neighbors.parquet"
neighbours_array = "neighbors_id"
ids = "source_id"

[extra_columns]
source_id = { type = "Int64", names = ["id"] }

[[sources]]
url = "{data_dir}/none"
"""


def drawn(seed: int, rows: int) -> npt.NDArray[np.float32]:
    """Random vectors of 16 dimensions, whose lengths differ."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, 16)) * random.uniform(0.5, 1.5, (rows, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A loaded table of 600 rows. The rows 0 to 39 are copies of each other."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "given.toml").write_text(DESCRIBED)
    made = load_settings(dataset_name=str(folder / "given.toml"), data_dir=folder)
    store = ShardStore(made.data_dir, made.dataset)
    store.raw_folder.mkdir(parents=True, exist_ok=True)
    files = store.raw_files(0).paths()
    np.save(files["image"], stored())
    names = [str(row) for row in range(ROWS)]
    pq.write_table(pa.table({"id": np.arange(ROWS), "url": names, "caption": names}), files["metadata"])
    with connect(made) as db:
        load_partition(db, merge_shard(store, 0, max_bad_fraction=0.01, extra_columns=made.extra_column_types))
    return made


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with connect(settings) as opened:
        yield opened


def stored() -> npt.NDArray[np.float32]:
    """The vectors of the table."""
    vectors = drawn(0, ROWS)
    vectors[:40] = vectors[0]
    return vectors


def nearest(*, l2: bool = False) -> npt.NDArray[np.int64]:
    """The 100 nearest rows of each query by cosine or L2 distance, (q, 100)."""
    rows, queries = stored().astype(np.float64), drawn(1, QUERIES).astype(np.float64)
    distance = -(queries @ rows.T) / np.linalg.norm(rows, axis=1)
    if l2:
        distance = (rows**2).sum(axis=1) - 2 * queries @ rows.T
    return np.argsort(distance, axis=1, kind="stable")[:, :100]


def asked(
    db: Database, neighbours: npt.NDArray[np.int64], queries: npt.NDArray[np.float32] | None = None
) -> tuple[list[GivenQueries], list[str]]:
    """What becomes of the queries with these neighbours, and what is logged."""
    folder = db.settings.data_dir / "given" / "given"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "test.parquet", emb=(drawn(1, QUERIES) if queries is None else queries).tolist())
    write(folder / "neighbors.parquet", neighbors_id=neighbours.tolist())
    log: list[str] = []
    return given_queries(db, QUERIES, log.append), log


def recalls(db: Database, given: GivenQueries, found: npt.NDArray[np.int64], k: int) -> tuple[float, float]:
    """Recall by distance and by id of these answers."""
    answers = found[:, :k].tolist()
    recall = HitCounter(db, given.queries, given.truth, enumerate(answers)).recall(answers, k)
    return recall.mean, recall.by_id


@pytest.mark.parametrize("wrong", ["ids of another release", "another distance", "one row again and again"])
def test_neighbours_that_are_not_the_nearest_are_left_out_and_the_log_says_why(db: Database, wrong: str) -> None:
    lists = {
        "ids of another release": (nearest() + 1) % ROWS,
        "another distance": nearest(l2=True),
        "one row again and again": np.repeat(nearest()[:, :1], 100, axis=1),
    }
    given, (line,) = asked(db, lists[wrong])
    assert given == []
    assert line.startswith("given queries are left out: ")
    compared = "are as near as those of our exact search, expected at least 0.99" in line
    assert compared == (wrong != "one row again and again")
    plan = RecallPlan(queries=QUERIES, queries_at_100=0)
    assert "given_by_image" not in evaluate(db, plan, method=Exact(), folder=db.settings.data_dir).named


def test_recall_is_that_of_our_own_exact_search_whatever_the_order_of_the_list(db: Database) -> None:
    true = nearest()
    (given,), (line,) = asked(db, true)
    assert line.endswith("of which our exact search finds 1.0000")
    assert recalls(db, given, true, 10) == (1.0, 1.0)
    assert recalls(db, given, true, 100) == (1.0, 1.0)
    # The nearest ten are in another order, and the places after them have any rows.
    mixed = np.concatenate([true[:, 9::-1], np.tile(np.arange(500, 590), (QUERIES, 1))], axis=1)
    (given,), _ = asked(db, mixed)
    assert recalls(db, given, true, 10) == (1.0, 1.0)
    assert recalls(db, given, true, 100)[0] == 1.0
    assert recalls(db, given, true[:, 50:], 10)[0] == 0.0, "ten farther rows are no hits"


def test_which_of_several_copies_a_list_names_does_not_matter(db: Database) -> None:
    """The nearest rows of each query are some of forty copies; the list names others of them than our exact search."""
    copies = np.tile(2 * stored()[0], (QUERIES, 1))
    for first in (0, 30):
        (given,), (line,) = asked(db, np.tile(np.arange(first, first + 10), (QUERIES, 1)), copies)
        assert line.endswith("1.0000")
        assert recalls(db, given, np.tile(np.arange(10, 20), (QUERIES, 1)), 10)[0] == 1.0

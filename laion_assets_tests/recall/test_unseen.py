"""Tests of held-out queries: no measured graph contains them, for every kind of query and every shape of table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from laion_assets.index.graphs import build_indexes
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.exact import nearest_by_blocks
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.hits import HitCounter
from laion_assets.recall.queries import Kind, QuerySet
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.recall.unseen import COPY, OTHER_PARTITIONS, OWN_ROW, unseen_queries
from laion_assets.sample.shards import write_sample_shard
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, vectors_of
from laion_assets_tests.table.loaded import load_sample, sample_settings

EF_16 = SearchSettings(16)


def loaded(folder: Path, rows: dict[int, int]) -> Settings:
    """Loads a table with coarse graphs: such a graph finds its own rows more easily than rows that it does not have."""
    settings = sample_settings(folder, hnsw_m=4, hnsw_ef_construction=12)
    load_sample(settings, rows)
    with connect(settings) as db:
        build_indexes(db)
    return settings


@pytest.fixture(scope="module")
def one_partition(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return loaded(tmp_path_factory.mktemp("one"), {0: 6000})


@pytest.fixture(scope="module")
def three_partitions(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return loaded(tmp_path_factory.mktemp("three"), {0: 1500, 1: 1500, 4: 900})


def recall_of_strangers(db: Database, folder: Path, query: By, target: By) -> float:
    """Returns recall@10 at ef 16 for queries that are 200 rows of a shard that was never loaded."""
    files = {path.parent.name: path for path in write_sample_shard(folder, 3, 200, seed=7)}
    vectors = np.load(files["img_emb" if query == "image" else "text_emb"]).astype(np.float32)
    nobody = np.full(len(vectors), -1, dtype=np.int64)
    truth = nearest_by_blocks(db, target, vectors, nobody, 10)
    request = SearchRequest(by=target, settings=EF_16.pairs())
    found = [[one.id for one in search(db, vector, request).neighbours] for vector in vectors]
    counter = HitCounter(db, QuerySet(Kind(query, target), nobody, vectors), truth, enumerate(found))
    return counter.recall(found, 10).mean


def test_recall_is_that_of_rows_which_were_never_loaded(one_partition: Settings, tmp_path: Path) -> None:
    """Both recalls are a third to two fifths with such coarse graphs. The tolerance covers the noise of 300 queries and
    of building graphs twice."""
    with connect(one_partition) as db:
        found = evaluate(db, RecallPlan(queries=300, grid=(EF_16,), queries_at_100=0), folder=tmp_path)
        kinds: list[tuple[By, By]] = [("image", "image"), ("text", "image"), ("image", "text"), ("text", "text")]
        for query, target in kinds:
            strangers = recall_of_strangers(db, tmp_path / f"{query}_{target}", query, target)
            kind = f"{query}_to_{target}"
            said = np.mean([found.of_kind(kind)[0].at_10.mean, found.chosen(kind).at_10.mean])
            assert said == pytest.approx(strangers, abs=0.12), kind
    assert {kind.origin for kind in found.kinds} == {COPY, OWN_ROW}
    assert found.rows == 6000
    with connect(one_partition) as db:
        assert {name for (name,) in db.rows("SHOW TABLES")} == {"laion", "laion_part_sizes"}


def test_a_query_is_searched_in_all_partitions_but_its_own(three_partitions: Settings) -> None:
    with (
        connect(three_partitions) as db,
        unseen_queries(db, 40, 0, in_graphs=True, log=print) as queries,
    ):
        assert queries.db is db
        assert queries.origin == OTHER_PARTITIONS
        assert [one.kind.name for one in queries.sets] == [
            "image_to_image", "image_to_text", "text_to_image", "text_to_text",
        ]  # fmt: skip
        for one in queries.sets:
            assert {*one.own_shards.tolist()} == {0, 1, 4}
            assert (one.own_rows == -1).all()


def test_of_partitions_none_with_most_of_the_rows_is_left_out(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {0: 2000, 1: 300, 2: 300})
    with connect(settings) as db, unseen_queries(db, 20, 0, in_graphs=True, log=print) as queries:
        assert {int(shard) for one in queries.sets for shard in one.own_shards} == {1, 2}


def test_a_copy_of_the_one_large_partition_lacks_the_queries(one_partition: Settings) -> None:
    said: list[str] = []
    with connect(one_partition) as db, unseen_queries(db, 50, 0, in_graphs=True, log=said.append) as queries:
        assert queries.db is not db
        assert queries.db.one(f"SELECT count() FROM {queries.db.table}") == (6000 - 150,)
        images = queries.sets[0]
        own = vectors_of(db, "image", images.ids)
        assert len(own.ids) == 50
        nearest = nearest_by_blocks(queries.db, "image", images.vectors, images.own_rows, 1).distances
        assert nearest.min() > 1e-4, "no query is in the copy"
    assert "Building graphs over a copy of it without 150 rows" in said[0]


def test_where_a_row_is_not_reached_by_its_neighbours_it_is_left_out_alone(one_partition: Settings) -> None:
    with connect(one_partition) as db, unseen_queries(db, 10, 0, in_graphs=False, log=print) as queries:
        assert (queries.db is db, queries.origin) == (True, OWN_ROW)
        assert all((one.own_rows == one.ids).all() for one in queries.sets)


def test_a_table_of_one_row_is_evaluated(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {0: 1})
    with connect(settings) as db:
        found = evaluate(db, folder=tmp_path)
    assert {kind.kind: kind.chosen.at_10.mean for kind in found.kinds} == dict.fromkeys(
        ["image_to_image", "image_to_text", "text_to_image", "text_to_text", "like_by_image", "like_by_text"], 1.0
    )

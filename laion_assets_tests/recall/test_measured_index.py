"""Tests that a recall figure is used for its own index only: evaluations refuse, and searches ignore, any other."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import laion_assets
from laion_assets.api import answer
from laion_assets.errors import TableError
from laion_assets.index.graphs import build_indexes
from laion_assets.index.nodes import index_facts
from laion_assets.query import Query
from laion_assets.recall.evaluate import evaluate, evaluate_methods
from laion_assets.recall.figures import Evaluation, SearchSettings, recall_folder, save_evaluation
from laion_assets.recall.kept_report import difference, named_settings
from laion_assets.recall.methods import Hnsw, Question
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.searching.proof_of_use import index_use
from laion_assets.searching.statement import SearchRequest
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.vectors import Vectors
from laion_assets.terminal.results import results_json
from laion_assets.tuned_request import tuned
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

PLAN = RecallPlan(queries=2, grid=(SearchSettings(64, 5),), queries_at_100=0)


@pytest.fixture
def settings(tmp_path: Path, transport: Transport) -> Settings:
    """Settings of a table with three loaded partitions and no indexes."""
    settings = sample_settings(tmp_path, **transport.fresh())
    load_sample(settings, {0: 300, 1: 300, 2: 300})
    return settings


def measured(settings: Settings) -> Evaluation:
    """Builds the indexes, evaluates them and saves the evaluation."""
    with connect(settings) as db:
        build_indexes(db)
        evaluation = evaluate(db, PLAN)
    save_evaluation(evaluation, recall_folder(settings))
    return evaluation


def test_without_an_index_nothing_is_measured(settings: Settings) -> None:
    with connect(settings) as db, pytest.raises(TableError, match=r"no image_index.*materialize vector_index"):
        evaluate(db, PLAN)


def test_an_index_that_a_partition_lacks_is_not_measured(settings: Settings) -> None:
    with connect(settings) as db:
        build_indexes(db)
        db.command(f"ALTER TABLE {db.table} CLEAR INDEX text_index IN PARTITION 1", settings={"mutations_sync": 2})
        with pytest.raises(TableError, match="partition 1 has no text_index"):
            evaluate(db, PLAN)


def test_another_index_than_the_settings_name_is_not_measured(settings: Settings) -> None:
    with connect(settings) as db:
        build_indexes(db)
    with (
        connect(settings.model_copy(update={"hnsw_quantization": "b1"})) as db,
        pytest.raises(TableError, match=r"image_index is vector_similarity\(.*'bf16'.*expected.*'b1'"),
    ):
        evaluate(db, PLAN)


def test_a_search_that_goes_around_the_index_is_not_measured(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting of ClickHouse makes the engine scan without an error, as it also does for many forms of a statement."""
    around = ("query_plan_try_use_vector_search", 0)
    plain = SearchSettings.pairs
    monkeypatch.setattr(SearchSettings, "pairs", lambda self, limit=10: (*plain(self, limit), around))
    with connect(settings) as db:
        build_indexes(db)
        with pytest.raises(TableError, match="0 graphs searched where 2 parts have one"):
            evaluate(db, PLAN)


class _LoadsMeanwhile(Hnsw):
    """A method during whose measurement somebody drops a partition."""

    def __init__(self) -> None:
        self._done = False

    def make_cold(self, db: Database) -> bool:
        if not self._done:
            db.command(f"ALTER TABLE {db.table} DROP PARTITION 1")
        self._done = True
        return False


def test_a_table_that_changes_while_it_is_measured_is_not_reported(settings: Settings) -> None:
    with connect(settings) as db:
        build_indexes(db)
        with pytest.raises(TableError, match="other partitions, or another index, than when the evaluation began"):
            evaluate(db, PLAN, method=_LoadsMeanwhile())


def test_partitions_that_were_loaded_since_are_neither_searched_nor_judged(settings: Settings) -> None:
    with connect(settings) as db:
        build_indexes(db)
    load_sample(settings, {3: 300})
    with connect(settings) as db:
        with pytest.raises(TableError, match="partition 3 has no image_index"):
            evaluate_methods(db, [Hnsw()], PLAN)
        (found,) = evaluate_methods(db, [Hnsw()], replace(PLAN, queries=20), leaving_out={3, 9})
        with pytest.raises(TableError, match="found 4 partitions, loaded since the index was built"):
            evaluate_methods(db, [Hnsw()], PLAN, leaving_out={0, 1, 2, 3})
    assert (found.shards, found.rows) == ([0, 1, 2], 900)
    assert [name.split("_")[0] for name in found.parts] == ["0", "1", "2"]
    # A quarter of the neighbours would be in partition 3.
    assert min(kind.chosen.at_10.mean for kind in found.kinds) > 0.9


def test_a_report_names_the_index_and_the_parts_that_it_measured(settings: Settings) -> None:
    evaluation = measured(settings)
    kind = "vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 8, 32)"
    assert evaluation.declared == {"image_index": kind, "text_index": kind}
    assert [name.split("_")[0] for name in evaluation.parts] == ["0", "1", "2"]
    assert evaluation.index == "bf16, M 8, ef_construction 32"
    with connect(settings) as db:
        assert difference(evaluation, index_facts(db)) is None
        assert named_settings(settings, db).by_kind["text_to_image"] == SearchSettings(64, 5)


def test_a_search_uses_a_report_of_the_index_that_is_there_and_says_why_not_of_another(settings: Settings) -> None:
    measured(settings)
    query, request = Query(like=7), SearchRequest(limit=3, method="graph")
    assert tuned(request, query, named_settings(settings)).settings == SearchSettings(64, 5).pairs(3)
    assert answer([query], request, settings)[0].untuned is None

    other = settings.model_copy(update={"hnsw_quantization": "i8"})
    with connect(other) as db:
        build_indexes(db)
    for asking, reason in (
        (other, "measured an index of bf16, M 8, ef_construction 32, and the settings name i8"),
        (settings, "image_index was vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 8, 32) when it was"),
    ):
        found = answer([query], request, asking)[0]
        assert len(found.result.neighbours) == 3
        assert reason in str(found.untuned)
        assert json.loads(results_json(found.result, "x", found.untuned))["untuned"] == found.untuned
    assert tuned(request, query, named_settings(other)) == request
    with pytest.warns(UserWarning, match="the search settings of the recall report are not used"):
        assert len(laion_assets.search(like=7, settings=other)) == 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(laion_assets.search(like=7, exact=True, settings=other)) == 10


def test_a_report_fits_no_table_whose_partitions_changed(settings: Settings) -> None:
    evaluation = measured(settings)

    def now() -> str | None:
        with connect(settings) as db:
            build_indexes(db)
            return difference(evaluation, index_facts(db))

    load_sample(settings, {3: 200})
    said = str(now())
    assert "partition 3 was loaded since" in said
    with connect(settings) as db:
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 3")
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 0")
    assert "partition 0 is gone" in str(now())


def test_a_partition_that_was_loaded_again_is_another(settings: Settings) -> None:
    evaluation = measured(settings)
    load_sample(settings, {1: 300})
    with connect(settings) as db:
        facts = index_facts(db)
        assert difference(evaluation, facts) == "since it was made, partition 1 was loaded, indexed or changed"
        assert difference(replace(evaluation, parts=facts.parts), facts) is None
        assert named_settings(settings, db).by_kind == {}


def test_the_proof_of_use_counts_the_graphs_of_the_partitions_that_are_searched(settings: Settings) -> None:
    with connect(settings) as db:
        build_indexes(db)
        vector: Vectors = next(iter(db.rows(f"SELECT image_embedding FROM {db.table} LIMIT 1")))[0]
        for shards, graphs in ((None, 3), ((0, 2), 2), ((1,), 1)):
            request = SearchRequest(shards=shards, settings=SearchSettings(64).pairs())
            use = index_use(db, vector, request)
            assert (use.searches, use.expected, use.fault) == (graphs, graphs, None)
            Hnsw().require_use(db, vector, Question("image", 10, shards), SearchSettings(64))

"""Tests of how a search's method is chosen: the named one, otherwise the cheapest that met its target when measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from laion_assets.api import answer
from laion_assets.errors import SearchError, TableError
from laion_assets.index.cells import centroids
from laion_assets.index.cells.build import build_cells
from laion_assets.index.graphs import build_indexes
from laion_assets.query import Answer, Query
from laion_assets.recall.compare import by_method, compare
from laion_assets.recall.default_method import CLEARLY_CHEAPER, measured_choice
from laion_assets.recall.figures import Evaluation, KindSummary, Latency, recall_folder, save_evaluation
from laion_assets.recall.kept_report import named_settings
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.searcher import Searcher
from laion_assets.searching.dispatch import EF_SEARCH
from laion_assets.searching.request import METHODS, MethodName, SearchRequest
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.tuned_request import request_of
from laion_assets_tests.table.loaded import load_sample, sample_settings

QUERY = Query(like=7)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a table of three shards with graphs, codes and cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
        settings = sample_settings(tmp_path_factory.mktemp("methods")).model_copy(update={"index": "both"})
        load_sample(settings, {0: 900, 1: 900, 2: 500})
        with connect(settings) as db:
            build_indexes(db)
            build_cells(db)
        yield settings


@pytest.fixture(scope="module")
def compared(settings: Settings) -> dict[str, Evaluation]:
    """The evaluations of all methods with the same queries, saved like those of a recall report."""
    with connect(settings) as db:
        found = compare(db, RecallPlan(queries=4, queries_at_100=0))
    for evaluation in found:
        save_evaluation(evaluation, recall_folder(settings))
    return by_method(found)


def ask(settings: Settings, **asked: object) -> Answer:
    request = request_of(**{"by": "image", "exact": False, "where": None, "shards": None, "limit": 5, **asked})  # type: ignore[arg-type]
    return answer([QUERY], request, settings)[0]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_that_is_named_is_taken_and_finds_the_row_itself(
    settings: Settings, compared: dict[str, Evaluation], method: MethodName
) -> None:
    assert "cells" in compared, "it names how many clusters are probed"
    found = ask(settings, method=method)
    assert (found.method, found.why) == (method, None)
    assert found.result.neighbours[0].id == 7
    assert found.result.way.startswith(
        {"exact": "every row compared", "graph": "by the index", "codes": "by codes", "cells": "by cells"}[method]
    )


def test_many_queries_go_by_the_method_with_all_columns_of_an_answer(settings: Settings) -> None:
    with Searcher(settings) as searcher:
        batch = searcher.search_many([QUERY, Query(like=10_000_003)], method="cells", limit=3)
    assert {one.method for one in batch.answers} == {"cells"}
    assert [one.result.neighbours[0].id for one in batch.answers] == [7, 10_000_003]
    assert all(one.caption and one.url for one in batch.answers[0].result.neighbours)


def test_all_methods_are_compared_on_the_same_queries(compared: dict[str, Evaluation]) -> None:
    found = compared
    assert list(found) == ["graph", "codes", "cells"]
    origins = {name: [(kind.kind, kind.origin, kind.queries) for kind in one.kinds] for name, one in found.items()}
    assert origins["graph"] == origins["codes"] == origins["cells"]
    for evaluation in found.values():
        assert evaluation.bytes_resident > 0
        for kind in evaluation.kinds:
            assert kind.chosen.cost is not None
            assert kind.exact_cost is not None
            assert kind.chosen.cost.cpu_ms > 0
            assert kind.chosen.cost.bytes_read > 0
    assert found["codes"].bytes_resident < found["graph"].bytes_resident


def test_without_a_method_the_report_chooses_and_the_reason_is_told(
    settings: Settings, compared: dict[str, Evaluation]
) -> None:
    assert "cells" in compared
    found = ask(settings)
    with connect(settings) as db:
        choice = named_settings(settings, db).choices["like_by_image"]
    assert (found.method, found.why) == (choice.method, choice.why)
    assert "like by image" in choice.why


def test_cells_of_another_generation_are_not_chosen_by_an_old_report(
    settings: Settings, compared: dict[str, Evaluation]
) -> None:
    folder, cells = recall_folder(settings), compared["cells"]
    with connect(settings) as db:
        assert named_settings(settings, db).cells.keys() == {"codes", "cells"}
        save_evaluation(replace(cells, index="cells, generation 9 of image, generation 9 of text"), folder)
        assert named_settings(settings, db).cells.keys() == {"codes"}
    save_evaluation(cells, folder)


def test_what_cannot_be_is_refused(settings: Settings, tmp_path: Path) -> None:
    for asked in ({"method": "annoy"}, {"method": "cells", "exact": True}):
        with pytest.raises(SearchError):
            ask(settings, **asked)
    with pytest.raises(SearchError, match="an ef_search"):
        answer([QUERY], SearchRequest(method="cells", settings=((EF_SEARCH, 64),)), settings)
    bare = sample_settings(tmp_path)
    load_sample(bare, {0: 300})
    with pytest.raises(TableError, match="no cells of image vectors"):
        ask(bare, method="codes")
    assert ask(bare).method == "graph"


def costing(evaluation: Evaluation, kind: str, *, ms: float, exact_ms: float, low: float) -> Evaluation:
    """Returns the evaluation with other figures for one kind."""
    summary = evaluation.summary(kind)
    chosen = replace(
        summary.chosen, cost=None, latency=Latency(ms, None, None), at_10=replace(summary.chosen.at_10, low=low)
    )
    other: KindSummary = replace(summary, chosen=chosen, exact=Latency(exact_ms, None, None), exact_cost=None)
    return replace(evaluation, kinds=[other if one.kind == kind else one for one in evaluation.kinds])


@pytest.mark.parametrize(
    ("graph", "cells", "exact_ms", "method"),
    [
        ((20.0, 0.96), (9.0, 0.97), 300.0, "cells"),
        ((20.0, 0.96), (9.0, 0.80), 300.0, "graph"),
        ((20.0, 0.50), (9.0, 0.80), 300.0, "exact"),
        ((20.0, 0.96), (30.0, 0.97), CLEARLY_CHEAPER * 20, "exact"),
        ((20.0, 0.96), (30.0, 0.97), CLEARLY_CHEAPER * 20 + 1, "graph"),
    ],
)
def test_the_cheapest_that_meets_the_target_is_taken(
    compared: dict[str, Evaluation],
    graph: tuple[float, float],
    cells: tuple[float, float],
    exact_ms: float,
    method: MethodName,
) -> None:
    kind = "text_to_image"
    found = compared
    made: dict[MethodName, Evaluation] = {
        "graph": costing(found["graph"], kind, ms=graph[0], exact_ms=exact_ms, low=graph[1]),
        "cells": costing(found["cells"], kind, ms=cells[0], exact_ms=exact_ms, low=cells[1]),
    }
    choice = measured_choice(kind, made)
    assert choice is not None
    assert choice.method == method
    assert "text to image" in choice.why

"""Tests of measuring cells and codes: they get the same queries as graphs, and incomplete cells get no figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from laion_assets.errors import TableError
from laion_assets.index.cells import centroids
from laion_assets.index.cells.build import build_cells
from laion_assets.recall.cells import Cells, Codes
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.recall.report import recall_markdown
from laion_assets.searching.cells import MARGIN
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.table.connect import connect
from laion_assets_tests.table.loaded import load_sample, sample_settings


def test_codes_and_cells_are_measured_as_graphs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 900, 1: 500})
    plan = RecallPlan(queries=20, queries_at_100=0)
    with connect(settings) as db:
        build_cells(db)
        codes = evaluate(db, plan, method=Codes())
        assert codes.method == "codes"
        assert all(kind.chosen.at_10.mean >= 0.95 for kind in codes.kinds)
        cells = evaluate(db, plan, method=Cells.of(db))
        assert {kind.chosen.search.probes > 0 for kind in cells.kinds} == {True}
        assert min(kind.chosen.at_10.mean for kind in cells.kinds) > 0.5


def test_cells_that_lack_a_shard_are_not_measured(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 600})
    with connect(settings) as db:
        build_cells(db)
        with pytest.raises(TableError, match="one cluster"):
            Cells.of(db)
    load_sample(settings, {1: 300})
    with connect(settings) as db, pytest.raises(TableError, match="shard 1 is not in the image cells"):
        evaluate(db, RecallPlan(queries=10, queries_at_100=0), method=Codes())


def test_the_report_names_the_candidates_that_the_engine_had_for_a_hundred_rows(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 600})
    plan = RecallPlan(queries=4, queries_at_100=4, grid=(SearchSettings(multiplier=200),))
    with connect(settings) as db:
        build_cells(db)
        found = evaluate(db, plan, method=Codes())
    assert {one.multiplier_at_100 for one in found.measurements} == {200}
    assert "rescoring × 200" in recall_markdown(found)
    assert "(rescoring" not in recall_markdown(found), "no fewer candidates than the settings name"
    rows = 100 + MARGIN
    for candidates, expected in ((200, 200), (5_000, 1_030)):
        asked = CellsSettings(0, candidates).engine_settings(100, rows)["vector_search_index_fetch_multiplier"]
        assert Codes().candidates(SearchSettings(multiplier=candidates), 100) == expected
        assert float(str(asked)) * rows / 100 == pytest.approx(expected)

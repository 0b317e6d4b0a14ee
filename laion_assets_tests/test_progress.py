"""Tests that long work reports its progress each minute, and nothing after its end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from laion_assets import progress
from laion_assets.index.graphs import build_indexes
from laion_assets.progress import reporting_each_minute
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.table.connect import connect
from laion_assets_tests.table.loaded import load_sample, sample_settings


def test_what_is_done_is_said_each_minute_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MINUTE_SECONDS", 0.02)
    lines: list[str] = []
    twice = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if lines.count(line) > 1:
            twice.set()

    with reporting_each_minute(say) as doing:
        doing("comparing 1,200 queries with every row")
        assert twice.wait(30)
        doing("searching")
    ended = list(lines)
    assert set(lines[:2]) == {"comparing 1,200 queries with every row; 0 min so far"}
    assert not [one for one in threading.enumerate() if one.name == "saying each minute"]
    assert lines == ended


def test_an_evaluation_says_what_it_compares_and_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MINUTE_SECONDS", 0.005)
    settings = sample_settings(tmp_path, hnsw_m=8, hnsw_ef_construction=32)
    load_sample(settings, {0: 600, 1: 400})
    lines: list[str] = []
    with connect(settings) as db:
        build_indexes(db)
        evaluate(db, RecallPlan(queries=6, grid=(SearchSettings(64),), queries_at_100=2), log=lines.append)
    said = "\n".join(lines)
    assert "queries with every row; 0 min so far" in said
    assert "times for 10 rows by graph at ef 64; 0 min so far" in said

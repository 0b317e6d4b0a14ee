"""Measures every method that was built on the same unseen queries of one table. It chooses none for a search."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from laion_assets.errors import TableError
from laion_assets.index.cells.schema import cells_exist
from laion_assets.progress import Log
from laion_assets.recall.cells import Cells, Codes
from laion_assets.recall.evaluate import evaluate_methods
from laion_assets.recall.figures import Evaluation, read_evaluations, recall_folder
from laion_assets.recall.methods import Hnsw, Method
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.searching.request import METHODS
from laion_assets.settings import Settings
from laion_assets.table.database import Database


def built_methods(db: Database) -> list[Method]:
    """Graphs where LAION_INDEX asks for them, codes and cells where there are cells and LAION_INDEX asks for them.

    Graphs also where nothing else is there: they are then what is lacking. Cells of one cluster are codes.
    """
    methods: list[Method] = [Hnsw()] if db.settings.builds_graphs else []
    if db.settings.builds_cells and db.settings.cluster is None and cells_exist(db):
        methods.append(Codes())
        with suppress(TableError):  # of a table so small that it has one cluster
            methods.append(Cells.of(db))
    return methods or [Hnsw()]


def compare(db: Database, plan: RecallPlan | None = None, *, log: Log | None = None) -> list[Evaluation]:
    """An evaluation of each built method, all on the same queries; exact search is timed with each.

    Raises `TableError` as `evaluate` does, and where a method is asked for and is not whole.
    """
    return evaluate_methods(db, built_methods(db), plan, log=log)


def by_method(evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """The evaluations by their methods' names."""
    return {evaluation.method: evaluation for evaluation in evaluations}


def kept_evaluations(settings: Settings) -> list[Evaluation]:
    """The last evaluations of the methods that LAION_INDEX builds, graphs first; of all where it builds none."""
    kept = read_evaluations(recall_folder(settings))
    wanted = ["graph"] if settings.builds_graphs else []
    wanted += ["codes", "cells"] if settings.builds_cells else []
    return [kept[name] for name in METHODS if name in kept and (name in wanted or not wanted)]


def best_by_kind(evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """By kind of query, the evaluation whose lower bound of recall@10 is the highest."""
    kinds = [kind.kind for kind in evaluations[0].kinds] if evaluations else []
    return {kind: max(evaluations, key=lambda one: one.chosen(kind).at_10.low) for kind in kinds}

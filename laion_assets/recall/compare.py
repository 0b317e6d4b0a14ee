"""Measures every built method with the same unseen queries of one table. It chooses no method for searches."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress

from laion_assets.errors import TableError
from laion_assets.index.cells.nodes import cells_anywhere
from laion_assets.progress import Log
from laion_assets.recall.cells import Cells, Codes
from laion_assets.recall.evaluate import evaluate_methods
from laion_assets.recall.figures import Evaluation, read_evaluations, recall_folder
from laion_assets.recall.judge import has_targets_of, judged_by, meets_target
from laion_assets.recall.methods import Hnsw, Method
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.searching.request import METHODS
from laion_assets.settings import Settings
from laion_assets.table.database import Database


def built_methods(db: Database) -> list[Method]:
    """Graphs if LAION_INDEX asks for them; codes and cells if there are cells and LAION_INDEX asks for them.

    If there is no other method, also codes that LAION_INDEX asks for, or else graphs: the evaluation then reports that
    they are missing. With one cluster there are codes, but no cells.
    """
    methods: list[Method] = [Hnsw()] if db.settings.builds_graphs else []
    if db.settings.builds_cells and (not methods or cells_anywhere(db)):
        methods.append(Codes())
        with suppress(TableError):  # raised for a table so small that it has one cluster
            methods.append(Cells.of(db))
    return methods or [Hnsw()]


def compare(
    db: Database,
    plan: RecallPlan | None = None,
    *,
    leaving_out: Set[int] = frozenset(),
    log: Log | None = None,
) -> list[Evaluation]:
    """An evaluation of each built method, all with the same queries; exact search is timed with each of them.

    Partitions `leaving_out`, which were loaded since the methods were built, are neither searched nor judged.

    Raises `TableError` as `evaluate` does, and if a method that is asked for is not complete.
    """
    return evaluate_methods(db, built_methods(db), plan, leaving_out=leaving_out, log=log)


def by_method(evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """The evaluations by their methods' names."""
    return {evaluation.method: evaluation for evaluation in evaluations}


def kept_evaluations(settings: Settings) -> list[Evaluation]:
    """The last evaluations of the methods that LAION_INDEX builds, graphs first; of all methods if it builds none.

    They have the targets of the settings, which may have changed since (`have_other_targets`).
    """
    return [judged_by(settings, found) for found in _kept(settings)]


def have_other_targets(settings: Settings) -> bool:
    """Whether one of these evaluations chose its search settings for other targets than those of the settings."""
    return not all(has_targets_of(settings, found) for found in _kept(settings))


def _kept(settings: Settings) -> list[Evaluation]:
    kept = read_evaluations(recall_folder(settings))
    wanted = ["graph"] if settings.builds_graphs else []
    wanted += ["codes", "cells"] if settings.builds_cells else []
    return [kept[name] for name in METHODS if name in kept and (name in wanted or not wanted)]


def best_by_kind(evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """The evaluation with the highest lower bound of recall@10, by kind of query."""
    measured: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        for kind in evaluation.kinds:
            measured.setdefault(kind.kind, []).append(evaluation)
    return {kind: max(of_kind, key=lambda one: one.chosen(kind).at_10.low) for kind, of_kind in measured.items()}


def targets_are_met(evaluations: Sequence[Evaluation]) -> bool:
    """Whether every kind of query meets its target with one of the methods; false without evaluations."""
    best = best_by_kind(evaluations)
    return bool(best) and all(meets_target(found, kind) for kind, found in best.items())

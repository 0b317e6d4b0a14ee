"""The search settings and methods of the last recall report, if the table is still the one that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from laion_assets.errors import TableError
from laion_assets.index.cells.nodes import LiveEverywhere, cells_facts, live_everywhere
from laion_assets.index.declared import declared_indexes
from laion_assets.index.nodes import IndexFacts, index_facts
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.default_method import Choice, measured_choice, usual_choice
from laion_assets.recall.figures import Evaluation, SearchSettings, read_evaluations, recall_folder
from laion_assets.recall.judge import judged_by
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.searching.request import MethodName
from laion_assets.settings import Settings
from laion_assets.table.database import Database

NAMED = 5
"""How many partitions a message names."""


@dataclass(frozen=True)
class NamedSettings:
    """Search settings of graphs by kind of query, such as `text_to_image`. If there is a report about something else
    than the present table, there are no settings, and `ignored` gives the reason.

    `cells` are the settings of codes and cells by method and kind. `choices` is the method of each kind that was
    measured, `usual` the method of other kinds; None means graphs.
    """

    by_kind: dict[str, SearchSettings] = field(default_factory=dict)
    ignored: str | None = None
    cells: dict[MethodName, dict[str, CellsSettings]] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    usual: Choice | None = None


def named_settings(settings: Settings, db: Database | None = None) -> NamedSettings:
    """What the last report named for graphs, codes and cells. If it does not fit the table, there is a reason instead
    of settings.

    A few statements read the table of `db`; without `db` only the settings are compared. In a cluster whose nodes have
    cells, one replica of each cluster shard is asked for them, the same that a search asks.
    """
    kept = {name: judged_by(settings, found) for name, found in read_evaluations(recall_folder(settings)).items()}
    graph = kept.pop("graph", None)
    ignored = None if graph is None else _misfit_of_graphs(graph, settings, db)
    live = None if db is None else _live_cells(db)
    fitting = {name: found for name, found in kept.items() if db and live and _fits_cells(found, db, live)}
    cells = {
        name: {kind: CellsSettings(one.probes, one.multiplier) for kind, one in found.named.items()}
        for name, found in fitting.items()
    }
    if graph is not None and ignored is None:
        fitting = {"graph": graph, **fitting}
    kinds = {kind for found in fitting.values() for kind in found.named}
    choices = {kind: choice for kind in kinds if (choice := measured_choice(kind, fitting)) is not None}
    by_kind = graph.named if graph is not None and ignored is None else {}
    graphs = settings.index != "cells" or db is None or _may_have_graphs(db)
    return NamedSettings(
        by_kind, ignored, cells, choices, usual_choice(settings, cells=live is not None, graphs=graphs)
    )


def _live_cells(db: Database) -> LiveEverywhere | None:
    """What a search of the cells would read; None if there are no cells, or not on every node that has rows.

    In a cluster that should have no cells, the other nodes are not connected to: searches by graphs do without that.
    """
    if db.settings.cluster is not None and not db.settings.builds_cells:
        return None
    try:
        return live_everywhere(db)
    except TableError:  # a user who may only search the main table
        return None


def _may_have_graphs(db: Database) -> bool:
    """Whether the table declares graphs; true if the user may not know it."""
    try:
        return bool(declared_indexes(db))
    except TableError:
        return True


def changed_since_measured(evaluations: Sequence[Evaluation], db: Database) -> str:
    """What has changed in the partitions, graphs and cells that were measured, in words; empty if nothing has.

    Partitions that were loaded since are no change: they are measured after the next build. Raises `TableError`.
    """
    live = None
    for found in evaluations:
        if found.method == "graph":
            said = difference(found, index_facts(db, {_shard(part) for part in found.parts}))
            if said is not None:
                return said
            continue
        live = live or live_everywhere(db)
        if live is None:
            return "the cells that were measured are gone"
        if not _is_about(found, db, live):
            return "the cells have other rows or centroids than when they were measured"
    return ""


def _fits_cells(evaluation: Evaluation, db: Database, live: LiveEverywhere) -> bool:
    """Whether an evaluation of codes or cells is about the present generations, and every shard is in them. In a
    cluster all replicas were measured, and those that a search asks now are compared."""
    return _is_about(evaluation, db, live) and live.whole


def _is_about(evaluation: Evaluation, db: Database, live: LiveEverywhere) -> bool:
    """Whether an evaluation of codes or cells is about the present generations with the present number of rows."""
    description, declared = cells_facts(evaluation.method, db, live.generations)
    return (
        evaluation.index == description
        and declared.items() <= evaluation.declared.items()
        and evaluation.rows == live.rows
    )


def _misfit_of_graphs(evaluation: Evaluation, settings: Settings, db: Database | None) -> str | None:
    """Why the last report of graphs is not used; None if it fits."""
    wanted = str(IndexParameters.of(settings))
    if evaluation.index != wanted:
        fault: str | None = f"it measured an index of {evaluation.index}, and the settings name {wanted}"
    else:
        fault = None if db is None else _difference_of_table(evaluation, db)
    if fault is None:
        return None
    advice = "materialize vector_index and recall_report (laion-assets index)"
    return f"the search settings of the recall report are not used: {fault}; {advice}"


def _difference_of_table(evaluation: Evaluation, db: Database) -> str | None:
    try:
        return difference(evaluation, index_facts(db))
    except TableError as error:  # a user who may only search cannot read every system table
        return f"the table could not be compared with it ({error.found})"


def difference(evaluation: Evaluation, facts: IndexFacts) -> str | None:
    """The difference between the present table and the table that was measured, in words; None if they are the same."""
    for name in sorted({*evaluation.declared, *facts.declared}):
        measured, found = evaluation.declared.get(name, "absent"), facts.declared.get(name, "absent")
        if measured != found:
            return f"{name} was {measured} when it was measured, and is {found} now"
    measured_parts, parts = set(evaluation.parts), set(facts.parts)
    if measured_parts == parts:
        return None
    before, now = {_shard(name) for name in measured_parts}, {_shard(name) for name in parts}
    changed = {_shard(name) for name in measured_parts ^ parts}
    words = [
        _words(now - before, "was loaded since", "were loaded since"),
        _words(before - now, "is gone", "are gone"),
        _words(changed & before & now, "was loaded, indexed or changed", "were loaded, indexed or changed"),
    ]
    return f"since it was made, {'; '.join(word for word in words if word)}"


def _shard(part: str) -> int:
    """The shard of a part, kept as `<partition>_<hash>`; earlier versions kept names, which begin in the same way."""
    return int(part.partition("_")[0])


def _words(shards: set[int], one: str, several: str) -> str:
    if not shards:
        return ""
    named = ", ".join(map(str, sorted(shards)[:NAMED])) + (f" and {len(shards) - NAMED} more" * (len(shards) > NAMED))
    return f"partition {named} {one}" if len(shards) == 1 else f"partitions {named} {several}"

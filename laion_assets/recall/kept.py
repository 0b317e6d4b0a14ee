"""The search settings that the last recall report named, as long as the table has the index that it measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from laion_assets.errors import TableError
from laion_assets.index.cluster import IndexFacts, index_facts
from laion_assets.index.graphs import IndexParameters
from laion_assets.recall.figures import Evaluation, SearchSettings, read_evaluation, recall_folder
from laion_assets.settings import Settings
from laion_assets.table.connect import Database

NAMED = 5
"""Partitions that a difference names."""


@dataclass(frozen=True)
class NamedSettings:
    """Search settings by kind of query, such as `text_to_image`; `ignored` says why there are none, where a report
    was made but measured something else than the table has now."""

    by_kind: dict[str, SearchSettings] = field(default_factory=dict)
    ignored: str | None = None


def named_settings(settings: Settings, db: Database | None = None) -> NamedSettings:
    """What the last report of HNSW named; nothing, and why, where it does not fit.

    Two statements look at the table of `db`; without it only the settings are compared.
    """
    evaluation = read_evaluation(recall_folder(settings))
    if evaluation is None:
        return NamedSettings()
    wanted = str(IndexParameters.of(settings))
    if evaluation.index != wanted:
        fault: str | None = f"it measured an index of {evaluation.index}, and the settings name {wanted}"
    else:
        fault = None if db is None else _difference_of_table(evaluation, db)
    if fault is not None:
        advice = "materialize vector_index and recall_report (laion-assets index)"
        return NamedSettings(ignored=f"the search settings of the recall report are not used: {fault}; {advice}")
    return NamedSettings(evaluation.named)


def _difference_of_table(evaluation: Evaluation, db: Database) -> str | None:
    try:
        return difference(evaluation, index_facts(db))
    except TableError as error:  # a user who may only search is not shown every system table
        return f"the table could not be compared with it ({error.found})"


def difference(evaluation: Evaluation, facts: IndexFacts) -> str | None:
    """What the table has now and the evaluation did not measure, or the other way round; None where it is the same."""
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
        _words(changed & before & now, "was loaded or indexed again", "were loaded or indexed again"),
    ]
    return f"since it was made, {'; '.join(word for word in words if word)}"


def _shard(part: str) -> int:
    """Parts are named `<partition>_<first block>_<last block>_<level>[_<mutation>]`."""
    return int(part.partition("_")[0])


def _words(shards: set[int], one: str, several: str) -> str:
    if not shards:
        return ""
    named = ", ".join(map(str, sorted(shards)[:NAMED])) + (f" and {len(shards) - NAMED} more" * (len(shards) > NAMED))
    return f"partition {named} {one}" if len(shards) == 1 else f"partitions {named} {several}"

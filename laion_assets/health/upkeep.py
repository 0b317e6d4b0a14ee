"""Whether index, recall, sources and audits are as new as what is loaded, and the engine is free for the next step."""

from __future__ import annotations

import time
from dataclasses import replace

from laion_assets.health.deleted import only_if_asked, rows_by_shard, rows_of
from laion_assets.health.facts import Audit, Holder, IndexRecord, LoadFacts
from laion_assets.health.finding import Finding, TableLook, naming
from laion_assets.health.history import ShardHistory
from laion_assets.health.versions import code_version
from laion_assets.recall.compare import best_by_kind
from laion_assets.recall.judge import meets_target
from laion_assets.settings import Settings
from laion_assets.shard_numbers import as_ranges
from laion_assets.words import counted, keys_in_short, lasting

UPDATE = "`laion-assets bring-up-to-date` or the job bring_up_to_date makes it again"


def milestone(loaded: int, *, first: int, step: int, total: int) -> int:
    """The largest milestone that `loaded` partitions have reached: 0, `first`, `first + step`, …, and `total`."""
    if loaded >= total:
        return total
    if loaded < first:
        return 0
    return first + (loaded - first) // step * step


def nothing_is_stale(histories: list[ShardHistory]) -> Finding:
    """Whether each shard's assets are what would be made now: its source has the same files, and the settings that
    decide a result are the same. The finding names the age of what is known about the sources."""
    stale = [history for history in histories if history.stale and not history.active]
    known, age = _sources_known(histories)
    figures: dict[str, float] = {"stale": len(stale)}
    figures |= {} if age is None else {"days_since_the_oldest_observation": round(age / 86400, 2)}
    if not stale:
        return Finding("nothing_is_stale", True, f"no shard is stale{known}", figures)
    said = naming([f"shard {history.key}: {next(iter(history.stale.values()))}" for history in stale])
    return Finding("nothing_is_stale", False, f"{counted(len(stale), 'shard')} stale: {said}. {UPDATE}", figures)


def _sources_known(histories: list[ShardHistory]) -> tuple[str, float | None]:
    """When the sources of fetched shards were observed, in words; and the age of the oldest of these observations."""
    fetched = [history for history in histories if history.progress != "missing"]
    times = {history.key: history.observed_at for history in fetched if history.observed_at is not None}
    never = [history.key for history in fetched if history.key not in times]
    said = f"; sources never observed: {keys_in_short(never)}" if never else ""
    if not times:
        return said, None
    oldest = min(times, key=lambda key: times[key])
    age = max(0.0, time.time() - times[oldest])
    return f"; the oldest observation of a source is that of shard {oldest}, {lasting(age)} ago{said}", age


def index_follows_loads(
    settings: Settings, histories: list[ShardHistory], table: TableLook, facts: LoadFacts
) -> Finding:
    """Whether the index covers what was loaded at the last milestone, with the settings' parameters, and no partition
    of the index was loaded again since.

    Dagster does not mark an asset as stale that is made from 100 partitions or more, so this finding reports it.
    """
    name = "index_follows_loads"
    if not settings.builds_graphs:
        return Finding(name, True, "LAION_INDEX asks for no graphs")
    loaded = {history.shard for history in histories if history.progress == "loaded"}
    index = facts.index
    if index is not None and isinstance(table, list):
        # A partition that had graphs gets graphs when it is loaded again.
        with_graphs = {state.shard for state in table if state.index_bytes}
        index = replace(index, loaded_again=index.loaded_again - with_graphs)
    covered = loaded & index.covered - index.loaded_again if index is not None else set()
    if index is not None and isinstance(table, list):
        covered &= with_graphs
    figures = {"indexed": len(covered), "not_indexed": len(loaded - covered)}
    seen = f"{len(covered)} of {counted(len(loaded), 'loaded partition')} indexed"
    if "vector_index" in facts.under_way:
        return Finding(name, True, f"{seen}; a build is queued or running", figures)
    deleted = [state for state in table if state.deleted_rows and state.index_bytes] if isinstance(table, list) else []
    if deleted:
        seen += f"; {counted(len(deleted), 'partition')} with deleted or updated rows, which the graphs still have"
        return Finding(name, False, f"{seen}. {UPDATE}", figures)
    faults = _build_faults(settings, loaded, covered, index, "vector_index")
    if faults:
        return Finding(name, False, f"{seen}; {'; '.join(faults)}. {UPDATE}", figures)
    if covered != loaded:
        first, step, total = settings.index_first, settings.index_step, len(settings.dataset.shards)
        later = min(total, max(first, _reached(settings, len(loaded)) + step))
        seen += f"; the next build is at {counted(later, 'loaded partition')}"
    return Finding(name, True, seen, figures)


def cells_follow_loads(settings: Settings, histories: list[ShardHistory], facts: LoadFacts) -> Finding:
    """The same for the cells, if LAION_INDEX asks for them. Searches scan a shard that is not in the cells."""
    name = "cells_follow_loads"
    if not settings.builds_cells:
        return Finding(name, True, "LAION_INDEX asks for no cells")
    loaded = {history.shard for history in histories if history.progress == "loaded"}
    cells = facts.cells
    covered = loaded & cells.covered - cells.loaded_again if cells is not None else set()
    if facts.builds is not None:
        covered -= facts.builds.without_cells
    figures = {"in_cells": len(covered), "not_in_cells": len(loaded - covered)}
    seen = f"{len(covered)} of {counted(len(loaded), 'loaded partition')} in the cells"
    if "vector_cells" in facts.under_way:
        return Finding(name, True, f"{seen}; a build is queued or running", figures)
    faults = _build_faults(settings, loaded, covered, cells, "vector_cells")
    if faults:
        return Finding(name, False, f"{seen}; {'; '.join(faults)}. {UPDATE}", figures)
    return Finding(name, True, seen, figures)


def _reached(settings: Settings, partitions: int) -> int:
    """The largest milestone that this number of partitions has reached."""
    total = len(settings.dataset.shards)
    return milestone(partitions, first=settings.index_first, step=settings.index_step, total=total)


def _build_faults(
    settings: Settings, loaded: set[int], covered: set[int], build: IndexRecord | None, asset: str
) -> list[str]:
    """Why the last build of graphs or cells, with the partitions `covered`, is out of date; empty if it is not."""
    faults = [] if build is None else _outdated(settings, loaded, covered, build, asset)
    reached = _reached(settings, len(loaded))
    if not faults and reached > _reached(settings, len(covered)):
        faults = [f"the index for the milestone of {counted(reached, 'partition')} was not built"]
    return faults


def _outdated(settings: Settings, loaded: set[int], covered: set[int], build: IndexRecord, asset: str) -> list[str]:
    faults = []
    again = build.loaded_again & loaded
    if again:
        faults.append(f"loaded again since the build: {as_ranges(again)}")
    lost = (build.covered & loaded) - again - covered
    if lost:
        what = "cells that were" if asset == "vector_cells" else "index that was"
        faults.append(f"without the {what} built: {as_ranges(lost)}")
    wanted = code_version(settings, asset)
    if build.code and build.code != wanted:
        faults.append(f"built with {build.code!r}, the settings ask for {wanted!r}")
    return faults


def recall_is_void(facts: LoadFacts) -> str:
    """Why the last figures of recall are not about what searches use; empty if they are, or if nothing is built."""
    builds = {"index": facts.index, "cells": facts.cells}
    built = {name: record for name, record in builds.items() if record is not None}
    if not built:
        return ""
    what = " and ".join(built)
    if not facts.evaluations or facts.recall_at is None:
        return f"the {what} {'were' if 'cells' in built else 'was'} never measured"
    if any(record.loaded_again for record in built.values()):
        return "partitions were loaded again after recall was measured: recall figures are out of date"
    if facts.other_targets:
        return "recall was measured for other targets than those of the settings: its search settings may be wrong"
    later = [name for name, record in built.items() if facts.recall_at < record.made_at]
    if later:
        verb = "were" if "cells" in later else "was"
        return f"the {' and '.join(later)} {verb} built again after recall was measured: recall figures are out of date"
    changed = facts.builds.changed if facts.builds is not None else ""
    return f"the recall report is not about the present table: {changed}" if changed else ""


def recall_is_current(facts: LoadFacts) -> Finding:
    """Whether recall was measured on the present index, for the present targets, and each kind of query reaches its
    target by one of the methods."""
    name, best = "recall_is_current", best_by_kind(facts.evaluations)
    if facts.index is None and facts.cells is None:
        return Finding(name, True, "no index was built yet, so nothing is to be measured")
    recalls = {kind: found.chosen(kind).at_10.mean for kind, found in best.items()}
    figures = {f"recall_at_10_{kind}": mean for kind, mean in recalls.items()}
    if "recall_report" in facts.under_way:
        return Finding(name, True, "a measurement is queued or running", figures)
    void = recall_is_void(facts)
    if void:
        return Finding(name, False, f"{void}. {UPDATE}", figures)
    low = [
        f"{kind.replace('_', ' ')} reaches {found.chosen(kind).at_10.low:.3f} at least, the target is "
        f"{found.target_of(kind):g}"
        for kind, found in best.items()
        if not meets_target(found, kind)
    ]
    lowest = min(recalls.values(), default=0.0)
    seen = "; ".join(low) or f"every kind of query reaches its target; the lowest recall@10 is {lowest:.3f}"
    return Finding(name, not low, seen, figures)


def partitions_were_audited(
    histories: list[ShardHistory], audit: Audit, days: float, table: TableLook | None = None
) -> Finding:
    """Whether each loaded partition was compared with its merged file within `days`, and was equal to it.

    A load makes this comparison, too. Partitions that are being loaded are left out.
    """
    name = "partitions_were_audited"
    settled = {history.key for history in histories if history.progress == "loaded" and not history.active}
    failed, never = audit.failed & settled, audit.never & settled
    age = None if audit.oldest_at is None else max(0.0, time.time() - audit.oldest_at)
    figures: dict[str, float] = {"failed_audits": len(failed), "never_audited": len(never)}
    if age is not None:
        figures["days_since_the_oldest_audit"] = round(age / 86400, 2)
    faults, advice = [], "start the schedule audit_partitions, or execute the check partition_matches_parquet"
    if failed:
        faults.append(f"the last check failed of {counted(len(failed), 'partition')}: {keys_in_short(failed)}")
        advice = "`laion-assets bring-up-to-date` or the job bring_up_to_date loads what failed again"
        rows = rows_by_shard(table)
        left = {one.key for one in histories if one.key in failed and only_if_asked(one, rows_of(one.shard, rows))}
        if left:
            advice += f", but not partitions whose rows were deleted or accepted ({keys_in_short(left)})"
    if never:
        faults.append(f"never checked: {keys_in_short(never)}")
    if age is not None and age > days * 86400:
        faults.append(f"partition {audit.oldest} was last checked {lasting(age)} ago, {days:g} days are allowed")
    if faults:
        return Finding(name, False, f"{'; '.join(faults)}: {advice}", figures)
    seen = "no partition is loaded" if age is None else f"each partition was checked within {lasting(age)}"
    return Finding(name, True, seen, figures)


def engine_is_given_back(holder: Holder | None, hours: float) -> Finding:
    """Whether no process holds the embedded engine for longer than `hours`: a step opens it and closes it again."""
    name = "engine_is_given_back"
    if holder is None:
        return Finding(name, True, "no process holds the embedded engine", {"hours_held": 0.0})
    held = max(0.0, time.time() - holder.since) if holder.since is not None else None
    seen = f"held by process {holder.process}" + (f" ({holder.command})" if holder.command else "")
    if held is None or holder.since is None:
        return Finding(name, True, seen)
    clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder.since))
    seen += f" since {clock}, {lasting(held)}"
    return Finding(name, held <= hours * 3600, seen, {"hours_held": round(held / 3600, 2)})

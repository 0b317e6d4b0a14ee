"""The method that a search uses if it names none: the cheapest that was measured to meet the recall target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from laion_assets.recall.figures import Evaluation
from laion_assets.recall.judge import meets_target
from laion_assets.searching.request import MethodName
from laion_assets.settings import Settings

CLEARLY_CHEAPER = 0.8
"""An exact search replaces a built method if it costs at most this fraction of it. The fraction is below 1 because the
user asked for the built method, and because two measurements of the same search differ by a fifth on a busy machine."""

SHORT_EXACT_MS = 1_000.0
"""If no built method meets the target, an exact search that takes no longer than this is used."""


@dataclass(frozen=True)
class Choice:
    """A method, and the reason of the choice."""

    method: MethodName
    why: str


def usual_choice(settings: Settings, *, cells: bool, graphs: bool = True) -> Choice:
    """The choice without measurements: what LAION_INDEX builds. `cells` is whether there are cells, `graphs` whether
    there may be graphs. In a cluster nothing tells that a search by graphs found none, so it must not be chosen."""
    why = f"LAION_INDEX={settings.index}, and no recall report compares it with other methods"
    if settings.index != "cells" or (graphs and not cells):
        return Choice("graph", why)
    if cells:
        return Choice("cells", why)
    return Choice("exact", "LAION_INDEX=cells, but the table has neither cells nor graphs")


def measured_choice(kind: str, evaluations: Mapping[MethodName, Evaluation]) -> Choice | None:
    """The choice for a kind of query, by evaluations of the methods that work now; None if none measured this kind.

    The cost is CPU time a search if it was measured for all methods, else the median latency.
    """
    asked = {name: found for name, found in evaluations.items() if kind in found.named}
    if not asked:
        return None
    by_cpu = all(found.chosen(kind).cost and found.summary(kind).exact_cost for found in asked.values())
    costs = {name: _cost(found, kind, by_cpu=by_cpu) for name, found in asked.items()}
    exact = min(_exact_cost(found, kind, by_cpu=by_cpu) for found in asked.values())
    unit = "ms of CPU time" if by_cpu else "ms"
    target = next(iter(asked.values())).target_of(kind)
    asks = kind.replace("_", " ")
    meeting = [name for name, found in asked.items() if meets_target(found, kind)]
    if not meeting:
        best = max(asked, key=lambda name: asked[name].chosen(kind).at_10.mean)
        recall = asked[best].chosen(kind).at_10
        missed = f"no built method reaches recall@10 {target:g} for {asks}: {best} has {recall}"
        short = min(found.summary(kind).exact.p50 for found in asked.values()) <= SHORT_EXACT_MS
        return Choice("exact", missed) if short else Choice(best, f"{missed}, and an exact search takes seconds")
    cheapest = min(meeting, key=lambda name: costs[name])
    if exact <= CLEARLY_CHEAPER * costs[cheapest]:
        return Choice("exact", f"for {asks} it takes {exact:.0f} {unit}, and {cheapest} takes {costs[cheapest]:.0f}")
    others = [f"{name} {cost:.0f}" for name, cost in {**costs, "exact": exact}.items() if name != cheapest]
    recall = asked[cheapest].chosen(kind).at_10
    return Choice(
        cheapest,
        f"the cheapest method that reaches recall@10 {target:g} for {asks}: {recall.mean:.3f} in {costs[cheapest]:.0f} "
        f"{unit}; other methods: {', '.join(others)}",
    )


def _cost(found: Evaluation, kind: str, *, by_cpu: bool) -> float:
    chosen = found.chosen(kind)
    return chosen.cost.cpu_ms if by_cpu and chosen.cost else chosen.latency.p50


def _exact_cost(found: Evaluation, kind: str, *, by_cpu: bool) -> float:
    summary = found.summary(kind)
    return summary.exact_cost.cpu_ms if by_cpu and summary.exact_cost else summary.exact.p50

"""An evaluation as Markdown: which settings to search with, and every figure. It measures and draws nothing."""

from __future__ import annotations

from laion_assets.recall.figures import Evaluation, Measurement, Recall
from laion_assets.recall.interval import FEW_QUERIES
from laion_assets.recall.judge import meets_target


def recall_markdown(evaluation: Evaluation, picture: str = "") -> str:
    """The report: chosen settings by kind, `picture` (Markdown), every measurement and how it was made."""
    source = "kept from an earlier run" if evaluation.exact_from_store else f"found in {evaluation.exact_seconds:.1f} s"
    return "\n\n".join(
        [
            f"**{evaluation.rows:,} rows in {len(evaluation.shards)} partitions, {evaluation.method} index "
            f"{evaluation.index}, target {_targets(evaluation)}**",
            _summary(evaluation),
            _explained(evaluation),
            *([picture] if picture else []),
            "At every setting that was tried, over the choosing half of the queries:",
            _details(evaluation),
            f"Recall counts a found row when its distance, computed again from the stored vectors, is at most that of "
            f"the k-th true neighbour plus {evaluation.tolerance:g}: ties count. True neighbours were {source}; seed "
            f"{evaluation.seed}; the whole took {evaluation.seconds:.0f} s.",
        ]
    )


def _targets(evaluation: Evaluation) -> str:
    own = [f"{kind.replace('_', ' ')} {target:g}" for kind, target in evaluation.targets.items()]
    return ", ".join([f"{evaluation.target:g}", *own])


def _summary(evaluation: Evaluation) -> str:
    lines = [
        "| query | search settings | target | recall@10 | 95 % interval | met | 5th percentile | minimum | by id | "
        "recall@100 | p50 ms | p95 | p99 | first search, cold, ms | exact p50 ms | times faster |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in evaluation.kinds:
        one, ten = kind.chosen, kind.chosen.at_10
        met = "yes" if meets_target(evaluation, kind.kind) else "**no**"
        if met == "yes" and ten.queries < FEW_QUERIES:
            met = "yes, by few queries"
        lines.append(
            f"| {kind.kind.replace('_', ' ')} ({ten.queries}) | {one.search} | {evaluation.target_of(kind.kind):g} | "
            f"{ten.mean:.3f} | {_interval(ten)} | {met} | {ten.p5:.2f} | {ten.minimum:.2f} | {ten.by_id:.3f} | "
            f"{_hundred(one)} | {one.latency.p50:.1f} | {milliseconds(one.latency.p95)} | "
            f"{milliseconds(one.latency.p99)} | {milliseconds(kind.cold_ms)} | {kind.exact.p50:.1f} | "
            f"{evaluation.speedup(kind.kind):.1f} |"
        )
    return "\n".join(lines)


def _explained(evaluation: Evaluation) -> str:
    origins: dict[str, list[str]] = {}
    for kind in evaluation.kinds:
        origins.setdefault(kind.origin, []).append(kind.kind.replace("_", " "))
    queries = "; ".join(f"{', '.join(kinds)}: {origin}" for origin, kinds in origins.items())
    return (
        f"Queries: {queries}. Each kind's settings are the fastest whose interval's lower bound reached the target "
        "over one half of its queries, or those of the highest recall where none did; the figures are of the other "
        "half, whose number is in brackets. The target is met where the lower bound of the interval (bootstrap, 95 %) "
        "reaches it. Latency is that of searches of all partitions with the graphs in memory; p95 is given from 100 "
        "searches on, p99 from 500. The cold search is the first after the graphs were taken out of the engine's "
        "cache, the files' pages still in memory where the system keeps them; it is measured on the embedded engine "
        f"alone. With fewer than {FEW_QUERIES} queries an interval is often too narrow: a target that is met by few "
        "queries may be met by chance."
    )


def _details(evaluation: Evaluation) -> str:
    lines = [
        "| query | search | recall@10 | 95 % interval | 5 % | min | by id | recall@100 | interval | p50 ms | p95 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in evaluation.measurements:
        ten, latency, hundred = one.at_10, one.latency, one.at_100
        lines.append(
            f"| {one.kind.replace('_', ' ')} | {one.search} | {ten.mean:.3f} | {_interval(ten)} | {ten.p5:.2f} | "
            f"{ten.minimum:.2f} | {ten.by_id:.3f} | {_hundred(one)} | {_interval(hundred) if hundred else '–'} | "
            f"{latency.p50:.1f} | {milliseconds(latency.p95)} |"
        )
    return "\n".join(lines)


def _interval(recall: Recall) -> str:
    return f"{recall.low:.3f} to {recall.high:.3f}"


def _hundred(one: Measurement) -> str:
    """Recall@100; and the candidates a neighbour if fewer than named, as a search by graphs has at most 1,000."""
    if one.at_100 is None:
        return "–"
    rescored = one.multiplier_at_100
    fewer = f" (rescoring × {rescored})" if rescored != one.search.multiplier else ""
    return f"{one.at_100.mean:.3f}{fewer}"


def milliseconds(value: float | None) -> str:
    """Milliseconds for a table; a dash if they were not measured, or not often enough."""
    return "–" if value is None else f"{value:.1f}"

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
            "Every setting that was tried, measured with the first half of the queries:",
            _details(evaluation),
            f"A found row counts as a hit if its distance is at most the distance of the k-th true neighbour plus "
            f"{evaluation.tolerance:g}. So rows with equal distances count. Both distances are computed again from the "
            f"stored vectors. The true neighbours were {source}. The seed was {evaluation.seed}. The measurement took "
            f"{evaluation.seconds:.0f} s.",
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
        f"Queries: {queries}.\n\n"
        "The search settings of a kind of query are chosen with the first half of its queries: the fastest settings "
        "that meet the target, or those with the highest recall if none meets it. All figures in the table are "
        "measured with the other half. The number of its queries is in brackets. The target is met if the lower bound "
        "of the interval (95 %, bootstrap) is at least the target. With fewer than "
        f"{FEW_QUERIES} queries the interval is often too narrow, so the target may be met by chance.\n\n"
        "Latency is measured with searches of all partitions while the graphs are in memory. p95 needs 100 searches, "
        "and p99 needs 500. The cold search is the first search after the graphs were removed from the engine's "
        "cache. The operating system may still have their files in memory. It is measured only on the embedded engine."
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

"""An evaluation as Markdown: what to search with, and every figure. It measures nothing and draws nothing."""

from __future__ import annotations

from laion_assets.recall.figures import Evaluation


def recall_markdown(evaluation: Evaluation, picture: str = "") -> str:
    """The report: chosen settings by kind, `picture` (Markdown), then every measurement and how it was made."""
    source = "kept from an earlier run" if evaluation.exact_from_store else f"found in {evaluation.exact_seconds:.1f} s"
    return "\n\n".join(
        [
            f"**{evaluation.rows:,} rows in {len(evaluation.shards)} partitions, index {evaluation.index}, target "
            f"{_targets(evaluation)}**",
            _summary(evaluation),
            *([picture] if picture else []),
            _details(evaluation),
            f"Recall counts a found row when its distance, computed again from the stored vectors, is at most that of "
            f"the k-th true neighbour plus {evaluation.tolerance:g}: ties count. A drawn row is left out of its own "
            f"column's answers. Held-out queries are drawn images with noise, not in the table. True neighbours were "
            f"{source}; seed {evaluation.seed}; the whole took {evaluation.seconds:.0f} s.",
        ]
    )


def _targets(evaluation: Evaluation) -> str:
    own = [f"{kind.replace('_', ' ')} {target:g}" for kind, target in evaluation.targets.items()]
    return ", ".join([f"{evaluation.target:g}", *own])


def _summary(evaluation: Evaluation) -> str:
    lines = [
        "| query | cheapest search that meets the target | recall@10 | 5th percentile | minimum | by id | p50 ms | "
        "exact p50 ms | times faster |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in evaluation.kinds:
        one = evaluation.chosen(kind.kind)
        name = str(one.search) if evaluation.meets_target(kind.kind) else f"none; best: {one.search}"
        lines.append(
            f"| {kind.kind.replace('_', ' ')} ({kind.queries}) | {name} | {one.at_10.mean:.3f} | {one.at_10.p5:.2f} | "
            f"{one.at_10.minimum:.2f} | {one.at_10.by_id:.3f} | {one.latency.p50:.1f} | {kind.exact.p50:.1f} | "
            f"{evaluation.speedup(kind.kind):.1f} |"
        )
    return "\n".join(lines)


def _details(evaluation: Evaluation) -> str:
    lines = [
        "| query | search | recall@10 | 5 % | min | by id | recall@100 | 5 % | by id | p50 ms | p95 | p99 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in evaluation.measurements:
        ten, latency, hundred = one.at_10, one.latency, one.at_100
        more = f"{hundred.mean:.3f} | {hundred.p5:.2f} | {hundred.by_id:.3f}" if hundred else "– | – | –"
        lines.append(
            f"| {one.kind.replace('_', ' ')} | {one.search} | {ten.mean:.3f} | {ten.p5:.2f} | {ten.minimum:.2f} | "
            f"{ten.by_id:.3f} | {more} | {latency.p50:.1f} | {latency.p95:.1f} | {latency.p99:.1f} |"
        )
    return "\n".join(lines)

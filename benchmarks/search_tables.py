"""Puts evaluations into tables and figures of a report. It measures nothing."""

from __future__ import annotations

from laion_assets.recall.figures import Evaluation, Measurement
from laion_assets.recall.judge import choose
from laion_assets.recall.report import milliseconds

KINDS = ("image_to_image", "text_to_image", "text_to_text", "image_to_text")
"""The four kinds of query, the most usual first."""

NAMES = {
    kind: kind.replace("_to_", "→").replace("like_by_", "rows of the table, by ")
    for kind in (*KINDS, "like_by_image", "like_by_text")
}

MEASURED_HEAD = ["kind", "search", "recall@10", "p5", "least", "p50 ms", "p95 ms", "exact p50 ms"]


def kinds_of(evaluation: Evaluation) -> list[str]:
    """The kinds that an evaluation has, in the order of a report."""
    there = {summary.kind for summary in evaluation.kinds}
    return [kind for kind in NAMES if kind in there]


def named(evaluation: Evaluation, kind: str, target: float) -> Measurement:
    """The fastest settings whose lower bound of recall reaches the target, by the half of the queries that is for
    choosing. If no settings reach the target, those with the highest recall."""
    return choose(evaluation.of_kind(kind), target)


def exact_ms(evaluation: Evaluation, kind: str) -> float:
    """Median latency of exact search."""
    return next(summary.exact.p50 for summary in evaluation.kinds if summary.kind == kind)


def measured_table(evaluation: Evaluation) -> list[list[str]]:
    """Every kind at every search setting."""
    rows = [MEASURED_HEAD]
    for kind in kinds_of(evaluation):
        exact = f"{exact_ms(evaluation, kind):.1f}"
        for one in evaluation.of_kind(kind):
            recall, latency = one.at_10, one.latency
            figures = [f"{recall.mean:.3f}", f"{recall.p5:.2f}", f"{recall.minimum:.2f}"]
            rows.append(
                [NAMES[kind], str(one.search), *figures, f"{latency.p50:.1f}", milliseconds(latency.p95), exact]
            )
    return rows

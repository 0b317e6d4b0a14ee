"""Compares methods in a table and in a plot: recall and the cost of a search. It measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from laion_assets.recall.cost import Cost
from laion_assets.recall.figures import Evaluation
from laion_assets.recall.plot import COLOURS, blank_plot, png_of
from laion_assets.recall.report import milliseconds

HEAD = (
    "query",
    "method",
    "settings",
    "recall@10",
    "p50 ms",
    "p95",
    "CPU ms",
    "MB read",
    "MB in memory",
    "build core-s",
)
"""Column names; the last figure is for a million vectors. Exact search was measured with the first method."""

MARKERS = {"exact": "s", "graph": "o", "codes": "^", "cells": "D"}


def methods_rows(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, ...]]:
    """For each kind of query one row for exact search and one for each method, with the columns `HEAD`."""
    for kind in evaluations[0].kinds if evaluations else ():
        asked, exact, cost = kind.kind.replace("_", " "), kind.exact, kind.exact_cost
        yield (
            *(asked, "exact", "", "1.000", f"{exact.p50:.1f}", milliseconds(exact.p95)),
            *(*_costs(cost), "0", "0"),
        )
        for evaluation in evaluations:
            chosen = evaluation.chosen(kind.kind)
            cost = chosen.cost
            yield (
                *(asked, evaluation.method, str(chosen.search), str(chosen.at_10)),
                *(f"{chosen.latency.p50:.1f}", milliseconds(chosen.latency.p95)),
                *_costs(cost),
                *(_megabytes(evaluation.bytes_resident), _number(evaluation.core_seconds_a_million)),
            )


def methods_markdown(evaluations: Sequence[Evaluation]) -> str:
    """The rows as a Markdown table."""
    lines = [HEAD, ("---",) * len(HEAD), *methods_rows(evaluations)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods_plot(evaluations: Sequence[Evaluation]) -> bytes:
    """Recall@10 with its interval against CPU time a search, or against the median latency if CPU time is unknown; a
    marker for each method, a colour for each kind of query. PNG."""
    figure, axes = blank_plot()
    by_cpu = all(kind.exact_cost and kind.chosen.cost for one in evaluations for kind in one.kinds)
    for place, evaluation in enumerate(evaluations):
        for kind in evaluation.kinds:
            chosen, colour = kind.chosen, COLOURS[kind.kind]
            recall = chosen.at_10
            x = chosen.cost.cpu_ms if by_cpu and chosen.cost else chosen.latency.p50
            axes.errorbar(
                [x],
                [recall.mean],
                yerr=[[max(0.0, recall.mean - recall.low)], [max(0.0, recall.high - recall.mean)]],
                marker=MARKERS[evaluation.method],
                color=colour,
                linestyle="none",
                capsize=2,
            )
            if place == 0:
                exact = kind.exact_cost.cpu_ms if by_cpu and kind.exact_cost else kind.exact.p50
                axes.plot([exact], [1.0], marker=MARKERS["exact"], color=colour, linestyle="none")
                axes.plot([], [], color=colour, label=kind.kind.replace("_", " "))
    for name in ("exact", *(one.method for one in evaluations)):
        axes.plot([], [], marker=MARKERS[name], color="grey", linestyle="none", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("CPU ms a search" if by_cpu else "median latency, ms")
    axes.set_ylabel("recall@10, 95 % interval")
    axes.set_title(f"methods at their chosen settings; {evaluations[0].rows:,} rows", fontsize=9)
    axes.legend(fontsize=7)
    return png_of(figure)


def _costs(cost: Cost | None) -> tuple[str, str]:
    """CPU milliseconds and megabytes."""
    return ("–", "–") if cost is None else (_number(cost.cpu_ms), _megabytes(cost.bytes_read))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e6:.1f}"

"""Draws recall against latency as PNG, to a file and for a page. It opens no window and measures nothing."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from laion_assets.recall.figures import Evaluation, Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 7.2, 4.8, 80

COLOURS = {
    "image_to_image": "#0072B2",
    "text_to_text": "#009E73",
    "text_to_image": "#D55E00",
    "image_to_text": "#E69F00",
    "like_by_image": "#000000",
    "like_by_text": "#999999",
    "given_by_image": "#CC79A7",
}
"""Colours of the palette of Okabe and Ito, which people with other colour vision can tell apart. Blue and vermilion,
its two most distinct colours, are for image→image and text→image."""


def recall_plot(evaluation: Evaluation) -> bytes:
    """Recall@10 against median latency, a line for each kind of query with its interval; circles are rescored searches.

    The chosen settings are diamonds with the interval of the reporting half. PNG, about 50 kB.
    """
    figure, axes = blank_plot()
    for summary in evaluation.kinds:
        colour = COLOURS[summary.kind]
        measured = sorted(evaluation.of_kind(summary.kind), key=lambda one: one.latency.p50)
        plain = [one for one in measured if not one.search.multiplier]
        rescored = [one for one in measured if one.search.multiplier]
        axes.plot(*_points(plain), marker=".", label=summary.kind.replace("_", " "), color=colour, linewidth=1)
        axes.fill_between(
            [one.latency.p50 for one in plain],
            [one.at_10.low for one in plain],
            [one.at_10.high for one in plain],
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
        axes.plot(*_points(rescored), linestyle="none", marker="o", fillstyle="none", color=colour, markersize=4)
        _draw_chosen(axes, summary.chosen, colour)
    for target in sorted({evaluation.target_of(summary.kind) for summary in evaluation.kinds}):
        axes.axhline(target, color="grey", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("median latency, ms (circles: with rescoring; diamonds: chosen, over other queries)")
    axes.set_ylabel("recall@10, 95 % interval")
    axes.set_title(f"{evaluation.index}; {evaluation.rows:,} rows in {len(evaluation.shards)} partitions", fontsize=9)
    axes.legend(fontsize=7)
    return png_of(figure)


def _points(measured: list[Measurement]) -> tuple[list[float], list[float]]:
    return [one.latency.p50 for one in measured], [one.at_10.mean for one in measured]


def _draw_chosen(axes: Axes, chosen: Measurement, colour: str) -> None:
    recall = chosen.at_10
    axes.errorbar(
        [chosen.latency.p50],
        [recall.mean],
        yerr=[[max(0.0, recall.mean - recall.low)], [max(0.0, recall.high - recall.mean)]],
        marker="D",
        markersize=6,
        markeredgecolor="white",
        capsize=3,
        color=colour,
    )


def scatter_plot(
    points: list[tuple[float, float, str, bool]], *, x: str, y: str, title: str, line: float | None = None
) -> bytes:
    """Labelled points (x, y, label, whether it is on the front), x logarithmic; PNG."""
    figure, axes = blank_plot()
    for px, py, label, front in points:
        axes.plot(px, py, marker="o", color="tab:red" if front else "tab:grey")
        axes.annotate(label, (px, py), fontsize=6, xytext=(3, 3), textcoords="offset points")
    if line is not None:
        axes.axhline(line, color="grey", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=9)
    return png_of(figure)


def inline_image(png: bytes, alternative: str) -> str:
    """The picture as Markdown, with its bytes in a `data:` URI."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"


def blank_plot() -> tuple[Figure, Axes]:
    """An empty figure of our size."""
    # The object interface with Agg: pyplot would keep every figure in memory, and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def png_of(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

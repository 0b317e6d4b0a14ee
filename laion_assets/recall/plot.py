"""Draws recall against latency as PNG, to a file and for a page. It opens no window and measures nothing."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from laion_assets.recall.figures import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 6.4, 4.0, 80

COLOURS = {
    "image_to_image": "#0072B2",
    "text_to_text": "#009E73",
    "text_to_image": "#D55E00",
    "image_to_text": "#E69F00",
    "held_out_to_image": "#000000",
}
"""Of the palette of Okabe and Ito, which people who see colours differently tell apart; blue and vermilion, its two
most distinct, are those of image→image and text→image."""


def recall_plot(evaluation: Evaluation) -> bytes:
    """Recall@10 against median latency, a line for each kind of query; circles are rescored. PNG, about 30 kB."""
    figure, axes = _canvas()
    for summary in evaluation.kinds:
        measured = sorted(evaluation.of_kind(summary.kind), key=lambda one: one.latency.p50)
        plain = [one for one in measured if not one.search.multiplier]
        rescored = [one for one in measured if one.search.multiplier]
        label = summary.kind.replace("_", " ")
        colour = COLOURS[summary.kind]
        axes.plot([m.latency.p50 for m in plain], [m.at_10.mean for m in plain], marker=".", label=label, color=colour)
        axes.plot(
            [m.latency.p50 for m in rescored],
            [m.at_10.mean for m in rescored],
            linestyle="none",
            marker="o",
            fillstyle="none",
            color=colour,
        )
    for target in sorted({evaluation.target_of(summary.kind) for summary in evaluation.kinds}):
        axes.axhline(target, color="grey", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("median latency, ms (circles: with rescoring)")
    axes.set_ylabel("recall@10")
    axes.set_title(f"{evaluation.index}; {evaluation.rows:,} rows in {len(evaluation.shards)} partitions", fontsize=9)
    axes.legend(fontsize=7)
    return _png(figure)


def scatter_plot(
    points: list[tuple[float, float, str, bool]], *, x: str, y: str, title: str, line: float | None = None
) -> bytes:
    """Labelled points (x, y, label, whether it is on the front), x logarithmic; PNG."""
    figure, axes = _canvas()
    for px, py, label, front in points:
        axes.plot(px, py, marker="o", color="tab:red" if front else "tab:grey")
        axes.annotate(label, (px, py), fontsize=6, xytext=(3, 3), textcoords="offset points")
    if line is not None:
        axes.axhline(line, color="grey", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=9)
    return _png(figure)


def inline_image(png: bytes, alternative: str) -> str:
    """The picture as Markdown, with its bytes in a `data:` URI."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _canvas() -> tuple[Figure, Axes]:
    # The object interface and Agg: pyplot would keep every figure, and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

"""All shards of a load in one picture: a cell for each shard, coloured by its state, in the order of their numbers."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

from laion_assets.health.history import ShardHistory
from laion_assets.words import counted

if TYPE_CHECKING:
    from PIL import ImageDraw

COLUMNS = 41
"""Cells in a row: 410 cells are then ten rows."""

CELL, GAP, MARGIN, LINE = 20, 3, 44, 26
"""Pixels: a cell, the gap between cells, the margin for row numbers, and a line of the legend."""

MAX_CELLS = 4_100
"""With more shards than this the picture would be too large to see at once."""

COLOURS = {
    "loaded": "#2e9e5b",
    "stale": "#b9a13c",
    "failed": "#d43f3a",
    "running": "#2f6fd6",
    "queued": "#9db9e8",
    "merged": "#7fbf9b",
    "fetched": "#b7d9c5",
    "missing": "#dedede",
}
"""Colours by state, in the order of the legend."""


def cell_state(history: ShardHistory) -> str:
    """The state that a shard's cell shows; `stale` if the shard is loaded but stale."""
    return "stale" if history.stale and history.state not in ("failed", "running", "queued") else history.state


def states_in_words(histories: list[ShardHistory]) -> str:
    """How many shards are in each state: 401 loaded, 1 failed, 8 missing."""
    counts = Counter(map(cell_state, histories))
    said = ", ".join(f"{counts[state]:,} {state}" for state in COLOURS if counts[state])
    return f"{counted(len(histories), 'shard')}: {said}"


def shards_picture(histories: list[ShardHistory]) -> bytes | None:
    """The picture as PNG; None if there are too many shards for a picture."""
    # Imported only when a report is made: no shard's run needs it.
    from PIL import Image, ImageDraw

    if not 0 < len(histories) <= MAX_CELLS:
        return None
    columns = min(COLUMNS, len(histories))
    rows = -(-len(histories) // columns)
    counts = Counter(map(cell_state, histories))
    legend = [state for state in COLOURS if counts[state]]
    width = max(MARGIN + columns * (CELL + GAP), MARGIN + 130 * len(legend))
    height = rows * (CELL + GAP) + LINE + 2 * GAP
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, history in enumerate(histories):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * (CELL + GAP), GAP + row * (CELL + GAP)
        if not column:
            draw.text((2, top + 3), history.key, fill="#555555", font_size=13)
        draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=COLOURS[cell_state(history)])
    _draw_legend(draw, legend, counts, height - LINE)
    content = io.BytesIO()
    image.quantize(64).save(content, "PNG", optimize=True)
    return content.getvalue()


def _draw_legend(draw: ImageDraw.ImageDraw, legend: list[str], counts: Counter[str], top: int) -> None:
    for number, state in enumerate(legend):
        left = MARGIN + 130 * number
        draw.rectangle((left, top + 4, left + 13, top + 17), fill=COLOURS[state])
        draw.text((left + 19, top + 3), f"{state} {counts[state]:,}", fill="#222222", font_size=14)

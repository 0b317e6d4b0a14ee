"""Which vectors may reach the table, and whether images and texts belong together. Numbers only, no files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from laion_assets.shard.npy import Float32Rows

SQUARED_LENGTH_TOLERANCE = 0.05
"""How far a normalised vector's squared length may be from 1: LAION's float16 vectors are within 0.0006."""

SQUARED_LENGTH_RANGE = (1e-20, 1e20)
"""Where float32 arithmetic on a vector that is not normalised still holds: at 1e30 the index gives a false 0."""

MIN_ROWS_TO_JUDGE = 200
"""Below this many rows the margins of a sound shard and of chance overlap."""

MIN_MARGIN_ERRORS = 8.0
"""Standard errors by which pairs must beat strangers."""

COPY_MARGIN = 0.01
"""Pairs that are all so near to cosine 1 are copies: genuine pairs have a mean of about 0.3."""

MIN_CORRELATION = 0.2
"""Between similarity and dot(image, text), where similarity is there: chance gives 0 ± 1/√rows, LAION about 0.9."""


def vector_faults(vectors: Float32Rows, *, normalised: bool) -> npt.NDArray[np.str_] | None:
    """Why each of the vectors, float32 (n, d), may not reach the table: n texts, "" for a sound one; None if all are.

    Faults: "not finite", "zero", "length L" (with L to three digits).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("ij,ij->i", vectors, vectors)
    if normalised:
        sound = np.abs(squared - 1) < SQUARED_LENGTH_TOLERANCE
    else:
        sound = (squared > SQUARED_LENGTH_RANGE[0]) & (squared < SQUARED_LENGTH_RANGE[1])
    if bool(sound.all()):
        return None
    faults = np.full(len(vectors), "", dtype="U24")
    for row in np.flatnonzero(~sound):
        if not np.isfinite(vectors[row]).all():
            faults[row] = "not finite"
        elif not vectors[row].any():
            faults[row] = "zero"
        else:
            faults[row] = f"length {np.linalg.norm(vectors[row].astype(np.float64)):.3g}"
    return faults


@dataclass
class Alignment:
    """Sums that tell whether row k of images, texts and metadata is one sample.

    dot(image_k, text_k) against dot(image_k, text_k+1), and its correlation with the crawl's own similarity.
    """

    rows: int = 0
    pairs_sum: float = 0.0
    pairs_squares: float = 0.0
    strangers_sum: float = 0.0
    scored: int = 0
    score_sum: float = 0.0
    score_squares: float = 0.0
    scored_pairs_sum: float = 0.0
    scored_pairs_squares: float = 0.0
    product_sum: float = 0.0

    def add(self, images: Float32Rows, texts: Float32Rows, similarity: npt.NDArray[np.float32]) -> None:
        """Counts a block of sound rows in: images and texts (n, d), similarity (n,)."""
        if len(images) < 2:
            return
        pairs = np.einsum("ij,ij->i", images, texts).astype(np.float64)
        self.rows += len(pairs)
        self.pairs_sum += float(pairs.sum())
        self.pairs_squares += float(pairs @ pairs)
        # The row after, and the first for the last: strangers, unless the shard is one sample over and over.
        strangers = float(np.einsum("ij,ij->", images[:-1], texts[1:])) + float(images[-1] @ texts[0])
        self.strangers_sum += strangers
        # The crawl holds scores such as 6016 where its columns were shifted: only cosines are counted.
        scored = np.abs(similarity) <= 1
        scores, dots = similarity[scored].astype(np.float64), pairs[scored]
        self.scored += len(scores)
        self.score_sum += float(scores.sum())
        self.score_squares += float(scores @ scores)
        self.scored_pairs_sum += float(dots.sum())
        self.scored_pairs_squares += float(dots @ dots)
        self.product_sum += float(scores @ dots)

    @property
    def pairs_mean(self) -> float:
        """Mean dot product of an image and its own text; NaN without rows."""
        return self.pairs_sum / self.rows if self.rows else math.nan

    @property
    def strangers_mean(self) -> float:
        """Mean dot product of an image and the next row's text; NaN without rows."""
        return self.strangers_sum / self.rows if self.rows else math.nan

    @property
    def correlation(self) -> float | None:
        """Pearson's r of similarity and dot product; None where similarity is missing or always the same."""
        n = self.scored
        scores = self.score_squares - self.score_sum**2 / n if n else 0.0
        dots = self.scored_pairs_squares - self.scored_pairs_sum**2 / n if n else 0.0
        if n < MIN_ROWS_TO_JUDGE or scores <= 1e-9 * n or dots <= 1e-12 * n:
            return None
        return (self.product_sum - self.score_sum * self.scored_pairs_sum / n) / math.sqrt(scores * dots)

    def fault(self) -> str | None:
        """What speaks against the rows being aligned, in one line; None when nothing does or there are too few rows."""
        return alignment_fault(
            self.rows, self.pairs_mean, self.strangers_mean, self._pairs_deviation(), self.correlation
        )

    def _pairs_deviation(self) -> float:
        return math.sqrt(max(0.0, self.pairs_squares / self.rows - self.pairs_mean**2)) if self.rows else math.nan


def alignment_fault(
    rows: int, pairs_mean: float, strangers_mean: float, pairs_deviation: float, correlation: float | None
) -> str | None:
    """What speaks against rows being aligned, from figures alone: those of SQL are judged by the same rule.

    `pairs_deviation` is the standard deviation of dot(image_k, text_k).
    """
    if rows < MIN_ROWS_TO_JUDGE:
        return None
    if abs(pairs_mean - 1) < COPY_MARGIN and pairs_deviation < COPY_MARGIN:
        return f"an image and its text have cosine {pairs_mean:.3f}: the text vectors are the image vectors again"
    margin = (pairs_mean - strangers_mean) / max(pairs_deviation / math.sqrt(rows), 1e-9)
    if not margin > MIN_MARGIN_ERRORS:
        return f"an image and its text have cosine {pairs_mean:.3f}, strangers {strangers_mean:.3f}"
    if correlation is not None and correlation < MIN_CORRELATION:
        return f"similarity correlates by {correlation:.2f} with dot(image, text)"
    return None

"""Whether row k of images, texts and metadata is one sample: figures counted block by block, and their judgement."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from laion_assets.shard.vector_rows import Float32Rows

MIN_ROWS_TO_JUDGE = 200
"""With fewer rows than this, the margin of a sound shard may be as small as that of shuffled rows."""

MIN_STRANGERS_TO_JUDGE = 50
"""With fewer comparisons than this, only similarity is judged: a shard may have one caption for all rows."""

MIN_MARGIN_ERRORS = 6.0
"""Number of standard errors by which pairs must exceed strangers. With shuffled texts the margin is 0 ± 1 of them."""

MIN_MARGIN_DEVIATIONS = 0.1
"""Number of standard deviations by which pairs must exceed strangers, too: in a million rows any margin has small
errors. CLIP's real pairs have 2 to 3. Texts that slipped by one row in a crawl, where one neighbour in fifty has the
same caption, have 0.04."""

COPY_MARGIN = 0.01
"""Pairs that are all so near to cosine 1 are copies: real pairs have a mean of about 0.3."""

MIN_CORRELATION = 0.2
"""Least correlation of similarity, if there is one, and dot(image, text): by chance 0 ± 1/√rows, in LAION about 0.9."""

SAMPLED_ROWS = 1_024
"""Rows of each block that are compared with strangers: 4.7 ms of CPU time a block of 8,192 rows and 512 dimensions, 0.6
s a million rows."""

ADVICE = (
    "use the three files of one release in one order; where captions are not meant to describe their images, write "
    'alignment = "off" in the dataset\'s TOML file'
)


@dataclass(frozen=True)
class Strangers:
    """Pairs of rows whose texts were exchanged for a comparison.

    Rows k and s have different captions. The mean of dot(image_k, text_k) and dot(image_s, text_s) is compared with the
    mean of dot(image_k, text_s) and dot(image_s, text_k). `margin` is the mean difference, `deviation` its standard
    deviation, `mean` the mean of the exchanged pairs. If the texts were shuffled, both means would be the same by
    symmetry, whatever the images and texts are.
    """

    compared: int = 0
    mean: float = math.nan
    margin: float = math.nan
    deviation: float = math.nan


@dataclass
class Alignment:
    """Sums over a shard's rows. They are kept in a merged file's footer."""

    rows: int = 0
    pairs_sum: float = 0.0
    pairs_squares: float = 0.0
    strangers: int = 0
    strangers_sum: float = 0.0
    margin_sum: float = 0.0
    margin_squares: float = 0.0
    scored: int = 0
    score_sum: float = 0.0
    score_squares: float = 0.0
    scored_pairs_sum: float = 0.0
    scored_pairs_squares: float = 0.0
    product_sum: float = 0.0

    @property
    def pairs_mean(self) -> float:
        """Mean dot product of an image and its own text; NaN without rows."""
        return self.pairs_sum / self.rows if self.rows else math.nan

    @property
    def strangers_mean(self) -> float:
        """Mean dot product of an image and the text of a row with another caption; NaN if no such row was found."""
        return self.strangers_sum / self.strangers if self.strangers else math.nan

    @property
    def correlation(self) -> float | None:
        """Pearson's r of similarity and dot product; None if similarity is missing or always the same."""
        n = self.scored
        scores = self.score_squares - self.score_sum**2 / n if n else 0.0
        dots = self.scored_pairs_squares - self.scored_pairs_sum**2 / n if n else 0.0
        if n < MIN_ROWS_TO_JUDGE or scores <= 1e-9 * n or dots <= 1e-12 * n:
            return None
        return (self.product_sum - self.score_sum * self.scored_pairs_sum / n) / math.sqrt(scores * dots)

    def fault(self) -> str | None:
        """Why the rows do not seem aligned, in one line; None if they seem aligned, or there are too few rows."""
        return alignment_fault(
            self.rows, self.pairs_mean, self._deviation_of_pairs(), self._compared(), self.correlation
        )

    def not_judged(self) -> str | None:
        """Why the cosines with strangers say nothing about this shard, in one line; None if they say something."""
        if self.rows < MIN_ROWS_TO_JUDGE:
            return f"{self.rows:,} rows with two vectors are too few to judge, {MIN_ROWS_TO_JUDGE} are needed"
        if self.strangers < MIN_STRANGERS_TO_JUDGE:
            return (
                f"hardly any rows have different captions ({self.strangers:,} comparisons): cosines were not compared"
            )
        return None

    def _deviation_of_pairs(self) -> float:
        return _deviation(self.rows, self.pairs_sum, self.pairs_squares)

    def _compared(self) -> Strangers:
        if not self.strangers:
            return Strangers()
        deviation = _deviation(self.strangers, self.margin_sum, self.margin_squares)
        return Strangers(self.strangers, self.strangers_mean, self.margin_sum / self.strangers, deviation)


@dataclass
class _Rows:
    """Rows that wait for a stranger: vectors float32 (n, d), captions (n,) of bytes."""

    images: Float32Rows
    texts: Float32Rows
    captions: npt.NDArray[np.object_]

    def take(self, rows: npt.NDArray[np.intp]) -> _Rows:
        return _Rows(self.images[rows], self.texts[rows], self.captions[rows])

    def joined(self, other: _Rows) -> _Rows:
        return _Rows(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.texts, other.texts]),
            np.concatenate([self.captions, other.captions]),
        )


@dataclass
class AlignmentCounter:
    """Counts a shard's blocks, in order, into `alignment`. It keeps `SAMPLED_ROWS` rows, 4 MB of 512 dimensions.

    Strangers are rows with another caption. A row that has met only its own caption waits for later blocks. So a shard
    sorted by class, in which neighbours have the same caption, is compared across its classes.
    """

    alignment: Alignment = field(default_factory=Alignment)
    _waiting: _Rows | None = None
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(
        self, images: Float32Rows, texts: Float32Rows, captions: pa.Array, similarity: npt.NDArray[np.float32]
    ) -> None:
        """Adds a block of sound rows: images and texts (n, d), captions (n texts), similarity (n,)."""
        if not len(images):
            return
        pairs = _dots(images, texts)
        counted = self.alignment
        counted.rows += len(pairs)
        counted.pairs_sum += float(pairs.sum())
        counted.pairs_squares += float(pairs @ pairs)
        # The crawl has scores such as 6016 where its columns were shifted. Only cosines are counted.
        scored = np.abs(similarity) <= 1
        scores, dots = similarity[scored].astype(np.float64), pairs[scored]
        counted.scored += len(scores)
        counted.score_sum += float(scores.sum())
        counted.score_squares += float(scores @ scores)
        counted.scored_pairs_sum += float(dots.sum())
        counted.scored_pairs_squares += float(dots @ dots)
        counted.product_sum += float(scores @ dots)
        self._meet_strangers(images, texts, captions)

    def _meet_strangers(self, images: Float32Rows, texts: Float32Rows, captions: pa.Array) -> None:
        chosen = self._random.permutation(len(images))[:SAMPLED_ROWS]
        said = captions.take(pa.array(chosen)).cast(pa.binary()).to_pylist()
        sampled = _Rows(images[chosen], texts[chosen], np.array(said, dtype=object))
        rows = sampled if self._waiting is None else self._waiting.joined(sampled)
        # The chosen rows are in random order already, so as little as possible is copied.
        count = len(rows.captions)
        order = np.arange(count) if self._waiting is None else self._random.permutation(count)
        half = count // 2
        some, others = rows.take(order[:half]), rows.take(order[half : 2 * half])
        unlike = (some.captions != others.captions) | (some.captions == b"")
        met = unlike & (some.texts != others.texts).any(axis=1)
        if not met.all():
            some, others = some.take(np.flatnonzero(met)), others.take(np.flatnonzero(met))
        self._count(some, others)
        alone = np.concatenate([order[:half][~met], order[half : 2 * half][~met], order[2 * half :]])
        self._waiting = rows.take(alone[:SAMPLED_ROWS]) if len(alone) else None

    def _count(self, some: _Rows, others: _Rows) -> None:
        own = _dots(some.images, some.texts) + _dots(others.images, others.texts)
        exchanged = _dots(some.images, others.texts) + _dots(others.images, some.texts)
        margins = (own - exchanged) / 2
        self.alignment.strangers += len(margins)
        self.alignment.strangers_sum += float(exchanged.sum()) / 2
        self.alignment.margin_sum += float(margins.sum())
        self.alignment.margin_squares += float(margins @ margins)


def _dots(images: Float32Rows, texts: Float32Rows) -> npt.NDArray[np.float64]:
    dots: npt.NDArray[np.float64] = np.einsum("ij,ij->i", images, texts).astype(np.float64)
    return dots


def _deviation(count: int, total: float, squares: float) -> float:
    return math.sqrt(max(0.0, squares / count - (total / count) ** 2)) if count else math.nan


def alignment_fault(
    rows: int, pairs_mean: float, pairs_deviation: float, strangers: Strangers, correlation: float | None
) -> str | None:
    """Why rows do not seem aligned, and what to do, from figures alone. Figures that SQL computed are judged by it,
    too.

    `pairs_mean` and `pairs_deviation` are those of dot(image_k, text_k).
    """
    if rows < MIN_ROWS_TO_JUDGE:
        return None
    if abs(pairs_mean - 1) < COPY_MARGIN and pairs_deviation < COPY_MARGIN:
        return f"an image and its text have cosine {pairs_mean:.3f}: the text vectors are the image vectors again"
    if strangers.compared >= MIN_STRANGERS_TO_JUDGE:
        errors = MIN_MARGIN_ERRORS / math.sqrt(strangers.compared)
        if not strangers.margin > max(errors, MIN_MARGIN_DEVIATIONS) * max(strangers.deviation, 1e-9):
            return (
                f"an image and its text have cosine {pairs_mean:.3f}, an image and the text of a row elsewhere in the "
                f"shard with another caption {strangers.mean:.3f} (means, {strangers.compared:,} comparisons); {ADVICE}"
            )
    if correlation is not None and correlation < MIN_CORRELATION:
        return f"similarity correlates by {correlation:.2f} with dot(image, text), at least 0.2 was expected; {ADVICE}"
    return None

"""The made-up world of the sample: words, their directions and CLIP's geometry. It reads and writes no file.

A `SampleWorld` says what a word means: each word has a direction in one space that pictures and captions share.
`sample` writes awkward captions, URLs and files. The tiny CLIP encoders of the demo are built from the same world.

The geometry is that of real ViT-B/32 vectors (16 images and 9 texts that clip-retrieval wrote): dimension 92 is near
-0.65 in images, 133 and 312 are near +0.39 in texts. Two images or two texts have cosine 0.5 to 0.6, a pair 0.32, an
image and the text of another row 0.16 to 0.20. So texts lie outside the image cloud, and an index is as hard to search
as on CLIP's own vectors. With plain clusters at the origin every index looked perfect (recall@10 .996 at any setting).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laion_assets.errors import DatasetError

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 40),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 50),
    "green": (40, 150, 60),
    "blue": (40, 80, 210),
    "purple": (125, 45, 150),
    "pink": (250, 150, 190),
    "brown": (120, 75, 40),
    "black": (15, 15, 15),
    "grey": (130, 130, 130),
    "white": (250, 250, 250),
}
"""The eleven basic colour words of English, each with its red, green and blue (0 to 255)."""

_VOCABULARY = {
    "colour": " ".join(COLOURS),
    "material": "wooden leather metal glass plastic cotton ceramic woollen stone paper velvet bronze",
    "subject": "lego dog cat bicycle castle guitar car horse train boat bridge lamp chair bench sofa clock camera "
    "phone watch ring necklace dress shirt shoes hat bag bottle cup cake pizza coffee flower tree bird butterfly fish "
    "elephant lion bear dragon robot aeroplane tractor piano violin book mirror umbrella",
    "setting": "beach forest kitchen city garden mountain snow desert bedroom street lake park studio office stadium "
    "night sunset library harbour island",
    "style": "vintage modern cartoon watercolour poster sketch portrait logo sticker minimalist",
}
ROLES = {role: tuple(text.split()) for role, text in _VOCABULARY.items()}
"""The vocabulary by a word's role in a caption."""

WORDS = tuple(word for members in ROLES.values() for word in members)

TEMPLATES = (
    {"style": "{} ", "colour": "{} ", "material": "{} ", "subject": "{}", "setting": " at the {}"},
    {"subject": "{}", "colour": ", {}", "material": " {}", "setting": " - {}", "style": " ({})"},
    {"colour": "{} ", "subject": "{}", "style": " {}", "material": " in {}", "setting": " with {} background"},
)
"""Word orders of a caption. A word that a meaning lacks is left out together with its separators."""

CASES = {str.lower: 0.35, str.title: 0.5, str.upper: 0.15}
"""How often a caption is in lower, title and upper case."""

ROLE_WEIGHT = {"colour": 0.85, "material": 0.75, "subject": 1.0, "setting": 0.75, "style": 0.65}
"""Weight of a word among a caption's words. The subject weighs most; with less than 0.65 images did not find a word."""

ROLE_SHARE = {"colour": 0.75, "material": 0.45, "subject": 1.0, "setting": 0.55, "style": 0.3}
"""Fraction of the meanings with a word of this role: every word is in 1 % of the rows or more."""

MEANINGS = 3_000
"""Different combinations of words, the clusters of the vectors. Sizes fall as a power of the rank (Pareto)."""

CENTRE_SHARE, CENTRE_PULL = 0.55, 0.19
"""Fraction of a vector's squared length that is its cloud's centre: two images have cosine 0.55. How far the centres
are moved towards each other: an image and the text of another row have cosine 0.18; without this, 0."""

WORD_SHARE = 0.75
"""Of what the two vectors of a pair have in common, the fraction of squared length that its words explain."""

IMAGE_NOISE, TEXT_NOISE = 1.4, 2.0
"""Length of each view's own noise relative to what the pair has in common: pairs then have cosine 0.33."""

NOISE_DECAY, WORD_DECAY = 0.5, 0.15
"""Amplitude of the k-th principal direction: k to minus this. It falls slowly for words, so noise cannot hide them."""

COLOUR_SHARPNESS = 30.0
"""How strongly a mean colour prefers the nearest colour word, per squared distance in the unit cube of RGB."""


@dataclass(frozen=True, eq=False)
class SampleWorld:
    """Words, directions and clouds; every array is read-only, so one world serves all threads.

    W words, D dimensions, C colour words, M meanings. `role_words[m]` numbers the words of meaning m in `words`, one
    column a role in the order of `ROLES`, -1 where it has none.
    """

    seed: int
    dimension: int
    words: tuple[str, ...]
    word_weights: Floats = field(repr=False)  # (W,)
    word_directions: Floats = field(repr=False)  # (W, D), each of length 1
    colours: dict[str, tuple[int, int, int]] = field(repr=False)
    image_centre: Floats = field(repr=False)  # (D,), length 1
    text_centre: Floats = field(repr=False)  # (D,), length 1
    role_words: Integers = field(repr=False)  # (M, 5)
    meaning_odds: NDArray[np.float64] = field(repr=False)  # (M,), sums to 1
    meaning_directions: Floats = field(repr=False)  # (M, D), each of length 1
    noise_scale: Floats = field(repr=False)  # (D,): standard normals times this have expected length 1
    signs: Floats = field(repr=False)  # (D,), 1 or -1: `hartley(noise) * signs` is the rotation

    def colour_scorer(self) -> tuple[Floats, Floats]:
        """A matrix (3, C) and a bias (C,): `softmax(rgb / 255 @ matrix + bias)` weighs the colour words, `words[:C]`.

        That is the softmax of -`COLOUR_SHARPNESS` times the squared distances to the colours, less what all share.
        """
        colours = np.array(list(self.colours.values()), np.float32) / np.float32(255)
        bias = np.einsum("cx,cx->c", colours, colours) * np.float32(-COLOUR_SHARPNESS)
        return np.float32(2 * COLOUR_SHARPNESS) * colours.T, bias

    def embed_text(self, words: Iterable[str]) -> Floats:
        """The vector that this world's text encoder gives for words: (D,) float32 of length 1.

        `unit(√0.55 · text_centre + √0.45 · unit(Σ word_weights · word_directions))`; without words the centre. The
        caller leaves out the other words of a caption: raises `ValueError` for a word outside the vocabulary.
        """
        wanted = list(words)
        unknown = sorted(set(wanted) - set(self.words))
        if unknown:
            raise ValueError(f"the sample world has no words {unknown}, only {' '.join(self.words)}")
        numbers = [self.words.index(word) for word in wanted]
        return _in_cloud(self.text_centre, self.word_weights[numbers] @ self.word_directions[numbers])

    def embed_colour(self, rgb: Iterable[float]) -> Floats:
        """The vector that this world's image encoder gives for a picture of this mean colour: (D,) float32, length 1.

        `rgb` are three numbers from 0 to 255, else `ValueError`. The formula is that of `embed_text` with the image's
        centre and with the colour words weighted by `colour_scorer`.
        """
        colour = np.array(list(rgb), np.float32)
        if colour.shape != (3,):
            raise ValueError(f"a colour is red, green and blue, found {colour.size} numbers")
        matrix, bias = self.colour_scorer()
        scores = colour / np.float32(255) @ matrix + bias
        return _in_cloud(self.image_centre, np.exp(scores - scores.max()) @ self.word_directions[: len(scores)])

    def draw_meanings(self, rng: np.random.Generator, rows: int) -> Integers:
        """Random meanings for `rows` samples, (rows,) int64; frequent meanings come often."""
        return rng.choice(len(self.meaning_odds), size=rows, p=self.meaning_odds)

    def draw_pairs(self, rng: np.random.Generator, meanings: Integers) -> tuple[Floats, Floats]:
        """An image and a text vector for each of the meanings: two (rows, D) float32, each row of length 1.

        LAION kept only pairs whose cosine was at least 0.3. To imitate that, the text's noise or its negative is used,
        whichever agrees with the image's noise. 24 % of the pairs are still below 0.3.
        """
        common, image, text = rng.standard_normal((3, len(meanings), self.dimension), np.float32)
        disagree = np.einsum("nd,nd,d->n", image, text, np.square(self.noise_scale)) < 0
        np.negative(text, out=text, where=disagree[:, None])
        common *= np.float32(np.sqrt(1 - WORD_SHARE))
        directions = np.float32(np.sqrt(WORD_SHARE)) * self.meaning_directions[meanings]
        self._into_cloud(image, IMAGE_NOISE, common, directions, self.image_centre)
        self._into_cloud(text, TEXT_NOISE, common, directions, self.text_centre)
        return image, text

    def _into_cloud(self, noise: Floats, length: float, common: Floats, directions: Floats, centre: Floats) -> None:
        """Turns a view's own noise into its vectors, in place, as `draw_pairs` describes."""
        noise *= np.float32(length)
        noise += common
        noise *= self.noise_scale
        _hartley(noise)
        noise *= self.signs
        noise += directions
        noise *= np.float32(np.sqrt((1 - CENTRE_SHARE) / (1 + length**2)))
        noise += np.float32(np.sqrt(CENTRE_SHARE)) * centre
        normalise(noise)

    def draw_phrases(self, rng: np.random.Generator, meanings: Integers) -> pa.StringArray:
        """The words of each meaning, in one of the orders and cases that captions have."""
        order = rng.integers(len(TEMPLATES), size=len(meanings))
        case = rng.choice(len(CASES), size=len(meanings), p=list(CASES.values()))
        roles = np.array([[list(ROLES).index(role) for role in template] for template in TEMPLATES])
        columns = []
        for place in range(len(ROLES)):
            cell = ((order * len(CASES) + case) * len(ROLES) + place) * (len(self.words) + 1)
            columns.append(_phrase_cells().take(cell + 1 + self.role_words[meanings, roles[order, place]]))
        return join_texts(*columns)


def join_texts(*columns: pa.StringArray) -> pa.StringArray:
    """The texts of each row, concatenated."""
    return pc.binary_join_element_wise(*columns, "")


def normalise(vectors: Floats) -> None:
    """Scales each row of (n, D) vectors to length 1, in place."""
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]


def _hartley(vectors: NDArray[np.floating[Any]]) -> None:
    """Transforms each row of (n, D) vectors by the discrete Hartley transform (Bracewell 1983), in place.

    The transform is orthogonal. Its FFT costs half of a product with a (D, D) matrix: between such products BLAS keeps
    a thread of its own spinning, which took one of two cores from the threads that make the rows.
    """
    dimension = vectors.shape[1]
    half = dimension // 2 + 1
    waves = np.fft.rfft(vectors, norm="ortho")
    vectors[:, :half] = waves.real - waves.imag
    vectors[:, : half - 1 : -1] = (waves.real + waves.imag)[:, 1 : dimension - half + 1]


@cache
def sample_world(seed: int = 0, dimension: int = 512) -> SampleWorld:
    """The world of a seed, always the same. All samples use the default seed, so the encoders fit all of them.

    Raises `DatasetError` for fewer than 313 dimensions: CLIP's dominant dimensions are 92, 133 and 312.
    """
    if dimension < 313:
        raise DatasetError("sample world", found=f"{dimension} dimensions", expected="313 or more")
    rng = np.random.default_rng(seed)
    order, signs = rng.permutation(dimension), rng.choice([-1.0, 1.0], dimension)
    weights = np.array([ROLE_WEIGHT[role] for role, members in ROLES.items() for _ in members])
    directions = rng.standard_normal((len(WORDS), dimension)) * _spectrum(dimension, WORD_DECAY)[order]
    _hartley(directions)
    directions = _unit(directions * signs)
    image_centre, text_centre = _centres(rng, dimension)
    role_words = _role_words(rng)
    # Words that a caption lacks have weight 0, so -1 may point at any word.
    named = np.where(role_words >= 0, weights[role_words], 0)
    odds = (np.arange(MEANINGS) + 20.0) ** -1.1
    world = SampleWorld(
        seed=seed,
        dimension=dimension,
        words=WORDS,
        word_weights=weights.astype(np.float32),
        word_directions=directions.astype(np.float32),
        colours=dict(COLOURS),
        image_centre=image_centre.astype(np.float32),
        text_centre=text_centre.astype(np.float32),
        role_words=role_words,
        meaning_odds=odds / odds.sum(),
        meaning_directions=_unit(np.einsum("mr,mrd->md", named, directions[role_words])).astype(np.float32),
        noise_scale=_spectrum(dimension, NOISE_DECAY)[order].astype(np.float32),
        signs=signs.astype(np.float32),
    )
    for value in vars(world).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return world


@cache
def _phrase_cells() -> pa.StringArray:
    """The text in a caption for each order, case and place: first nothing, then words with separators."""
    changed = [(text, change) for template in TEMPLATES for change in CASES for text in template.values()]
    cells = [cell for text, change in changed for cell in ("", *(change(text.format(word)) for word in WORDS))]
    return pa.array(cells, pa.string())


def _role_words(rng: np.random.Generator) -> Integers:
    """The words of every meaning, (M, 5). Subjects alternate, so that the frequent meanings have all subjects."""
    columns, first = [], 0
    for role, members in ROLES.items():
        turns = np.arange(MEANINGS) % len(members)
        numbers = turns if role == "subject" else rng.permutation(turns)
        columns.append(np.where(rng.random(MEANINGS) < ROLE_SHARE[role], first + numbers, -1))
        first += len(members)
    return np.stack(columns, axis=1).astype(np.int64)


def _centres(rng: np.random.Generator, dimension: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centres of the image cloud and the text cloud: dominant dimensions as measured, others small, random."""
    image, text = np.zeros(dimension), np.zeros(dimension)
    image[92], text[[133, 312]] = -0.88, 0.53
    rest = np.setdiff1d(np.arange(dimension), [92, 133, 312])
    for centre, small in zip((image, text), np.linalg.qr(rng.standard_normal((len(rest), 2)))[0].T, strict=True):
        centre[rest] = np.sqrt(1 - centre @ centre) * small
    both = CENTRE_PULL * (image + text)
    return _unit(image + both), _unit(text + both)


def _spectrum(dimension: int, decay: float) -> NDArray[np.float64]:
    """Amplitudes of the principal directions, (D,); their squares sum to 1."""
    return _unit(np.arange(1.0, dimension + 1) ** -decay)


def _unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The vectors along the last axis, scaled to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float64)


def _in_cloud(centre: Floats, direction: Floats) -> Floats:
    """The vector of length 1 in the cloud with this centre that differs from the centre by the direction only."""
    apart = np.sqrt(1 - CENTRE_SHARE) * direction / max(float(np.linalg.norm(direction)), 1e-12)
    return _unit(np.sqrt(CENTRE_SHARE) * centre + apart).astype(np.float32)

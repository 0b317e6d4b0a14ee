"""Whether the encoders are those that made the table's vectors. This module measures and judges; commands show it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from laion_assets.clip.encoder import ClipEncoder
from laion_assets.clip.model import SAMPLE, clip_model
from laion_assets.clip.ready import open_encoder
from laion_assets.errors import ClipError
from laion_assets.settings import Settings
from laion_assets.table.captions import stored_captions
from laion_assets.table.connect import connect

TEXTS = (
    "a photo of a cat",
    "a dog and a cat",
    "lego friends",
    "a red leather sofa in a living room",
    "sunset over the sea",
    "Zürich, 東京, Москва",
    "fish &amp; chips",
    "50% off — today only!",
    "a watercolour portrait of an old man with a hat",
    "word " * 200,
)
"""Short and long texts, plain and unusual ones; the last one is cut at 77 tokens."""

SAME_MODEL = 0.98
"""From this median cosine between a caption's vector and the stored vector on, the model is taken for the dataset's.
The same weights give 0.999 (the dataset stores float16, and rounds differently); those of another CLIP give about 0."""

SAMPLE_MARGIN = 0.1
"""The sample's stored vectors have noise that its encoder lacks. So for the sample a caption must, in the median, be
nearer by this much to its own vector than to that of another row."""


@dataclass(frozen=True)
class ClipCheck:
    """What was measured; cosines are between encoded captions and vectors of the table.

    `own_median` and `own_low` (the 5th percentile) are cosines with the row's own vector, `stranger_median` with that
    of another row. `texts_per_second` is the rate over the captions, without the time to load the model.
    """

    model: str
    dimension: int
    texts: int
    captions: int
    own_median: float
    own_low: float
    stranger_median: float
    expected: str
    passed: bool
    load_seconds: float
    texts_per_second: float


def check_clip(settings: Settings, captions: int = 200) -> ClipCheck:
    """Encodes ten texts and `captions` captions of the table, and compares the captions' vectors with the stored ones.

    Raises `ClipError` when the model is missing, has another dimension or is not a sound encoder, or when the dataset
    has no text vectors to compare with; `TableError` when there is no table.
    """
    if not settings.dataset.has_text:
        raise ClipError(f"dataset {settings.dataset.name}", found="no text embeddings", expected="some to compare with")
    encoder = open_encoder(settings)
    started = time.perf_counter()
    encoder.load("text")
    load_seconds = time.perf_counter() - started
    _require_distinct(encoder)
    with connect(settings) as db:
        stored = stored_captions(db, captions)
    if len(stored.ids) < 2:
        raise ClipError("clip check", found=f"{len(stored.ids)} rows with a caption", expected="2 or more")
    started = time.perf_counter()
    encoded = encoder.encode_texts(stored.captions)
    seconds = time.perf_counter() - started
    vectors = stored.vectors / np.linalg.norm(stored.vectors, axis=1, keepdims=True)
    own = np.einsum("nd,nd->n", encoded, vectors)
    stranger = np.einsum("nd,nd->n", encoded, np.roll(vectors, 1, axis=0))
    own_median, stranger_median = float(np.median(own)), float(np.median(stranger))
    passed, expected = _judge(settings, own_median, stranger_median)
    return ClipCheck(
        model=clip_model(settings).name,
        dimension=encoder.dimension,
        texts=len(TEXTS),
        captions=len(stored.ids),
        own_median=own_median,
        own_low=float(np.quantile(own, 0.05)),
        stranger_median=stranger_median,
        expected=expected,
        passed=passed,
        load_seconds=load_seconds,
        texts_per_second=len(stored.ids) / seconds,
    )


def _require_distinct(encoder: ClipEncoder) -> None:
    """Raises `ClipError` if different texts have the same vector, or if a text's vector depends on the other texts."""
    together = encoder.encode_texts(TEXTS)
    alone = np.stack([encoder.encode_text(text) for text in TEXTS])
    if not np.allclose(together, alone, atol=1e-3):
        raise ClipError(
            f"CLIP model in {encoder.folder}",
            found=f"vectors that differ by {float(np.abs(together - alone).max()):.3f} with the texts beside them",
            expected="a text encoder that uses its attention_mask",
        )
    if len(np.unique(together.round(4), axis=0)) < 2:
        raise ClipError(f"CLIP model in {encoder.folder}", found="one vector for all texts", expected="a text encoder")


def _judge(settings: Settings, own: float, stranger: float) -> tuple[bool, str]:
    if clip_model(settings).name == SAMPLE:
        return own >= stranger + SAMPLE_MARGIN, f"{SAMPLE_MARGIN} above the stranger's, as the sample has noise"
    return own >= SAME_MODEL, f"{SAME_MODEL} or more: the model that made the dataset"

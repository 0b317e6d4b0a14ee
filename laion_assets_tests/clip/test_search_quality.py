"""Tests that in the sample world words and colours find what they name: by index, exactly, and with SQL functions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from laion_assets.api import answer
from laion_assets.query import Answer, Query
from laion_assets.sample.world import COLOURS, WORDS
from laion_assets.searching.statement import SearchRequest
from laion_assets.settings import Settings
from laion_assets.table.vectors import By


def precision(found: Answer, word: str) -> float:
    """Returns the share of the ten captions that have the word."""
    captions = [neighbour.caption.lower() for neighbour in found.result.neighbours]
    assert len(captions) == 10
    return sum(word in re.findall(r"[^\W_]+", caption) for caption in captions) / 10


@pytest.mark.parametrize("by", ["image", "text"])
def test_every_word_and_every_colour_finds_its_captions(settings: Settings, by: By) -> None:
    assert settings.image_root
    words = [*WORDS, *COLOURS]
    queries = [Query(text=word) for word in WORDS]
    queries += [Query(image=settings.image_root / f"{colour}.png") for colour in COLOURS]
    exact = answer(queries, SearchRequest(by=by, exact=True), settings)
    indexed = answer(queries, SearchRequest(by=by), settings)
    for found in (exact, indexed):
        low = {word: precision(one, word) for word, one in zip(words, found, strict=True) if precision(one, word) < 0.9}
        assert low == {}
    shared = [
        len({n.id for n in left.result.neighbours} & {n.id for n in right.result.neighbours}) / 10
        for left, right in zip(exact, indexed, strict=True)
    ]
    assert np.mean(shared) >= 0.95

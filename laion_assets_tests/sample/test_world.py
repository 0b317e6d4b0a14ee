"""Tests of the sample's world, without files: CLIP's geometry, words that can be found, and encoders that fit."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from laion_assets.errors import DatasetError
from laion_assets.sample.world import COLOURS, ROLES, Floats, Integers, SampleWorld, sample_world

REAL = Path(__file__).parents[2].parent / "shared" / "real"
ROWS = 20_000

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"genuine vectors are not at {REAL}")


class Drawn(NamedTuple):
    world: SampleWorld
    meanings: Integers
    images: Floats
    texts: Floats


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    world = sample_world()
    rng = np.random.default_rng(7)
    meanings = world.draw_meanings(rng, ROWS)
    return Drawn(world, meanings, *world.draw_pairs(rng, meanings))


@pytest.fixture(scope="module")
def genuine() -> tuple[Floats, Floats]:
    """Nine image and text vectors that clip-retrieval wrote with ViT-B/32."""
    folder = REAL / "clip_retrieval_triple"
    images, texts = (np.load(folder / name) for name in ("img_emb_0.npy", "text_emb_0.npy"))
    return images.astype(np.float32), texts.astype(np.float32)


def mean_cosine(left: Floats, right: Floats) -> float:
    """Returns the mean cosine of each left row and its right row."""
    return float(np.einsum("nd,nd->n", left, right).mean())


def strangers(vectors: Floats) -> Floats:
    return np.roll(vectors, 1, axis=0)


def found(drawn: Drawn, query: Floats, vectors: Floats, word: str) -> float:
    """Returns precision@10: the share of the ten nearest rows whose meaning has the word."""
    nearest = np.argpartition(-(vectors @ query), 10)[:10]
    number = drawn.world.words.index(word)
    return float((drawn.world.role_words[drawn.meanings[nearest]] == number).any(axis=1).mean())


def test_words_are_lowercase_single_tokens_each_once() -> None:
    words = sample_world().words
    assert 60 <= len(words) <= 120
    assert len(set(words)) == len(words)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert {"lego", "dog", "cat", "bicycle", "castle", "guitar"} <= set(words)


def test_colour_words_come_first_and_have_their_rgb() -> None:
    world = sample_world()
    assert tuple(world.colours) == world.words[: len(world.colours)] == tuple(COLOURS)
    assert all(0 <= level <= 255 for rgb in world.colours.values() for level in rgb)
    assert max(world.colours["red"]) == world.colours["red"][0]


def test_a_world_is_the_same_each_time_and_another_for_another_seed() -> None:
    world, again, other = sample_world(0), sample_world.__wrapped__(0), sample_world(1)
    for name, value in vars(world).items():
        assert np.array_equal(value, vars(again)[name])
    assert not np.allclose(world.word_directions, other.word_directions)


def test_a_world_cannot_be_changed() -> None:
    arrays = {name: value for name, value in vars(sample_world()).items() if isinstance(value, np.ndarray)}
    assert arrays
    assert {name: value.flags.writeable for name, value in arrays.items()} == dict.fromkeys(arrays, False)


def test_directions_and_centres_are_float32_of_length_one() -> None:
    world = sample_world()
    assert world.word_directions.shape == (len(world.words), 512)
    for vectors in (world.word_directions, world.meaning_directions, world.image_centre, world.text_centre):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-6)


def test_words_have_directions_of_their_own() -> None:
    directions = sample_world().word_directions
    cosines = directions @ directions.T - np.eye(len(directions))
    assert np.abs(cosines).max() < 0.35


def test_other_dimensions_work_down_to_clips_dominant_ones() -> None:
    world = sample_world(dimension=768)
    images, texts = world.draw_pairs(np.random.default_rng(0), np.arange(5))
    assert images.shape == texts.shape == (5, 768)
    with pytest.raises(DatasetError, match="found 312 dimensions, expected 313 or more"):
        sample_world(dimension=312)


def test_every_word_stands_in_at_least_half_a_percent_of_the_rows(drawn: Drawn) -> None:
    present = drawn.world.role_words[drawn.meanings]
    counts = np.bincount(present[present >= 0], minlength=len(drawn.world.words))
    assert counts.min() >= ROWS // 200


def test_frequent_meanings_are_far_more_frequent_than_most(drawn: Drawn) -> None:
    sizes = np.sort(np.bincount(drawn.meanings, minlength=3_000))[::-1]
    assert sizes[0] > 20 * np.median(sizes)
    assert (sizes > 0).sum() > 2_000


def test_vectors_have_length_one(drawn: Drawn) -> None:
    for vectors in (drawn.images, drawn.texts):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_cosines_are_those_of_clip(drawn: Drawn) -> None:
    images, texts = drawn.images, drawn.texts
    assert 0.30 <= mean_cosine(images, texts) <= 0.36
    assert 0.15 <= mean_cosine(images, strangers(texts)) <= 0.20
    assert 0.50 <= mean_cosine(images, strangers(images)) <= 0.60
    assert 0.50 <= mean_cosine(texts, strangers(texts)) <= 0.60


def test_most_pairs_reach_the_cosine_of_laions_filter(drawn: Drawn) -> None:
    pairs = np.einsum("nd,nd->n", drawn.images, drawn.texts)
    assert 0.7 <= np.mean(pairs >= 0.3) < 1
    assert pairs.std() < 0.06


@needs_real
def test_cosines_agree_with_genuine_vectors(drawn: Drawn, genuine: tuple[Floats, Floats]) -> None:
    images, texts = genuine
    assert mean_cosine(drawn.images, drawn.texts) == pytest.approx(mean_cosine(images, texts), abs=0.03)
    stranger = np.mean([mean_cosine(images, np.roll(texts, shift, axis=0)) for shift in range(1, 9)])
    assert mean_cosine(drawn.images, strangers(drawn.texts)) == pytest.approx(stranger, abs=0.03)
    text_text = np.mean([mean_cosine(texts, np.roll(texts, shift, axis=0)) for shift in range(1, 9)])
    assert mean_cosine(drawn.texts, strangers(drawn.texts)) == pytest.approx(text_text, abs=0.03)


@needs_real
def test_dominant_dimensions_agree_with_genuine_vectors(drawn: Drawn, genuine: tuple[Floats, Floats]) -> None:
    images, texts = genuine
    assert np.abs(images.mean(axis=0)).argmax() == np.abs(drawn.images.mean(axis=0)).argmax() == 92
    assert drawn.images[:, 92].mean() == pytest.approx(images[:, 92].mean(), abs=0.03)
    for dimension in (133, 312):
        assert drawn.texts[:, dimension].mean() == pytest.approx(texts[:, dimension].mean(), abs=0.03)


def test_dominant_dimensions_hold_in_every_image_and_most_texts(drawn: Drawn) -> None:
    low, high = np.quantile(drawn.images[:, 92], (0.25, 0.75))
    assert -0.69 < low < high < -0.60
    assert drawn.images[:, 92].max() < -0.4
    assert np.abs(drawn.texts[:, [133, 312]].mean(axis=0) - 0.39).max() < 0.02
    others = np.delete(np.abs(drawn.texts.mean(axis=0)), [92, 133, 312])
    assert others.max() < 0.15


def test_the_clouds_are_apart(drawn: Drawn) -> None:
    image_mean, text_mean = drawn.images.mean(axis=0), drawn.texts.mean(axis=0)
    assert 0.7 <= np.linalg.norm(image_mean) <= 0.9
    assert 0.8 <= np.linalg.norm(image_mean - text_mean) <= 1.05
    # A text is further from its nearest image than almost any two images from each other: hard for a graph index.
    nearest = (drawn.texts[:200] @ drawn.images.T).max(axis=1)
    assert np.quantile(nearest, 0.9) < mean_cosine(drawn.images, strangers(drawn.images))


def test_the_spectrum_falls_as_the_square_root_of_the_rank(drawn: Drawn) -> None:
    rank = np.arange(1, 513)
    for vectors in (drawn.images, drawn.texts):
        values = np.linalg.eigvalsh(np.cov(vectors, rowvar=False))[::-1]
        amplitude = np.sqrt(values)
        slope = np.polyfit(np.log(rank[10:200]), np.log(amplitude[10:200]), 1)[0]
        assert -0.6 <= slope <= -0.4
        assert 25 <= values.sum() ** 2 / np.square(values).sum() <= 80, "participation ratio: effective dimensions"


def test_principal_directions_are_no_axes(drawn: Drawn) -> None:
    spread = drawn.images.std(axis=0)
    assert spread.max() < 2 * spread.min()


@pytest.mark.parametrize("view", ["images", "texts"])
def test_every_word_finds_its_rows(drawn: Drawn, view: str) -> None:
    vectors: Floats = getattr(drawn, view)
    precision = {word: found(drawn, drawn.world.embed_text([word]), vectors, word) for word in drawn.world.words}
    assert min(precision.values()) >= 0.9, precision


@pytest.mark.parametrize("view", ["images", "texts"])
def test_every_colour_finds_rows_of_its_word(drawn: Drawn, view: str) -> None:
    vectors: Floats = getattr(drawn, view)
    world = drawn.world
    precision = {word: found(drawn, world.embed_colour(rgb), vectors, word) for word, rgb in world.colours.items()}
    assert min(precision.values()) >= 0.9, precision


def test_two_words_find_rows_that_have_both(drawn: Drawn) -> None:
    world = drawn.world
    present = world.role_words[drawn.meanings]
    pairs, counts = np.unique(present[present[:, 0] >= 0][:, [0, 2]], axis=0, return_counts=True)
    precision = []
    for colour, subject in pairs[counts >= 100]:
        nearest = np.argpartition(-(drawn.images @ world.embed_text([world.words[colour], world.words[subject]])), 10)
        rows = present[nearest[:10]]
        precision.append(np.mean((rows[:, 0] == colour) & (rows[:, 2] == subject)))
    assert len(precision) > 10
    assert np.mean(precision) >= 0.9


def test_a_text_query_is_the_centre_and_the_weighed_words() -> None:
    world = sample_world()
    numbers = [world.words.index(word) for word in ("vintage", "red", "guitar")]
    words = (world.word_weights[numbers, None] * world.word_directions[numbers]).sum(axis=0)
    vector = np.sqrt(0.55) * world.text_centre + np.sqrt(0.45) * words / np.linalg.norm(words)
    expected = vector / np.linalg.norm(vector)
    np.testing.assert_allclose(world.embed_text(["vintage", "red", "guitar"]), expected, atol=1e-6)
    np.testing.assert_allclose(world.embed_text([]), world.text_centre, atol=1e-6)


def test_words_outside_the_vocabulary_are_named() -> None:
    with pytest.raises(ValueError, match=r"no words \['unicorn', 'zebra'\]"):
        sample_world().embed_text(["zebra", "dog", "unicorn"])


def test_the_colour_scorer_is_a_softmax_of_squared_distances() -> None:
    world = sample_world()
    matrix, bias = world.colour_scorer()
    rgb = np.array([200, 60, 70]) / 255
    prototypes = np.array(list(world.colours.values())) / 255
    distances = np.exp(-30 * np.square(prototypes - rgb).sum(axis=1))
    scores = np.exp(rgb @ matrix + bias)
    np.testing.assert_allclose(scores / scores.sum(), distances / distances.sum(), atol=1e-5)
    for column, colour in enumerate(world.colours.values()):
        assert (np.array(colour) / 255 @ matrix + bias).argmax() == column


def test_a_colour_has_three_levels() -> None:
    with pytest.raises(ValueError, match="found 4 numbers"):
        sample_world().embed_colour((1, 2, 3, 4))


def test_phrases_have_the_words_of_their_meaning_and_no_other(drawn: Drawn) -> None:
    world = drawn.world
    meanings = drawn.meanings[:2_000]
    phrases = [str(phrase) for phrase in world.draw_phrases(np.random.default_rng(0), meanings).to_pylist()]
    for meaning, phrase in zip(meanings, phrases, strict=True):
        tokens = {token.strip(",()-") for token in phrase.lower().split()}
        assert tokens & set(world.words) == {world.words[word] for word in world.role_words[meaning] if word >= 0}
        assert phrase == phrase.strip()
    assert any(phrase.isupper() for phrase in phrases)
    assert any(phrase.islower() for phrase in phrases)
    assert any(phrase.istitle() for phrase in phrases)
    assert set(ROLES) == {"colour", "material", "subject", "setting", "style"}

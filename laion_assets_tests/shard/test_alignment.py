"""Tests of alignment: a shard whose images, texts and metadata belong together passes, a mixed-up one fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from laion_assets.shard.alignment import Alignment, AlignmentCounter
from laion_assets_tests.conftest import Shard, class_shard


def alignment(shard: Shard, block_rows: int = 10_000) -> Alignment:
    """Returns the alignment of a whole shard, counted block by block."""
    counter = AlignmentCounter()
    captions = shard.table["caption"].combine_chunks().fill_null("")
    similarity = np.array(shard.table["similarity"].to_pylist(), np.float64).astype(np.float32)
    for first in range(0, shard.rows, block_rows):
        rows = slice(first, first + block_rows)
        images, texts = shard.images[rows].astype(np.float32), shard.texts[rows].astype(np.float32)
        counter.add(images, texts, captions[rows], similarity[rows])
    return counter.alignment


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_right_shard_is_aligned(number: int, sample_shards: list[Shard]) -> None:
    counted = alignment(sample_shards[number])
    assert counted.fault() is None
    assert counted.pairs_mean > counted.strangers_mean + 0.05
    assert counted.correlation is not None
    assert counted.correlation > 0.5


def test_shuffled_texts_are_no_pairs_of_their_images(sample_shards: list[Shard]) -> None:
    shard = sample_shards[1]
    shuffled = np.random.default_rng(1).permutation(shard.texts)
    assert "an image and its text have cosine" in (alignment(replace(shard, texts=shuffled)).fault() or "")


def test_texts_that_are_the_images_again_are_found(sample_shards: list[Shard]) -> None:
    shard = sample_shards[1]
    assert "are the image vectors again" in (alignment(replace(shard, texts=shard.images)).fault() or "")
    assert "are the image vectors again" in (alignment(replace(shard, images=shard.texts)).fault() or "")


@pytest.mark.parametrize("shift", [1, -1, 300])
def test_texts_that_slipped_by_some_rows_are_found(shift: int, sample_shards: list[Shard]) -> None:
    shard = sample_shards[0]
    assert alignment(replace(shard, texts=np.roll(shard.texts, shift, axis=0))).fault() is not None


def test_the_metadata_of_another_shard_is_found_by_its_similarity(sample_shards: list[Shard]) -> None:
    shard, other = sample_shards[1], sample_shards[0].head(620)
    fault = alignment(replace(shard, table=other.table)).fault()
    assert fault is not None
    assert "similarity correlates by" in fault


def test_metadata_that_slipped_by_a_row_is_found(sample_shards: list[Shard]) -> None:
    shard = sample_shards[0]
    slipped = shard.table.take([*range(1, 1_000), 0])
    assert "similarity correlates" in (alignment(replace(shard, table=slipped)).fault() or "")


def test_the_halves_of_two_shards_are_not_one(sample_shards: list[Shard]) -> None:
    shard, other = sample_shards[0], sample_shards[1]
    mixed = np.concatenate([shard.texts[:400], other.texts[:600]])
    found = alignment(replace(shard, texts=mixed))
    assert found.pairs_mean < alignment(shard).pairs_mean - 0.02


@pytest.mark.parametrize("block_rows", [2, 7, 100, 333])
def test_blocks_do_not_change_what_is_found(block_rows: int, sample_shards: list[Shard]) -> None:
    whole, parts = alignment(sample_shards[1]), alignment(sample_shards[1], block_rows)
    assert parts.rows == 620
    assert parts.pairs_mean == pytest.approx(whole.pairs_mean, abs=1e-6)
    assert parts.strangers_mean == pytest.approx(whole.strangers_mean, abs=0.02)
    assert parts.correlation == pytest.approx(whole.correlation, abs=1e-6)


def test_the_correlation_is_pearsons(sample_shards: list[Shard]) -> None:
    shard = sample_shards[1]
    similarity = np.array(shard.table["similarity"].to_pylist(), np.float64)
    dots = np.einsum("ij,ij->i", shard.images.astype(np.float32), shard.texts.astype(np.float32))
    scored = np.abs(similarity) <= 1
    expected = np.corrcoef(similarity[scored], dots[scored])[0, 1]
    assert alignment(shard).correlation == pytest.approx(expected, abs=1e-4)


def test_similarities_of_shifted_columns_are_not_counted(sample_shards: list[Shard]) -> None:
    shard = sample_shards[1]
    similarity = shard.table["similarity"].to_pylist()
    similarity[::9] = [6016.0] * len(similarity[::9])
    similarity[1::9] = [None] * len(similarity[1::9])
    spoilt = shard.with_column("similarity", pa.array(similarity, pa.float64()))
    found = alignment(spoilt)
    assert found.fault() is None
    assert found.correlation is not None
    assert found.correlation > 0.5


def test_a_shard_without_similarity_is_judged_by_its_vectors_alone(sample_shards: list[Shard]) -> None:
    shard = sample_shards[1].with_column("similarity", pa.nulls(620, pa.float64()))
    assert alignment(shard).correlation is None
    assert alignment(shard).fault() is None
    shuffled = np.random.default_rng(1).permutation(shard.texts)
    assert alignment(replace(shard, texts=shuffled)).fault() is not None


def test_too_few_rows_are_not_judged(sample_shards: list[Shard]) -> None:
    shard = sample_shards[0].head(199)
    mixed = replace(shard, texts=np.roll(shard.texts, 5, axis=0))
    assert alignment(mixed).fault() is None
    assert Alignment().fault() is None


# Shards in which a random other row (a "stranger") may have the same caption.


@pytest.mark.parametrize(
    "names",
    [
        [row // 50 for row in range(1_000)],
        [row // 5_000 for row in range(20_000)],
        [row % 2 for row in range(20_000)],
        [0] * 15_000 + [1] * 5_000,
        [0] * 20_000,
    ],
    ids=["20 classes in order", "4 classes in order", "2 classes by turns", "1 class, then another", "1 class"],
)
@pytest.mark.parametrize("block_rows", [1_024, 8_192])
def test_a_shard_in_the_order_of_its_classes_is_aligned(names: list[int], block_rows: int) -> None:
    """Neighbouring rows have the same caption there, so a stranger must be a distant row with another caption."""
    found = alignment(class_shard(names), block_rows)
    assert found.fault() is None
    assert (found.not_judged() is None) == (len(set(names)) > 1)


@pytest.mark.parametrize("in_order", [True, False])
def test_classes_that_belong_to_other_images_are_found(in_order: bool) -> None:
    shard = class_shard([row // 1_000 for row in range(20_000)])
    order = np.arange(20_000) if in_order else np.random.default_rng(4).permutation(20_000)
    shuffled = np.random.default_rng(5).permutation(20_000)
    mixed = Shard(shard.images[order], shard.texts[shuffled], shard.table.take(pa.array(shuffled)))
    fault = alignment(mixed, 8_192).fault()
    assert fault is not None
    assert "with another caption" in fault
    assert 'alignment = "off"' in fault


def test_without_captions_the_text_vectors_say_who_is_a_stranger(sample_shards: list[Shard]) -> None:
    shard = sample_shards[0].with_column("caption", pa.array([""] * 1_000))
    assert alignment(shard).fault() is None
    assert alignment(shard).not_judged() is None
    shuffled = np.random.default_rng(1).permutation(shard.texts)
    assert alignment(replace(shard, texts=shuffled)).fault() is not None
    assert "hardly any rows have different captions" in (alignment(class_shard([0] * 500)).not_judged() or "")

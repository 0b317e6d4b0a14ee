"""Tests that encoders return the sample world's vectors, in any batch, and refuse models that do not fit the table."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laion_assets.clip import encoder as encoder_module
from laion_assets.clip.encoder import ClipEncoder
from laion_assets.clip.sample_model import write_sample_model
from laion_assets.errors import ClipError
from laion_assets.sample.world import COLOURS, sample_world


def test_texts_have_the_vectors_of_the_world(encoder: ClipEncoder) -> None:
    world = sample_world()
    vectors = encoder.encode_texts(["A red DOG", "leather,shoes (Vintage)", "nothing known", ""])
    expected = [["red", "dog"], ["leather", "shoes", "vintage"], [], []]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [world.embed_text(words) for words in expected], atol=1e-6)


def test_pictures_have_the_vectors_of_the_world(encoder: ClipEncoder) -> None:
    world = sample_world()
    pictures = [Image.new("RGB", (70, 40), colour) for colour in COLOURS.values()]
    vectors = encoder.encode_images(pictures)
    np.testing.assert_allclose(vectors, [world.embed_colour(colour) for colour in COLOURS.values()], atol=1e-5)


def test_batches_do_not_change_vectors(encoder: ClipEncoder) -> None:
    texts = [f"{word} {'very ' * number}dog" for number, word in enumerate(sample_world().words)]
    np.testing.assert_allclose(encoder.encode_texts(texts, batch_size=7), encoder.encode_texts(texts), atol=1e-6)


def test_vectors_have_length_1(encoder: ClipEncoder) -> None:
    vectors = encoder.encode_texts(["a dog", "", "word " * 20_000, "\x00", "東京", "\ud800"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_text_is_cut_at_77_tokens(encoder: ClipEncoder) -> None:
    filler = "very " * 74
    assert np.allclose(encoder.encode_text(filler + "dog cat"), encoder.encode_text("dog"), atol=1e-6)
    assert not np.allclose(encoder.encode_text("dog cat"), encoder.encode_text("dog"), atol=1e-3)


def test_nothing_to_encode_gives_no_rows(encoder: ClipEncoder) -> None:
    assert encoder.encode_texts([]).shape == (0, 512)
    assert encoder.encode_images([]).shape == (0, 512)


def test_large_pictures_are_not_gathered_into_batches(encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "BATCH_PIXELS", 150)
    sizes: list[int] = []
    embed = encoder._vision.embed

    def noted(images: list[Image.Image], batch_size: int) -> Iterable[object]:
        sizes.append(len(images))
        return embed(images, batch_size)

    monkeypatch.setattr(encoder._vision, "embed", noted)
    vectors = encoder.encode_images(Image.new("RGB", (10, 10), colour) for colour in COLOURS.values())
    assert (len(vectors), sizes) == (11, [2, 2, 2, 2, 2, 1])


def test_one_bad_picture_is_an_error_of_its_own(encoder: ClipEncoder, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"none\.png"):
        encoder.encode_images([Image.new("RGB", (9, 9)), tmp_path / "none.png"])


def test_model_of_another_dimension_is_refused(encoder: ClipEncoder) -> None:
    other = ClipEncoder(encoder.folder, 768)
    for kind in ("text", "image"):
        with pytest.raises(ClipError, match="768"):
            other.load(kind)


def test_broken_model_is_refused(encoder: ClipEncoder, tmp_path: Path) -> None:
    shutil.copytree(encoder.folder, tmp_path / "model")
    for half in ("text", "vision"):
        (tmp_path / "model" / half / "model.onnx").write_bytes(b"<!DOCTYPE html>")
    broken = ClipEncoder(tmp_path / "model", 512)
    for kind in ("text", "image"):
        with pytest.raises(ClipError, match="fetch its files again"):
            broken.load(kind)


def test_a_model_of_other_inputs_is_refused_when_it_is_asked(encoder: ClipEncoder, tmp_path: Path) -> None:
    shutil.copytree(encoder.folder, tmp_path / "model")
    text, vision = (tmp_path / "model" / half / "model.onnx" for half in ("text", "vision"))
    swapped = text.read_bytes()
    text.write_bytes(vision.read_bytes())
    vision.write_bytes(swapped)
    odd = ClipEncoder(tmp_path / "model", 512)
    for kind in ("text", "image"):
        with pytest.raises(ClipError, match=r"a model that fails.*half alone"):
            odd.load(kind)


def test_sample_model_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_sample_model(tmp_path / name, sample_world())
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.*"))
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()

"""Benchmark: encoding of texts and images by encoders of ViT-B/32's full size, compared with onnxruntime alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from benchmarks.alone import GrowingReport, parser, reported
from benchmarks.clip_random_weights import DIMENSION, PIXELS, write_random_pair
from benchmarks.report import Section
from laion_assets.clip.encoder import IMAGE_BATCH, ClipEncoder

QUERY = "a red leather sofa in a living room with a cat"
TEXTS = 64
PICTURE_SIZE = (320, 240)
OURS, ALONE = "ours", "onnxruntime"
Work = Callable[[], object]
Item = TypeVar("Item")

ABOUT = """\
Encoders of ViT-B/32's shape with random weights, made when this benchmark runs. *ours* is `ClipEncoder`, from a text or
a decoded picture of {width} × {height} pixels to a unit vector. *onnxruntime* runs the same model on tokens or pixels
that are ready. The difference is our cleaning, tokenizing, resizing and normalising. Both use one session with the
default threads. They take turns, and a ratio compares two runs of the same round. Texts are encoded one at a time and
{texts} at once, pictures {pictures} at once."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks clip_full_size`."""
    options = parser(__doc__, "clip_full_size")
    options.add_argument("--runs", type=int, default=9, help="rounds")
    options.add_argument("--calls", type=int, default=10, help="single texts of each peer in a round")
    given = options.parse_args(arguments)
    width, height = PICTURE_SIZE
    about = ABOUT.format(width=width, height=height, texts=TEXTS, pictures=IMAGE_BATCH)
    with reported("clip_full_size", about, given) as report:
        report.say("making the pair")
        folder = report.scratch / "pair"
        write_random_pair(folder)
        encoder = ClipEncoder(folder, DIMENSION)
        _texts(report, encoder, folder, given)
        _images(report, encoder, given.runs)
    return report.section


def _texts(report: GrowingReport, encoder: ClipEncoder, folder: Path, given: argparse.Namespace) -> None:
    """One text at a time, then many at once."""
    report.figure("load text half", _seconds(lambda: encoder.load("text")), "s")
    session = _session(encoder._text)
    tokenizer = Tokenizer.from_file(str(folder / "text" / "tokenizer.json"))
    for count, repeats in ((1, given.calls), (TEXTS, 1)):
        texts = [QUERY] * count
        encoded = tokenizer.encode_batch(texts)
        inputs = {
            "input_ids": np.array([one.ids for one in encoded], np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
        }
        works = _works(encoder.encode_texts, texts, session, inputs)
        _measure(report, "one text" if count == 1 else f"{count} texts", works, count, repeats, given.runs)


def _images(report: GrowingReport, encoder: ClipEncoder, runs: int) -> None:
    """A batch of pictures at once."""
    report.figure("load image half", _seconds(lambda: encoder.load("image")), "s")
    session = _session(encoder._vision)
    pictures = [Image.effect_noise(PICTURE_SIZE, 90).convert("RGB") for _ in range(IMAGE_BATCH)]
    shape = (IMAGE_BATCH, 3, PIXELS, PIXELS)
    pixels = np.random.default_rng(0).standard_normal(shape, np.float32)
    works = _works(encoder.encode_images, pictures, session, {"pixel_values": pixels})
    _measure(report, f"{IMAGE_BATCH} pictures", works, IMAGE_BATCH, 1, runs)


def _session(half: Any) -> Any:
    """The encoder's own session. A second session would have its own weights and threads, and so different times."""
    return half.model.model


def _works(
    encode: Callable[[list[Item]], object],
    items: list[Item],
    session: Any,
    inputs: dict[str, npt.NDArray[Any]],
) -> dict[str, Work]:
    return {OURS: lambda: encode(items), ALONE: lambda: session.run(None, inputs)}


def _measure(report: GrowingReport, name: str, works: dict[str, Work], items: int, repeats: int, runs: int) -> None:
    """Measures all rounds of both peers, after one uncounted run of each."""
    report.say(name)
    seconds: dict[str, list[float]] = {peer: [] for peer in works}
    for work in works.values():
        work()
    for number in range(runs):
        for peer in list(works)[:: 1 if number % 2 == 0 else -1]:
            seconds[peer].append(_seconds(works[peer], repeats) / items)
    for peer, values in seconds.items():
        report.figure(f"{name}: {peer}", [1e3 * value for value in values], "ms each", form=".2f")
        report.figure(f"{name}: {peer}", [1 / value for value in values], "a second", form=".1f")
    ratios = [ours / alone for ours, alone in zip(seconds[OURS], seconds[ALONE], strict=True)]
    report.figure(f"{name}: our time / onnxruntime's time", ratios)
    report.raw(f"{name}, s each", {"rounds": seconds})


def _seconds(work: Work, repeats: int = 1) -> float:
    """Seconds of one call, on average over some in a row."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


if __name__ == "__main__":
    main()

"""Encodes texts and pictures as unit vectors with CLIP's two encoders, by fastembed. Fetches no model, builds none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from laion_assets.clip.images import ImageSource, load_image
from laion_assets.clip.texts import clean_text
from laion_assets.errors import ClipError

if TYPE_CHECKING:
    from fastembed import ImageEmbedding, TextEmbedding

Float32Rows: TypeAlias = npt.NDArray[np.float32]
Item = TypeVar("Item")
Kind = Literal["text", "image"]
"""The two halves of a model, by what they encode."""

TEXT_CLASS = "Qdrant/clip-ViT-B-32-text"
VISION_CLASS = "Qdrant/clip-ViT-B-32-vision"
"""fastembed's names of CLIP text and vision exports in this layout. With a folder of our own they fetch nothing."""

TEXT_BATCH = 256
IMAGE_BATCH = 16
BATCH_PIXELS = 2**25
"""Pixels of a batch of pictures, 100 MB as RGB. A batch ends there, since sixteen of the largest would take 4 GB."""


class ClipEncoder:
    """One CLIP model. Each half is loaded at first use (0.5 s for ViT-B/32). Two threads must not use it at once.

    `folder` has `text/` and `vision/`. `dimension` is that of the table: a vector of another length is an error.
    `threads` are the threads of one half; None lets onnxruntime choose (a thread for each core).
    """

    def __init__(self, folder: Path, dimension: int, *, threads: int | None = None) -> None:
        self.folder = folder
        self.dimension = dimension
        self._threads = threads

    def encode_texts(self, texts: Iterable[str], batch_size: int = TEXT_BATCH) -> Float32Rows:
        """Vectors of texts, (n, dimension) float32, each of length 1. A text is cut at 77 tokens; none is left out.

        Raises `ClipError` when the model cannot be loaded, or gives vectors of another dimension.
        """
        cleaned = [clean_text(text) for text in texts]
        model = self._text
        blocks = [self._run("text", model.embed(batch, batch_size)) for batch in _batches(cleaned, batch_size)]
        return self._joined(blocks)

    def encode_images(self, images: Iterable[ImageSource], batch_size: int = IMAGE_BATCH) -> Float32Rows:
        """Vectors of pictures, (n, dimension) float32, each of length 1.

        At most `batch_size` decoded pictures are in memory, or fewer when they reach `BATCH_PIXELS`. Raises `ClipError`
        for a picture that cannot be read (`load_image`), and as `encode_texts` does.
        """
        pictures = (load_image(image) for image in images)
        batches = _batches(pictures, batch_size, lambda batch: sum(one.width * one.height for one in batch))
        model = self._vision
        return self._joined([self._run("vision", model.embed(batch, batch_size)) for batch in batches])

    def encode_text(self, text: str) -> npt.NDArray[np.float32]:
        """The vector of one text, (dimension,)."""
        return self.encode_texts([text]).reshape(-1)

    def encode_image(self, image: ImageSource) -> npt.NDArray[np.float32]:
        """The vector of one picture, (dimension,)."""
        return self.encode_images([image]).reshape(-1)

    def load(self, kind: Kind) -> None:
        """Loads one half now, and checks that its vectors have the table's dimension. Raises `ClipError`."""
        if kind == "text":
            self.encode_texts(["a photo"])
        else:
            self.encode_images([Image.new("RGB", (8, 8))])

    @cached_property
    def _text(self) -> TextEmbedding:
        from fastembed import TextEmbedding

        folder = str(self.folder / "text")
        try:
            return TextEmbedding(TEXT_CLASS, specific_model_path=folder, cache_dir=folder, threads=self._threads)
        except Exception as error:  # onnxruntime and tokenizers have no common base for what they raise
            raise _unloadable("text", folder, error) from error

    @cached_property
    def _vision(self) -> ImageEmbedding:
        from fastembed import ImageEmbedding

        folder = str(self.folder / "vision")
        try:
            return ImageEmbedding(VISION_CLASS, specific_model_path=folder, cache_dir=folder, threads=self._threads)
        except Exception as error:
            raise _unloadable("vision", folder, error) from error

    def _run(self, half: str, vectors: Iterable[npt.NDArray[np.generic]]) -> Float32Rows:
        """Runs a half. A model with other inputs, such as both halves in one graph, loads, but fails when used."""
        try:
            rows: Float32Rows = np.array(list(vectors), dtype=np.float32)
        except Exception as error:  # onnxruntime and numpy have no common base for what they raise
            raise ClipError(
                f"CLIP model in {self.folder / half}",
                found=f"a model that fails: {' '.join(str(error).split())[:300]}",
                expected=f"an ONNX export of the {half} half alone, which gives one vector an input",
                advice="name the folder of another export in LAION_CLIP_DIR",
            ) from error
        return self._checked(rows)

    def _checked(self, rows: Float32Rows) -> Float32Rows:
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            raise ClipError(
                f"CLIP model in {self.folder}",
                found=f"vectors of shape {rows.shape[1:]}",
                expected=f"({self.dimension},) as in the table",
                advice="name the folder of the dataset's own model in LAION_CLIP_DIR",
            )
        # The text encoder's vectors have a length of about 10.
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise ClipError(f"CLIP model in {self.folder}", found="a zero or infinite vector", expected="unit vectors")
        rows /= lengths
        return rows

    def _joined(self, blocks: Sequence[Float32Rows]) -> Float32Rows:
        return np.concatenate(blocks) if blocks else np.empty((0, self.dimension), np.float32)


def _batches(
    items: Iterable[Item], size: int, pixels: Callable[[list[Item]], int] = lambda _: 0
) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size or pixels(batch) >= BATCH_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch


def _unloadable(half: str, folder: str, error: Exception) -> ClipError:
    return ClipError(
        f"CLIP {half} encoder in {folder}",
        found=f"{type(error).__name__}: {str(error)[:300]}",
        expected="an ONNX export that fastembed can load",
        advice="fetch its files again, and compare their SHA-256 with the publisher's",
    )

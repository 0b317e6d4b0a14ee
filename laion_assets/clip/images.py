"""Turns pictures of any kind into upright RGB, or refuses them. fastembed resizes them to the model's input."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from laion_assets.errors import ClipError

ImageSource: TypeAlias = "str | Path | bytes | Image.Image"
"""A path, the bytes of a file, or an open picture."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "ICO")
"""The formats that are decoded, those that Pillow loads anyway first. Others include EPS, which starts Ghostscript."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit (1 GB at three bytes of four channels): a larger picture is treated as a decompression bomb."""

MAX_FILE_BYTES = 256 * 2**20

MAX_ASPECT = 8
"""Sides of a picture differ by this factor at most, the rest is cut. CLIP sees only the middle square, and resizing a 1
× 50,000 picture would take as much memory as a decompression bomb."""


def load_image(source: ImageSource) -> Image.Image:
    """The picture as CLIP should see it: upright (EXIF), RGB, with transparent parts white.

    Raises `ClipError` for a file that is missing, not a picture, broken, or larger than `MAX_PIXELS` or
    `MAX_FILE_BYTES`.
    """
    subject = _subject(source)
    if isinstance(source, Image.Image):
        return _decoded(source, subject)
    data = source if isinstance(source, bytes) else read_picture_file(Path(source))
    if not data:
        raise ClipError(subject, found="no bytes", expected="a picture")
    try:
        with warnings.catch_warnings():
            # Pillow warns above its limit and refuses above twice its limit. Neither may be decoded.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _decoded(image, subject)
    except ClipError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(subject, str(error)) from error
    except UnidentifiedImageError as error:
        raise ClipError(subject, found="no picture", expected=f"one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Decoders raise anything on broken files: struct.error, SyntaxError, IndexError …
        raise ClipError(subject, found=f"a broken picture ({error})", expected="a whole one") from error


def read_picture_file(path: Path) -> bytes:
    """The bytes of a regular file. Raises `ClipError`, also for folders, pipes and files over `MAX_FILE_BYTES`."""
    subject = f"picture {str(path)[:500]!r}"
    try:
        # Without O_NONBLOCK opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ClipError(subject, found="no regular file", expected="a picture's file")
            if status.st_size > MAX_FILE_BYTES:
                raise ClipError(subject, found=f"{status.st_size:,} bytes", expected=f"{MAX_FILE_BYTES:,} at most")
            return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ClipError(subject, found=f"{reason}", expected="a file that can be read") from error


def read_below(root: Path | None, path: str) -> bytes:
    """The bytes of a picture's file below `root`; a relative path starts at `root`.

    Raises `ClipError` if the path contains `..`, or leads out of the folder, also through links.
    """
    subject = f"picture {path[:500]!r}"
    if root is None:
        raise ClipError(
            subject, found="no LAION_IMAGE_ROOT", advice="set it to the folder that pictures may be read from"
        )
    try:
        if ".." in Path(path).parts:
            raise ClipError(subject, found="'..' in the path", expected=f"a path below {root}")
        resolved_root = root.resolve(strict=True)
        resolved = (resolved_root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        # The answer must not tell whether a file outside exists, so all such answers are the same.
        raise ClipError(subject, found="no such file", expected=f"a file below {root}") from error
    if not resolved.is_relative_to(resolved_root):
        raise ClipError(subject, found="no such file", expected=f"a file below {root}")
    return read_picture_file(resolved)


def _decoded(image: Image.Image, subject: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(subject, f"{width:,} × {height:,} pixels")
    if not width * height:
        raise ClipError(subject, found="no pixels", expected="a picture")
    try:
        image.load()
        return _flat(ImageOps.exif_transpose(_middle(image, width, height)))
    except Exception as error:  # As above: decoders raise any kind of error.
        raise ClipError(subject, found=f"a broken picture ({error})", expected="a whole one") from error


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture, or its middle part if it is extremely long."""
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    middle = image.crop((left, top, min(width, left + longest), min(height, top + longest)))
    middle.info = dict(image.info)
    return middle


def _flat(image: Image.Image) -> Image.Image:
    """The picture as RGB, from any mode, with white behind transparent parts."""
    if image.mode.startswith(("I", "F")):
        return _from_numbers(image)
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    """Converts grey of 16 or 32 bits, which Pillow's own conversion clips to white. Floats may go up to 1 or to 255."""
    numbers = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    top = float(numbers.max())
    scale = 255 / 65535 if image.mode.startswith("I") or top > 255 else 255.0 if top <= 1 else 1.0
    if top * scale > 255:
        scale = 255 / top
    return Image.fromarray(np.clip(numbers * scale, 0, 255).astype(np.uint8)).convert("RGB")


def _too_large(subject: str, found: str) -> ClipError:
    return ClipError(subject, found=found, expected=f"{MAX_PIXELS:,} pixels at most", advice="make it smaller first")


def _subject(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        return f"picture of mode {source.mode}"
    return f"picture of {len(source):,} bytes" if isinstance(source, bytes) else f"picture {str(source)[:500]!r}"

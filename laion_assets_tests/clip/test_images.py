"""Tests of reading pictures: all kinds become upright RGB, and other files are refused with a reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laion_assets.clip.images import load_image, read_below
from laion_assets.errors import ClipError

RED = (220, 30, 40)


def png(image: Image.Image, **options: object) -> bytes:
    """Returns a picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG whose header has this size, but which has no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def middle(image: Image.Image) -> tuple[int, ...]:
    """Returns the colour of the pixel in the middle."""
    return tuple(int(value) for value in np.asarray(image)[image.height // 2, image.width // 2])


def test_path_bytes_and_open_picture_are_the_same(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), RED)
    path = tmp_path / "red.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image):
        loaded = load_image(source)
        assert (loaded.mode, loaded.size, middle(loaded)) == ("RGB", (30, 20), RED)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (8, 8), "white").convert("L" if mode in ("I;16", "I", "F") else "RGB")
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.full((8, 8), 65535, np.uint16 if mode == "I;16" else np.int32))
    elif mode == "F":
        image = Image.fromarray(np.full((8, 8), 1, np.float32))
    elif mode == "PA":
        image = image.convert("P").convert("PA")
    else:
        image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    loaded = load_image(image)
    assert loaded.mode == "RGB"
    assert min(middle(loaded)) >= 250


def test_grey_of_16_bits_keeps_its_shades() -> None:
    image = Image.fromarray(np.full((8, 8), 32768, np.uint16))
    assert middle(load_image(png(image)))[0] == pytest.approx(127, abs=1)


def test_float_pixels_that_are_no_numbers_are_black() -> None:
    image = Image.fromarray(np.full((8, 8), np.nan, np.float32))
    assert middle(load_image(image)) == (0, 0, 0)


def test_transparent_parts_are_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    palette = Image.new("P", (8, 8), 0)
    for data in (png(clear), png(palette, transparency=0)):
        assert middle(load_image(data)) == (255, 255, 255)


def test_exif_turns_the_picture_upright() -> None:
    image = Image.new("RGB", (40, 20), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert load_image(buffer.getvalue()).size == (20, 40)


def test_only_the_middle_of_an_extreme_strip_is_kept() -> None:
    assert load_image(png(Image.new("RGB", (5_000, 1), RED))).size == (8, 1)
    assert load_image(png(Image.new("RGB", (2, 5_000), RED))).size == (2, 16)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "no bytes"),
        (b"hello, I am a text", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
        (png(Image.effect_noise((64, 64), 90))[:900], "broken"),
        (png(Image.new("RGB", (9, 9)))[:30], "picture"),
        (png_header(50_000, 50_000), "pixels"),
        (png_header(10_000, 9_000), "pixels"),
        (png_header(1, 2**31 - 1), "pixels"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 50, "picture"),
        (b"GIF89a\x00\x00\x00\x00\x00\x00\x00", "picture"),
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(ClipError) as caught:
        load_image(data)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_of_pillows_own_that_is_too_large_is_refused() -> None:
    with pytest.raises(ClipError, match="10,000 × 9,000 pixels"):
        load_image(Image.new("1", (10_000, 9_000)))


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none.png", tmp_path / "pipe", Path("/dev/zero"), Path("x" * 5_000)):
        with pytest.raises(ClipError):
            load_image(path)


def test_only_files_below_the_root_are_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.png"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "red.png").write_bytes(b"inside")
    outside.write_bytes(b"outside")
    (root / "out.png").symlink_to(outside)
    (root / "up").symlink_to(tmp_path)
    (root / "in.png").symlink_to(root / "folder" / "red.png")
    (root / "loop").symlink_to(root / "loop")
    for path in ("folder/red.png", str(root / "folder" / "red.png"), "in.png", "./folder//red.png"):
        assert read_below(root, path) == b"inside"
    refused = ["../outside.png", str(outside), "out.png", "up/outside.png", "folder/../folder/red.png", "loop", ""]
    for path in [*refused, "a\x00b", "/etc/passwd", "/proc/self/environ", "none.png", "folder", "x" * 5_000]:
        with pytest.raises(ClipError):
            read_below(root, path)
    with pytest.raises(ClipError, match="LAION_IMAGE_ROOT"):
        read_below(None, "folder/red.png")


def test_whether_a_file_outside_exists_is_not_told(tmp_path: Path) -> None:
    reasons = set()
    for path in ("/etc/passwd", "/etc/no-such-file"):
        with pytest.raises(ClipError) as caught:
            read_below(tmp_path, path)
        reasons.add(caught.value.found)
    assert len(reasons) == 1

"""Tests of encode_text and encode_image in ClickHouse: the page's queries run, and workers survive bad input."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laion_assets.clip.encoder import ClipEncoder
from laion_assets.clip.udf import install
from laion_assets.errors import TableError
from laion_assets.settings import Settings
from laion_assets.table.database import Database
from laion_assets_tests.clip.conftest import sample_settings
from laion_assets_tests.clip.test_images import png, png_header


def workers(settings: Settings, kind: str) -> set[int]:
    """Returns the ids of this store's worker processes of one kind."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any("laion_assets.clip.worker" in argument for argument in arguments) and kind in arguments:
            found |= {int(folder.name)} if str(settings.data_dir) in " ".join(arguments) else set()
    return found


def vector(db: Database, function: str, value: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Returns a function's answer to these bytes."""
    return np.array(db.one(f"SELECT {function}(unhex('{value.hex()}'))")[0], np.float32)


def test_functions_answer_what_the_encoder_does(db: Database, encoder: ClipEncoder, settings: Settings) -> None:
    assert settings.image_root
    picture = settings.image_root / "red.png"
    np.testing.assert_allclose(vector(db, "encode_text", b"cat"), encoder.encode_text("cat"), atol=1e-6)
    for path in ("red.png", str(picture)):
        found = vector(db, "encode_image", path.encode())
        np.testing.assert_allclose(found, encoder.encode_image(picture), atol=1e-6)


def test_the_pages_queries_run(db: Database, settings: Settings) -> None:
    picture = f"{settings.image_root}/blue.png"
    assert len(db.one("SELECT encode_text('cat')")[0]) == 512
    urls = db.rows(
        "SELECT url FROM laion ORDER BY cosineDistance(text_embedding, encode_text('a dog and a cat')) ASC LIMIT 10"
    )
    assert len(urls) == 10
    assert all("dog" in url or "cat" in url for (url,) in urls)
    assert len(db.one(f"SELECT encode_image('{picture}')")[0]) == 512
    rows = db.rows(
        f"SELECT url, caption FROM laion ORDER BY cosineDistance(image_embedding, encode_image('{picture}')) ASC "
        "LIMIT 10"
    )
    assert len(rows) == 10
    assert all("blue" in caption.lower() for _, caption in rows)


@pytest.mark.parametrize("by", ["image", "text"])
def test_query_with_a_function_uses_the_index(db: Database, by: str) -> None:
    """Uses the engine's count of searched graphs, because EXPLAIN names an index even if all rows are scanned."""
    query = (
        f"SELECT url FROM laion ORDER BY cosineDistance({by}_embedding, encode_text('a dog and a cat')) ASC LIMIT 10"
    )
    graphs = [searched_by(db, query, use_skip_indexes=setting) for setting in (1, 0)]
    assert graphs == [1, 0], "the table is one part; without indexes it is scanned"


def searched_by(db: Database, query: str, **settings: object) -> int:
    """Returns the number of graphs that ClickHouse searches for a query."""
    count = "SELECT sum(value) FROM system.events WHERE event = 'USearchSearchCount'"
    (before,) = db.one(count)
    assert len(db.rows(query, settings=settings)) == 10
    return int(db.one(count)[0] - before)


TEXTS = [
    b"",
    b" ",
    b"\x00",
    b"a\tb",
    b"a\nb",
    b'{"text": "dog"}',
    b"\\N",
    b"'); DROP TABLE laion; --",
    b"\xff\xfe not UTF-8",
    b"word " * 4_000,
    b"x" * 100_000,
    "🦊 東京 Москва القاهرة".encode(),
    b"&amp;amp; &#0; &bogus;",
    b"\xed\xa0\x80",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:24]))
def test_every_text_has_a_vector(db: Database, text: bytes) -> None:
    assert np.linalg.norm(vector(db, "encode_text", text)) == pytest.approx(1, abs=1e-5)


def test_text_of_ten_million_characters_has_a_vector(db: Database) -> None:
    assert db.one("SELECT length(encode_text(repeat(repeat('a ', 1000), 5000)))") == (512,)


@pytest.fixture(scope="module")
def bad_pictures(settings: Settings) -> Path:
    """A folder below the root with files from which no vector can be made."""
    assert settings.image_root
    root = settings.image_root
    files = {
        "text.jpg": b"I am a text, whatever my name says",
        "empty.png": b"",
        "truncated.png": png(Image.effect_noise((64, 64), 90))[:900],
        "huge.png": png_header(50_000, 50_000),
        "tall.png": png_header(1, 2**31 - 1),
        "truncated.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "page.html": b"<!DOCTYPE html><title>404</title>",
        "zeros.bmp": b"BM" + bytes(60),
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    outside = root.parent / "outside.png"
    outside.write_bytes(png(Image.new("RGB", (9, 9))))
    (root / "folder").mkdir()
    (root / "link.png").symlink_to(outside)
    (root / "up").symlink_to(root.parent)
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe.png")
    return root


BAD_PATHS = [
    "missing.png", "folder", ".", "", " ", "text.jpg", "empty.png", "truncated.png", "truncated.jpg", "huge.png",
    "tall.png", "script.eps", "vector.svg", "page.html", "zeros.bmp", "link.png", "up/outside.png", "loop.png",
    "pipe.png", "../outside.png", "folder/../red.png", "/etc/passwd", "/dev/zero", "/proc/self/environ",
    "nul\x00.png", "red.png\x00", "tab\tname.png", "red.png\n", "x" * 20_000, "http://127.0.0.1/red.png",
]  # fmt: skip


def test_bad_paths_are_answered_by_an_empty_array_and_the_worker_lives(
    db: Database, settings: Settings, bad_pictures: Path
) -> None:
    assert len(vector(db, "encode_image", b"red.png")) == 512
    before = workers(settings, "image")
    assert before, "one has answered"
    answers = {path: len(vector(db, "encode_image", path.encode())) for path in BAD_PATHS}
    answers["not UTF-8"] = len(vector(db, "encode_image", b"\xff\xfe.png"))
    assert answers == dict.fromkeys(answers, 0)
    assert len(vector(db, "encode_image", b"red.png")) == 512
    assert workers(settings, "image") == before


def test_good_and_bad_rows_of_a_block_are_answered_in_order(db: Database, bad_pictures: Path) -> None:
    lengths = db.rows(
        "SELECT length(encode_image(path)) FROM (SELECT number, "
        "['red.png', 'missing.png', 'text.jpg', 'blue.png', 'huge.png'][number % 5 + 1] AS path FROM numbers(500)) "
        "ORDER BY number"
    )
    assert [length for (length,) in lengths] == [512, 0, 0, 512, 0] * 100


def test_search_with_a_refused_picture_is_an_error_of_its_own(db: Database) -> None:
    with pytest.raises(TableError, match="equal sizes"):
        db.rows("SELECT url FROM laion ORDER BY cosineDistance(image_embedding, encode_image('missing.png')) LIMIT 10")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_odd_modes_are_read(db: Database, bad_pictures: Path, mode: str) -> None:
    grey = Image.new("L", (30, 20), 200)
    image = Image.fromarray(np.full((20, 30), 50_000, np.uint16)) if mode == "I;16" else grey.convert(mode)
    path = bad_pictures / f"mode-{mode.replace(';', '')}.tiff"
    image.save(path)
    assert len(vector(db, "encode_image", path.name.encode())) == 512


def test_many_texts_through_sql_come_back_in_order(db: Database, encoder: ClipEncoder) -> None:
    rows = db.rows("SELECT caption, encode_text(caption) FROM laion ORDER BY id LIMIT 3000")
    expected = encoder.encode_texts(caption for caption, _ in rows)
    np.testing.assert_allclose(np.array([found for _, found in rows], np.float32), expected, atol=1e-6)


def test_installed_files_are_for_this_environment(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path / "a store with blanks and 'quotes'")
    installed = install(settings, tmp_path / "scripts", tmp_path / "config")
    assert installed.names == ("encode_text", "encode_image")
    for script in installed.scripts:
        assert stat.S_IMODE(script.stat().st_mode) == 0o755
    for config in installed.configs:
        assert config.name.endswith("_function.xml")
        assert "<format>RowBinary</format>" in config.read_text()

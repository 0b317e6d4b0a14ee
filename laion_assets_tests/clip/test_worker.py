"""Tests of the worker's protocol, with the worker started as ClickHouse starts it: by the installed script."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest

from laion_assets.clip.model import MODEL_FILES
from laion_assets.clip.udf import install, install_embedded
from laion_assets.clip.worker import Reasons, serve
from laion_assets.errors import TableError
from laion_assets.table.connect import connect
from laion_assets_tests.clip.conftest import sample_settings


def block(*rows: bytes) -> bytes:
    """Returns a block of rows in the form in which ClickHouse sends it."""
    return b"%d\n" % len(rows) + b"".join(bytes(_varint(len(row))) + row for row in rows)


def _varint(number: int) -> list[int]:
    return [number] if number < 128 else [number & 127 | 128, *_varint(number >> 7)]


def test_script_answers_block_after_block_and_ends_with_its_input(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path / "it's a store")
    text, image = install(settings, tmp_path / "scripts", tmp_path / "config").scripts
    sent = block(b"a dog", b"", b"a dog" * 100) + block() + block(b"cat")
    done = subprocess.run([text], input=sent, capture_output=True, check=True, cwd=tmp_path, env={})
    answers = np.frombuffer(done.stdout, np.uint8).reshape(4, 2 + 4 * 512)
    assert answers[:, :2].tolist() == [[0x80, 0x04]] * 4
    vectors = np.ascontiguousarray(answers[:, 2:]).view("<f4")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    refused = subprocess.run([image], input=block(b"x.png"), capture_output=True, check=True, cwd=tmp_path, env={})
    assert refused.stdout == b"\x00"
    assert b"no vector: picture 'x.png': found no such file" in refused.stderr


def test_functions_are_there_when_the_engine_is_opened_next(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    with connect(settings) as db, pytest.raises(TableError, match="encode_text"):
        db.one("SELECT encode_text('dog')")
    install_embedded(settings)
    with connect(settings) as db:
        assert db.one("SELECT length(encode_text('dog')), length(encode_image('x.png'))") == (512, 0)


def test_worker_without_its_model_says_so_and_ends(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    text, _ = install(settings, tmp_path / "scripts", tmp_path / "config").scripts
    (tmp_path / "clip" / "sample" / MODEL_FILES[0]).unlink()
    done = subprocess.run([text], input=block(b"dog"), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"CLIP text encoder" in done.stderr


def test_row_that_spoils_its_batch_spoils_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(rows: list[bytes]) -> list[bytes]:
        if b"bad" in rows:
            raise MemoryError("too much")
        return [b"<" + row + b">" for row in rows]

    output = io.BytesIO()
    serve(io.BytesIO(block(b"a", b"bad", b"a", b"b") + block(b"c")), output, answer, 3, Reasons())
    assert output.getvalue() == b"<a>\x00<a><b><c>"
    assert "MemoryError: too much" in capsys.readouterr().err


def test_repeated_rows_are_encoded_once() -> None:
    asked: list[bytes] = []

    def answer(rows: list[bytes]) -> list[bytes]:
        asked.extend(rows)
        return [row.upper() for row in rows]

    output = io.BytesIO()
    serve(io.BytesIO(block(*[b"a", b"b"] * 1000)), output, answer, 16, Reasons())
    assert asked == [b"a", b"b"]
    assert output.getvalue() == b"AB" * 1000


def test_input_that_breaks_off_ends_the_worker_without_an_answer() -> None:
    output = io.BytesIO()
    with pytest.raises(BrokenPipeError):
        serve(io.BytesIO(block(b"dog")[:-1]), output, lambda rows: rows, 16, Reasons())
    assert output.getvalue() == b""


def test_reasons_do_not_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = Reasons()
    for number in range(1_000):
        reasons.add(number)
    reasons.end_block()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "no vector: 980 rows more"

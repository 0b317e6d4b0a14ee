"""Tests of files that a user gives as a query vector: .npy, JSON, and files that only have such a name."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from laion_assets.errors import SearchError
from laion_assets.searching.statement import checked_vector
from laion_assets.searching.vector_file import read_vector_file
from laion_assets_tests.conftest import assert_one_line

TERABYTES = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 64), }".ljust(117) + b"\n"

DAMAGED: dict[str, tuple[bytes, str]] = {
    "huge.json": (json.dumps([10**400, 1]).encode(), "values of type int, not real numbers of at most 64 bits"),
    "nan.json": (b"[NaN, NaN]", "NaN"),
    "object.json": (b'{"vector": [1]}', "values of type dict"),
    "ragged.json": (b"[[1], [1, 2]]", "inhomogeneous"),
    "deep.json": (b"[" * 100_000, ""),
    "bytes.json": (b"\x80\x81", "codec"),
    "archive.npy": (b"PK\x03\x04 not a zip at all", "starts with"),
    "terabytes.npy": (b"\x93NUMPY\x01\x00" + struct.pack("<H", len(TERABYTES)) + TERABYTES, "does not hold"),
    "cut.npy": (b"\x93NUMPY", ""),
    "empty.npy": (b"", ""),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(name: str, tmp_path: Path) -> None:
    content, said = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SearchError) as caught:
        read_vector_file(tmp_path / name)
    assert_one_line(caught.value, f"vector file {tmp_path / name}", "a .npy file or a JSON list", said)


def test_numbers_that_are_not_real_are_refused(tmp_path: Path) -> None:
    for name, values in {"complex": np.ones(4, "<c16"), "text": np.array(["a"]), "object": np.array([None])}.items():
        np.save(tmp_path / f"{name}.npy", values, allow_pickle=True)
        with pytest.raises(SearchError):
            read_vector_file(tmp_path / f"{name}.npy")


def test_a_pipe_or_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    for path in (tmp_path / "pipe.npy", tmp_path, Path("/dev/zero")):
        with pytest.raises(SearchError, match="a folder, a pipe or a device"):
            read_vector_file(path)


def test_whole_numbers_marks_and_capital_names_are_fine(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(4, dtype="i1"))
    (tmp_path / "v.npy").rename(tmp_path / "V.NPY")
    (tmp_path / "v.json").write_bytes("[0, 1, 2, 3]".encode("utf-16"))
    assert (
        read_vector_file(tmp_path / "V.NPY").tolist() == read_vector_file(tmp_path / "v.json").tolist() == [0, 1, 2, 3]
    )


@pytest.mark.parametrize("vector", [[10**400, 1], ["a", "b"], [1j, 1], [[1, 2], [3, 4]], [1, [2]], [None, 1]])
def test_what_python_gives_as_a_vector_is_checked_alike(vector: object) -> None:
    with pytest.raises(SearchError) as caught:
        checked_vector(vector, 2)  # type: ignore[arg-type]  # what people pass all the same
    assert_one_line(caught.value, "query vector")

"""Tests of .npy files: floats are read as numpy reads them; all else is refused in one line and never unpickled."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laion_assets.errors import ShardFileError
from laion_assets.shard.npy import NpyHeader, NpyReader, read_header
from laion_assets_tests.conftest import REAL, assert_one_line, at_most_bytes, needs_real

SUBJECT = "shard 3, img_emb_3.npy"
DIMENSION = 4
VECTORS = np.arange(28, dtype=np.float32).reshape(7, DIMENSION) / 8 - 1
"""Values that float16 holds exactly."""


def header_of(path: Path, dimension: int = DIMENSION) -> NpyHeader:
    """Returns the header of a file of shard 3."""
    return read_header(path, subject=SUBJECT, dimension=dimension)


def read_all(path: Path, blocks: list[int], dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    """Returns the rows of a file, read in blocks of these sizes; the last size is repeated until the end."""
    header = header_of(path, dimension)
    read: list[npt.NDArray[np.float32]] = []
    rows = 0
    with NpyReader(path, header, subject=SUBJECT, block_rows=max(blocks)) as reader:
        while rows < header.rows:
            size = blocks[min(len(read), len(blocks) - 1)]
            out = np.full((min(size, header.rows - rows), dimension), 99, np.float32)
            reader.read_into(out)
            read.append(out)
            rows += len(out)
    return np.concatenate([np.empty((0, dimension), np.float32), *read])


def refusal(path: Path, *parts: str) -> ShardFileError:
    """Returns the error that refuses a file, after checking that it is one line and names shard and file."""
    with pytest.raises(ShardFileError) as caught:
        header_of(path)
    assert_one_line(caught.value, SUBJECT, *parts)
    assert len(str(caught.value)) < 500
    return caught.value


def written(path: Path, array: npt.NDArray[np.generic], version: tuple[int, int] = (1, 0)) -> Path:
    """Writes the array as an .npy file."""
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    return path


def with_header(path: Path, header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> Path:
    """Writes an .npy file with a header written by hand."""
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    path.write_bytes(b"\x93NUMPY" + version + length + header + body)
    return path


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_floats_of_every_kind_are_read_as_numpy_reads_them(
    dtype: str, order: str, version: tuple[int, int], tmp_path: Path
) -> None:
    array = np.array(VECTORS, dtype=dtype, order="F" if order == "F" else "C")
    path = written(tmp_path / "a.npy", array, version)
    header = header_of(path)
    assert (header.rows, header.dimension, header.dtype) == (7, DIMENSION, np.dtype(dtype))
    assert header.fortran_order == (order == "F")
    assert np.array_equal(read_all(path, [3]), VECTORS)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_blocks_of_any_size_give_what_numpy_loads(dtype: str, order: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    array = np.array(rng.standard_normal((101, DIMENSION)), dtype=dtype, order="F" if order == "F" else "C")
    path = written(tmp_path / "a.npy", array)
    expected = np.load(path).astype(np.float32)
    for blocks in ([1], [2, 3, 5, 7], [100, 1], [101], [64, 37], [500]):
        assert np.array_equal(read_all(path, blocks), expected)


def test_every_value_of_float16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.arange(65_536, dtype=np.uint16).view(np.float16).reshape(-1, DIMENSION)
    path = written(tmp_path / "a.npy", values)
    assert np.array_equal(read_all(path, [1_000]), values.astype(np.float32), equal_nan=True)


def test_values_beyond_float32_become_infinite_without_a_warning(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npy", np.array([[1e300, -1e300, np.nan, 1.5]]))
    with np.errstate(all="raise"):
        assert np.array_equal(read_all(path, [1]), [[np.inf, -np.inf, np.nan, 1.5]], equal_nan=True)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_without_rows_is_a_file(order: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npy", np.empty((0, DIMENSION), "<f2", order="F" if order == "F" else "C"))
    header = header_of(path)
    assert header.rows == 0
    with NpyReader(path, header, subject=SUBJECT, block_rows=8) as reader:
        reader.read_into(np.empty((0, DIMENSION), np.float32))


@pytest.mark.parametrize(
    "start", [b"<!DOCTYPE html><html>404</html>", b"PAR1\x15\x04", b"PK\x03\x04", b"\x93NUMPZ\x01\x00"]
)
def test_a_file_that_is_no_npy_file_is_refused_by_its_first_bytes(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(start + b"." * 200)
    refusal(path, f"a file that starts with {(start + b'.' * 12)[:12]!r}", "an npy file")


@pytest.mark.parametrize("size", [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 60, 127])
def test_a_header_that_was_cut_is_refused(size: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npy", VECTORS)
    os.truncate(path, size)
    refusal(path)


class Bomb:
    """Unpickling this object makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "unpickled"
    array = np.array([[Bomb(trap)] * DIMENSION], dtype=object)
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    refusal(path, "dtype |O", "float16, 32 or 64")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 4), [("a", "<f2")]), "dtype of several fields"),
        (np.zeros((2, 4), "<i4"), "dtype <i4"),
        (np.zeros((2, 4), "u1"), "dtype |u1"),
        (np.zeros((2, 4), "?"), "dtype |b1"),
        (np.zeros((2, 4), "<c8"), "dtype <c8"),
        (np.zeros((2, 4), "S2"), "dtype |S2"),
        (np.zeros((2, 4), "<U2"), "dtype <U2"),
        (np.zeros((2, 4), np.longdouble), "dtype <f16"),
        (np.zeros(8, "<f2"), "1 dimensions (8,)"),
        (np.zeros((2, 2, 4), "<f2"), "3 dimensions (2, 2, 4)"),
        (np.zeros((), "<f2"), "0 dimensions ()"),
        (np.zeros((2, 5), "<f2"), "shape (2, 5), expected (rows, 4)"),
        (np.zeros((4, 2), "<f2"), "shape (4, 2), expected (rows, 4)"),
    ],
)
def test_arrays_that_are_no_vectors_of_the_dimension_are_refused(
    array: npt.NDArray[np.generic], said: str, tmp_path: Path
) -> None:
    refusal(written(tmp_path / "a.npy", array), said)


@pytest.mark.parametrize("change", [-1, 1, -8, 8, -112, 56])
def test_a_size_other_than_the_header_promises_is_refused(change: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npy", VECTORS)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size + change)
    refusal(path, f"{size + change:,} bytes", f"expected {size:,} for shape (7, 4) of <f4")


@pytest.mark.parametrize("version", [b"\x00\x00", b"\x04\x00", b"\x01\x01", b"\xff\xff"])
def test_other_versions_are_refused(version: bytes, tmp_path: Path) -> None:
    path = with_header(tmp_path / "a.npy", b"{}", version=version)
    refusal(path, f"npy version {version[0]}.{version[1]}", "1.0, 2.0 or 3.0")


def test_a_header_that_announces_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + (0xFFFFFFF0).to_bytes(4, "little") + b"{")
    refusal(path, "a header of 4,294,967,280 bytes", "at most 10,000")
    path.write_bytes(b"\x93NUMPY\x01\x00" + (0xFFFF).to_bytes(2, "little") + b" " * 0xFFFF)
    refusal(path, "a header of 65,535 bytes")


HEADER = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }"


@pytest.mark.parametrize(
    "header",
    [
        HEADER % ("'<f2'", "False", "(-7, 4)"),
        HEADER % ("'<f2'", "False", "(7, -4)"),
        HEADER % ("'<f2'", "False", f"({2**70}, 4)"),
        HEADER % ("'<f2'", "False", "(7, 4.0)"),
        HEADER % ("'<f2'", "False", "(True, 4)"),
        HEADER % ("'<f2'", "False", "[7, 4]"),
        HEADER % ("'<f2'", "'False'", "(7, 4)"),
        HEADER % ("'<f3'", "False", "(7, 4)"),
        HEADER % ("'<f2,(3'", "False", "(7, 4)"),
        HEADER % ("('<f2', (4,))", "False", "(7,)"),
        HEADER % ("None", "False", "(7, 4)"),
        HEADER % ("[]", "False", "(7, 4)"),
        HEADER % ("{}", "False", "(7, 4)"),
        HEADER % ("'O'", "False", "(7, 4)"),
        HEADER % ("__import__('os').abort()", "False", "(7, 4)"),
        HEADER % ("'<f2'", "False", "(7, 4), 'more': 1"),
        "{'descr': '<f2', 'shape': (7, 4)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (7, 4)",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (7L, 4L)",
        "(" * 9_000,
        "[" * 90 + "]" * 90,
        "-" * 9_000 + "1",
        "'''",
        "\x00",
        "{'descr': 9" + "9" * 6_000 + "}",
        "\xe9\xe8",
        "",
        "1",
        "{}",
        "\n    indented\n  dedented",
    ],
)
@pytest.mark.filterwarnings("error")
def test_headers_written_by_hand_are_refused_in_one_line(header: str, tmp_path: Path) -> None:
    for version in (b"\x01\x00", b"\x02\x00"):
        refusal(with_header(tmp_path / "a.npy", header.encode("latin-1"), bytes(56), version))


def test_a_file_that_is_absent_or_a_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "absent.npy", "No such file", "a readable npy file")
    refusal(tmp_path, "directory", "a readable npy file")


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_a_file_that_is_cut_after_its_header_was_read_is_an_error(dtype: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npy", VECTORS.astype(dtype))
    header = header_of(path)
    with NpyReader(path, header, subject=SUBJECT, block_rows=7) as reader:
        os.truncate(path, path.stat().st_size - 5)
        with pytest.raises(ShardFileError) as caught:
            reader.read_into(np.empty((7, DIMENSION), np.float32))
    assert_one_line(caught.value, SUBJECT, "the end of the file")


def npy_bytes(version: tuple[int, int]) -> bytes:
    """Returns a good file as bytes."""
    file = io.BytesIO()
    np.lib.format.write_array(file, VECTORS.astype("<f2"), version=version)
    return file.getvalue()


FUZZ_BYTES = 1 << 20
"""The most memory that reading any header may take; the files have 200 bytes."""

SOUND = {version: npy_bytes(version) for version in ((1, 0), (2, 0))}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
@settings(deadline=None, max_examples=400)
@given(
    version=st.sampled_from([(1, 0), (2, 0)]),
    edits=st.lists(
        st.tuples(st.integers(0, 127), st.integers(0, 4), st.binary(max_size=4)),
        min_size=1,
        max_size=4,
    ),
)
def test_a_damaged_header_gives_the_array_that_it_describes_or_an_error_of_ours(
    version: tuple[int, int], edits: list[tuple[int, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(SOUND[version])
    for place, removed, put in edits:
        content[place : place + removed] = put
    path = tmp_path_factory.getbasetemp() / "fuzzed.npy"
    path.write_bytes(content)
    try:
        with at_most_bytes(FUZZ_BYTES):
            found = read_all(path, [3])
    except ShardFileError as error:
        assert_one_line(error, SUBJECT)
    else:
        assert np.array_equal(found, np.load(path, allow_pickle=False).astype(np.float32), equal_nan=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
@settings(deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=120).map(lambda text: text.encode("utf-8"))))
def test_any_header_text_is_refused_or_read_by_numpy_too(
    tmp_path_factory: pytest.TempPathFactory, header: bytes
) -> None:
    path = with_header(tmp_path_factory.getbasetemp() / "fuzzed.npy", header, bytes(56))
    try:
        with at_most_bytes(FUZZ_BYTES):
            header_of(path)
    except ShardFileError as error:
        assert_one_line(error, SUBJECT)
    else:
        np.load(path, allow_pickle=False)


@needs_real
@pytest.mark.parametrize("name", ["img_emb_7x512_f2.npy", "clip_retrieval_triple/text_emb_0.npy"])
def test_genuine_files_are_read_as_numpy_reads_them(name: str) -> None:
    path = REAL / name
    assert np.array_equal(read_all(path, [4], 512), np.load(path).astype(np.float32))

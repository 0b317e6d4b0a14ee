"""Tests of `describe`: its output can be loaded unchanged and marks guesses; files that make no shards are named."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.dataset import Dataset, parse_dataset
from laion_assets.describe.contents import BUFFER_BYTES, read_columns
from laion_assets.describe.describe import describe
from laion_assets.describe.web import WebPlace
from laion_assets.errors import DatasetError, PermanentSourceError, SourceError
from laion_assets_tests.bucket import S3Server, s3_server
from laion_assets_tests.conftest import assert_one_line, copy_sample
from laion_assets_tests.source.misbehaving_server import misbehaving_server

ROWS, DIMENSION = 20, 8


def vectors(rows: int = ROWS, dimension: int = DIMENSION, dtype: str = "<f2", length: float = 1.0) -> Any:
    """Returns vectors that all have this length."""
    drawn = np.random.default_rng(1).standard_normal((rows, dimension))
    return (length * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(dtype)


def write(folder: Path, path: str, content: Any) -> None:
    """Writes an array as .npy, or columns as Parquet."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        pq.write_table(pa.table(content), target)
    else:
        np.save(target, content)


def described(where: str | Path) -> tuple[Dataset, str]:
    """Returns the dataset that `describe` writes, and its text."""
    text = describe(str(where))
    return parse_dataset(text, "described"), text


def padded_with_holes(folder: Path) -> None:
    """Writes shards 1, 2 and 4, with numbers padded as by clip-retrieval, and shard 5 without metadata."""
    for number in ("00001", "00002", "00004"):
        write(folder, f"img_emb/img_emb_{number}.npy", vectors())
        write(folder, f"text_emb/text_emb_{number}.npy", vectors())
        columns = {"URL": ["u"] * ROWS, "TEXT": ["t"] * ROWS, "punsafe": [0.5] * ROWS, "a b": [1] * ROWS}
        write(folder, f"metadata/metadata_{number}.parquet", columns)
    write(folder, "img_emb/img_emb_00005.npy", vectors())


def test_padded_numbers_with_holes_are_the_shards(tmp_path: Path) -> None:
    padded_with_holes(tmp_path)
    dataset, text = described(tmp_path)
    assert (dataset.shards, dataset.digits, dataset.dimension, dataset.has_text) == ((1, 2, 4), 5, DIMENSION, True)
    assert "left out, since a file of theirs is missing: shards 5" in text
    assert dataset.file_name("image", 4) == "img_emb_00004.npy"
    assert (dataset.aliases("url")[:2], dataset.defaults["NSFW"]) == (("url", "URL"), "")
    assert dataset.sources[0].url == str(tmp_path)
    carried = (
        text.replace("# [extra_columns]", "[extra_columns]").replace("# punsafe", "punsafe").replace("# c_a", "c_a")
    )
    columns = parse_dataset(carried, "carried").extra_columns
    assert {name: column.type for name, column in columns.items()} == {"punsafe": "Float32", "c_a_b": "Int64"}
    assert columns["c_a_b"].names == ("a b",)


def test_images_alone_in_one_folder_have_no_texts_and_no_captions(tmp_path: Path) -> None:
    for shard in range(12):
        write(tmp_path, f"img_emb_{shard}.npy", vectors(dtype="<f4"))
        write(tmp_path, f"metadata_{shard}.parquet", {"image_path": [f"/p/{row}.jpg" for row in range(ROWS)]})
    dataset, text = described(tmp_path)
    assert (dataset.shards, dataset.digits, dataset.has_text, dataset.dtype) == (tuple(range(12)), 1, False, "<f4")
    assert dataset.aliases("url") == ("image_path",)
    assert dataset.default("caption") == ""
    assert "guessed by its name among: image_path" in text
    assert dataset.sources[0].folders.of("image") == ""


def test_other_names_and_folders_are_taken_by_what_they_say(tmp_path: Path) -> None:
    for number in ("00", "01"):
        write(tmp_path, f"pictures/image-{number}-of-02.npy", vectors(length=3.0))
        write(tmp_path, f"words/text-{number}-of-02.npy", vectors(length=3.0))
        columns = {"file": ["f"] * ROWS, "label": [["a", "b"]] * ROWS, "is_nsfw": [True] * ROWS}
        write(tmp_path, f"meta/m-{number}.parquet", columns)
    dataset, text = described(tmp_path)
    assert dataset.file_name("image", 1) == "image-01-of-02.npy"
    assert dataset.sources[0].folders.model_dump() == {"image": "pictures", "text": "words", "metadata": "meta"}
    assert (dataset.aliases("url"), dataset.aliases("caption")) == (("file",), ("label",))
    assert dataset.aliases("NSFW") == ("is_nsfw",)
    assert not dataset.normalised
    assert "normalised = false  # guessed: the first vectors have lengths from 3" in text


def test_texts_of_another_dimension_and_columns_of_nulls_are_noted(tmp_path: Path) -> None:
    write(tmp_path, "img_emb/img_emb_0.npy", vectors())
    write(tmp_path, "text_emb/text_emb_0.npy", vectors(dimension=16))
    captions = pa.array([None] * (ROWS - 1) + ["x"], pa.string())
    write(tmp_path, "metadata/metadata_0.parquet", {"url": ["u"] * ROWS, "caption": captions, "NSFW": pa.nulls(ROWS)})
    dataset, text = described(tmp_path)
    assert (dataset.has_text, dataset.default("caption"), dataset.default("NSFW")) == (False, "", "")
    assert "texts have 16 dimensions and images 8" in text


def test_vectors_alone_in_hdf5_files_are_described_and_loaded_as_such(tmp_path: Path) -> None:
    for size in ("100K", "300K"):
        with h5py.File(tmp_path / f"laion2B-en-clip768v2-n={size}.h5", "w") as file:
            file["emb"] = vectors()
            file["other/ids"] = np.arange(ROWS)
    dataset, text = described(tmp_path)
    assert (dataset.has_metadata, dataset.has_text, dataset.image_array) == (False, False, "emb")
    assert dataset.file_name("image", dataset.shards[1]) == "laion2B-en-clip768v2-n=300K.h5"
    assert (dataset.default("url"), dataset.default("caption")) == ("", "")
    assert "no Parquet files of metadata" in text


def test_hdf5_files_beside_their_metadata_are_pairs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file["image"], file["text"] = vectors(), vectors()
        write(tmp_path, f"{name}.parquet", {"url": ["u"] * ROWS, "caption": ["t"] * ROWS})
    (tmp_path / "c.hdf5").write_bytes(b"")
    dataset, text = described(tmp_path)
    assert (dataset.names, dataset.image_array, dataset.text_array) == ({0: "a", 1: "b"}, "image", "text")
    assert "not used: c.hdf5" in text
    (tmp_path / "b.hdf5").write_bytes((tmp_path / "b.hdf5").read_bytes()[:500])
    with pytest.raises(DatasetError, match="expected an HDF5 file"):
        describe(str(tmp_path))


def test_the_sample_is_described_as_its_preset_is(sample_folder: Path) -> None:
    dataset, text = described(sample_folder)
    assert (dataset.shards, dataset.dimension, dataset.normalised) == ((0, 1, 2, 3), 512, True)
    assert (dataset.columns, dataset.defaults) == ({}, {})
    assert "guessed" not in text


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which does not support ranges; `index` tells whether it lists its directories."""

    index = True

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def list_directory(self, path: Any) -> Any:
        """Sends the index page, or 404."""
        return super().list_directory(path) if self.index else self.send_error(404)


class Unlisted(Quiet):
    """A server without index pages."""

    index = False


@contextmanager
def serving(folder: Path, handler: type[Quiet]) -> Iterator[str]:
    """Serves a folder; yields its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_web_server_that_lists_its_directories_is_described(tmp_path: Path) -> None:
    padded_with_holes(tmp_path / "a b")
    with serving(tmp_path, Quiet) as url:
        dataset, _ = described(f"{url}/a%20b")
        assert (dataset.shards, dataset.digits, dataset.sources[0].url) == ((1, 2, 4), 5, f"{url}/a%20b")


def test_a_web_server_that_lists_nothing_is_asked_for_the_known_names(tmp_path: Path, sample_folder: Path) -> None:
    copy_sample(sample_folder, tmp_path / "sample")
    with serving(tmp_path, Unlisted) as url:
        dataset, text = described(f"{url}/sample")
        assert (dataset.shards, dataset.has_text) == ((0, 1, 2, 3), True)
        assert "the server lists nothing" in text
        with pytest.raises(SourceError) as caught:
            describe(f"{url}/nothing")
        assert_one_line(caught.value, f"{url}/nothing", "none of the known names")


class Answering(Quiet):
    """A server that answers 200 to every name, with `kind` as the type of what it sends; it counts the requests.

    With `known` it does so only for names that contain this text.
    """

    kind = "application/octet-stream"
    known = ""
    asked = 0

    def send_head(self) -> Any:
        """Sends the same line for every name, and no page that lists names."""
        type(self).asked += 1
        assert self.asked < 1_000, "describe asks without end"
        if self.path.endswith("/") or self.known not in self.path:
            self.send_error(404)
            return None
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.end_headers()
        return io.BytesIO(b"<html>hi</html>")


@pytest.mark.parametrize(
    ("kind", "known", "said"),
    [
        ("text/html; charset=utf-8", "", "none of the known names"),
        ("application/octet-stream", "", "answers to every name as if the file existed"),
        ("application/octet-stream", "img_emb", "more files like img_emb/img_emb_0.npy than 65,536"),
    ],
)
def test_a_server_that_answers_to_every_name_is_refused_after_few_requests(
    kind: str, known: str, said: str, tmp_path: Path
) -> None:
    handler = type("Handler", (Answering,), {"kind": kind, "known": known})
    with serving(tmp_path, handler) as url:
        with pytest.raises(PermanentSourceError) as caught:
            describe(f"{url}/data")
        assert_one_line(caught.value, f"{url}/data", said)
    assert handler.asked < 100  # type: ignore[attr-defined]


class Gated(Quiet):
    """A server that requires a bearer token."""

    def send_head(self) -> Any:
        """Sends the file, or 401."""
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self.send_error(401)
            return None
        return super().send_head()


def test_a_web_server_that_wants_a_token_is_described_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    padded_with_holes(tmp_path)
    with serving(tmp_path, Gated) as url:
        with pytest.raises(SourceError):
            describe(url)
        monkeypatch.setenv("LAION_HTTP_TOKEN", "hf_secret")
        dataset, text = described(url)
    assert dataset.shards == (1, 2, 4)
    assert "hf_secret" not in text


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def test_a_bucket_is_described(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    padded_with_holes(tmp_path)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("described")
    files.put(str(tmp_path), "described/set", recursive=True)
    dataset, _ = described("s3://described/set")
    assert (dataset.shards, dataset.sources[0].url) == ((1, 2, 4), "s3://described/set")
    with pytest.raises(DatasetError) as caught:
        describe("s3://described/other")
    assert_one_line(caught.value, "s3://described/other", "found no files")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "found no files"),
        ({"a.txt": b"x"}, "1 .txt (such as a.txt)"),
        ({"img_emb_0.npy": b"\x93NUMPY"}, "Parquet files of metadata"),
        ({"metadata_0.parquet": b"PAR1"}, "expected a Parquet file"),
        ({"img_emb_0.npy": b"", "metadata_1.parquet": b""}, "numbers that vectors and metadata share"),
        ({"img_emb_0.npy": b"<html>", "metadata_0.parquet": b""}, "a file that starts with b'<html>'"),
        ({"img_emb_00.npy": b"", "metadata_0.parquet": b""}, "numbers of different widths"),
        ({"b.npz": b"", "b.parquet": b""}, "expected an npz file"),
    ],
)
def test_files_that_make_no_shards_are_named_in_one_line(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        describe(str(tmp_path))
    assert_one_line(caught.value, said)


def test_vectors_that_are_none_and_places_that_are_not_there_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "metadata_0.parquet", {"url": ["u"]})
    for array, said in (
        (np.ones((3, 4, 5), "<f2"), "shape (3, 4, 5)"),
        (np.ones((3, 4), "<i4"), "of <i4"),
        (np.ones(3, "<f4"), "shape (3,)"),
    ):
        write(tmp_path, "img_emb_0.npy", array)
        with pytest.raises(DatasetError, match=r"expected vectors") as caught:
            describe(str(tmp_path))
        assert_one_line(caught.value, said)
    for where in (tmp_path / "absent", tmp_path / "metadata_0.parquet"):
        with pytest.raises(PermanentSourceError, match="expected a folder"):
            describe(str(where))


def with_lists(rows: int = ROWS, **columns: Any) -> dict[str, Any]:
    """Returns columns of metadata, with vectors as list columns beside them."""
    listed = {
        name: pa.array([row.tolist() for row in vectors], pa.list_(pa.float32())) for name, vectors in columns.items()
    }
    return {"url": ["u"] * rows, "caption": ["c"] * rows, **listed}


def test_vectors_in_columns_of_the_metadatas_own_file_are_found(tmp_path: Path) -> None:
    for number in ("00", "01", "02"):
        write(tmp_path, f"train-{number}-of-03.parquet", with_lists(emb=vectors(), id=vectors(dimension=3)[:, :0]))
    dataset, _ = described(tmp_path)
    assert (dataset.shards, dataset.digits, dataset.dimension, dataset.has_text) == ((0, 1, 2), 2, DIMENSION, False)
    assert dataset.remote_name("metadata", 2) == dataset.remote_name("image", 2) == "train-02-of-03.parquet"
    assert (dataset.image_array, dataset.file_kinds) == ("emb", ("metadata",))


def test_a_few_rows_of_a_file_of_one_row_group_are_read_and_not_all_of_it() -> None:
    rows, dimension = 20_000, 256
    numbers = np.random.default_rng(1).standard_normal(rows * dimension).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(numbers, dimension).cast(pa.list_(pa.float32()))
    written = io.BytesIO()
    pq.write_table(pa.table({"emb": lists}), written)
    content = written.getvalue()
    with misbehaving_server({"0.parquet": content}) as server:
        with WebPlace(server.base()).open("0.parquet") as file:
            assert read_columns(file, "0.parquet")["emb"].rows == rows
        assert server.sent("0.parquet") < 3 * BUFFER_BYTES < len(content) / 6


def test_two_columns_of_vectors_are_taken_by_their_names(tmp_path: Path) -> None:
    write(tmp_path, "data/0.parquet", with_lists(text_emb=vectors(), image_emb=vectors(), other=vectors(dimension=3)))
    dataset, text = described(tmp_path)
    assert (dataset.image_array, dataset.text_array) == ("image_emb", "text_emb")
    assert 'image_array = "image_emb"  # guessed among: text_emb, image_emb, other' in text
    assert dataset.sources[0].folders.of("metadata") == dataset.sources[0].folders.of("text") == "data"


def test_pairs_named_by_hashes_are_listed_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = [f"{folder:02d}/{seed * 7919:032x}" for folder in range(2) for seed in range(1, 4)]
    for name in names:
        write(tmp_path, f"{name}.parquet", {"uid": ["x"] * ROWS, "url": ["u"] * ROWS, "text": ["t"] * ROWS})
        arrays = {
            "b32_img": vectors(),
            "b32_txt": vectors(),
            "l14_img": vectors(dimension=12),
            "l14_txt": vectors(dimension=12),
        }
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "00" / "alone.npz").write_bytes(b"")
    dataset, text = described(tmp_path)
    assert [dataset.names[shard] for shard in dataset.shards] == sorted(names)
    assert (dataset.image_array, dataset.text_array, dataset.dimension) == ("b32_img", "b32_txt", DIMENSION)
    assert dataset.file_kinds == ("text", "metadata")
    assert "not used: 00/alone.npz" in text


def test_files_of_millions_of_rows_are_cut_into_shards_along_their_row_groups(tmp_path: Path) -> None:
    rows = 3_000_000
    numbers = pa.array(np.tile(np.array([0.6, 0.8], np.float32), rows))
    lists = pa.FixedSizeListArray.from_arrays(numbers, 2).cast(pa.list_(pa.float32()))
    table = pa.table({"vector": lists, "url": pa.repeat("u", rows), "caption": pa.repeat("c", rows)})
    for number in (1, 2):
        pq.write_table(table, tmp_path / f"part_{number}_of_2.parquet", row_group_size=500_000)
    dataset, _ = described(tmp_path)
    assert (dataset.shards, dataset.shards_per_file, dataset.first_file) == ((0, 1, 2, 3, 4, 5), 3, 1)
    assert dataset.remote_name("image", 5) == "part_2_of_2.parquet"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"0.parquet": {"url": ["u"]}}, "no lists or arrays of floats"),
        ({"0.parquet": {"url": ["u"]}, "1.npz": None}, "numbers that vectors and metadata share"),
        ({"0.parquet": {"url": ["u"]}, "0.npz": None}, "expected an npz file"),
    ],
)
def test_other_files_without_vectors_are_named_in_one_line(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        if content is None:
            (tmp_path / name).write_bytes(b"no zip")
        else:
            write(tmp_path, name, content)
    with pytest.raises(DatasetError) as caught:
        described(tmp_path)
    assert_one_line(caught.value, said)

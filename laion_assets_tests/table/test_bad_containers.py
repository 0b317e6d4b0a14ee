"""Tests of bad files of each container: each gives an error of one line, and none of its rows reach the table."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from laion_assets.errors import LaionError
from laion_assets.settings import Settings
from laion_assets.shard.loadable import require_loadable
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import fetch_shard
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition
from laion_assets.table.schema import partitions
from laion_assets.terminal.describe import show_listing
from laion_assets_tests.conftest import Shard, assert_one_line, class_shard
from laion_assets_tests.source.fetching import QUICK, settings_for

ROWS, DIMENSION = 300, 64
GOOD = class_shard([row // 3 for row in range(ROWS)], dimension=DIMENSION)
VECTORS = {"npy": "img_emb_{shard}.npy", "parquet": "rows_{shard}.parquet", "npz": "{shard}.npz", "hdf5": "{shard}.h5"}
HEAD = f"""name = "bad"
shards = 2
dimension = {DIMENSION}
[[sources]]
url = "files"
folders = {{ image = "", text = "", metadata = "" }}
"""


def description(container: str) -> str:
    """Returns the TOML of a dataset whose vectors are in files of this container."""
    if container == "npy":
        return HEAD
    if container == "cut":
        file = 'image_file = "part_{file}.parquet"\nmetadata_file = "part_{file}.parquet"\nshards_per_file = 2\n'
        return f'image_array = "img"\nhas_text = false\n{file}{HEAD}'
    name = VECTORS[container]
    metadata = f'metadata_file = "{name}"\n' if container == "parquet" else ""
    return f'image_file = "{name}"\ntext_file = "{name}"\nimage_array = "img"\ntext_array = "txt"\n{metadata}{HEAD}'


def lists(vectors: npt.NDArray[np.floating]) -> pa.Array:
    """Returns the vectors as a list column."""
    flat = pa.array(vectors.astype(np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]).cast(pa.list_(pa.float32()))


def table(shard: Shard = GOOD) -> pa.Table:
    """Returns a table with the shard's metadata and vectors."""
    return shard.table.append_column("img", lists(shard.images)).append_column("txt", lists(shard.texts))


def parquet(made: pa.Table, **options: object) -> bytes:
    """Returns a Parquet file with this table."""
    file = io.BytesIO()
    pq.write_table(made, file, **{"row_group_size": 60, **options})
    return file.getvalue()


def npz(save: Callable[..., None] = np.savez_compressed, **arrays: object) -> bytes:
    """Returns an .npz file with the shard's arrays, unless others are given."""
    file = io.BytesIO()
    save(file, **{"img": GOOD.images, "txt": GOOD.texts, **arrays})
    return file.getvalue()


def hdf5(**arrays: object) -> bytes:
    """Returns an HDF5 file with the shard's arrays, unless others are given."""
    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        for name, each in {"img": GOOD.images, "txt": GOOD.texts, **arrays}.items():
            archive[name] = each
    return file.getvalue()


def npy(array: object = GOOD.images) -> bytes:
    """Returns an .npy file with this array."""
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    """Returns a zip archive of these files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def spoilt(content: bytes, at: float, count: int = 64) -> bytes:
    """Returns the content with some bytes overwritten."""
    first = int(len(content) * at)
    return content[:first] + b"\xa5" * count + content[first + count :]


def without_row_group(content: bytes) -> bytes:
    """Returns the content without the bytes of the second of five row groups, which the footer still names."""
    footer = pq.ParquetFile(pa.BufferReader(content)).metadata
    first, second = (footer.row_group(number).column(0).file_offset or _start(footer, number) for number in (1, 2))
    return content[:first] + content[second:]


def _start(footer: pq.FileMetaData, number: int) -> int:
    column = footer.row_group(number).column(0)
    return int(min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset is not None))


def one_column(name: str, values: object) -> bytes:
    """Returns the table as Parquet, with this column replaced."""
    made = table()
    return parquet(made.set_column(made.column_names.index(name), name, pa.array(values)))


ORDER = np.roll(np.arange(ROWS), 150)
NARROW = [
    row.tolist() if number % 2 else row[:32].tolist() for number, row in enumerate(GOOD.images.astype(np.float32))
]
PAGE = b"<!doctype html><title>Sign in</title>" + b" " * 900

FILES: dict[str, dict[str, bytes]] = {
    "npy": {
        "cut": npy()[:-999],
        "a page": PAGE,
        "pickled objects": npy(np.array([{}] * ROWS, dtype=object)),
        "fewer rows": npy(GOOD.images[:-1]),
        "another dimension": npy(GOOD.images[:, :9]),
        "another order": npy(GOOD.images[ORDER]),
        "zeros": npy(np.zeros_like(GOOD.images)),
        "a header of more rows": npy().replace(b"(300, 64)", b"(900, 64)"),
    },
    "parquet": {
        "cut": parquet(table())[:-999],
        "cut in its footer": parquet(table())[:-4],
        "nothing": b"",
        "a page": PAGE,
        "an npz file": npz(),
        "no such column": parquet(table().drop_columns(["img"])),
        "no captions": parquet(table().drop_columns(["caption"])),
        "two dimensions in one column": one_column("img", NARROW),
        "text in place of lists": one_column("img", ["[1, 2]"] * ROWS),
        "nulls": one_column("img", pa.array([None] * ROWS, pa.list_(pa.float32()))),
        "not a number": one_column("img", [[float("nan")] * DIMENSION] * ROWS),
        "another order": parquet(table(Shard(GOOD.images, GOOD.texts[ORDER], GOOD.table))),
        "a row group is missing": without_row_group(parquet(table())),
        "a spoilt page": spoilt(parquet(table(), compression="zstd"), 0.3, 900),
        "the same vectors twice": parquet(table(Shard(GOOD.images, GOOD.images, GOOD.table))),
    },
    "npz": {
        "cut": npz()[:-99],
        "a page": PAGE,
        "a key is absent": zipped(img=npy()),
        "an array is cut": zipped(img=npy()[:-9], txt=npy()),
        "a spoilt array": spoilt(npz(np.savez), 0.2),
        "a spoilt packed array": spoilt(npz(), 0.3),
        "pickled objects": npz(img=np.array([{}] * ROWS, dtype=object)),
        "fewer rows": npz(img=GOOD.images[:-1]),
        "another dimension": npz(img=GOOD.images[:, :9]),
        "another order": npz(txt=GOOD.texts[ORDER]),
        "columns first": npz(img=np.asfortranarray(GOOD.images)),
    },
    "hdf5": {
        "cut": hdf5()[:-999],
        "a page": PAGE,
        "a path is absent": hdf5(**{"x/img": GOOD.images}, img=h5py.SoftLink("/nowhere")),
        "a spoilt beginning": spoilt(hdf5(), 0.0, 8),
        "fewer rows": hdf5(img=GOOD.images[:-1]),
        "another dimension": hdf5(img=GOOD.images[:, :9]),
        "whole numbers": hdf5(img=np.ones((ROWS, DIMENSION), int)),
        "another order": hdf5(txt=GOOD.texts[ORDER]),
        "a link to another file": hdf5(img=h5py.ExternalLink("other.h5", "img")),
    },
    "cut": {
        "one row group": parquet(table(), row_group_size=ROWS),
        "cut": parquet(table())[:-999],
        "a spoilt footer": spoilt(parquet(table()), 0.9999, 9),
        "a page": PAGE,
        "no such column": parquet(table().drop_columns(["img"])),
    },
}
"""Bad files of shard 0's image vectors, by container and by what is wrong with them."""

CASES = [(container, name) for container, found in FILES.items() for name in found]


def put(folder: Path, container: str, bad: bytes | None) -> None:
    """Writes a shard's files; `bad`, if given, replaces the content of the vectors' file."""
    files = folder / "files"
    files.mkdir()
    good = {"npy": npy(), "parquet": parquet(table()), "npz": npz(), "hdf5": hdf5(), "cut": parquet(table())}[container]
    name = "part_0.parquet" if container == "cut" else VECTORS[container].replace("{shard}", "0")
    (files / name).write_bytes(good if bad is None else bad)
    if container == "npy":
        (files / "text_emb_0.npy").write_bytes(npy(GOOD.texts))
    if container in ("npy", "npz", "hdf5"):
        pq.write_table(GOOD.table, files / "metadata_0.parquet")
    (folder / "bad.toml").write_text(description(container))


def load(settings: Settings, db: Database, shard: int = 0) -> int:
    """Loads a shard from the source to the table, and returns the number of rows."""
    store = ShardStore.of(settings)
    fetch_shard(settings, shard, store.raw_folder, limits=QUICK)
    merged = merge_shard(store, shard, max_bad_fraction=settings.max_bad_fraction)
    require_loadable(merged, settings.dataset, max_bad_fraction=settings.max_bad_fraction, extra_columns={})
    # The table is shared by all tests, but each shard is checked by its own description.
    return load_partition(replace(db, settings=settings), merged).rows


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A connection to the one table that all tests of this module use."""
    folder = tmp_path_factory.mktemp("bad")
    put(folder, "npz", None)
    with connect(settings_for(data_dir=folder / "data", dataset=folder / "bad.toml")) as opened:
        yield opened


def rows_in(db: Database) -> int:
    """Returns the number of rows in the table, of all shards."""
    return sum(state.rows for state in partitions(db))


@pytest.mark.parametrize(("container", "name"), CASES)
def test_a_bad_file_ends_in_one_line_and_reaches_no_table(
    container: str, name: str, db: Database, tmp_path: Path
) -> None:
    put(tmp_path, container, FILES[container][name])
    settings = settings_for(data_dir=tmp_path / "data", dataset=tmp_path / "bad.toml")
    before = rows_in(db)
    with pytest.raises(LaionError) as caught:
        load(settings, db)
    assert_one_line(caught.value, "shard 0")
    assert rows_in(db) == before


def test_another_file_of_the_name_reaches_no_table(db: Database, tmp_path: Path) -> None:
    put(tmp_path, "npz", None)
    toml = tmp_path / "bad.toml"
    toml.write_text(toml.read_text().replace("shards = 2", "shards = 1"))
    show_listing(toml, Console(file=io.StringIO()))
    (tmp_path / "files" / "0.npz").write_bytes(npz(img=GOOD.images[ORDER], txt=GOOD.texts[ORDER]))
    before = rows_in(db)
    with pytest.raises(LaionError) as caught:
        load(settings_for(data_dir=tmp_path / "data", dataset=tmp_path / "bad.toml"), db)
    assert_one_line(caught.value, "shard 0", "as the lock file says")
    assert rows_in(db) == before


@pytest.mark.parametrize("container", ["npy", "parquet", "npz", "hdf5"])
def test_the_same_rows_in_a_sound_file_are_loaded(container: str, db: Database, tmp_path: Path) -> None:
    put(tmp_path, container, None)
    settings = settings_for(data_dir=tmp_path / "data", dataset=tmp_path / "bad.toml")
    assert load(settings, db) == ROWS

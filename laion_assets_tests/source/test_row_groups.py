"""Tests of shards cut from a large Parquet file over HTTP, from a folder and S3: complete, resumed, of one version."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from laion_assets.errors import LaionError
from laion_assets.file_layout import Slice
from laion_assets.shard.parquet_slice import MAGIC, NoRowGroupsError, ParquetSlice, footer_length, slice_parquet
from laion_assets.shard.thrift_compact import read_struct, write_struct
from laion_assets.source.fetch import FetchedFile, fetch_shard
from laion_assets.source.origin_note import read_origin
from laion_assets_tests.bucket import s3_server, upload
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server

ROWS, SHARDS = 4_000, 5
NAMES = ("part_1_of_2.parquet", "part_2_of_2.parquet")
TOML = f"""
name = "cut"
shards = {2 * SHARDS}
shards_per_file = {SHARDS}
first_file = 1
image_file = "part_{{file}}_of_2.parquet"
metadata_file = "part_{{file}}_of_2.parquet"
image_array = "vector"
has_text = false
dimension = 32
[[sources]]
url = "unused"
folders = {{ metadata = "" }}
"""


def table_of(seed: int, rows: int = ROWS) -> pa.Table:
    """Returns a table whose rows do not compress well."""
    numbers = np.random.default_rng(seed).standard_normal(rows * 32).astype(np.float32)
    columns = {
        "url": [f"https://example.org/{seed}/{row}.jpg" for row in range(rows)],
        "caption": [f"thing {row % 7}" for row in range(rows)],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(numbers), 32).cast(pa.list_(pa.float32())),
    }
    return pa.table(columns)


def written(table: pa.Table, **options: object) -> bytes:
    """Returns the table as a Parquet file with row groups of 170 rows."""
    file = io.BytesIO()
    pq.write_table(table, file, **{"row_group_size": 170, **options})
    return file.getvalue()


TABLES = [table_of(seed) for seed in range(2)]
FILES = dict(zip(NAMES, map(written, TABLES), strict=True)) | {"grown": written(table_of(9, ROWS + 400))}


@pytest.fixture(scope="module")
def cut_server() -> Iterator[MisbehavingServer]:
    with misbehaving_server(FILES) as server:
        yield server


@pytest.fixture
def server(cut_server: MisbehavingServer) -> MisbehavingServer:
    cut_server.requests.clear()
    cut_server.counts.clear()
    cut_server.files = dict(FILES)
    return cut_server


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    (tmp_path / "cut.toml").write_text(TOML)
    return tmp_path / "cut.toml"


def fetch(source: str, shard: int, toml: Path, log: list[str] | None = None) -> FetchedFile:
    """Fetches the one file of a shard."""
    settings = settings_for(source, data_dir=toml.parent / "data", dataset=toml)
    say = None if log is None else log.append
    (file,) = fetch_shard(settings, shard, toml.parent / "raw", limits=QUICK, log=say)
    return file


def whole(source: str, toml: Path) -> pa.Table:
    """Fetches all shards and returns their rows in one table."""
    return pa.concat_tables(pq.read_table(fetch(source, shard, toml).path) for shard in range(2 * SHARDS))


def sliced(content: bytes, share: Slice) -> tuple[ParquetSlice, bytes]:
    """Returns a share of a file, and its bytes."""
    length = footer_length(content[-8:], len(content))
    first = len(content) - 8 - length
    found = slice_parquet(content[first:-8], first, share)
    made = MAGIC + b"".join(content[start:end] for start, end in found.ranges) + found.footer
    assert len(made) == found.size
    return found, made


@pytest.mark.parametrize(
    "behaviour", ["well-behaved", "validator=weak", "validator=date", "validator=none", "head=403"]
)
def test_the_shards_of_a_file_are_its_rows_over_http(behaviour: str, server: MisbehavingServer, toml: Path) -> None:
    assert whole(server.base(behaviour), toml).equals(pa.concat_tables(TABLES))


def test_the_shards_of_a_file_are_its_rows_from_a_folder(toml: Path) -> None:
    for name in NAMES:
        (toml.parent / name).write_bytes(FILES[name])
    assert whole(str(toml.parent), toml).equals(pa.concat_tables(TABLES))


def test_the_shards_of_a_file_are_its_rows_from_a_bucket(toml: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name in NAMES:
        (tmp_path / "files" / name).write_bytes(FILES[name])
    with s3_server():
        upload(tmp_path / "files", "s3://laion/set")
        assert whole("s3://laion/set", toml).equals(pa.concat_tables(TABLES))


def test_a_public_bucket_is_read_without_credentials(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    for name in NAMES:
        (tmp_path / "files" / name).write_bytes(FILES[name])
    with s3_server() as server:
        upload(tmp_path / "files", "s3://laion/set")
        for name in NAMES:
            s3fs.S3FileSystem().chmod(f"laion/set/{name}", "public-read")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        s3fs.S3FileSystem.clear_instance_cache()
        server.requests.clear()
        assert pq.read_table(fetch("s3://laion/set", 3, toml).path).num_rows
        assert {request.signed_by for request in server.requests} == {""}


def test_raw_files_are_named_after_their_file_and_shard(server: MisbehavingServer, toml: Path) -> None:
    assert fetch(server.base(), 7, toml).path.name == "part_2_of_2.shard-7.share-2-of-5.parquet"


def test_a_cut_connection_is_resumed_and_costs_no_row_group_twice(server: MisbehavingServer, toml: Path) -> None:
    found, made = sliced(FILES[NAMES[0]], Slice(2, SHARDS))
    needed = sum(end - first for first, end in found.ranges)
    log: list[str] = []
    # The first request, for the last 64 KiB, is below the limit of 70,000 bytes and is not cut.
    file = fetch(server.base("cut=70000"), 2, toml, log)
    assert file.path.read_bytes() == made
    ranges = [request for request in server.asked(NAMES[0]) if request.method == "GET" and request.sent]
    assert sum(request.sent for request in ranges if request.headers["range"] not in _tails(server)) == needed
    assert any("an end" in line or "Incomplete" in line for line in log)
    assert all(request.headers.get("if-match", "").startswith('"') for request in ranges)


def _tails(server: MisbehavingServer) -> set[str]:
    size = len(FILES[NAMES[0]])
    return {f"bytes={size - (1 << 16)}-{size - 1}"}


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_file_that_changes_meanwhile_gives_rows_of_one_version(
    at: int, server: MisbehavingServer, toml: Path
) -> None:
    log: list[str] = []
    file = fetch(server.base(f"cut=70000&grown={at}"), 1, toml, log)
    assert file.path.read_bytes() == sliced(FILES["grown"], Slice(1, SHARDS))[1]


def test_a_shard_is_fetched_again_only_where_its_file_has_changed(server: MisbehavingServer, toml: Path) -> None:
    fetch(server.base(), 0, toml)
    again = fetch(server.base(), 0, toml)
    assert (again.tries, again.bytes_fetched) == (0, 0)
    server.files[NAMES[0]] = FILES["grown"]
    assert fetch(server.base(), 0, toml).path.read_bytes() == sliced(FILES["grown"], Slice(0, SHARDS))[1]


@pytest.mark.parametrize("behaviour", ["well-behaved", "validator=weak"])
def test_a_finished_share_of_a_killed_run_is_compared_with_its_source(
    behaviour: str, server: MisbehavingServer, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    def killed() -> None:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "fsync", die)
            fetch(server.base(behaviour), 0, toml)

    killed()
    log: list[str] = []
    file = fetch(server.base(behaviour), 0, toml, log)
    assert (file.bytes_fetched, log) == (0, [])
    noted = read_origin(file.path)
    assert noted is not None and noted.size == len(FILES[NAMES[0]])
    file.path.unlink()
    killed()
    server.files[NAMES[0]] = written(table_of(7))
    file = fetch(server.base(behaviour), 0, toml, log)
    assert file.path.read_bytes() == sliced(server.files[NAMES[0]], Slice(0, SHARDS))[1]
    assert "it is fetched again" in log[0]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("ranges=ignored", "200, the whole file, expected 206"),
        ("ranges=shifted", "Content-Range"),
        ("ranges=other-etag", 'of ETag "another"'),
        ("ranges=other-total", "bytes "),
        ("ranges=capped", "bytes "),
        ("length=chunked&head=0", "no size of the file"),
        ("truncated=90000", "an end of b"),
        ("status=404", "404"),
        ("page=1", "the whole file"),
        ("encoding=gzip", "gzip"),
    ],
)
def test_a_server_that_gives_no_such_ranges_is_refused(
    behaviour: str, said: str, server: MisbehavingServer, toml: Path
) -> None:
    with pytest.raises(LaionError) as caught:
        fetch(server.base(behaviour), 0, toml)
    assert_one_line(caught.value, "shard 0, part_1_of_2.shard-0.share-0-of-5.parquet")
    assert said in str(caught.value) or said == "Content-Range"
    assert not [*(toml.parent / "raw").glob("*.parquet")]


def test_a_file_of_too_few_row_groups_says_what_to_set(server: MisbehavingServer, toml: Path) -> None:
    server.files[NAMES[0]] = written(TABLES[0], row_group_size=ROWS)
    with pytest.raises(LaionError) as caught:
        fetch(server.base(), 0, toml)
    assert_one_line(
        caught.value, "1 row groups of 4,000 rows", "none is in share 0 of 5", "lower shards_per_file", "load all"
    )


OPTIONS = [
    {"compression": "zstd", "write_page_index": True},
    {"compression": "none", "data_page_version": "2.0", "use_dictionary": False},
    {"row_group_size": 1_000},
    {"row_group_size": 801},
    {"bloom_filter_options": {"url": {"ndv": 200}}},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_row_group_is_in_one_share_however_the_file_was_written(options: dict[str, object]) -> None:
    try:
        content = written(TABLES[0], **options)
    except TypeError:
        pytest.skip("this pyarrow writes no bloom filters")
    tables = []
    for index in range(4):
        found, made = sliced(content, Slice(index, 4))
        file = pq.ParquetFile(pa.BufferReader(made))
        assert (file.metadata.num_rows, file.metadata.num_row_groups) == (found.rows, found.row_groups)
        groups = [file.metadata.row_group(group) for group in range(found.row_groups)]
        needed = sum(group.column(each).total_compressed_size for group in groups for each in range(group.num_columns))
        assert found.size - len(found.footer) - len(MAGIC) <= 1.05 * needed
        tables.append(file.read())
    assert pa.concat_tables(tables).equals(TABLES[0])


def test_a_footer_is_written_as_it_was_read() -> None:
    for content in FILES.values():
        footer = content[-8 - footer_length(content[-8:], len(content)) : -8]
        assert write_struct(read_struct(footer)) == footer


def test_a_damaged_footer_is_refused_and_reads_nothing_outside_the_file() -> None:
    content = FILES[NAMES[0]]
    first = len(content) - 8 - footer_length(content[-8:], len(content))
    footer, chance = content[first:-8], random.Random(0)
    refused = 0
    for _ in range(2_000):
        spoilt = bytearray(footer)
        for _ in range(chance.randint(1, 4)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        spoilt = spoilt[: chance.randint(1, len(spoilt))] if chance.random() < 0.2 else spoilt
        try:
            found = slice_parquet(bytes(spoilt), first, Slice(1, SHARDS))
        except ValueError:
            refused += 1
            continue
        assert all(4 <= start <= end <= first for start, end in found.ranges)
    assert refused > 200


def test_no_row_group_is_no_share() -> None:
    with pytest.raises(NoRowGroupsError):
        sliced(written(TABLES[0].slice(0, 0)), Slice(0, 2))


def test_a_shard_of_ten_million_rows_costs_its_share(server: MisbehavingServer, toml: Path) -> None:
    rows = 10_000_000
    numbers = np.random.default_rng(0).standard_normal(2 * rows).astype(np.float16)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 2).cast(pa.list_(pa.float16()))
    table = pa.table({"vector": vectors, "number": pa.array(np.arange(rows, dtype=np.int32))})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=200_000, use_dictionary=False, compression="none")
    server.files[NAMES[0]] = file.getvalue()
    fetched = fetch(server.base(), 3, toml)
    metadata = pq.read_metadata(fetched.path)
    assert metadata.num_rows == rows // SHARDS
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    needed = sum(group.column(each).total_compressed_size for group in groups for each in range(group.num_columns))
    assert server.sent(NAMES[0]) <= 1.05 * needed
    assert pq.read_table(fetched.path, columns=["number"])["number"][0].as_py() == 3 * rows // SHARDS

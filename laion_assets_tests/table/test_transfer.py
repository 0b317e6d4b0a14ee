"""Tests of sending a file to a server: the server reads it or the loader pushes it; both give the same partition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.errors import SettingsError, ShardFileError
from laion_assets.settings import Settings, load_settings
from laion_assets.shard import merge
from laion_assets.shard.merged import MergedShard
from laion_assets.table import inserting, push
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.fingerprint import file_fingerprint, fingerprint_sql
from laion_assets.table.load import load_partition
from laion_assets.table.parquet_source import parquet_source
from laion_assets.table.schema import partitions
from laion_assets.table.transfer import choose_transfer
from laion_assets.table.verify import vectors_agree
from laion_assets_tests.conftest import Shard, assert_one_line, settings_for
from laion_assets_tests.endpoint.process import PASSWORD, ServerProcess, endpoint_process
from laion_assets_tests.source.misbehaving_server import misbehaving_server

Merge = Callable[[Shard, int], MergedShard]


@pytest.fixture
def merged(merged_from: Merge, sample_shards: list[Shard]) -> MergedShard:
    """A merged file of 620 rows in the store; two captions are not UTF-8."""
    captions = pa.array([b"\xff\xfe not UTF-8", b"\x00", *[b"plain"] * 618], pa.binary()).view(pa.string())
    return merged_from(sample_shards[1].with_column("caption", captions), 0)


@pytest.fixture
def on_server(settings: Settings, clickhouse_server: ServerProcess) -> Settings:
    """The store's settings, with the URL of a database on the server."""
    clickhouse_server.calm()
    return settings.model_copy(update={"clickhouse": load_settings(clickhouse=clickhouse_server.url()).clickhouse})


def staged_inserts(server: ServerProcess) -> list[dict[str, Any]]:
    """Returns the requests that inserted rows of a shard, without those that inserted claims of leases."""
    return [request for request in server.log("INSERT INTO") if "_staging_" in request["sql"].partition("(")[0]]


def assert_loaded(db: Database, merged: MergedShard, way: str) -> None:
    """Loads the file and checks that it took this way, and that the partition is one part and equals the file."""
    lines: list[str] = []
    loaded = load_partition(db, merged, log=lines.append)
    assert loaded.transfer.startswith(f"{way}: ")
    assert lines == [f"shard 0, {loaded.transfer}"]
    assert (loaded.rows, loaded.fingerprint) == file_fingerprint(db.settings, merged)
    assert [(state.rows, state.parts) for state in partitions(db)] == [(merged.rows, 1)]
    assert vectors_agree(db, merged) == merged.rows


def test_a_server_that_cannot_see_the_file_gets_it_pushed_in_pieces(
    on_server: Settings,
    merged_from: Merge,
    sample_shards: list[Shard],
    clickhouse_server: ServerProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merge, "BLOCK_ROWS", 50)
    monkeypatch.setattr(inserting, "PART_ROWS", 250)
    monkeypatch.setattr(push, "PUSH_BATCH_ROWS", 20)
    merged = merged_from(sample_shards[1], 0)
    with connect(on_server) as db:
        assert_loaded(db, merged, "push")
    inserts = staged_inserts(clickhouse_server)
    assert [request["chunked"] for request in inserts] == [True] * 3
    ids = [request["query_id"] for request in inserts]
    assert len(set(ids)) == 3
    assert all(name.startswith("laion_assets-laion-0-") for name in ids)
    assert PASSWORD not in str(clickhouse_server.log())


def test_what_is_pushed_is_compressed_as_the_settings_say(
    on_server: Settings, merged: MergedShard, clickhouse_server: ServerProcess
) -> None:
    sizes = {}
    for compression in ("none", "lz4", "zstd"):
        clickhouse_server.calm()
        with connect(on_server.model_copy(update={"clickhouse_compression": compression})) as db:
            assert_loaded(db, merged, "push")
        sizes[compression] = sum(request["body_bytes"] for request in staged_inserts(clickhouse_server))
        encodings = {request["answer_encoding"] for request in clickhouse_server.log("SELECT count()")}
        assert encodings == {"" if compression == "none" else compression}
    assert sizes["none"] > 620 * 4_096
    assert sizes["zstd"] < 0.75 * sizes["none"]
    assert sizes["lz4"] < sizes["none"]


def test_a_server_reads_the_store_where_that_is_in_its_user_files(
    clickhouse_server: ServerProcess, sample_folder: Path, sample_shards: list[Shard], tmp_path: Path
) -> None:
    from laion_assets.shard.merge import merge_shard
    from laion_assets.shard.store import ShardStore

    folder = clickhouse_server.user_files / tmp_path.name / "it's here"
    settings = settings_for(folder, sample_folder, clickhouse=clickhouse_server.url())
    store = ShardStore(settings.data_dir, settings.dataset)
    sample_shards[1].place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0)
    clickhouse_server.calm()
    with connect(settings) as db:
        assert_loaded(db, merged, "user_files")
    inserts = staged_inserts(clickhouse_server)
    assert inserts
    assert all("FROM file(" in request["sql"] for request in inserts)


def test_a_server_reads_a_copy_that_the_settings_name(
    on_server: Settings, merged: MergedShard, clickhouse_server: ServerProcess
) -> None:
    copy = clickhouse_server.user_files / "copies" / merged.path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(merged.path.read_bytes())
    with connect(on_server.model_copy(update={"clickhouse_merged": "copies"})) as db:
        assert_loaded(db, merged, "user_files")


def test_a_server_reads_a_url(on_server: Settings, merged: MergedShard) -> None:
    with (
        misbehaving_server({merged.path.name: merged.path.read_bytes()}) as files,
        connect(on_server.model_copy(update={"clickhouse_merged": files.base()})) as db,
    ):
        assert_loaded(db, merged, "url")
        assert files.asked(merged.path.name)


def test_a_server_reads_a_bucket_with_its_own_keys(settings: Settings, merged: MergedShard, tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "its-own", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    with misbehaving_server({merged.path.name: merged.path.read_bytes()}) as files:
        mapped = "".join(f"<{scheme}><to>{files.base('{bucket}')}</to></{scheme}>" for scheme in ("s3", "gs"))
        config = tmp_path / "config.xml"
        config.write_text(f"<clickhouse><url_scheme_mappers>{mapped}</url_scheme_mappers></clickhouse>")
        options = {"config-file": str(config)}
        with endpoint_process(tmp_path / "server", options=options, environment=keys) as server:
            for scheme, way in (("s3", "s3"), ("gs", "gcs")):
                fields = {"clickhouse_merged": f"{scheme}://well-behaved", "table": f"laion_{way}"}
                url = load_settings(clickhouse=server.url()).clickhouse
                with connect(settings.model_copy(update={"clickhouse": url, **fields})) as db:
                    assert_loaded(db, merged, way)
        assert {"its-own" in request.headers["authorization"] for request in files.asked(merged.path.name)} == {True}


@pytest.mark.parametrize("place", ["nowhere", "http://127.0.0.1:9", "older"])
def test_where_the_server_finds_no_such_file_it_is_pushed_and_the_reason_said(
    place: str, on_server: Settings, merged: MergedShard, clickhouse_server: ServerProcess
) -> None:
    older = clickhouse_server.user_files / "older" / merged.path.name
    older.parent.mkdir(exist_ok=True)
    pq.write_table(pq.read_table(merged.path).slice(1), older)
    with connect(on_server.model_copy(update={"clickhouse_merged": place})) as db:
        assert_loaded(db, merged, "push")
        why = choose_transfer(db, merged).why
    assert ("is another file" if place == "older" else "does not read") in why


def test_a_copy_of_the_right_size_with_other_rows_is_found_before_the_swap(
    on_server: Settings, merged: MergedShard, clickhouse_server: ServerProcess
) -> None:
    with connect(on_server) as db:
        load_partition(db, merged)
    copy = clickhouse_server.user_files / "spoilt" / merged.path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(merged.path.read_bytes())
    table = pq.read_table(merged.path)
    other = table.set_column(1, table.schema.field("url"), pa.array(["x" * 20] * 620))
    pq.write_table(other, merged.path)
    changed = replace(merged, file_bytes=copy.stat().st_size)
    with connect(on_server.model_copy(update={"clickhouse_merged": "spoilt"})) as db:
        with pytest.raises(Exception, match="that differ from the file's"):
            load_partition(db, changed)
        assert [(state.rows, state.parts) for state in partitions(db)] == [(620, 1)]


def test_a_file_that_breaks_off_while_it_is_pushed_is_the_files_fault(on_server: Settings, merged: MergedShard) -> None:
    content = bytearray(merged.path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1_000] = bytes(1_000)
    merged.path.write_bytes(bytes(content))
    with connect(on_server) as db, pytest.raises(ShardFileError) as caught:
        load_partition(db, merged)
    assert_one_line(caught.value, "shard 0, merged_0.parquet", "materialize raw_shard and merged_shard for partition 0")


@pytest.mark.parametrize("place", ["ftp://host/x", "with blank", "it's", "all*", "a\\b"])
def test_a_place_that_cannot_be_named_in_sql_is_refused(place: str) -> None:
    with pytest.raises(SettingsError, match="LAION_CLICKHOUSE_MERGED"):
        load_settings(clickhouse_merged=place)


@pytest.mark.parametrize("place", ["merged", "a/b", "s3://bucket/merged", "gs://b/m", "https://host/m?", "/abs/m"])
def test_places_are_folders_or_urls(place: str) -> None:
    if place.endswith("?"):
        with pytest.raises(SettingsError):
            load_settings(clickhouse_merged=place)
    else:
        assert load_settings(clickhouse_merged=f"{place}/").clickhouse_merged == place


def test_the_fingerprint_in_sql_and_from_the_file_are_one_number_for_every_kind_of_column(
    settings: Settings, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    odd = np.array([np.nan, np.inf, -0.0, 1e-40, *np.linspace(-1, 1, 246)], np.float32)
    captions = [b"", b"12:a", b"\x00", "ünï".encode(), b"\xff", *[b"x" * n for n in range(245)]]
    shard = sample_shards[2].with_column("similarity", pa.array(odd))
    shard = shard.with_column("caption", pa.array(captions, pa.binary()).view(pa.string()))
    merged = merged_from(shard, 0)
    with connect(settings) as db:
        source = parquet_source(db, merged.path)
        in_sql = db.one(f"SELECT count(), {fingerprint_sql(settings)} FROM {source}")
    assert tuple(in_sql) == file_fingerprint(settings, merged)

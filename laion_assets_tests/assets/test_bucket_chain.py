"""Tests the chain with source and store in buckets and steps on several hosts: the table is as from folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from pytest import LogCaptureFixture

from laion_assets.assets.load_report import CHECKS, load_report_asset
from laion_assets.assets.location import CodeLocation
from laion_assets.health.disk import bytes_still_needed
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.index.graphs import build_indexes
from laion_assets.searching.proof_of_use import index_use
from laion_assets.searching.statement import SearchRequest, vector_of
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.bucket import bucket_path, put
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.parquet_source import parquet_source
from laion_assets.terminal.load import missing_steps
from laion_assets.terminal.status import read_status
from laion_assets_tests.assets.test_chain import failed_checks, failures, materialized, recorded, run, table_state
from laion_assets_tests.bucket import KEY, SECRET, S3Server, keys, s3_server, upload
from laion_assets_tests.conftest import SAMPLE_ROWS, settings_for
from laion_assets_tests.endpoint.process import endpoint_process

RAW = ["raw/img_emb_2.npy", "raw/metadata_2.parquet", "raw/text_emb_2.npy"]


@pytest.fixture(scope="module")
def server(sample_folder: Path) -> Iterator[S3Server]:
    with s3_server() as made:
        upload(sample_folder, "s3://laion/source")
        yield made


def host(tmp_path: Path, name: str, **fields: object) -> Settings:
    """Settings of one host. Each host has a scratch folder; all hosts share one bucket and one table."""
    named: dict[str, object] = {
        "dataset_name": "sample",
        "source": ("s3://laion/source",),
        "store": f"s3://laion/{tmp_path.name}",
        "clickhouse": f"chdb://{tmp_path}/table",
        "hnsw_m": 8,
        "hnsw_ef_construction": 32,
    }
    return load_settings(**{**named, "data_dir": tmp_path / name, **fields})


def files(folder: Path) -> list[str]:
    """The files in a host's scratch folder, without lock files."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.mark.usefixtures("server")
def test_steps_on_three_hosts_give_the_table_that_one_folder_gives(
    sample_folder: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    for number, asset in enumerate(("raw_shard", "merged_shard", "clickhouse_partition")):
        result = run(host(tmp_path, f"host{number}"), 2, instance, asset)
        assert result.success, (failures(result), failed_checks(result))
        assert materialized(result) == [asset]
    assert keys(tmp_path.name) == ["merged/merged_2.parquet"]
    assert files(tmp_path / "host1") == files(tmp_path / "host2") == []
    uri = recorded(instance, "merged_shard", 2)["dagster/uri"]
    assert uri == f"s3://laion/{tmp_path.name}/merged/merged_2.parquet"

    alone = settings_for(tmp_path / "alone", sample_folder)
    assert run(alone, 2, instance).success
    settings = host(tmp_path, "host3")
    assert table_state(settings) == table_state(alone)
    with connect(settings) as db:
        build_indexes(db)
        use = index_use(db, vector_of(db, 20_000_007, "image"), SearchRequest())
    assert use.fault is None


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("keep_raw", [True, False])
@pytest.mark.parametrize("keep_merged", [True, False])
def test_objects_stay_only_where_the_settings_say_so(
    keep_raw: bool, keep_merged: bool, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    settings = host(tmp_path, "here", keep_raw=keep_raw, keep_merged=keep_merged)
    result = run(settings, 2, instance)
    assert result.success, (failures(result), failed_checks(result))
    merged = ["merged/merged_2.parquet"] if keep_merged else []
    assert keys(tmp_path.name) == merged + (RAW if keep_raw else [])
    assert files(settings.data_dir) == []
    assert [(shard, rows) for shard, rows, _ in table_state(settings)] == [(2, 250)]
    again = run(settings, 2, instance, "merged_shard")
    assert again.success == keep_raw
    if not keep_raw:
        assert f"in s3://laion/{tmp_path.name}/raw" in failures(again)[0]


@pytest.mark.usefixtures("server")
def test_raw_objects_that_stayed_are_fetched_again_when_their_source_has_others(
    sample_folder: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    source = f"s3://laion/source-{tmp_path.name}"
    upload(sample_folder, source)
    settings = host(tmp_path, "here", keep_raw=True, source=(source,))
    assert run(settings, 2, instance).success
    assert files(settings.data_dir) == []
    assert recorded(instance, "raw_shard", 2)["bytes_fetched"] > 0
    assert run(settings, 2, instance, "raw_shard").success
    assert recorded(instance, "raw_shard", 2)["bytes_fetched"] == 0, "the same files"

    image = tmp_path / "img_emb_2.npy"
    changed = np.load(sample_folder / "img_emb" / "img_emb_2.npy")[::-1]
    np.save(image, changed)
    put(image, bucket_path(source, "img_emb", image.name), subject="source")
    assert run(host(tmp_path, "elsewhere", keep_raw=True, source=(source,)), 2, instance, "raw_shard").success
    assert recorded(instance, "raw_shard", 2)["bytes_fetched"] == image.stat().st_size
    kept = bucket_path(f"s3://laion/{tmp_path.name}", "raw", image.name)
    assert kept.read_bytes() == image.read_bytes()


@pytest.mark.usefixtures("server")
def test_a_merged_object_is_loaded_again_without_its_source(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    settings = host(tmp_path, "here")
    assert run(settings, 2, instance, "raw_shard", "merged_shard").success
    assert missing_steps(settings, read_histories(instance, settings, ["2"])[0], 0) == ["clickhouse_partition"]
    assert run(settings, 2, instance, "clickhouse_partition").success
    assert missing_steps(settings, read_histories(instance, settings, ["2"])[0], SAMPLE_ROWS[2]) == []


def test_no_credential_reaches_a_statement_a_log_or_dagster(
    server: S3Server, tmp_path: Path, instance: dg.DagsterInstance, caplog: LogCaptureFixture
) -> None:
    settings = host(tmp_path, "here")
    caplog.set_level("INFO")
    result = run(settings, 2, instance)
    (tmp_path / "here" / "raw").mkdir(exist_ok=True)
    assert result.success
    # The engine read the object itself, with the key in the environment of its process.
    assert KEY in {request.signed_by for request in server.requests if request.agent.startswith("ClickHouse")}
    with connect(settings) as db:
        statement = parquet_source(db, ShardStore.of(settings).merged_path(2))
    assert statement.startswith(f"s3('{server.address}/laion/")
    said = [statement, caplog.text, *(str(record) for record in instance.all_logs(result.run_id))]
    assert not any(secret in text for text in said for secret in (SECRET, KEY))


def test_a_server_reads_the_object_itself_and_is_told_no_credential(
    server: S3Server, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with endpoint_process(tmp_path / "server") as clickhouse:
        settings = host(tmp_path, "here", clickhouse=clickhouse.url())
        server.requests.clear()
        result = run(settings, 2, instance)
        assert result.success, (failures(result), failed_checks(result))
        assert [(shard, rows) for shard, rows, _ in table_state(settings)] == [(2, 250)]
        inserts = [sql for request in clickhouse.log("INSERT INTO") if "_staging_" in (sql := str(request["sql"]))]
        assert inserts
        assert all(f"s3('{server.address}/laion/{tmp_path.name}/merged/merged_2.parquet'" in sql for sql in inserts)
        assert not any(secret in request["sql"] for request in clickhouse.log() for secret in (SECRET, KEY))
        # The server signs with the AWS_* variables of its own process.
        assert KEY in {request.signed_by for request in server.requests if request.agent.startswith("ClickHouse")}


def test_a_named_collection_gives_the_engine_its_credentials(
    server: S3Server, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    settings = host(tmp_path, "here", store_collection="laion_store")
    with connect(settings) as db:
        db.command(
            f"CREATE NAMED COLLECTION laion_store AS url = '{server.address}/laion/{tmp_path.name}/', "
            "access_key_id = 'OFTHECOLLECTION', secret_access_key = 'another'"
        )
    try:
        server.requests.clear()
        result = run(settings, 2, instance)
        assert result.success, (failures(result), failed_checks(result))
        signed = {request.signed_by for request in server.requests if request.agent.startswith("ClickHouse")}
        assert signed == {"OFTHECOLLECTION"}
    finally:
        with connect(settings) as db:
            db.command("DROP NAMED COLLECTION laion_store")


@pytest.mark.usefixtures("server")
def test_status_and_the_report_are_those_of_a_folder(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    settings = host(tmp_path, "here")
    assert run(settings, 2, instance).success
    status = read_status(settings, instance)
    assert status.table is not None
    assert (status.shards["loaded"], status.table.partitions, status.table.rows) == (1, 1, 250)
    assert status.healthy
    report = dg.materialize(
        [dg.AssetSpec("clickhouse_partition"), load_report_asset(CodeLocation(settings))], instance=instance
    )
    assert {check.check_name: check.passed for check in report.get_asset_check_evaluations()} == dict.fromkeys(
        CHECKS, True
    )


def test_the_disk_need_not_hold_what_a_bucket_holds(tmp_path: Path) -> None:
    waiting = [ShardHistory(str(shard)) for shard in range(100)]
    server = {"clickhouse": "https://db.example:8443/laion", "dataset_name": "laion400m", "keep_raw": True}
    in_bucket = bytes_still_needed(host(tmp_path, "here", **server), waiting)
    in_folder = bytes_still_needed(host(tmp_path, "here", **server, store=None), waiting)
    assert in_bucket is not None
    assert in_folder is not None
    # At most two of the hundred shards are in the folder at a time.
    assert in_bucket.store == pytest.approx(in_folder.store / 50, rel=0.01)

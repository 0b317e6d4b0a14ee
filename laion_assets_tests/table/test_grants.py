"""Tests that a user with only the printed grants can load, index and search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laion_assets.cli import app
from laion_assets.errors import ServerRefusedError, TableError
from laion_assets.index.cells.build import build_cells
from laion_assets.index.cells.nodes import build_cells_everywhere
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.recall.tuning import TuningPlan, tune
from laion_assets.searching.cells import search_cells
from laion_assets.searching.proof_of_use import index_use
from laion_assets.searching.statement import SearchRequest, search, vector_of
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect
from laion_assets.table.grants import Grant, load_grants, search_grants
from laion_assets.table.lease import lease
from laion_assets.table.nodes import connect_to_partition
from laion_assets.table.schema import partitions
from laion_assets.table.statement_settings import DECIDING, OVERFLOW_MODES, WANTED
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.endpoint.process import endpoint_process
from laion_assets_tests.table.loaded import load_sample, sample_settings

DATABASE = "granted"
SETTINGS = load_settings(dataset_name="sample", clickhouse=f"http://loader@127.0.0.1:1/{DATABASE}")
USERS = """<clickhouse><profiles><default>{}</default></profiles><quotas><default/></quotas><users><default>
<password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
<grants>{}</grants></default></users></clickhouse>"""
CONFIG = """<clickhouse><users_config>{0}</users_config>
<user_directories><users_xml><path>{0}</path></users_xml></user_directories>
<access_control_improvements><select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
<table_engines_require_grant>true</table_engines_require_grant></access_control_improvements></clickhouse>"""


CLUSTER = """<tcp_port>9000</tcp_port><remote_servers><ours><shard>
<replica><host>127.0.0.1</host><port>9000</port></replica></shard></ours></remote_servers></clickhouse>"""


def granting(folder: Path, grants: Sequence[Grant], profile: str = "", *, cluster: bool = False) -> dict[str, str]:
    """Returns options for chDB whose only user has these grants, and a profile with these settings, given as XML.

    chDB has one user, whose grants and profile come from a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    queries = "".join(f"<query>GRANT {grant.privileges} ON {grant.on}</query>" for grant in grants)
    (folder / "users.xml").write_text(USERS.format(profile, queries))
    config = CONFIG.format(folder / "users.xml")
    (folder / "config.xml").write_text(config.replace("</clickhouse>", CLUSTER) if cluster else config)
    return {"config-file": str(folder / "config.xml")}


def test_the_printed_grants_suffice_for_everything_and_a_searcher_needs_fewer(tmp_path: Path) -> None:
    options = granting(tmp_path / "all", load_grants(SETTINGS))
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        load_sample(settings, {0: 400, 1: 300})
        load_sample(settings, {1: 350}, seed=8)
        with connect(settings) as db:
            assert build_indexes(db).vectors == 1_500
            assert index_use(db, vector_of(db, 5, "image"), SearchRequest()).fault is None
            grid = (SearchSettings(64), SearchSettings(64, 5))
            assert evaluate(db, RecallPlan(queries=3, grid=grid, queries_at_100=0)).rows == 750
            parameters = (IndexParameters("i8", 8, 32),)
            assert tune(db, TuningPlan(rows=200, partitions=1, parameters=parameters, grid=grid, queries=3)).trials
            with pytest.raises(ServerRefusedError) as caught:
                db.command("CREATE TABLE elsewhere.t (x UInt8) ENGINE = MergeTree ORDER BY x")
            assert_one_line(caught.value, "Not enough privileges", "laion-assets grants")
    options = granting(tmp_path / "search", search_grants(SETTINGS))
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        with connect(settings) as db:
            assert index_use(db, vector_of(db, 5, "text"), SearchRequest(by="text")).fault is None
        with pytest.raises(ServerRefusedError, match="laion-assets grants"):
            load_sample(settings, {0: 100})


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("<readonly>1</readonly>", ("readonly = 1", "readonly = 2 for a user who only", "laion-assets grants")),
        ("<use_query_cache>1</use_query_cache>", ("query", "ALTER USER … SETTINGS use_query_cache = 0")),
    ],
)
def test_a_profile_under_which_nothing_can_be_proved_is_refused_with_what_to_do(
    profile: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    options = granting(tmp_path / "profile", load_grants(SETTINGS), profile)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url("default"))
        with pytest.raises(ServerRefusedError) as caught, connect(settings):
            pass
    assert_one_line(caught.value, *words)


BREAKING = "<max_rows_to_read>2500</max_rows_to_read><read_overflow_mode>break</read_overflow_mode>"
FIXED = "<constraints><read_overflow_mode><const/></read_overflow_mode></constraints>"


def test_a_profile_that_cuts_answers_at_a_limit_gives_an_error_and_no_cut_answer(tmp_path: Path) -> None:
    options = granting(tmp_path / "all", load_grants(SETTINGS))
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        load_sample(settings, {0: 3_000})
        with connect(settings) as db:
            vector = vector_of(db, 5, "image")
            names = db.rows("SELECT name FROM system.settings WHERE name LIKE '%overflow_mode%'")
            assert {name for (name,) in names} == set(OVERFLOW_MODES)
    options = granting(tmp_path / "break", search_grants(SETTINGS), BREAKING)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        with connect(settings) as db, pytest.raises(TableError) as caught:
            search(db, vector, SearchRequest(exact=True))
    assert_one_line(caught.value, "Limit for rows", "exceeded")
    options = granting(tmp_path / "fixed", search_grants(SETTINGS), BREAKING + FIXED)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        with pytest.raises(ServerRefusedError) as refused, connect(settings):
            pass
    assert_one_line(
        refused.value, "read_overflow_mode = break", "cuts answers", "SETTINGS read_overflow_mode = 'throw'"
    )


ODD = "".join(
    f"<{name}>{value}</{name}>"
    for name, value in {
        **{"limit": 100_000, "skip_unavailable_shards": 1, "distributed_group_by_no_merge": 1},
        **{"aggregate_functions_null_for_empty": 1, "empty_result_for_aggregation_by_empty_set": 1},
        **{"group_by_use_nulls": 1, "join_use_nulls": 1, "transform_null_in": 1, "data_type_default_nullable": 1},
        **{"async_insert": 1, "wait_for_async_insert": 0},
        **{"max_partition_size_to_drop": 1_000, "max_table_size_to_drop": 1_000},
    }.items()
)
"""A profile that changes what statements return, and limits what they may drop to 1 kB."""


def test_a_profile_changes_no_answer_and_stops_no_load(tmp_path: Path) -> None:
    built = SETTINGS.model_copy(update={"index": "both"})
    options = granting(tmp_path / "odd", load_grants(built), ODD)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE), index="both", hnsw_m=8)
        load_sample(settings, {0: 600, 1: 600, 2: 600, 3: 600})
        load_sample(settings, {3: 500})
        with connect(settings) as db:
            assert {state.shard: state.rows for state in partitions(db)} == {0: 600, 1: 600, 2: 600, 3: 500}
            build_indexes(db)
            build_cells(db)
            vector = vector_of(db, 5, "image")
            for request in (SearchRequest(exact=True), SearchRequest()):
                assert len(search(db, vector, request).neighbours) == 10
            assert len(search_cells(db, vector, SearchRequest(method="cells")).neighbours) == 10
            wanted = {name: value for name, (value, _) in DECIDING.items()} | dict(WANTED)
            names = ", ".join(f"'{name}'" for name in wanted)
            sent = db.rows(f"SELECT name, value FROM system.settings WHERE name IN ({names})")
            assert {str(name): value for name, value in sent} == wanted


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("limit", ["the user's profile sets limit or offset"]),
        ("join_use_nulls", ["join_use_nulls = 1, which changes answers", "SETTINGS join_use_nulls = '0'"]),
    ],
)
def test_a_profile_that_fixes_what_changes_answers_is_refused(tmp_path: Path, name: str, words: list[str]) -> None:
    fixed = f"<{name}>1</{name}><constraints><{name}><const/></{name}></constraints>"
    options = granting(tmp_path / "fixed", search_grants(SETTINGS), fixed)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        with pytest.raises(ServerRefusedError) as refused, connect(settings):
            pass
    assert_one_line(refused.value, *words)


def test_answers_kept_by_a_query_cache_are_not_used(tmp_path: Path) -> None:
    kept = "<use_query_cache>1</use_query_cache>" + "".join(
        f"<query_cache_{name}_handling>save</query_cache_{name}_handling>"
        for name in ("nondeterministic_function", "system_table")
    )
    options = granting(tmp_path / "profile", load_grants(SETTINGS), kept)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        with connect(settings) as db:
            db.command("CREATE TABLE laion_counted (x UInt8) ENGINE = MergeTree ORDER BY x")
            counts = []
            for _ in range(2):
                counts.append(db.rows("SELECT count() FROM laion_counted"))
                db.command("INSERT INTO laion_counted SELECT 1")
    assert counts == [[(0,)], [(1,)]]


def test_the_grants_of_a_cluster_suffice_to_load_and_to_search_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster has one node, and its engine has no replication."""
    monkeypatch.setattr("laion_assets.table.nodes._replicated", lambda _: "MergeTree")
    clustered = SETTINGS.model_copy(update={"cluster": "ours", "index": "cells"})
    options = granting(tmp_path / "all", load_grants(clustered), cluster=True)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE), cluster="ours")
        with connect_to_partition(settings, 0):
            pass
        load_sample(sample_settings(tmp_path, clickhouse=server.url(DATABASE), table="laion_local"), {0: 400})
        with connect_to_partition(settings, 0) as db, lease(db, "partition 0") as held:
            held.require()
        assert {report.by for report in build_cells_everywhere(settings)} == {"image", "text"}
    options = granting(tmp_path / "search", search_grants(clustered), cluster=True)
    with endpoint_process(tmp_path / "server", options=options) as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE), cluster="ours")
        with connect(settings) as db:
            found = search_cells(db, vector_of(db, 5, "image"), SearchRequest()).neighbours
            assert (found[0].id, len(found)) == (5, 10)
            assert len(search(db, vector_of(db, 5, "image"), SearchRequest()).neighbours) == 10


def test_a_cluster_and_a_bucket_need_more() -> None:
    settings = SETTINGS.model_copy(update={"cluster": "ours", "store": "s3://bucket/laion"})
    load, searches = ({str(grant.statement("u")) for grant in of(settings)} for of in (load_grants, search_grants))
    assert {"GRANT REMOTE ON *.* TO `u`", "GRANT SELECT ON system.clusters TO `u`"} <= searches
    for needed in ("REMOTE ON *.*", "SELECT ON system.clusters", "S3 ON *.*"):
        assert f"GRANT {needed} TO `u`" in load
    assert {"GRANT TABLE ENGINE ON ReplicatedMergeTree TO `u`", "GRANT TABLE ENGINE ON Distributed TO `u`"} <= load
    assert "GRANT SELECT ON `granted`.`laion_local` TO `u`" in searches
    assert not any("REMOTE" in grant.privileges for grant in load_grants(SETTINGS))


def test_the_command_prints_them_ready_to_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_CLICKHOUSE", f"https://loader:s3cret@host/{DATABASE}")
    shown = CliRunner().invoke(app, ["grants"]).output
    for grant in load_grants(SETTINGS):
        assert f"GRANT {grant.privileges} ON {grant.on} TO `loader`;" in shown
    assert len(shown.splitlines()) == len(load_grants(SETTINGS))
    assert "s3cret" not in shown
    searcher = CliRunner().invoke(app, ["grants", "anna", "--search"]).output
    assert "GRANT SELECT ON `granted`.`laion` TO `anna`;" in searcher
    assert "INSERT" not in searcher

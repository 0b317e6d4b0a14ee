"""Tests of a cluster's nodes: the place of each partition, the DDL, and the work of a cluster of one node.

No cluster of several servers could be run here. These tests use one embedded engine whose configuration makes it a
cluster of one node, so Distributed tables and `clusterAllReplicas` are the real ones. In this engine a replicated table
stays read-only, so its local table is not replicated. The engine parses the DDL, and the tests compare its text.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from laion_assets.api import answer, search
from laion_assets.assets.location import CodeLocation
from laion_assets.assets.recall_report import recall_report_asset
from laion_assets.assets.vector_index import vector_index_asset, vector_index_checks
from laion_assets.errors import ServerUnreachableError, TableError
from laion_assets.index.cells import centroids
from laion_assets.index.cells.nodes import build_cells_everywhere
from laion_assets.query import Query
from laion_assets.recall.compare import built_methods, compare
from laion_assets.recall.figures import SearchSettings, recall_folder, save_evaluations
from laion_assets.recall.kept_report import named_settings
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.searching.request import SearchRequest
from laion_assets.settings import Settings
from laion_assets.table import embedded
from laion_assets.table import nodes as nodes_module
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.lease import lease
from laion_assets.table.nodes import (
    Node,
    cluster_statements,
    connect_to_own_rows,
    connect_to_partition,
    create_cluster_tables,
    home_of,
    node_settings,
    nodes,
    placed_on,
    system_table,
)
from laion_assets.table.schema import partitions, parts_table
from laion_assets.terminal.status import read_status
from laion_assets_tests.assets.test_chain import failed_checks, failures, run
from laion_assets_tests.conftest import assert_one_line, settings_for
from laion_assets_tests.endpoint.process import endpoint_process

CONFIGURATION = """
<clickhouse>
  <tcp_port>9000</tcp_port>
  <remote_servers>
    <one><shard><internal_replication>true</internal_replication>
      <replica><host>127.0.0.1</host><port>9000</port></replica>
    </shard></one>
    <two>
      <shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard>
      <shard><replica><host>127.0.0.2</host><port>9000</port></replica></shard>
    </two>
    <spare>
      <shard>
        <replica><host>127.0.0.3</host><port>9000</port></replica>
        <replica><host>127.0.0.1</host><port>9000</port></replica>
      </shard>
    </spare>
    <twice>
      <shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard>
      <shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard>
      <shard><replica><host>localhost</host><port>9000</port></replica></shard>
    </twice>
  </remote_servers>
  <macros><shard>1</shard><replica>a</replica></macros>
</clickhouse>
"""

IN_BLOCKS = "SETTINGS (min_compress_block_size = 4096, max_compress_block_size = 4096)"
SNAPSHOT = [
    "CREATE DATABASE IF NOT EXISTS `default`",
    "CREATE TABLE IF NOT EXISTS `default`.`laion_local` ( `id` Int64, "
    f"`url` String {IN_BLOCKS}, `caption` String {IN_BLOCKS}, `NSFW` String {IN_BLOCKS}, "
    "`similarity` Float32, `image_embedding` Array(Float32) CODEC(NONE), "
    "`text_embedding` Array(Float32) CODEC(NONE), `shard` UInt16 ) "
    "ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/default/laion_local', '{replica}') "
    "PARTITION BY shard ORDER BY id SETTINGS index_granularity = 64, materialize_skip_indexes_on_merge = 0, "
    "vertical_merge_algorithm_min_columns_to_activate = 1, vertical_merge_algorithm_min_rows_to_activate = 1, "
    "fsync_part_directory = 1 "
    "COMMENT 'laion_assets: shards of the dataset sample; dimension 512, with text vectors'",
    "CREATE TABLE IF NOT EXISTS `default`.`laion` AS `default`.`laion_local` "
    "ENGINE = Distributed('one', 'default', 'laion_local') "
    "COMMENT 'laion_assets: shards of the dataset sample; dimension 512, with text vectors'",
]


def grown(shards: int) -> list[int]:
    """Returns the numbers of a cluster's shards."""
    return list(range(1, shards + 1))


@given(st.integers(0, 65_535), st.sets(st.integers(1, 200), min_size=1, max_size=40))
def test_each_partition_has_one_place_whatever_the_order_of_the_nodes(shard: int, numbers: set[int]) -> None:
    home = placed_on(shard, sorted(numbers))
    assert home in numbers
    assert home == placed_on(shard, sorted(numbers, reverse=True))


@given(st.integers(0, 65_535), st.integers(1, 64))
def test_a_node_that_is_added_takes_partitions_and_moves_no_other(shard: int, shards: int) -> None:
    before, after = placed_on(shard, grown(shards)), placed_on(shard, grown(shards + 1))
    assert after in (before, shards + 1)


@given(st.integers(0, 65_535), st.integers(2, 64), st.data())
def test_a_node_that_is_taken_away_gives_up_its_own_partitions_only(
    shard: int, shards: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(grown(shards)))
    before = placed_on(shard, grown(shards))
    after = placed_on(shard, [number for number in grown(shards) if number != gone])
    assert before in (after, gone)


@pytest.mark.parametrize("shards", range(1, 33))
def test_410_partitions_are_balanced_within_a_bound(shards: int) -> None:
    """The fullest cluster shard has at most 25 % more than its share for up to 15 shards, 90 % more for up to 32."""
    counts = Counter(placed_on(shard, grown(shards)) for shard in range(410))
    assert sum(counts.values()) == 410
    assert max(counts.values()) <= 410 / shards * (1.25 if shards <= 15 else 1.9)


@pytest.fixture
def settings(sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a cluster of one node, and the engine's configuration that makes it one."""
    configuration = tmp_path / "cluster.xml"
    configuration.write_text(CONFIGURATION)
    options = embedded.embedded_options

    def with_configuration(settings: Settings) -> dict[str, str]:
        return {**options(settings), "config-file": str(configuration)}

    monkeypatch.setattr(embedded, "embedded_options", with_configuration)
    fast = {"hnsw_m": 8, "hnsw_ef_construction": 32, "recall_queries": 5}
    return settings_for(tmp_path / "data", sample_folder, cluster="one", **fast)


@pytest.fixture
def whole(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same settings without replication, which this engine does not have."""
    monkeypatch.setattr(nodes_module, "_replicated", lambda _: "MergeTree")
    return settings


@pytest.fixture
def entry(settings: Settings) -> Iterator[Database]:
    with connect(settings) as db:
        yield db


def one_line(statement: str) -> str:
    return " ".join(statement.split())


def test_the_ddl_of_a_cluster_is_what_the_engine_parses_and_is_pinned_here(entry: Database) -> None:
    statements = [one_line(statement) for statement in cluster_statements(entry)]
    assert statements == SNAPSHOT
    for statement in statements:
        assert "CreateQuery" in str(entry.rows(f"EXPLAIN AST {statement}")[0][0])


@pytest.mark.parametrize(
    ("statement", "parsed"),
    [
        (
            "ALTER TABLE `default`.`laion_local` REPLACE PARTITION 3 FROM `default`.`laion_local_staging_3`",
            "AlterQuery",
        ),
        ("ALTER TABLE `default`.`laion_local` MATERIALIZE INDEX image_index IN PARTITION 3", "AlterQuery"),
        (
            "ALTER TABLE `default`.`laion_local` FETCH PARTITION 3 FROM '/clickhouse/tables/1/default/laion_local'",
            "Alter",
        ),
        ("ALTER TABLE `default`.`laion_local` ATTACH PARTITION 3", "AlterQuery"),
        ("ALTER TABLE `default`.`laion_local` DROP PARTITION 3", "AlterQuery"),
        ("DROP TABLE IF EXISTS `default`.`laion_local` ON CLUSTER `one` SYNC", "DropQuery"),
    ],
)
def test_statements_for_a_node_and_those_of_the_handbook_are_parsed(
    statement: str, parsed: str, entry: Database
) -> None:
    assert parsed in str(entry.rows(f"EXPLAIN AST {statement}")[0][0])


def test_nodes_are_found_in_system_clusters(entry: Database) -> None:
    assert nodes(entry) == [Node(1, 1, "127.0.0.1", here=True, port=9000)]
    assert system_table(entry, "events", every_replica=True) == "clusterAllReplicas('one', system.events)"
    assert parts_table(entry) == "cluster('one', system.parts)"


def test_a_cluster_that_is_not_there_is_an_error_that_names_those_that_are(settings: Settings) -> None:
    other = settings.model_copy(update={"cluster": "three"})
    with connect(other) as db, pytest.raises(TableError) as caught:
        nodes(db)
    assert_one_line(caught.value, "cluster three", "found one, spare, twice, two in system.clusters", "LAION_CLUSTER")


def test_an_insert_through_the_distributed_table_would_scatter_a_partition_and_is_refused(whole: Settings) -> None:
    two = whole.model_copy(update={"cluster": "two"})
    with connect(two) as db:
        assert [(node.cluster_shard, node.host, node.here) for node in nodes(db)] == [
            (1, "127.0.0.1", True),
            (2, "127.0.0.2", False),
        ]
        create_cluster_tables(db, [node for node in nodes(db) if node.here])
        with pytest.raises(TableError, match="no sharding key"):
            db.command(f"INSERT INTO {db.table} (id, shard) VALUES (1, 0)")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("node-2.example", "https://me:p%40ss@node-2.example:8443/laion"),
        ("fd00::2", "https://me:p%40ss@[fd00::2]:8443/laion"),
    ],
)
def test_a_node_is_asked_with_the_user_and_port_of_the_first(host: str, address: str, settings: Settings) -> None:
    url = SecretStr("https://me:p%40ss@node-1.example:8443/laion")
    server = settings.model_copy(update={"clickhouse": url})
    assert server.clickhouse_url == url
    there = node_settings(server, Node(2, 1, host, here=False))
    assert there.clickhouse_url.get_secret_value() == address
    assert (there.table, there.cluster) == ("laion_local", None)
    assert node_settings(server, Node(1, 1, "node-1", here=True)).clickhouse_url == url


def test_tables_are_made_only_where_they_are_lacking(whole: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    command = Database.command

    def noted(self: Database, sql: str, **more: object) -> None:
        made.append(sql)
        command(self, sql, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "command", noted)
    for statements in (3, 0):
        with connect_to_partition(whole, 3):
            assert len(made) == statements
        made.clear()
    assert not any("ON CLUSTER" in sql for sql in made)
    with connect(whole) as entry:
        entry.command("DROP TABLE laion SYNC")
    with connect_to_partition(whole, 3):
        assert made.count("CREATE DATABASE IF NOT EXISTS `default`") == 1


def test_a_dead_node_neither_stops_nor_delays_the_loads_of_the_others(
    whole: Settings, tmp_path: Path, sample_folder: Path
) -> None:
    """The dead nodes have addresses of this machine on which nothing listens."""
    (tmp_path / "server.xml").write_text(CONFIGURATION)
    there, elsewhere = (next(shard for shard in range(100) if placed_on(shard, [1, 2]) == home) for home in (1, 2))
    with endpoint_process(tmp_path / "server", options={"config-file": str(tmp_path / "server.xml")}) as server:
        url = server.url("clustered")
        spare, two = (
            settings_for(tmp_path / "d", sample_folder, cluster=name, clickhouse=url) for name in ("spare", "two")
        )
        # The first replica is dead: the load uses the second one, and reads the leases of the replicas that answer.
        for _ in range(2):
            started = time.monotonic()
            with connect_to_partition(spare, there) as db, lease(db, f"partition {there}") as held:
                assert db.settings.table == "laion_local"
                held.require()
                db.command(f"INSERT INTO {db.table} (id, shard) VALUES (1, {there})")
            assert time.monotonic() - started < 30
        # The second cluster shard is dead: a partition that is already on the first one is loaded there again.
        with connect_to_partition(two, there) as db:
            assert db.one(f"SELECT count() FROM {db.table}") == (2,)
        for unknown in (elsewhere, there + 1_000):
            with pytest.raises(ServerUnreachableError) as caught, connect_to_partition(two, unknown):
                pass
            assert_one_line(caught.value, f"partition {unknown}", "cluster shard 2 that answers", "when a replica is")
        assert server.log("ON CLUSTER") == []


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([(1, "a", 1), (1, "b", 1), (2, "c", 1), (2, "d", 1)], [1, 1, 2, 2]),
        ([(1, "a", 1), (2, "a", 2), (2, "b", 1)], [1, 2, 2]),
        ([(1, "a", 1), (2, "a", 1), (2, "b", 1)], [1, 2]),
    ],
)
def test_nodes_are_numbered_as_cluster_all_replicas_does(
    known: list[tuple[int, str, int]], expected: list[int]
) -> None:
    found = [Node(shard, 1, host, here=False, port=port) for shard, host, port in known]
    assert [node.cluster_shard for node in nodes_module._numbered(found)] == expected


def test_cluster_all_replicas_numbers_each_address_once_in_order(entry: Database) -> None:
    two = entry.settings.model_copy(update={"cluster": "twice"})
    with connect(two) as db:
        known = nodes(db)
        assert [(node.cluster_shard, node.host, node.port) for node in known] == [
            (1, "127.0.0.1", 9000),
            (2, "127.0.0.1", 9000),
            (3, "localhost", 9000),
        ]
        found = db.rows(f"SELECT _shard_num FROM {system_table(db, 'one', every_replica=True)} ORDER BY 1")
        assert [int(number) for (number,) in found] == list(range(1, len(nodes_module._numbered(known)) + 1))


def test_a_partition_stays_where_it_stands(whole: Settings) -> None:
    added = Node(2, 1, "127.0.0.1", here=False, port=9000)
    shard = next(shard for shard in range(100) if placed_on(shard, [1, 2]) == 2)
    with connect_to_partition(whole, shard) as db:
        assert db.settings.table == "laion_local"
    with connect(whole) as db:
        assert home_of(db, shard, [*nodes(db), added]) == 2
        db.command(f"INSERT INTO {db.name_of('laion_local')} (id, shard) VALUES (1, {shard})")
        assert home_of(db, shard, [*nodes(db), added]) == 1


def test_a_load_an_index_a_report_and_a_search_on_a_cluster_of_one(whole: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for shard in (1, 2):
            result = run(whole, shard, instance)
            assert result.success, (failures(result), failed_checks(result))
        status = read_status(whole, instance)
        assert status.table is not None
        assert (status.table.partitions, status.table.rows, status.shards["loaded"]) == (2, 870, 2)
        assert next(found for found in status.findings if found.check == "table_agrees_with_dagster").passed
    location = CodeLocation(whole)
    result = dg.materialize(
        [
            dg.AssetSpec("clickhouse_partition"),
            vector_index_asset(location),
            *vector_index_checks(location),
            recall_report_asset(location, RecallPlan(queries=5, grid=(SearchSettings(64),), queries_at_100=2)),
        ]
    )
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "every_part_is_indexed": True,
        "index_is_used": True,
    }
    assert search(like=20_000_007, limit=3, settings=whole)["id"][0] == 20_000_007
    with connect(whole) as db:
        assert [(state.shard, state.rows, state.parts) for state in partitions(db)] == [(1, 620, 1), (2, 250, 1)]
        assert {str(name) for (name,) in db.rows("SHOW TABLES")} == {"laion", "laion_local", "laion_local_part_sizes"}
    with connect_to_own_rows(whole) as db:
        assert (db.settings.table, sum(state.rows for state in partitions(db))) == ("laion_local", 870)


def test_with_cells_on_a_cluster_they_are_measured_and_searched_without_a_method(
    whole: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
    settings = whole.model_copy(update={"index": "cells"})
    with dg.DagsterInstance.ephemeral() as instance:
        for shard in (1, 2):
            assert run(settings, shard, instance).success
    query, request, plan = Query(like=20_000_007), SearchRequest(limit=3), RecallPlan(queries=4, queries_at_100=0)
    (found,) = answer([query], request, settings)
    assert (found.method, found.result.way) == ("exact", "every row compared")
    assert "the table has neither cells nor graphs" in str(found.why)
    with connect(settings) as db, pytest.raises(TableError, match=r"no cells.*materialize vector_cells"):
        compare(db, plan)

    build_cells_everywhere(settings)
    (found,) = answer([query], request, settings)
    assert (found.method, found.result.neighbours[0].id) == ("cells", 20_000_007)
    assert found.result.way == "by codes: codes of all rows", "a small table probes all clusters"
    with connect(settings) as db:
        measured = compare(db, plan)
        save_evaluations(measured, recall_folder(settings))
        named = named_settings(settings, db)
        node = "127.0.0.1 (cluster shard 1, replica 1)"
        assert [one.method for one in measured] == ["codes", "cells"]
        for one in measured:
            assert one.declared == {f"{by} on {node}": "generation 1" for by in ("image", "text")}
            assert {kind.chosen.at_10.mean >= 0.9 for kind in one.kinds} == {True}
        assert named.cells.keys() == {"codes", "cells"}
        assert named.choices.keys() == measured[0].named.keys()
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(settings, 0, instance).success
    with connect(settings) as db:
        assert named_settings(settings, db).cells == {}, "the report is about fewer rows"
        with pytest.raises(TableError, match="shard 0 is not in the image cells"):
            compare(db, plan)
        both = settings.model_copy(update={"index": "both"})
        with connect(both) as opened:
            assert [method.name for method in built_methods(opened)] == ["graph", "codes", "cells"]


def test_a_node_that_is_a_server_is_asked_over_http(whole: Settings, tmp_path: Path, sample_folder: Path) -> None:
    (tmp_path / "server.xml").write_text(CONFIGURATION)
    with endpoint_process(tmp_path / "server", options={"config-file": str(tmp_path / "server.xml")}) as server:
        url = server.url("clustered")
        settings = settings_for(server.user_files / "data", sample_folder, cluster="one", clickhouse=url)
        with dg.DagsterInstance.ephemeral() as instance:
            result = run(settings, 2, instance)
        assert result.success, (failures(result), failed_checks(result))
        with connect(settings) as db:
            assert db.one("SELECT count() FROM clustered.laion") == (250,)
            assert [(state.shard, state.rows) for state in partitions(db)] == [(2, 250)]
        replaced = [request["sql"] for request in server.log("REPLACE PARTITION")]
        (statement,) = map(one_line, replaced)
        assert statement.startswith(
            "ALTER TABLE `clustered`.`laion_local` REPLACE PARTITION 2 FROM `clustered`.`laion_local_staging_2_"
        )


def test_a_node_without_its_index_fails_both_checks(whole: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(whole, 2, instance).success
    for check in vector_index_checks(CodeLocation(whole)):
        judge = check.op.compute_fn.decorated_fn  # type: ignore[union-attr]
        assert not judge(dg.build_asset_check_context()).passed

"""Tests of a cluster with dead nodes: the work continues on the other nodes, and messages name the dead ones.

Each node is a server with its own loopback address; all have the same port. They cannot query each other, so queries
from one server to another are not tested here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.assets.location import CodeLocation
from laion_assets.assets.vector_cells import vector_cells_checks
from laion_assets.errors import EndedError, ServerUnreachableError
from laion_assets.index.cells.nodes import build_cells_everywhere, live_everywhere
from laion_assets.index.cells.schema import cells_exist, drop_cells_tables
from laion_assets.index.cover import index_cover
from laion_assets.index.nodes import build_everywhere
from laion_assets.recall.kept_report import named_settings
from laion_assets.searching.cells import search_cells
from laion_assets.searching.ending import end_search
from laion_assets.searching.statement import SearchRequest, vector_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.connections import Connections
from laion_assets.table.endable import Endable
from laion_assets.table.nodes import every_node
from laion_assets.table.replicas import by_cluster_shard, on_a_replica
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.endpoint.process import ServerProcess, endpoint_process
from laion_assets_tests.searching.test_rows import LONG
from laion_assets_tests.table.loaded import load_sample, sample_settings

DATABASE = "clustered"
CLUSTERS = {
    "pair": [["127.0.0.1"], ["127.0.0.2"]],
    "spare": [["127.0.0.3", "127.0.0.1"], ["127.0.0.4", "127.0.0.2"]],
    "gap": [["127.0.0.1"], ["127.0.0.3"], ["127.0.0.2"]],
    "gaps": [["127.0.0.3"], ["127.0.0.1"], ["127.0.0.4"]],
}
"""The addresses of each cluster shard's replicas. Nothing listens on 127.0.0.3 and 127.0.0.4."""


def configuration() -> str:
    """Returns the servers' configuration, which defines these clusters."""

    def shard(hosts: list[str]) -> str:
        replicas = (f"<replica><host>{host}</host><port>9000</port></replica>" for host in hosts)
        return f"<shard>{''.join(replicas)}</shard>"

    named = (f"<{name}>{''.join(map(shard, shards))}</{name}>" for name, shards in CLUSTERS.items())
    return f"<clickhouse><tcp_port>9000</tcp_port><remote_servers>{''.join(named)}</remote_servers></clickhouse>"


@dataclass(frozen=True)
class TwoNodes:
    """Two nodes that run. The settings name node 0, on 127.0.0.1; node 0 has shard 0, and node 1 has shard 1."""

    folder: Path
    servers: tuple[ServerProcess, ServerProcess]

    def settings(self, cluster: str) -> Settings:
        """Returns settings of a cluster of these nodes."""
        return sample_settings(self.folder, clickhouse=self.servers[0].url(DATABASE), cluster=cluster)

    def alone(self, node: int) -> Settings:
        """Returns settings of the local table of one node."""
        return sample_settings(self.folder, clickhouse=self.servers[node].url(DATABASE), table="laion_local")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "cluster.xml").write_text(configuration())
    options = {"config-file": str(folder / "cluster.xml")}
    with (
        endpoint_process(folder / "first", options=options) as first,
        endpoint_process(folder / "second", options=options, host="127.0.0.2", port=first.port) as second,
    ):
        made = TwoNodes(folder, (first, second))
        for node, rows in enumerate((500, 400)):
            load_sample(made.alone(node), {node: rows})
        yield made


def test_a_dead_node_does_not_keep_others_from_their_cells(nodes: TwoNodes) -> None:
    with pytest.raises(ServerUnreachableError) as caught:
        build_cells_everywhere(nodes.settings("gap"))
    assert_one_line(caught.value, "127.0.0.3 (cluster shard 2, replica 1)")
    for node in range(2):
        with connect(nodes.alone(node)) as db:
            assert cells_exist(db)
    with pytest.raises(ServerUnreachableError) as caught:
        build_cells_everywhere(nodes.settings("gaps"))
    assert_one_line(caught.value, "cluster gaps", "127.0.0.3 (cluster shard 1", "127.0.0.4 (cluster shard 3")


def test_a_dead_first_replica_does_not_keep_others_from_their_graphs(nodes: TwoNodes) -> None:
    for server in nodes.servers:
        server.calm()
    with pytest.raises(ServerUnreachableError) as caught:
        build_everywhere(nodes.settings("spare"))
    assert_one_line(caught.value, "127.0.0.3 (cluster shard 1", "127.0.0.4 (cluster shard 2")
    for node in range(2):
        with connect(nodes.alone(node)) as db:
            assert [(state.shard, state.covered) for state in index_cover(db)] == [(node, True)]
        claims = [asked["sql"] for asked in nodes.servers[node].log("laion_local_leases") if "HAVING" in asked["sql"]]
        assert any("clusterAllReplicas" in sql for sql in claims)


def test_a_search_by_cells_asks_a_replica_that_answers_over_a_connection_that_stays_open(nodes: TwoNodes) -> None:
    build_cells_everywhere(nodes.settings("pair"))
    with connect(nodes.alone(1)) as db:
        vector = vector_of(db, 10_000_005, "image")
        alone = search_cells(db, vector, SearchRequest(limit=5)).neighbours
    for server in nodes.servers:
        server.calm()
    connections = Connections(nodes.settings("spare"))
    for _ in range(3):
        with connections.borrowed() as db:
            found = search_cells(db, vector, SearchRequest(limit=900)).neighbours
        assert [one.id for one in found if one.shard == 1][:5] == [one.id for one in alone]
        assert {one.shard for one in found} == {0, 1}
    connections.close()
    opened = [[asked["sql"] for asked in server.log()].count("SELECT version()") for server in nodes.servers]
    assert opened == [1, 1]
    dead = Connections(nodes.settings("gap"))
    with pytest.raises(ServerUnreachableError), dead.borrowed() as db:
        search_cells(db, vector, SearchRequest())


def test_a_search_is_ended_on_every_node(nodes: TwoNodes) -> None:
    ended: list[EndedError] = []
    task = Endable("nobody waits")

    def search() -> None:
        with connect(nodes.alone(1)) as db:
            try:
                replace(db, task=task).rows(LONG)
            except EndedError as error:
                ended.append(error)

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    with connect(nodes.alone(1)) as db:
        deadline = time.monotonic() + 60
        while not db.one("SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'nobody waits'")[0]:
            assert time.monotonic() < deadline
    with pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.3"):
        end_search(nodes.settings("gap"), task)
    thread.join(60)
    assert len(ended) == 1


def test_the_statements_of_a_search_have_its_comment_on_every_node(nodes: TwoNodes) -> None:
    comment = "SELECT getSetting('log_comment')"
    with connect(nodes.settings("pair")) as db:
        entry = replace(db, task=Endable("one search"))
        shards = by_cluster_shard(every_node(entry.settings))
        assert [on_a_replica(entry, replicas, lambda node: node.one(comment)[0]) for replicas in shards] == [
            "one search",
            "one search",
        ]


def test_cells_are_chosen_where_each_node_that_a_search_asks_has_them(nodes: TwoNodes) -> None:
    build_cells_everywhere(nodes.settings("pair"))
    for cluster in ("pair", "spare"):
        settings = nodes.settings(cluster).model_copy(update={"index": "cells"})
        with connect(settings) as db:
            found = live_everywhere(db)
            assert found is not None
            assert (found.rows, found.whole, len(found.live)) == (900, True, 4)
            assert {where.partition(" (")[0] for where in found.live} == {
                f"{by} on 127.0.0.{node}" for by in ("image", "text") for node in (1, 2)
            }
            named = named_settings(settings, db)
            assert named.usual is not None
            assert named.usual.method == "cells"
    with connect(nodes.settings("gap")) as db, pytest.raises(ServerUnreachableError):
        live_everywhere(db)
    with connect(nodes.alone(1)) as db:
        drop_cells_tables(db)
    with connect(nodes.settings("pair")) as db:
        assert live_everywhere(db) is None, "the 400 rows of node 1 have no cells"


def test_a_node_without_rows_needs_no_cells(nodes: TwoNodes) -> None:
    with connect(nodes.alone(1)) as db:
        drop_cells_tables(db)
        db.command("RENAME TABLE laion_local TO laion_away")
        db.command("CREATE TABLE laion_local AS laion_away")
    try:
        settings = nodes.settings("pair")
        assert {report.by for report in build_cells_everywhere(settings)} == {"image", "text"}
        with connect(settings) as db:
            found = live_everywhere(db)
            assert found is not None
            assert (found.rows, len(found.live)) == (500, 2)
        with connect(nodes.alone(0)) as db:
            vector = vector_of(db, 5, "image")
        with connect(settings) as db:
            assert search_cells(db, vector, SearchRequest(limit=3)).neighbours[0].id == 5
        location = CodeLocation(settings.model_copy(update={"index": "cells"}))
        every, *others = vector_cells_checks(location)
        for verdict in (every(dg.build_asset_check_context()), *(check() for check in others)):
            assert isinstance(verdict, dg.AssetCheckResult)
            assert verdict.passed, verdict.description
    finally:
        with connect(nodes.alone(1)) as db:
            db.command("DROP TABLE laion_local SYNC")
            db.command("RENAME TABLE laion_away TO laion_local")

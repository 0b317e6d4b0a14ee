"""The nodes of a ClickHouse cluster: which node holds a partition, and a connection to that node's own table.

ClickHouse calls its groups of replicas shards, and the dataset calls its files shards, too. Here the former are called
cluster shards. A whole partition is on one cluster shard, in the table `<table>_local`; `<table>` is a Distributed
table over all. On a node all work is done as on a single server: a node's `Database` is about its local table, and
names no cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from clickhouse_connect.driver.binding import format_str, quote_identifier
from pydantic import SecretStr

from laion_assets.errors import ServerUnreachableError, TableError
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database, Replicas
from laion_assets.table.schema import dataset_comment, local_table, table_definition


@dataclass(frozen=True)
class Node:
    """One server: its cluster shard and replica, as system.clusters numbers them, and its name there.

    `here` marks the node that was asked; `port` is that of the servers' own protocol.
    """

    cluster_shard: int
    replica: int
    host: str
    here: bool
    port: int = 0

    @property
    def name(self) -> str:
        """The node's name in errors and logs."""
        return f"{self.host} (cluster shard {self.cluster_shard}, replica {self.replica})"


def table_name(settings: Settings) -> str:
    """The table that searches use, with its database and unquoted."""
    parts = urlsplit(settings.clickhouse_url.get_secret_value())
    database = "" if parts.scheme == "chdb" else unquote(parts.path.strip("/"))
    return f"{database or 'default'}.{settings.table}"


@contextlib.contextmanager
def connect_to_partition(settings: Settings, shard: int) -> Iterator[Database]:
    """The database whose table holds, or will hold, partition `shard`; without a cluster the only database.

    In a cluster its tables are made if they are missing. An existing partition stays where it is, so that it is never
    on two cluster shards. A new one goes where `placed_on` says. The first replica that answers is used, in their
    order. Its leases are those of the other replicas, too: another loader may use another replica. Raises
    `TableError`.
    """
    if settings.cluster is None:
        with connect(settings) as db:
            yield db
        return
    with connect(settings) as entry:
        known = nodes(entry)
        create_cluster_tables(entry, known)
        home = home_of(entry, shard, known)
    with contextlib.ExitStack() as stack:
        db = _first_that_answers(stack, settings, [node for node in known if node.cluster_shard == home])
        yield replace(db, replicas=replicas_of(settings, known, home))


@contextlib.contextmanager
def connect_to_node(entry: Database, node: Node) -> Iterator[Database]:
    """The database of a node's own table; over the existing connection, if the node is the one that was asked."""
    settings = node_settings(entry.settings, node)
    if node.here:
        yield replace(entry, settings=settings)
        return
    with connect(settings) as db:
        yield db


@contextlib.contextmanager
def connect_to_own_rows(settings: Settings) -> Iterator[Database]:
    """The database whose table holds rows itself: in a cluster the local table of the node of LAION_CLICKHOUSE."""
    here = Node(0, 0, "", here=True)
    with connect(settings if settings.cluster is None else node_settings(settings, here)) as db:
        yield db


def every_node(settings: Settings) -> list[Node]:
    """Every node of the cluster; empty without a cluster. Raises `TableError`."""
    if settings.cluster is None:
        return []
    with connect(settings) as entry:
        return nodes(entry)


def nodes(entry: Database) -> list[Node]:
    """The cluster's nodes, by cluster shard and replica. Raises `TableError` if there is no such cluster."""
    rows = entry.rows(
        "SELECT shard_num, replica_num, host_name, is_local, port FROM system.clusters "
        "WHERE cluster = {cluster:String} ORDER BY shard_num, replica_num",
        parameters={"cluster": entry.settings.cluster},
    )
    if not rows:
        names = [str(name) for (name,) in entry.rows("SELECT DISTINCT cluster FROM system.clusters ORDER BY 1")]
        raise TableError(
            f"cluster {entry.settings.cluster}",
            found=f"{', '.join(names) or 'no cluster'} in system.clusters",
            expected=f"{entry.settings.cluster} among them",
            advice="set LAION_CLUSTER to a name of remote_servers",
        )
    return [Node(int(row[0]), int(row[1]), str(row[2]), bool(row[3]), int(row[4])) for row in rows]


def placed_on(shard: int, cluster_shards: Sequence[int]) -> int:
    """The cluster shard for a new partition, by rendezvous hashing: the one with the greatest hash of both numbers.

    Every process finds the same cluster shard without asking. An added cluster shard takes an equal number of
    partitions from each other one, and no other partition moves. Of 410 partitions the fullest of up to 15 cluster
    shards has at most 1.25 times its share.
    """
    return max(cluster_shards, key=lambda number: (_weight(shard, number), number))


ANSWERING: dict[str, object] = {"skip_unavailable_shards": 1}
"""A node that does not answer is left out after about a second: a dead node must not stop the loads of the others."""


def home_of(entry: Database, shard: int, known: Sequence[Node]) -> int:
    """The cluster shard that partition `shard` is on, or will be put on. Raises `TableError` if it is on two.

    Every replica that answers is asked: a single replica may lag behind, and the partition would be placed twice.
    Raises `ServerUnreachableError` when no replica that answers has it, and a cluster shard has no replica that
    answers: the partition may be there.
    """
    cluster, database = format_str(str(entry.settings.cluster)), format_str(entry.database)
    # A view has one row for each node that answers, also where the node has no parts.
    found = entry.rows(
        f"SELECT _shard_num, has_it FROM clusterAllReplicas({cluster}, view(SELECT count() > 0 AS has_it "
        f"FROM system.parts WHERE database = {database} AND table = {format_str(local_table(entry.settings))} "
        f"AND partition = '{shard}' AND active AND rows > 0))",
        settings=ANSWERING,
    )
    answers = {_numbered(known)[int(number) - 1]: bool(has_it) for number, has_it in found}
    homes = sorted({node.cluster_shard for node, has_it in answers.items() if has_it})
    if len(homes) > 1:
        raise TableError(
            f"{entry.subject}, partition {shard}",
            found=f"the partition on cluster shards {' and '.join(map(str, homes))}",
            expected="the partition on one cluster shard",
            advice="drop the older copy: see docs/operations.md",
        )
    if homes:
        return homes[0]
    heard = {(node.host, node.port) for node in answers}
    every = {node.cluster_shard for node in known}
    silent = every - {node.cluster_shard for node in known if (node.host, node.port) in heard}
    if silent:
        raise ServerUnreachableError(
            f"{entry.subject}, partition {shard}",
            found=f"no replica of cluster shard {' and '.join(map(str, sorted(silent)))} that answers, and the "
            "partition on no other cluster shard",
            expected="an answer from each cluster shard, since one that does not answer may have the partition already",
            advice="load the partition again when a replica is back",
        )
    return placed_on(shard, sorted(every))


def replicas_of(settings: Settings, known: Sequence[Node], cluster_shard: int) -> Replicas:
    """The replicas of a cluster shard: with them a node's `Database` sees the leases that were taken on the others."""
    numbers = [number for number, node in enumerate(_numbered(known), start=1) if node.cluster_shard == cluster_shard]
    return Replicas(str(settings.cluster), tuple(numbers))


def _numbered(known: Sequence[Node]) -> list[Node]:
    """The nodes as `_shard_num` of clusterAllReplicas() counts them, from 1: by shard, replica; an address once."""
    first: dict[tuple[str, int], Node] = {}
    for node in known:
        first.setdefault((node.host, node.port), node)
    return list(first.values())


def create_cluster_tables(entry: Database, known: Sequence[Node]) -> None:
    """Makes database, local table and Distributed table on every node that answers and lacks them.

    One query to all nodes tells whether a node lacks them; only then each node is connected to. Nothing is run ON
    CLUSTER: one dead node would delay that for three minutes (distributed_ddl_task_timeout). Its tables are made at the
    first load after it is back.
    """
    (answering,) = entry.one(
        f"SELECT count() FROM {system_table(entry, 'one', every_replica=True)}", settings=ANSWERING
    )
    (found,) = entry.one(
        f"SELECT count() FROM {system_table(entry, 'tables', every_replica=True)} "
        "WHERE database = {database:String} AND name IN ({local:String}, {table:String})",
        parameters={
            "database": entry.database,
            "local": local_table(entry.settings),
            "table": entry.settings.table,
        },
        settings=ANSWERING,
    )
    if int(found) == 2 * int(answering):
        return
    for node in known:
        with contextlib.suppress(ServerUnreachableError), connect_to_node(entry, node) as db:
            for statement in cluster_statements(entry):
                db.command(statement)


def cluster_statements(entry: Database) -> list[str]:
    """The DDL of a cluster's node.

    The Distributed table has no sharding key, so ClickHouse refuses an INSERT through it. Such an INSERT would put rows
    of a partition on several nodes.
    """
    name = format_str(str(entry.settings.cluster))
    database, local = format_str(entry.database), format_str(local_table(entry.settings))
    distributed = f"ENGINE = Distributed({name}, {database}, {local})"
    return [
        f"CREATE DATABASE IF NOT EXISTS {quote_identifier(entry.database)}",
        table_definition(entry, local_table(entry.settings), engine=_replicated(entry)) + dataset_comment(entry),
        f"CREATE TABLE IF NOT EXISTS {entry.table} "
        f"AS {entry.name_of(local_table(entry.settings))} {distributed}{dataset_comment(entry)}",
    ]


def system_table(entry: Database, name: str, *, every_replica: bool = False) -> str:
    """A system table of all cluster shards: of one replica of each, or of every replica."""
    function = "clusterAllReplicas" if every_replica else "cluster"
    return f"{function}({format_str(str(entry.settings.cluster))}, system.{name})"


def node_settings(settings: Settings, node: Node) -> Settings:
    """Settings for which a node's local table is the only table: the same URL with the node's host.

    All nodes use the port, user and password of LAION_CLICKHOUSE.
    """
    url = settings.clickhouse_url.get_secret_value()
    if not node.here:
        parts = urlsplit(url)
        user, mark, _ = parts.netloc.rpartition("@")
        port = f":{parts.port}" if parts.port else ""
        host = f"[{node.host}]" if ":" in node.host else node.host
        url = parts._replace(netloc=f"{user}{mark}{host}{port}").geturl()
    changed = {"clickhouse": SecretStr(url), "cluster": None, "table": local_table(settings)}
    copy = settings.model_copy(update=changed)
    for cached in ("clickhouse_url", "compression"):  # cached values of the old URL
        copy.__dict__.pop(cached, None)
    return copy


def _first_that_answers(stack: contextlib.ExitStack, settings: Settings, replicas: Sequence[Node]) -> Database:
    for node in replicas[:-1]:
        with contextlib.suppress(TableError):
            return stack.enter_context(connect(node_settings(settings, node)))
    return stack.enter_context(connect(node_settings(settings, replicas[-1])))


def _weight(shard: int, cluster_shard: int) -> int:
    digest = hashlib.blake2b(f"{shard}/{cluster_shard}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _replicated(entry: Database) -> str:
    """The engine of a replicated table. {shard} and {replica} are macros of each server's configuration, as usual."""
    path = f"/clickhouse/tables/{{shard}}/{entry.database}/{local_table(entry.settings)}"
    return f"ReplicatedMergeTree({format_str(path)}, '{{replica}}')"

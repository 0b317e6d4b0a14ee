"""Work on the nodes of a cluster: on one replica of a cluster shard, or on every node, and what is said when some fail.

It knows nodes and their connections, and not what is done there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from laion_assets.errors import ServerBusyError, ServerUnreachableError, TableError
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.nodes import Node, every_node, node_settings

Found = TypeVar("Found")

SILENT_SECONDS = 30.0
"""A node that did not answer is asked after the other replicas for this time: each try may take
LAION_CLICKHOUSE_CONNECT_SECONDS."""


def by_cluster_shard(known: Sequence[Node]) -> list[list[Node]]:
    """The replicas of each cluster shard, by its number."""
    numbers = sorted({node.cluster_shard for node in known})
    return [[node for node in known if node.cluster_shard == number] for number in numbers]


def on_a_replica(entry: Database, replicas: Sequence[Node], work: Callable[[Database], Found]) -> Found:
    """The result of `work` on one of these replicas, as `with_a_replica` chooses it."""
    return with_a_replica(entry, replicas, work)[1]


def with_a_replica(entry: Database, replicas: Sequence[Node], work: Callable[[Database], Found]) -> tuple[Node, Found]:
    """One of these replicas and the result of `work` there: the node that `entry` is connected to, or else the first
    that answers.

    Connections to other nodes stay open as long as that of `entry`. Raises `ServerUnreachableError` if no replica
    answers, and what `work` raises.
    """
    ordered = sorted(replicas, key=lambda node: (_was_silent(entry, node), not node.here, node.replica))
    for node in ordered[:-1]:
        with contextlib.suppress(ServerUnreachableError, ServerBusyError):
            return node, _on_node(entry, node, work)
    return ordered[-1], _on_node(entry, ordered[-1], work)


def _on_node(entry: Database, node: Node, work: Callable[[Database], Found]) -> Found:
    settings = node_settings(entry.settings, node)
    if node.here:
        return work(replace(entry, settings=settings))
    try:
        return work(replace(entry.others.get(node.name, lambda: connect(settings)), task=entry.task))
    except ServerUnreachableError:
        entry.others.silent[node.name] = time.monotonic()
        raise


def _was_silent(entry: Database, node: Node) -> bool:
    return time.monotonic() - entry.others.silent.get(node.name, -SILENT_SECONDS) < SILENT_SECONDS


def on_every_node(settings: Settings, work: Callable[[Database], Found]) -> list[tuple[str, Found]]:
    """The result of `work` on each node, with the text " on" and the node's name, which is empty without a cluster.

    Where it fails on a node, the nodes after it are worked on, too. Then this raises what failed, as `together` says.
    """
    known = every_node(settings)
    if not known:
        with connect(settings) as db:
            return [("", work(db))]
    found: list[tuple[str, Found]] = []
    failed: list[TableError] = []
    for node in known:
        try:
            with naming(node), connect(node_settings(settings, node)) as db:
                found.append((f" on {node.name}", work(db)))
        except TableError as error:
            failed.append(error)
    if failed:
        raise together(settings, failed)
    return found


@contextlib.contextmanager
def naming(node: Node) -> Iterator[None]:
    """A `TableError` of the block names the node."""
    try:
        yield
    except TableError as error:
        about = f"{error.subject} on {node.name}"
        raise type(error)(about, found=error.found, expected=error.expected, advice=error.advice) from error


def together(settings: Settings, failed: Sequence[TableError]) -> TableError:
    """Failures of several nodes as one error, which is of their kind if all are of one kind."""
    if len(failed) == 1:
        return failed[0]
    kinds = {type(error) for error in failed}
    return (kinds.pop() if len(kinds) == 1 else TableError)(
        f"cluster {settings.cluster}",
        found="; ".join(f"{error.subject}: {error.found}" for error in failed),
        expected="no failure on any node",
        advice="; ".join(dict.fromkeys(error.advice for error in failed if error.advice)),
    )

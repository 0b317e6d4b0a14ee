"""Indexes of a cluster: built on every cluster shard side by side, and proved on every replica of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy.typing as npt

from laion_assets.errors import TableError
from laion_assets.progress import Progress
from laion_assets.settings import Settings
from laion_assets.table.cluster import Node, connect_to_node, every_node, node_settings, nodes, system_table
from laion_assets.table.connect import Database, connect
from laion_assets.table.cover import PartitionCover, index_cover
from laion_assets.table.index import BuildReport, Log, build_indexes, say_nothing
from laion_assets.table.index_use import IndexUse, graphs_searched, index_use
from laion_assets.table.schema import partitions
from laion_assets.table.search import SearchRequest, search


def build_everywhere(settings: Settings, *, progress: Progress | None = None, log: Log | None = None) -> BuildReport:
    """`build_indexes` where there is no cluster. In one, on every cluster shard at the same time.

    A build on one replica is a mutation that each replica does for itself; it is then followed and looked at on each
    of them, one after the other. Raises `TableError` as `build_indexes` does, and when a replica lacks an index.
    """
    known = every_node(settings)
    if not known:
        with connect(settings) as db:
            return build_indexes(db, progress=progress, log=log)
    started = time.perf_counter()
    groups = [[node for node in known if node.cluster_shard == number] for number in cluster_shards(known)]
    with ThreadPoolExecutor(len(groups)) as threads:
        reports = list(threads.map(lambda group: _build_group(settings, group, log or say_nothing), groups))
    return BuildReport(
        shards=sorted(shard for report in reports for shard in report.shards),
        vectors=sum(report.vectors for report in reports),
        seconds=time.perf_counter() - started,
        core_seconds=None,
        rebuilt=any(report.rebuilt for report in reports),
        cover=sorted((state for report in reports for state in report.cover), key=lambda state: state.shard),
    )


def cover_everywhere(settings: Settings) -> list[tuple[str, PartitionCover]]:
    """Every partition of every replica, with " on" and the node's name; that is empty where there is no cluster."""
    known = every_node(settings)
    if not known:
        with connect(settings) as db:
            return [("", state) for state in index_cover(db)]
    found = []
    for node in known:
        with connect(node_settings(settings, node)) as db:
            found += [(f" on {node.name}", state) for state in index_cover(db)]
    return found


def use_everywhere(entry: Database, vector: npt.ArrayLike, request: SearchRequest) -> IndexUse:
    """`index_use` where there is no cluster. In one, of a search through the Distributed table, and of each node.

    The plan of a search through it ends at the other nodes, so that the plan is each node's own. Graphs are counted
    over all replicas: a search asks one replica of each cluster shard. Raises as `search` does.
    """
    if entry.settings.cluster is None:
        return index_use(entry, vector, request)
    before = _searches(entry)
    search(entry, vector, request)
    rise = _searches(entry) - before
    uses = []
    for node in nodes(entry):
        with connect_to_node(entry, node) as db:
            if partitions(db):
                uses.append(index_use(db, vector, request))
    return IndexUse(
        in_plan=all(use.in_plan for use in uses),
        searches=rise if all(use.searches >= use.expected for use in uses) else 0,
        expected=sum(state.parts for state in partitions(entry)),
        rescored=all(use.rescored for use in uses),
    )


def cluster_shards(known: Sequence[Node]) -> list[int]:
    """The numbers of the cluster's shards."""
    return sorted({node.cluster_shard for node in known})


def _build_group(settings: Settings, replicas: Sequence[Node], log: Log) -> BuildReport:
    """Builds on the first replica; the others are followed to the end of the same mutations."""
    reports = []
    for node in replicas:

        def say(line: str, name: str = node.name) -> None:
            log(f"{name}: {line}")

        with connect(node_settings(settings, node)) as db:
            reports.append(build_indexes(db, log=say))
        lacking = [state.shard for state in reports[-1].cover if not state.covered]
        if lacking:
            raise TableError(node.name, found=f"no index in partitions {lacking[:10]}", expected="it on every replica")
    return reports[0]


def _searches(entry: Database) -> int:
    return graphs_searched(entry, system_table(entry, "events", every_replica=True))

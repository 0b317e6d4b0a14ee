"""Indexes of a cluster: built on every cluster shard side by side, and seen on every replica. It searches nothing."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from laion_assets.errors import TableError
from laion_assets.index.cover import PartitionCover, index_cover
from laion_assets.index.graphs import BuildReport, Log, build_indexes, say_nothing
from laion_assets.progress import Progress
from laion_assets.settings import Settings
from laion_assets.table.cluster import Node, every_node, node_settings
from laion_assets.table.connect import connect


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
        building = [
            threads.submit(contextvars.copy_context().run, _build_group, settings, group, log or say_nothing)
            for group in groups
        ]
        reports = [build.result() for build in building]
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

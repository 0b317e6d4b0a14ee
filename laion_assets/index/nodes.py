"""Indexes on the nodes of a cluster: built on all cluster shards in parallel, checked on every replica. No searches."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from laion_assets.errors import ServerUnreachableError, TableError
from laion_assets.index.cover import PartitionCover, index_cover
from laion_assets.index.declared import declared_indexes, wanted_indexes
from laion_assets.index.graphs import BuildReport, build_indexes, say_nothing
from laion_assets.index.parameters import IndexParameters
from laion_assets.progress import Log, Progress
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database, Replicas
from laion_assets.table.nodes import Node, connect_to_node, every_node, node_settings, nodes, replicas_of
from laion_assets.table.parts import part_identities
from laion_assets.table.replicas import by_cluster_shard, naming, together

NAMED = 5
"""How many partitions an error names."""


@dataclass(frozen=True)
class IndexFacts:
    """What a figure of recall is about: the index in words, each declared index's type by its name, and the
    parts by partition and by a hash over their files, which changes with another load and with another build."""

    description: str
    declared: dict[str, str]
    parts: list[str]


def index_facts(entry: Database, shards: Collection[int] | None = None) -> IndexFacts:
    """What the table has now, by two statements. They do not check whether the indexes are built. The parts are those
    of these partitions, or of all. Raises `TableError`.

    In a cluster the declared indexes are those of the node that is asked, and the parts are those of all cluster
    shards.
    """
    declared = {name: kind for name, (_, kind) in sorted(declared_indexes(entry).items())}
    return IndexFacts(str(IndexParameters.of(entry.settings)), declared, part_identities(entry, shards))


def require_whole_index(entry: Database, shards: Collection[int] | None = None) -> IndexFacts:
    """What the table has now. Raises `TableError` unless the declared indexes are those of the settings, and every part
    of these partitions (None: of all) has all of them; in a cluster, on every replica."""
    if entry.settings.cluster is None:
        _require_whole(entry, entry.subject, shards)
        return index_facts(entry, shards)
    for node in nodes(entry):
        with connect_to_node(entry, node) as db:
            _require_whole(db, f"{entry.subject} on {node.name}", shards)
    return index_facts(entry, shards)


def _require_whole(db: Database, subject: str, shards: Collection[int] | None) -> None:
    declared = declared_indexes(db)
    advice = "materialize vector_index (laion-assets index)"
    for name, (column, kind) in wanted_indexes(db, declared).items():
        if name in declared:
            continue
        others = [f"{other} is {type_}" for other, (over, type_) in declared.items() if over == column]
        if others:
            advice += ", or set LAION_HNSW_QUANTIZATION, _M and _EF_CONSTRUCTION as they were"
        raise TableError(
            subject,
            found="; ".join(others) or f"no {name}",
            expected=f"{kind} over {column}, as the settings say",
            advice=advice,
        )
    lacking = [fault for state in index_cover(db, shards) for fault in state.faults]
    if lacking:
        more = f"; and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise TableError(
            subject, found="; ".join(lacking[:NAMED]) + more, expected="every index in every partition", advice=advice
        )


def build_everywhere(settings: Settings, *, progress: Progress | None = None, log: Log | None = None) -> BuildReport:
    """Runs `build_indexes`; in a cluster, on every cluster shard at the same time.

    Graphs are built on one replica. The other replicas fetch the parts with their graphs. This function waits for them
    and checks each replica, one after the other. Raises `TableError` as `build_indexes` does, and if a replica lacks an
    index.
    """
    known = every_node(settings)
    if not known:
        with connect(settings) as db:
            return build_indexes(db, progress=progress, log=log)
    started = time.perf_counter()
    groups = by_cluster_shard(known)
    with ThreadPoolExecutor(len(groups)) as threads:
        building = [
            threads.submit(
                contextvars.copy_context().run,
                _build_group,
                settings,
                group,
                replicas_of(settings, known, group[0].cluster_shard),
                log or say_nothing,
            )
            for group in groups
        ]
        reports, failed = list[BuildReport](), list[TableError]()
        for build in building:
            try:
                reports.append(build.result())
            except TableError as error:
                failed.append(error)
    if failed:
        raise together(settings, failed)
    return BuildReport(
        shards=sorted(shard for report in reports for shard in report.shards),
        vectors=sum(report.vectors for report in reports),
        seconds=time.perf_counter() - started,
        core_seconds=None,
        rebuilt=any(report.rebuilt for report in reports),
        cache_warning="; ".join(dict.fromkeys(report.cache_warning for report in reports if report.cache_warning)),
        cover=sorted((state for report in reports for state in report.cover), key=lambda state: state.shard),
    )


def cover_everywhere(settings: Settings) -> list[tuple[str, PartitionCover]]:
    """Every partition of every replica, with the text " on" and the node's name, which is empty without a cluster."""
    known = every_node(settings)
    if not known:
        with connect(settings) as db:
            return [("", state) for state in index_cover(db)]
    found = []
    for node in known:
        with connect(node_settings(settings, node)) as db:
            found += [(f" on {node.name}", state) for state in index_cover(db)]
    return found


def _build_group(settings: Settings, group: Sequence[Node], replicas: Replicas, log: Log) -> BuildReport:
    """Builds on the first replica. The other replicas fetch its parts, and build only what they lack after that.

    A replica that does not answer does not end this: it is raised when the others have their indexes.
    """
    reports, failed = list[BuildReport](), list[TableError]()
    for node in group:

        def say(line: str, name: str = node.name) -> None:
            log(f"{name}: {line}")

        try:
            with naming(node), connect(node_settings(settings, node)) as db:
                if reports:
                    _wait_for_parts(db)
                reports.append(build_indexes(replace(db, replicas=replicas), log=say))
        except ServerUnreachableError as error:
            failed.append(error)
            continue
        lacking = [state.shard for state in reports[-1].cover if not state.covered]
        if lacking:
            raise TableError(node.name, found=f"no index in partitions {lacking[:10]}", expected="it on every replica")
    if failed:
        raise together(settings, failed)
    return reports[0]


def _wait_for_parts(db: Database) -> None:
    """Waits until a replica has fetched the parts of the others. A table without replicas has nothing to fetch."""
    (engine,) = db.one(
        "SELECT engine FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        parameters={"database": db.database, "table": db.settings.table},
    )
    if str(engine).startswith("Replicated"):
        db.for_long_statements().command(f"SYSTEM SYNC REPLICA {db.table}")

"""`vector_index`: both HNSW indexes in every loaded partition; checks that they are there and are used."""

from collections.abc import Sequence, Set

import dagster as dg

from laion_assets.assets.location import (
    CLICKHOUSE_DOCS,
    CodeLocation,
    Metadata,
    asset,
    asset_check,
    check_failed,
    failing_clearly,
)
from laion_assets.errors import LaionError
from laion_assets.health.history import COVERED_SHARDS, LOADS_SEEN
from laion_assets.health.loaded_since import LOADED_SINCE, loaded_since, said
from laion_assets.health.versions import index_version, last_load, partition_versions
from laion_assets.index.cover import index_sizes
from laion_assets.index.graphs import BuildReport
from laion_assets.index.nodes import build_everywhere, cover_everywhere
from laion_assets.index.parameters import IndexParameters
from laion_assets.machine import StepMeter
from laion_assets.searching.nodes import use_everywhere
from laion_assets.searching.proof_of_use import IndexUse
from laion_assets.searching.statement import SearchRequest
from laion_assets.shard_numbers import as_ranges
from laion_assets.table.connect import connect
from laion_assets.table.nodes import table_name
from laion_assets.table.schema import partitions, without_shards
from laion_assets.table.vectors import By, draw_rows, vectors_of


def vector_index_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset. A failed build is not retried, since it would fail again; an interrupted one is resumed."""
    condition = location.milestones(str(IndexParameters.of(location.settings)))

    @asset(
        location,
        "vector_index",
        group="search",
        kinds={"clickhouse"},
        deps=["clickhouse_partition"],
        stage="index",
        touches_table=True,
        metadata={"docs": dg.MetadataValue.url(f"{CLICKHOUSE_DOCS}/engines/table-engines/mergetree-family/annindexes")},
        automation_condition=condition if location.settings.builds_graphs else None,
        description="The HNSW indexes image_index and text_index (cosine distance) of every loaded partition. They "
        "are built only where they are missing. If the parameters of the settings change, new indexes are built "
        "beside the old ones, which are then dropped.",
    )
    def vector_index(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        loads_seen = last_load(context.instance, location.settings)
        versions = partition_versions(context.instance, location.settings)
        with failing_clearly(), StepMeter() as meter:
            report = build_everywhere(location.settings, progress=location.progress(context), log=context.log.info)
            table = table_name(location.settings)
        if report.cache_warning:
            context.log.warning(report.cache_warning)
        metadata = (
            _metadata(location, report, table, report.cache_warning or None)
            | meter.metadata()
            | {LOADS_SEEN: loads_seen}
        )
        covered = {state.shard: versions.get(state.shard, "") for state in report.cover if state.covered}
        version = index_version(location.settings, covered)
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))

    return vector_index


def vector_index_checks(location: CodeLocation) -> Sequence[dg.AssetChecksDefinition]:
    """Checks on what the table holds now, and on what a search does."""
    return [_every_part_is_indexed(location), _index_is_used(location)]


def _every_part_is_indexed(location: CodeLocation) -> dg.AssetChecksDefinition:
    @asset_check(
        location,
        "vector_index",
        "every_part_is_indexed",
        "Every partition that was loaded before the last build is one part and has each index. Each index is counted "
        "separately. Partitions that were loaded since are named, not judged.",
        blocking=True,
        touches_table=True,
    )
    def every_part_is_indexed(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        try:
            found = cover_everywhere(location.settings)
        except LaionError as error:
            return check_failed(error)
        # Asked after the table: what the table has by now is loaded, or is still being loaded.
        since = loaded_since(context.instance, location.settings, "vector_index")
        later = since & {state.shard for _, state in found}
        cover = [(at, state) for at, state in found if state.shard not in later]
        faults = [f"{fault}{at}" for at, state in cover for fault in state.faults]
        faults += [f"partition {state.shard} has {state.parts} parts{at}" for at, state in cover if state.parts != 1]
        return dg.AssetCheckResult(
            passed=bool(found) and not faults,
            description=said(faults[:10], later, "" if found else "no partition is loaded"),
            metadata={"partitions": len({state.shard for _, state in cover}), "faults": len(faults)}
            | {LOADED_SINCE: as_ranges(later)},
        )

    return every_part_is_indexed


def _index_is_used(location: CodeLocation) -> dg.AssetChecksDefinition:
    @asset_check(
        location,
        "vector_index",
        "index_is_used",
        "A search by image and one by text of the partitions that the last build covers read _distance from the index, "
        "and ClickHouse counted a search in the graph of each of their parts. EXPLAIN alone does not prove this: it "
        "names an index even when all rows are scanned.",
        blocking=True,
        touches_table=True,
    )
    def index_is_used(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        since = loaded_since(context.instance, location.settings, "vector_index")
        try:
            later, uses = index_uses(location, since)
        except LaionError as error:
            return check_failed(error)
        faults = [f"by {by}: {use.fault}" for by, use in uses.items() if use.fault]
        return dg.AssetCheckResult(
            passed=bool(uses or later) and not faults,
            description=said(faults, later, "" if uses or later else "no row is loaded"),
            metadata={f"graphs_searched_by_{by}": use.searches for by, use in uses.items()}
            | {LOADED_SINCE: as_ranges(later)},
        )

    return index_is_used


def index_uses(
    location: CodeLocation, since: Set[int] = frozenset(), settings: tuple[tuple[str, object], ...] = ()
) -> tuple[Set[int], dict[By, IndexUse]]:
    """The loaded partitions among `since`, and what a search of the others by each column does, with the vector of a
    random row and ClickHouse's `settings`."""
    columns: tuple[By, ...] = ("image", "text")
    with connect(location.settings) as db:
        shards = without_shards(db, since)
        drawn = draw_rows(db, 1, seed=0, shards=shards)
        later = frozenset() if shards is None else {state.shard for state in partitions(db)} & since
        return later, {
            by: use_everywhere(
                db, vectors_of(db, by, drawn).vectors[0], SearchRequest(by=by, shards=shards, settings=settings)
            )
            for by in columns
            if f"{by}_embedding" in location.settings.dataset.vector_columns and len(drawn)
        }


def _metadata(location: CodeLocation, report: BuildReport, table: str, warning: str | None) -> Metadata:
    dataset = location.settings.dataset
    parameters = IndexParameters.of(location.settings)
    covered = [state.shard for state in report.cover if state.covered]
    sizes = index_sizes(report.cover)
    rows = sum(state.rows for state in report.cover)
    per_vector = sizes.memory_bytes_a_vector or parameters.bytes_a_vector(dataset.dimension)
    whole = round(rows / max(len(report.cover), 1) * len(dataset.shards) * len(dataset.vector_columns) * per_vector)
    metadata: Metadata = {
        "dagster/table_name": table,
        "partitions": len(covered),
        "partitions_loaded": len(report.cover),
        COVERED_SHARDS: as_ranges(covered),
        "partitions_built": len(report.shards),
        "rows": rows,
        "vectors_built": report.vectors,
        "quantization": parameters.quantization,
        "m": parameters.m,
        "ef_construction": parameters.ef_construction,
        "rebuilt": report.rebuilt,
        "seconds": round(report.seconds, 3),
        "index_bytes_on_disk": sizes.bytes_on_disk,
        "index_bytes_in_memory": sizes.bytes_in_memory,
        "disk_bytes_a_vector": round(sizes.disk_bytes_a_vector, 1),
        "memory_bytes_a_vector": round(sizes.memory_bytes_a_vector, 1),
        "memory_bytes_for_all_shards": whole,
    }
    if report.core_seconds_a_million is not None:
        metadata["core_seconds_a_million"] = round(report.core_seconds_a_million, 1)
    if warning:
        metadata["warning"] = warning
    return metadata

"""`vector_cells`: rows in the order of clusters with codes of few bits, for every loaded shard; its checks."""

from collections.abc import Sequence, Set

import dagster as dg

from laion_assets.assets.location import (
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
from laion_assets.health.versions import cells_version, last_load, partition_versions
from laion_assets.index.cells.build import CellsReport
from laion_assets.index.cells.nodes import build_cells_everywhere
from laion_assets.index.cells.schema import METHOD, code_bytes, padded_dimension, vector_columns
from laion_assets.index.cells.verify import CellsCover, cells_bytes, cells_cover, centroid_misfits
from laion_assets.machine import StepMeter
from laion_assets.searching.cells import require_cells
from laion_assets.searching.cells_settings import CellsSettings, default_probes
from laion_assets.searching.cells_use import CellsUse, cells_use
from laion_assets.searching.statement import SearchRequest
from laion_assets.shard_numbers import as_ranges
from laion_assets.table.database import Database
from laion_assets.table.replicas import on_every_node
from laion_assets.table.schema import partitions, without_shards
from laion_assets.table.vectors import By, draw_rows, vectors_of


def vector_cells_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset. It is built at the milestones of `vector_index` if LAION_INDEX asks for cells, or by hand."""
    condition = location.milestones()

    @asset(
        location,
        "vector_cells",
        group="search",
        kinds={"clickhouse"},
        deps=["clickhouse_partition", *_graphs_before(location)],
        stage="index",
        touches_table=True,
        automation_condition=condition if location.settings.builds_cells else None,
        description="Tables of cells: every loaded row by the cluster of its vector, for tables whose graphs would "
        "not fit into memory. A row has a code of two bits per dimension and a BFloat16 copy of its vector. Centroids "
        "are trained on a sample of all shards. If a shard is loaded again, only its cells are made again.",
    )
    def vector_cells(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        loads_seen = last_load(context.instance, location.settings)
        versions = partition_versions(context.instance, location.settings)
        with failing_clearly(), StepMeter() as meter:
            reports = build_cells_everywhere(
                location.settings, progress=location.progress(context), log=context.log.info
            )
            sizes = on_every_node(location.settings, lambda db: sum(cells_bytes(db, by) for by in vector_columns(db)))
        covered = sorted({shard for report in reports if report.by == "image" for shard in report.shards})
        metadata = _metadata(location, reports, sum(size for _, size in sizes))
        metadata |= meter.metadata() | {LOADS_SEEN: loads_seen, COVERED_SHARDS: as_ranges(covered)}
        version = cells_version(location.settings, {shard: versions.get(shard, "") for shard in covered})
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))

    return vector_cells


def _graphs_before(location: CodeLocation) -> list[str]:
    """Graphs come first if both are built: a partition that a build of graphs swaps in is exchanged in the cells."""
    settings = location.settings
    return ["vector_index"] if settings.builds_graphs and settings.builds_cells else []


def vector_cells_checks(location: CodeLocation) -> Sequence[dg.AssetChecksDefinition]:
    """Checks on what the cells hold now, on what a search reads of them, and on their centroids."""
    return [_every_shard_is_in_cells(location), _cells_are_used(location), _centroids_fit(location)]


def _every_shard_is_in_cells(location: CodeLocation) -> dg.AssetChecksDefinition:
    @asset_check(
        location,
        "vector_cells",
        "every_shard_is_in_cells",
        "For each shard that was loaded before the last build, and each vector column, the rows and a hash of the ids "
        "in the cells equal those of the table, and the shard was not changed since. Shards that were loaded since are "
        "named, not judged.",
        blocking=True,
        touches_table=True,
    )
    def every_shard_is_in_cells(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        since = loaded_since(context.instance, location.settings, "vector_cells")
        try:
            found = on_every_node(location.settings, lambda db: _covers(db, since))
        except LaionError as error:
            return check_failed(error)
        covers = [(at, cover) for at, (_, node) in found for cover in node]
        later = {shard for _, (shards, _) in found for shard in shards}
        faults = [f"{fault}{at}" for at, cover in covers for fault in cover.faults]
        shards = {shard for _, cover in covers for shard in cover.shards}
        return dg.AssetCheckResult(
            passed=bool(shards or later) and not faults,
            description=said(faults[:10], later, "" if shards or later else "no shard is in the cells"),
            metadata={"shards": len(shards), "faults": len(faults), LOADED_SINCE: as_ranges(later)},
        )

    return every_shard_is_in_cells


def _cells_are_used(location: CodeLocation) -> dg.AssetChecksDefinition:
    @asset_check(
        location,
        "vector_cells",
        "cells_are_used",
        "The plan of a search by each column has a shortlist of codes, and the engine's counters show that it read "
        "the codes of the probed clusters, not the vectors of all rows.",
        blocking=True,
        touches_table=True,
    )
    def cells_are_used() -> dg.AssetCheckResult:
        try:
            found = on_every_node(location.settings, _uses)
        except LaionError as error:
            return check_failed(error)
        uses = [(at, by, use) for at, node in found for by, use in node.items()]
        faults = [f"by {by}{at}: {use.fault}" for at, by, use in uses if use.fault]
        return dg.AssetCheckResult(
            passed=bool(uses) and not faults,
            description="; ".join(faults) or (None if uses else "no row is loaded"),
            metadata={f"bytes_read_by_{by}": use.bytes_read for _, by, use in uses},
        )

    return cells_are_used


def _centroids_fit(location: CodeLocation) -> dg.AssetChecksDefinition:
    @asset_check(
        location,
        "vector_cells",
        "centroids_fit",
        "Rows of every shard are at most 1.1 times as far from their nearest centroids as the rows that the centroids "
        "were trained on. If the rows of a shard are farther, searches miss more of them until a new generation is "
        "trained.",
        touches_table=True,
    )
    def centroids_fit() -> dg.AssetCheckResult:
        try:
            found = on_every_node(
                location.settings, lambda db: {by: centroid_misfits(db, by) for by in vector_columns(db)}
            )
        except LaionError as error:
            return check_failed(error)
        far = [
            f"{by} vectors of shard {shard}{at} are {times:.2f} times as far as the training rows"
            for at, node in found
            for by, shards in node.items()
            for shard, times in shards.items()
        ]
        advice = f"; {'; '.join(far[:10])}: drop the tables of cells and materialize vector_cells again" if far else ""
        return dg.AssetCheckResult(
            passed=not far,
            severity=dg.AssetCheckSeverity.WARN,
            description=advice.removeprefix("; ") or None,
            metadata={"shards_that_do_not_fit": len(far)},
        )

    return centroids_fit


def _covers(db: Database, since: Set[int]) -> tuple[Set[int], list[CellsCover]]:
    """The loaded shards among `since`, and the cells of each column for the others."""
    shards = without_shards(db, since)
    later = {state.shard for state in partitions(db)} & since
    return later, [cells_cover(db, by, shards) for by in vector_columns(db)]


def _uses(db: Database) -> dict[By, CellsUse]:
    """What a search by each column does, with the vector of a random row."""
    drawn = draw_rows(db, 1, seed=0)
    if not len(drawn):
        return {}
    found = {}
    for by in vector_columns(db):
        live = require_cells(db, by)
        settings = CellsSettings(default_probes(live.clusters, live.rows))
        found[by] = cells_use(db, vectors_of(db, by, drawn).vectors[0], SearchRequest(by=by), settings)
    return found


def _metadata(location: CodeLocation, reports: list[CellsReport], size: int) -> Metadata:
    rows = sum(report.rows for report in reports)
    dimension = location.settings.dataset.dimension
    metadata: Metadata = {
        "rows": sum(report.rows for report in reports if report.by == "image"),
        "code": METHOD,
        "code_bytes_a_vector": code_bytes(padded_dimension(dimension)),
        "shards_exchanged": len({shard for report in reports for shard in report.exchanged}),
        "shards_removed": len({shard for report in reports for shard in report.removed}),
        "bytes_on_disk": size,
        "disk_bytes_a_vector": round(size / rows, 1) if rows else 0.0,
        "seconds": round(sum(report.seconds for report in reports), 3),
    }
    for report in reports:
        metadata |= {
            f"{report.by}_clusters": report.generation.clusters,
            f"{report.by}_generation": report.generation.number,
            f"{report.by}_trained": report.trained,
        }
        if report.core_seconds_a_million is not None:
            metadata[f"{report.by}_core_seconds_a_million"] = round(report.core_seconds_a_million, 1)
        if report.trained and report.training_core_seconds is not None:
            metadata[f"{report.by}_training_core_seconds"] = round(report.training_core_seconds, 1)
    return metadata

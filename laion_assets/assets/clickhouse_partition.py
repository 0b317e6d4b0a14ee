"""`clickhouse_partition`: partition N of the table, one part, equal to the merged file; and the check of that."""

from collections.abc import Sequence

import dagster as dg

from laion_assets.assets.check_by_shard import shard_check
from laion_assets.assets.location import (
    CLICKHOUSE_DOCS,
    CodeLocation,
    Metadata,
    asset,
    check_failed,
    failing_clearly,
)
from laion_assets.errors import LaionError
from laion_assets.health.audits import AUDIT_CHECK
from laion_assets.health.merges import file_version, recorded_merge, require_recorded
from laion_assets.health.recorded_rows import RecordedRows, recorded_rows, rows_metadata, rows_version
from laion_assets.index.staged import graphs_like_the_replaced
from laion_assets.machine import StepMeter
from laion_assets.shard.files import remove_file
from laion_assets.shard.merged import MergedShard, read_merged
from laion_assets.shard.places import file_exists
from laion_assets.table.fingerprint import file_fingerprint
from laion_assets.table.load import LoadedPartition, load_partition
from laion_assets.table.nodes import connect_to_partition, table_name
from laion_assets.table.schema import table_columns
from laion_assets.table.verify import partition_figures, vectors_agree


def clickhouse_partition_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset. It verifies its input itself, since a blocking check stops only the run that the check is part of."""

    @asset(
        location,
        "clickhouse_partition",
        group="shards",
        kinds={"clickhouse"},
        deps=["merged_shard"],
        stage="loaded",
        by_shard=True,
        touches_table=True,
        metadata={
            "docs": dg.MetadataValue.url(f"{CLICKHOUSE_DOCS}/getting-started/example-datasets/laion-400m-dataset")
        },
        description="Partition N of the table: one part, equal to the merged file of shard N. It is staged and "
        "checked, then swapped in as a whole. Readers see the old rows or the new rows, never a part of them and "
        "never both. If a partition that had graphs is loaded again, its new graphs are built before the swap.",
    )
    def clickhouse_partition(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        shard = location.shard(context)
        progress = location.progress(context)
        with failing_clearly(), StepMeter() as meter:
            # Before the file is read: a merge that is recorded meanwhile, of another file, is not what is loaded.
            recorded = recorded_merge(context.instance, location.settings, shard)
            merged = read_merged(location.store.merged_path(shard), dataset=location.store.dataset, shard=shard)
            version = require_recorded(merged, recorded)
            progress.begin("load", merged.rows, "rows")
            with connect_to_partition(location.settings, shard) as db:
                loaded = load_partition(
                    db,
                    merged,
                    stage=lambda name: progress.begin(name, merged.rows if name == "insert" else None, "rows"),
                    inserted=progress.advance,
                    log=context.log.info,
                    index=graphs_like_the_replaced(db, context.log.info),
                )
                columns = table_columns(db)
                table = table_name(location.settings)
            if not location.settings.keep_merged:
                remove_file(merged.path)
        return dg.MaterializeResult(
            metadata=_metadata(location, loaded, merged.quarantined, columns, table)
            | rows_metadata(loaded.rows, loaded.fingerprint, loaded.vector_sums, version)
            | meter.metadata(),
            data_version=dg.DataVersion(rows_version(loaded.rows, loaded.fingerprint, version)),
        )

    return clickhouse_partition


def clickhouse_partition_checks(location: CodeLocation) -> Sequence[dg.AssetChecksDefinition]:
    """The check on what the table holds now."""

    @shard_check(
        location,
        "clickhouse_partition",
        AUDIT_CHECK,
        touches_table=True,
        description="Rows, a hash over ids, urls, captions and scores, and a sum over the bits of every vector of the "
        "partition equal those of the merged file. Every vector is sound. Vectors from four places of the file are in "
        "the table bit for bit. If the file was removed (LAION_KEEP_MERGED), or if it is not the file that was loaded, "
        "the check uses what was recorded at loading. If laion-assets accept recorded other rows, it uses these.",
    )
    def partition_matches_parquet(context: dg.AssetCheckExecutionContext, shard: int) -> dg.AssetCheckResult:
        compared: int | None = 0
        note = ""
        try:
            with connect_to_partition(location.settings, shard) as db:
                figures = partition_figures(db, db.table, f"shard = {shard}")
                recorded = recorded_rows(context.instance, location.settings, shard)
                merged, note = _loaded_file(context.instance, location, shard, recorded)
                if merged is not None:
                    expected = file_fingerprint(location.settings, merged)
                    compared = vectors_agree(db, merged, figures)
                else:
                    expected = (recorded.rows, recorded.fingerprint)
                    compared = figures.rows if recorded.sums in (None, figures.vector_sums) else None
        except LaionError as error:
            return check_failed(error)
        faults = []
        if (figures.rows, figures.fingerprint) != expected:
            loaded = f"{expected[0]:,}" if expected[0] >= 0 else "an unknown number"
            faults.append(f"{figures.rows:,} rows in the table, {loaded} loaded, or rows that differ")
        if figures.wrong_length or figures.unsound:
            faults.append(f"{max(figures.wrong_length, figures.unsound):,} rows or more whose vectors are not sound")
        if compared is None:
            faults.append("vectors that are not the file's")
        return dg.AssetCheckResult(
            passed=not faults,
            description="; ".join([*faults, note] if note else faults) or None,
            metadata={"rows": figures.rows, "vectors_compared": compared or 0},
        )

    return [partition_matches_parquet]


def _loaded_file(
    instance: dg.DagsterInstance, location: CodeLocation, shard: int, recorded: RecordedRows
) -> tuple[MergedShard | None, str]:
    """The merged file if it is there, and if its rows are those that were recorded; else a note that says why not.

    If the version of the file that was loaded is not known, the last merge that was recorded counts.
    """
    if recorded.accepted:
        return None, "compared with the rows that were accepted (laion-assets accept)"
    path = location.store.merged_path(shard)
    if not file_exists(path):
        return None, ""
    merged = read_merged(path, dataset=location.store.dataset, shard=shard)
    if (recorded.merged or recorded_merge(instance, location.settings, shard)) in ("", file_version(merged)):
        return merged, ""
    return None, f"compared with what was recorded at loading: {path.name} is not the file that was loaded"


def _metadata(
    location: CodeLocation, loaded: LoadedPartition, quarantined: int, columns: dict[str, str], table: str
) -> Metadata:
    merged = location.key("merged_shard")
    seconds = loaded.total_seconds
    return {
        "dagster/table_name": table,
        "dagster/column_schema": dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()]),
        "dagster/column_lineage": dg.TableColumnLineage(
            {name: [dg.TableColumnDep(merged, name)] for name in columns if name != "shard"}
        ),
        "quarantined": quarantined,
        "bytes": loaded.bytes_on_disk,
        "seconds": round(seconds, 3),
        "rows_per_second": round(loaded.rows / seconds) if seconds else 0,
        "transfer": loaded.transfer,
        **{f"seconds_to_{stage.replace(' ', '_')}": round(spent, 3) for stage, spent in loaded.seconds.items()},
    }

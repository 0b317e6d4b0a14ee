"""`raw_shard`: the three files of a shard in the store, complete and verified; a check that they fit together."""

from collections.abc import Sequence

import dagster as dg

from laion_assets.assets.check_by_shard import shard_check
from laion_assets.assets.location import CodeLocation, asset, check_failed, failing_clearly
from laion_assets.assets.remote_shard import observe_before_fetch
from laion_assets.errors import LaionError
from laion_assets.health.history import FETCHED_AS, named
from laion_assets.health.merges import RAW_VERSION
from laion_assets.health.versions import UNOBSERVED, digest, source_version
from laion_assets.machine import StepMeter
from laion_assets.shard.inspect import inspect_shard
from laion_assets.shard.raw_version import raw_version
from laion_assets.source.fetch import FetchedFile, fetch_shard


def raw_shard_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset. Its files come from the first source that has them, and all belong to one release."""

    @asset(
        location,
        "raw_shard",
        group="shards",
        kinds={"numpy", "parquet"},
        deps=["remote_shard"],
        stage="raw",
        by_shard=True,
        description="The files of shard N as their source has them: image vectors, text vectors, metadata. They are "
        "fetched by downloads that resume, or linked from a folder. Sizes, magic bytes and headers are "
        "verified.",
    )
    def raw_shard(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        shard = location.shard(context)
        progress = location.progress(context)
        observed = observe_before_fetch(context, location, shard)
        progress.begin("fetch", unit="bytes")
        with (
            failing_clearly(),
            location.store.at_work_on(shard, "files", say=context.log.info),
            StepMeter() as meter,
        ):
            location.store.bring_raw(shard)
            fetched = fetch_shard(
                location.settings,
                shard,
                location.store.raw_folder,
                progress=progress.advance,
                log=context.log.info,
            )
            inspection = inspect_shard(location.store.raw_files(shard), location.extra_columns)
            location.store.publish_raw(shard)
            version = raw_version(location.store.raw_files(shard))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(_data_version(observed, fetched)),
            metadata={
                "dagster/partition_row_count": inspection.rows,
                "bytes": sum(file.bytes for file in fetched),
                "bytes_fetched": sum(file.bytes_fetched for file in fetched),
                "seconds": round(max(file.seconds for file in fetched), 3),
                "tries": sum(file.tries for file in fetched),
                "files": dg.MetadataValue.md("\n".join(f"- `{file.path.name}` from {file.url}" for file in fetched)),
                "dtype": inspection.image.dtype.str,
                "dimension": inspection.image.dimension,
                **meter.metadata(),
            }
            | ({RAW_VERSION: version} if version else {})
            | ({FETCHED_AS: name} if (name := named(location.settings.dataset, shard)) else {}),
        )

    return raw_shard


def _data_version(observed: str | None, fetched: Sequence[FetchedFile]) -> str:
    """The version of the source; if the source could not be observed, the files' sizes and ETags."""
    if observed is not None:
        return source_version(observed)
    return UNOBSERVED + digest([(file.kind, file.etag, file.bytes) for file in fetched])


def raw_shard_checks(location: CodeLocation) -> Sequence[dg.AssetChecksDefinition]:
    """Blocking checks: nothing is merged from files that do not fit together."""

    @shard_check(
        location,
        "raw_shard",
        "rows_agree",
        there=lambda shard: not location.store.raw_files(shard).missing(),
        description="The headers of the vectors and the footer of the metadata give the same number of rows, and the "
        "sizes of the files fit it. So row k of each is one sample.",
    )
    def rows_agree(context: dg.AssetCheckExecutionContext, shard: int) -> dg.AssetCheckResult:
        try:
            with location.store.at_work_on(shard, "files"):
                merged = location.merged_meanwhile(context, shard)
                if merged is not None:
                    return _rows_agree(location, shard, merged.rows + merged.quarantined)
                inspection = inspect_shard(location.store.require_raw(shard), location.extra_columns)
        except LaionError as error:
            return check_failed(error)
        return _rows_agree(location, shard, inspection.rows, vector_bytes=inspection.vector_bytes)

    return [rows_agree]


def _rows_agree(location: CodeLocation, shard: int, rows: int, **metadata: int) -> dg.AssetCheckResult:
    known = location.settings.dataset.known_rows(shard)
    return dg.AssetCheckResult(
        passed=known in (None, rows),
        description=None if known in (None, rows) else f"{rows:,} rows, known are {known:,}",
        metadata={"rows": rows, **metadata},
    )

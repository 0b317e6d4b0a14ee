"""`merged_shard`: one Parquet file for each shard, one row for each sample; checks of vectors, metadata, alignment."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import dagster as dg

from laion_assets.assets.check_by_shard import shard_check
from laion_assets.assets.location import CodeLocation, Metadata, asset, check_failed, failing_clearly
from laion_assets.dataset import Dataset
from laion_assets.errors import LaionError
from laion_assets.health.merges import file_version, recorded_raw
from laion_assets.machine import StepMeter
from laion_assets.progress import Progress
from laion_assets.shard.files import sha256_of
from laion_assets.shard.inspect import inspect_shard
from laion_assets.shard.loadable import metadata_faults, quarantine_faults
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.merged import MergedShard, merged_schema, read_merged
from laion_assets.shard.places import file_exists
from laion_assets.shard.raw_version import require_fetched
from laion_assets.shard.sample_rows import SampledRows, sample_rows


def merged_shard_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset. It removes the raw files once the merged file is written, unless LAION_KEEP_RAW is true."""

    @asset(
        location,
        "merged_shard",
        group="shards",
        kinds={"parquet", "python"},
        deps=["raw_shard"],
        stage="merged",
        by_shard=True,
        description="One Parquet file of shard N: a row per sample, both vectors as lists of Float32, captions byte "
        "for byte. Rows whose vectors must not be loaded are in a second file, the quarantine, with the reason.",
        metadata={"dagster/column_schema": _column_schema(location)},
    )
    def merged_shard(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        shard = location.shard(context)
        progress = location.progress(context)
        with (
            failing_clearly(),
            location.store.at_work_on(shard, "files", say=context.log.info),
            StepMeter() as meter,
        ):
            merged = location.merged_meanwhile(context, shard)
            freed = 0
            if merged is not None:
                context.log.info(f"shard {shard} was merged by another run meanwhile, and its raw files are gone")
                merged = replace(merged, digest=sha256_of(merged.path))
            else:
                merged = _merge(location, shard, progress, recorded_raw(context.instance, location.settings, shard))
                freed = 0 if location.settings.keep_raw else location.store.remove_raw(shard)
            location.store.drop_copies(shard)
        return dg.MaterializeResult(
            metadata=_metadata(location, merged, meter, freed), data_version=dg.DataVersion(file_version(merged))
        )

    return merged_shard


def _merge(location: CodeLocation, shard: int, progress: Progress, fetched: str) -> MergedShard:
    files = location.store.require_raw(shard)
    require_fetched(files, fetched)
    progress.begin("merge", inspect_shard(files, location.extra_columns).rows, "rows")
    return merge_shard(
        location.store,
        shard,
        max_bad_fraction=location.settings.max_bad_fraction,
        extra_columns=location.extra_columns,
        progress=progress.advance,
    )


def merged_shard_checks(location: CodeLocation) -> Sequence[dg.AssetChecksDefinition]:
    """Blocking checks: nothing is loaded from a file that is not sound."""

    def check(
        name: str, description: str, judge: Callable[[MergedShard], dg.AssetCheckResult]
    ) -> dg.AssetChecksDefinition:
        def there(shard: int) -> bool:
            return file_exists(location.store.merged_path(shard))

        @shard_check(location, "merged_shard", name, description, there=there)
        def checked(_context: dg.AssetCheckExecutionContext, shard: int) -> dg.AssetCheckResult:
            try:
                return judge(
                    read_merged(location.store.merged_path(shard), dataset=location.store.dataset, shard=shard)
                )
            except LaionError as error:
                return check_failed(error)

        return checked

    return [
        check(
            "vectors_are_sound",
            "At most LAION_MAX_BAD_FRACTION of the rows were refused, and vectors read again from the file are finite, "
            "of the right dimension and of length 1.",
            lambda merged: _vectors_are_sound(location, merged, sample_rows(merged, location.settings.dataset)),
        ),
        check(
            "rows_are_aligned",
            "dot(image, text) of a row is higher than that of rows with another caption by a wide margin, and "
            "correlates with the crawl's similarity. This finds a metadata file of another shard, which row counts "
            "alone do not.",
            lambda merged: _rows_are_aligned(merged, location.settings.dataset),
        ),
        check(
            "metadata_is_sound",
            "Most rows have a caption and a URL, unless the dataset declares a default for them. Nulls that were "
            "filled are counted by column.",
            lambda merged: _metadata_is_sound(location, merged, sample_rows(merged, location.settings.dataset)),
        ),
    ]


def _vectors_are_sound(location: CodeLocation, merged: MergedShard, sampled: SampledRows) -> dg.AssetCheckResult:
    faults = [*sampled.vector_faults, *quarantine_faults(merged, location.settings.max_bad_fraction)]
    return dg.AssetCheckResult(
        passed=not faults,
        description="; ".join(faults[:3]) or None,
        metadata={
            "rows_read_again": sampled.rows,
            "quarantined": merged.quarantined,
            "reasons": dg.MetadataValue.json(merged.reasons),
        },
    )


def _rows_are_aligned(merged: MergedShard, dataset: Dataset) -> dg.AssetCheckResult:
    if dataset.alignment == "off":
        return dg.AssetCheckResult(passed=True, description='not compared: the dataset says alignment = "off"')
    alignment = merged.alignment
    fault = alignment.fault()
    metadata: dict[str, dg.MetadataValue | float | int] = {"rows": alignment.rows}
    if alignment.rows:
        metadata["pairs_cosine"] = alignment.pairs_mean
    if alignment.strangers:
        metadata |= {"strangers_cosine": alignment.strangers_mean, "strangers_compared": alignment.strangers}
    if alignment.correlation is not None:
        metadata["correlation_with_similarity"] = alignment.correlation
    not_judged = alignment.not_judged() if dataset.has_text else "the dataset has no text vectors to compare"
    return dg.AssetCheckResult(passed=fault is None, description=fault or not_judged, metadata=metadata)


def _metadata_is_sound(location: CodeLocation, merged: MergedShard, sampled: SampledRows) -> dg.AssetCheckResult:
    faults = metadata_faults(sampled.empty_fractions, location.settings.dataset)
    return dg.AssetCheckResult(
        passed=not faults,
        description="; ".join(faults) or None,
        metadata={"nulls_filled": dg.MetadataValue.json(merged.nulls), "rows_read_again": sampled.rows},
    )


def _column_schema(location: CodeLocation) -> dg.TableSchema:
    fields = merged_schema(location.settings.dataset, location.extra_columns)
    constraints = dg.TableColumnConstraints(nullable=False)
    return dg.TableSchema([dg.TableColumn(field.name, str(field.type), constraints=constraints) for field in fields])


def _metadata(location: CodeLocation, merged: MergedShard, meter: StepMeter, freed: int) -> Metadata:
    quarantine = location.store.quarantine_path(merged.shard)
    metadata: Metadata = {
        "dagster/partition_row_count": merged.rows,
        "dagster/uri": merged.path.as_uri(),
        "quarantined": merged.quarantined,
        "bytes": merged.file_bytes,
        "sha256": merged.digest,
        "bytes_a_row": round(merged.file_bytes / max(merged.rows, 1), 1),
        "seconds": round(meter.seconds, 3),
        "rows_per_second": round(merged.rows / meter.seconds),
        **meter.metadata(),
        "nulls_filled": dg.MetadataValue.json(merged.nulls),
        "metadata_without_vectors": merged.unmatched,
        "raw_bytes_freed": freed,
    }
    if merged.quarantined:
        metadata["quarantine"] = dg.MetadataValue.path(str(quarantine))
    return metadata

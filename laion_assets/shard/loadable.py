"""The rule when a merged file may be loaded: used by the checks that people see, and by the load itself.

A check stops only the run that the check is part of. So the load applies the same rule, and refuses what a check
refused. Vectors are not part of this rule: the load checks all of them in the engine, and the alignment of rows once
more (table/verify.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from laion_assets.columns import ColumnType
from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError
from laion_assets.shard.merge_rules import fitting_rules
from laion_assets.shard.merged import MergedShard, read_merged, remedy
from laion_assets.shard.sample_rows import empty_fractions
from laion_assets.shard.store import ShardStore

MAX_EMPTY_FRACTION = 0.5
"""If a larger fraction of rows has no caption or URL, the metadata is not as it should be."""


def require_loadable(
    merged: MergedShard, dataset: Dataset, *, max_bad_fraction: float, extra_columns: Mapping[str, ColumnType]
) -> None:
    """Raises `ShardFileError`, which names all reasons not to load the file, and `StoreError`."""
    faults = [
        *description_faults(merged, dataset, extra_columns),
        *source_faults(merged, dataset),
        *alignment_faults(merged, dataset),
        *quarantine_faults(merged, max_bad_fraction),
        *metadata_faults(empty_fractions(merged), dataset),
    ]
    if faults:
        raise ShardFileError(
            merged.subject,
            found="; ".join(faults),
            expected="a file that passes the checks of merged_shard",
            advice=f"correct the source or its description, then {remedy(merged.shard)}",
        )


def merged_meanwhile(
    store: ShardStore, shard: int, fetched: str, *, max_bad_fraction: float, extra_columns: Mapping[str, ColumnType]
) -> MergedShard | None:
    """The shard's merged file, if the raw files are gone because another run has merged them.

    `fetched` is the `raw_version` of the raw files that were fetched last. None if a raw file exists, if the merged
    file does not exist or would be refused, or if it was not made from these raw files: somebody may have deleted them
    before they were merged, and the merged file is of an earlier release. Raises `StoreError`.
    """
    store.bring_raw(shard)
    if not store.raw_files(shard).missing():
        return None
    try:
        merged = read_merged(store.merged_path(shard), dataset=store.dataset, shard=shard)
        require_loadable(merged, store.dataset, max_bad_fraction=max_bad_fraction, extra_columns=extra_columns)
    except ShardFileError:
        return None
    return merged if fetched and merged.raw_version == fetched else None


def description_faults(merged: MergedShard, dataset: Dataset, extra_columns: Mapping[str, ColumnType]) -> list[str]:
    """A fault if the file was merged with other extra columns than the table has, or by another description."""
    if merged.extra_columns != dict(extra_columns):
        named = [
            ", ".join(f"{name} {kind}" for name, kind in sorted(columns.items())) or "none"
            for columns in (merged.extra_columns, extra_columns)
        ]
        return [f"the extra columns {named[0]} where the dataset and LAION_EXTRA_COLUMNS say {named[1]}"]
    if merged.rules and merged.rules not in fitting_rules(dataset, extra_columns):
        return ["rows that were merged by another description (columns, defaults, join, normalised or alignment)"]
    return []


def source_faults(merged: MergedShard, dataset: Dataset) -> list[str]:
    """A fault for each raw file that had another size than the lock file says; none without a lock file.

    A share of a file has a size of its own, of which the lock file says nothing.
    """
    if dataset.listing is None or dataset.slice_of(merged.shard) is not None:
        return []
    faults = []
    for kind in dataset.file_kinds:
        name, locked = dataset.file_name(kind, merged.shard), dataset.locked(kind, merged.shard)
        found, expected = merged.source_bytes.get(name), locked and locked.size
        if None not in (found, expected) and found != expected:
            faults.append(f"rows from {name} of {found:,} bytes where the lock file has {expected:,}")
    return faults


def alignment_faults(merged: MergedShard, dataset: Dataset) -> list[str]:
    """A fault if the rows did not seem aligned when they were merged, unless the dataset says not to compare them."""
    fault = None if dataset.alignment == "off" else merged.alignment.fault()
    return [] if fault is None else [f"rows that do not belong together: {fault}"]


def quarantine_faults(merged: MergedShard, max_bad_fraction: float) -> list[str]:
    """A fault if too many rows were refused, or all."""
    total = merged.rows + merged.quarantined
    limit = max_bad_fraction * total
    if merged.quarantined > limit:
        return [f"{merged.quarantined:,} of {total:,} rows refused, at most {limit:,.0f} may be"]
    return [f"no row left of {total:,}"] if merged.quarantined and not merged.rows else []


def metadata_faults(empty: Mapping[str, float], dataset: Dataset) -> list[str]:
    """A fault if most rows lack a url or a caption, and the dataset has no default for it; `empty` is by column."""
    return [
        f'{fraction:.0%} of the rows have no {column}; if that is right, say {column} = "" under [defaults] in the '
        "dataset's TOML file"
        for column, fraction in empty.items()
        if fraction > MAX_EMPTY_FRACTION and dataset.default(column) is None
    ]

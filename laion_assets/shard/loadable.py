"""The rule when a merged file may be loaded: used by the checks that people see, and by the load itself.

A check stops only the run that the check is part of. So the load applies the same rule, and refuses what a check
refused. Vectors and the alignment of rows are not part of this rule: the load checks all of them in the engine
(table/verify.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError
from laion_assets.shard.merged import MergedShard, read_merged
from laion_assets.shard.sample_rows import empty_fractions
from laion_assets.shard.store import ShardStore

MAX_EMPTY_FRACTION = 0.5
"""If a larger fraction of rows has no caption or URL, the metadata is not as it should be."""


def require_loadable(
    merged: MergedShard, dataset: Dataset, *, max_bad_fraction: float, extra_columns: Iterable[str]
) -> None:
    """Raises `ShardFileError`, which names all reasons not to load the file, and `StoreError`."""
    faults = [
        *column_faults(merged, extra_columns),
        *quarantine_faults(merged, max_bad_fraction),
        *metadata_faults(empty_fractions(merged), dataset),
    ]
    if faults:
        raise ShardFileError(
            merged.subject,
            found="; ".join(faults),
            expected="a file that passes the checks of merged_shard",
            advice=f"correct the source, then materialize raw_shard and merged_shard of partition {merged.shard} again",
        )


def merged_meanwhile(
    store: ShardStore, shard: int, *, max_bad_fraction: float, extra_columns: Iterable[str]
) -> MergedShard | None:
    """The shard's merged file, if the raw files are gone because another run has merged them.

    None if a raw file exists, or if the merged file does not exist or would be refused. Raises `StoreError`.
    """
    store.bring_raw(shard)
    if not store.raw_files(shard).missing():
        return None
    try:
        merged = read_merged(store.merged_path(shard), dataset=store.dataset, shard=shard)
        require_loadable(merged, store.dataset, max_bad_fraction=max_bad_fraction, extra_columns=extra_columns)
    except ShardFileError:
        return None
    return merged


def column_faults(merged: MergedShard, extra_columns: Iterable[str]) -> list[str]:
    """A fault if the file was merged without the extra columns of the table."""
    found, expected = sorted(merged.extra_columns), sorted(extra_columns)
    named = [", ".join(names) or "none" for names in (found, expected)]
    return [] if found == expected else [f"the extra columns {named[0]} where LAION_EXTRA_COLUMNS says {named[1]}"]


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

"""What decides the result of a merge besides its raw files: parts of the dataset's description, and their digest."""

from __future__ import annotations

from collections.abc import Mapping

from laion_assets.columns import PAGE_TYPES, ColumnType, Value, null_value
from laion_assets.dataset import Dataset
from laion_assets.shard.digest import digest_of

ColumnRule = tuple[str, ColumnType, tuple[str, ...], Value | None]
"""A column's name, type, names in the metadata, and declared default."""


def column_rules(dataset: Dataset, extra_columns: Mapping[str, ColumnType]) -> list[ColumnRule]:
    """The rule of each column of metadata, in order: those that every table has, then the extra ones."""
    carried = {**PAGE_TYPES, **extra_columns}
    return [(name, kind, dataset.aliases(name), dataset.default(name)) for name, kind in carried.items()]


def array_rules(dataset: Dataset) -> str:
    """Where the vectors are in their files, and how metadata rows are matched to them; "" for npy files."""
    arrays = [array for part in dataset.parts if (array := dataset.array(part)) is not None]
    said = f"; arrays {', '.join(arrays)}" if arrays else ""
    if dataset.join is not None:
        said += f"; metadata by {dataset.join.metadata} of {dataset.join.image}"
    return said


def merge_rules(dataset: Dataset, extra_columns: Mapping[str, ColumnType]) -> str:
    """A digest of all that decides a merged file's rows and figures besides the raw files' names and the dimension.

    The order of the extra columns does not change it, nor does a default that says what a null becomes anyway.
    """
    columns = sorted(
        (name, kind, aliases, repr(null_value(kind) if default is None else default))
        for name, kind, aliases, default in column_rules(dataset, extra_columns)
    )
    counted = dataset.has_text and dataset.alignment == "check"
    rules = (columns, array_rules(dataset), dataset.has_metadata, dataset.normalised, counted)
    return digest_of(rules)


def fitting_rules(dataset: Dataset, extra_columns: Mapping[str, ColumnType]) -> set[str]:
    """The digests of merged files that fit the dataset. If its alignment is off, a file whose rows were compared fits,
    too: the comparison changes no row."""
    compared = dataset.model_copy(update={"alignment": "check"})
    described = [dataset, compared] if dataset.alignment == "off" else [dataset]
    return {merge_rules(each, extra_columns) for each in described}

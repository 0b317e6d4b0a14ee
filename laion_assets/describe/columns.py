"""Which column of a metadata file is the caption, the URL and so on: by known names first, then by similar names."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as of

from laion_assets.columns import PAGE_ALIASES, WELL_KNOWN, ColumnType
from laion_assets.describe.contents import Metadata

LIKELY = {
    "url": re.compile(r"url|uri|link|path|file", re.IGNORECASE),
    "caption": re.compile(r"caption|text|title|label|class|prompt|alt|descri", re.IGNORECASE),
    "NSFW": re.compile(r"nsfw", re.IGNORECASE),
    "similarity": re.compile(r"similarity", re.IGNORECASE),
}
"""Further names that are taken for a column, best first, if the file has none of the known names."""

STAND_INS = {"url": '""', "caption": '""', "NSFW": '""', "similarity": "nan"}
"""Default values that are written into the TOML file if the files lack a column."""

MOST_NULLS = 0.5
"""With a larger fraction of nulls than this a shard would be refused, unless a default is declared."""


@dataclass(frozen=True)
class Columns:
    """Names in files and defaults by column of the table, each with a comment; other columns with their types."""

    names: dict[str, tuple[str, str]]
    defaults: dict[str, tuple[str, str]]
    others: dict[str, ColumnType]


def find_columns(files: list[Metadata]) -> Columns:
    """The columns of the files of one dataset. A column counts only if all files have it."""
    if not files:
        return Columns({}, {column: (STAND_INS[column], "there is no metadata") for column in PAGE_ALIASES}, {})
    common = [name for name in files[0].schema.names if all(name in file.schema.names for file in files)]
    kinds = {name: files[0].schema.field(name).type for name in common}
    names: dict[str, tuple[str, str]] = {}
    defaults: dict[str, tuple[str, str]] = {}
    used: set[str] = set()
    for column, aliases in PAGE_ALIASES.items():
        found = next((alias for alias in aliases if alias in kinds and _can_be(column, kinds[alias])), None)
        if found is None:
            found = next((name for name in common if name not in used and _looks_like(column, name, kinds[name])), None)
            if found is None:
                defaults[column] = (STAND_INS[column], f"the files have no {column}")
                continue
            names[column] = (found, f"guessed by its name among: {', '.join(common)}")
        elif found != next(alias for alias in aliases if alias in kinds):
            names[column] = (found, "its other names have no such values")
        used.add(found)
        nulls = max(file.nulls.get(found, 0.0) for file in files)
        if nulls > MOST_NULLS or of.is_null(kinds[found]):
            defaults[column] = (STAND_INS[column], f"most rows of {found} are null")
    others = {
        name: WELL_KNOWN[name].type if name in WELL_KNOWN else _type_of(kinds[name])
        for name in common
        if name not in used
    }
    return Columns(names, defaults, {name: kind for name, kind in others.items() if kind is not None})


def _looks_like(column: str, name: str, kind: pa.DataType) -> bool:
    return LIKELY[column].search(name) is not None and not bool(of.is_null(kind)) and _can_be(column, kind)


def _can_be(column: str, kind: pa.DataType) -> bool:
    """Whether the merge can read values of this type for a column (shard/arrow_values.py)."""
    text = _type_of(kind) == "String" or bool(of.is_null(kind))
    if column == "similarity":
        numbers = (of.is_floating, of.is_integer, of.is_decimal, of.is_null)
        return any(is_kind(kind) for is_kind in numbers)
    return text if column in ("url", "caption") else text or bool(of.is_primitive(kind))


def _type_of(kind: pa.DataType) -> ColumnType | None:
    """The table's type for a column of this Arrow type; None if no column can hold such values."""
    if of.is_dictionary(kind) or of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        inner = _type_of(kind.value_type)
        return inner if of.is_dictionary(kind) or inner == "String" else None
    if of.is_boolean(kind):
        return "Bool"
    if of.is_integer(kind):
        return "Int32" if kind.bit_width < 32 else "Int64"
    if of.is_floating(kind):
        return "Float64" if kind.bit_width == 64 else "Float32"
    text = (of.is_string, of.is_large_string, of.is_binary, of.is_large_binary, of.is_fixed_size_binary)
    views = (pa.string_view(), pa.binary_view())
    return "String" if kind in views or any(is_kind(kind) for is_kind in text) or of.is_temporal(kind) else None

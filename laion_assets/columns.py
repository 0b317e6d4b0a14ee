"""Which metadata columns there are: their types, their names in files, and their default values. Reads no column."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

Integer = Literal["Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"]
ColumnType = Literal["String", "Bool", "Float32", "Float64", Integer]
"""ClickHouse's types that a column of metadata can have in the table."""

Value = str | bool | int | float
"""What a column can hold."""

INTEGER_BITS: dict[str, int] = {kind: int(kind.lstrip("UInt")) for kind in get_args(Integer)}

PAGE_TYPES: dict[str, ColumnType] = {"url": "String", "caption": "String", "NSFW": "String", "similarity": "Float32"}
"""The columns of the metadata that every table has, under the names that ClickHouse's page gives them."""

PAGE_ALIASES: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url"),
    "caption": ("caption", "TEXT", "text", "title"),
    "NSFW": ("NSFW", "nsfw"),
    "similarity": ("similarity", "clip_similarity_vitb32", "clip_similarity_vitl14"),
}
"""The names that each column has in published metadata of this layout; the first match is taken."""

DISTANCE = "distance"
"""The name of a row's distance in a search; a condition may use this name, too."""

CELLS_PREFIX = "cells_"
"""The names of columns that only the tables of cells have begin so."""

TABLES_OWN = ("id", "image_embedding", "text_embedding", "shard", *PAGE_TYPES)
"""Names that no extra column can have."""


def null_value(kind: ColumnType) -> Value:
    """The value written for a null where no default is declared: empty text, false, 0, NaN."""
    if kind == "String":
        return ""
    if kind == "Bool":
        return False
    return 0 if kind in INTEGER_BITS else float("nan")


def fits(value: object, kind: ColumnType) -> bool:
    """Whether a column of this type can hold a value from a TOML file."""
    if kind == "String":
        return isinstance(value, str)
    if isinstance(value, bool) or kind == "Bool":
        return isinstance(value, bool) and kind == "Bool"
    if kind not in INTEGER_BITS:
        return isinstance(value, (int, float))
    bits = INTEGER_BITS[kind]
    low, high = (0, 2**bits) if kind.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return isinstance(value, int) and low <= value < high


class ExtraColumn(BaseModel):
    """A column of the metadata that the table has after `shard`.

    `names` are the names that the column may have in files; the first match is taken, and without any it is the
    column's own name. `default` is written where a file has no such column, and in place of nulls. Without a default
    the column must be in each file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: ColumnType = "String"
    default: Value | None = None
    names: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _type_alone(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value

    @field_validator("names", mode="before")
    @classmethod
    def _one_name_or_more(cls, names: object) -> object:
        return (names,) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _default_fits(self) -> ExtraColumn:
        if self.default is not None and not fits(self.default, self.type):
            raise ValueError(f"default {self.default!r} is no {self.type}")
        return self


WELL_KNOWN: dict[str, ExtraColumn] = {
    "image_path": ExtraColumn(type="String"),
    "LICENSE": ExtraColumn(type="String"),
    "key": ExtraColumn(type="String"),
    "shard_id": ExtraColumn(type="Int64"),
    "status": ExtraColumn(type="String"),
    "width": ExtraColumn(type="Int32", names=("width", "WIDTH")),
    "height": ExtraColumn(type="Int32", names=("height", "HEIGHT")),
    "exif": ExtraColumn(type="String"),
    "original_width": ExtraColumn(type="Int32"),
    "original_height": ExtraColumn(type="Int32"),
    "md5": ExtraColumn(type="String"),
    "sha256": ExtraColumn(type="String"),
    "uid": ExtraColumn(type="String"),
    "hash": ExtraColumn(type="Int64"),
    "LANGUAGE": ExtraColumn(type="String", names=("LANGUAGE", "language", "lang")),
    "punsafe": ExtraColumn(type="Float32"),
    "pwatermark": ExtraColumn(type="Float32"),
    "AESTHETIC_SCORE": ExtraColumn(type="Float32", names=("AESTHETIC_SCORE", "aesthetic_score", "aesthetic")),
}
"""Columns of LAION's releases and of img2dataset that LAION_EXTRA_COLUMNS may add without a description."""


def refuse_name(name: str) -> None:
    """Raises `ValueError` for a name that no extra column can have."""
    if name.startswith(CELLS_PREFIX) or name == DISTANCE:
        raise ValueError(f"{name} is a name that searches use themselves: give the column another name")
    if name in TABLES_OWN:
        raise ValueError(f"{name} is a column that every table has: describe it under [columns] and [defaults]")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,100}", name):
        raise ValueError(f"{name[:40]!r}: a column's name is letters, digits and underscores, and starts with no digit")

"""What a dataset is: shard keys, file names, dimension, columns, known sizes, presets. Opens no shard file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from laion_assets.columns import PAGE_ALIASES, PAGE_TYPES, WELL_KNOWN, ExtraColumn, Value, fits, refuse_name
from laion_assets.errors import DatasetError
from laion_assets.file_layout import FileKind, Given, Join
from laion_assets.listing import Listing, LockedFile, lock_path, read_listing
from laion_assets.shard_keys import ShardKeys
from laion_assets.source_layout import SourceLayout
from laion_assets.text_file import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NPY_HEADER_BYTES = 128
"""Bytes of the header that numpy's format 1.0 writes for these shapes (tensorflow/datasets' checksums agree)."""

ID_STRIDE = 10_000_000
"""`id = shard * ID_STRIDE + row` is unique as long as no shard has more rows (LAION's largest has 1,000,501)."""


class Dataset(ShardKeys):
    """A dataset of shards. Each shard has one or two sets of vectors, and metadata whose rows correspond to them.

    Raises `DatasetError` from `load_dataset` when a description is not valid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    description: str = ""
    dimension: int = Field(gt=0, le=65_536)
    dtype: str = "<f2"
    normalised: bool = True
    alignment: Literal["check", "off"] = "check"
    clip_model: str | None = None
    join: Join | None = None
    given: Given | None = None
    columns: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    defaults: dict[str, Value] = Field(default_factory=dict)
    extra_columns: dict[str, ExtraColumn] = Field(default_factory=dict)
    default_rows: int | None = Field(default=None, ge=0, le=ID_STRIDE)
    rows: dict[int, Annotated[int, Field(ge=0, le=ID_STRIDE)]] = Field(default_factory=dict)
    sources: tuple[SourceLayout, ...] = ()
    listing: Listing | None = Field(default=None, exclude=True, repr=False)

    @field_validator("dtype")
    @classmethod
    def _is_a_float(cls, dtype: str) -> str:
        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            raise ValueError(f"{dtype!r} is no numpy dtype") from error
        if kind.kind != "f" or kind.itemsize not in (2, 4, 8):
            raise ValueError(f"{dtype!r} is not a float of 2, 4 or 8 bytes")
        return str(kind.str)

    @field_validator("columns", mode="before")
    @classmethod
    def _one_alias_or_more(cls, columns: object) -> object:
        if not isinstance(columns, Mapping):
            return columns
        return {name: (alias,) if isinstance(alias, str) else alias for name, alias in columns.items()}

    @field_validator("extra_columns")
    @classmethod
    def _names_can_be_columns(cls, columns: dict[str, ExtraColumn]) -> dict[str, ExtraColumn]:
        for name in columns:
            refuse_name(name)
        return columns

    @model_validator(mode="after")
    def _parts_agree(self) -> Dataset:
        types = {**{name: column.type for name, column in (WELL_KNOWN | self.extra_columns).items()}, **PAGE_TYPES}
        for field, named in (("columns", set(self.columns)), ("defaults", set(self.defaults))):
            unknown = sorted(named - set(types))
            if unknown:
                raise ValueError(
                    f"{field} names {unknown}; there are {[*PAGE_TYPES]}, those under [extra_columns], {[*WELL_KNOWN]}"
                )
        if self.join is not None and (not self.has_metadata or self.container("image") == "npy"):
            raise ValueError(
                "join needs metadata, and vectors in a file that has their keys, too: npz, HDF5 or Parquet"
            )
        for name, value in self.defaults.items():
            if not fits(value, types[name]):
                raise ValueError(f"defaults.{name}: {value!r} is no {types[name]}")
        outside = sorted(shard for shard in self.rows if not self.has_shard(shard))
        if outside:
            raise ValueError(f"rows names shards {outside} outside {self.shard_range}")
        return self

    def locked(self, kind: FileKind, shard: int) -> LockedFile | None:
        """What the lock file says of one of a shard's files; None without a lock file.

        Raises `DatasetError` for a shard that the lock file does not have.
        """
        if self.listing is None:
            return None
        found = self.listing.shards.get(shard)
        if found is None or kind not in found.files:
            raise DatasetError(
                f"dataset {self.name}",
                found=f"no {kind} file of shard {shard} in its lock file",
                expected="the files of every shard",
                advice="`laion-assets describe FILE.toml --lock` writes the lock file again",
            )
        return found.files[kind]

    @property
    def vector_columns(self) -> tuple[str, ...]:
        """The table's vector columns that this dataset fills."""
        return ("image_embedding", "text_embedding") if self.has_text else ("image_embedding",)

    def extra_column(self, name: str) -> ExtraColumn | None:
        """An extra column by its name in the table, declared here or well known; None if there is no such column."""
        return self.extra_columns.get(name) or WELL_KNOWN.get(name)

    def aliases(self, column: str) -> tuple[str, ...]:
        """The names that `column` may have in the metadata; the first match wins."""
        if column in self.columns:
            return self.columns[column]
        extra = self.extra_column(column)
        return PAGE_ALIASES[column] if extra is None else extra.names or (column,)

    def default(self, column: str) -> Value | None:
        """The value for a column that the metadata lacks, and for a null; None where nothing is declared."""
        extra = self.extra_column(column)
        return self.defaults.get(column, extra.default if extra else None)

    def known_rows(self, shard: int) -> int | None:
        """Rows of a shard if the number is known before the shard is fetched, else None."""
        return self.rows.get(shard, self.default_rows)

    def expected_bytes(self, kind: FileKind, shard: int) -> int | None:
        """Bytes of one of a shard's npy files if its rows are known before it is fetched; None for metadata.

        This is an estimate for plans and progress: the file may have another float type or a longer header.
        """
        rows = self.known_rows(shard)
        if rows is None or self.container(kind) != "npy":
            return None
        return NPY_HEADER_BYTES + rows * self.dimension * np.dtype(self.dtype).itemsize


def preset_names() -> list[str]:
    """The names of the datasets that ship with the package."""
    folder = resources.files("laion_assets") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """The TOML text of a preset."""
    return (resources.files("laion_assets") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def user_path(path: str | Path) -> Path:
    """A path as a person writes it. `~` becomes the home folder. A `~name` of an unknown user is left unchanged."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def load_dataset(name_or_path: str) -> Dataset:
    """A preset by its name, or a dataset described in a TOML file by its path. Raises `DatasetError`."""
    if name_or_path in preset_names():
        return parse_dataset(preset_text(name_or_path), name_or_path)
    path = user_path(name_or_path)
    if path.suffix != ".toml":
        raise DatasetError(
            f"dataset {name_or_path!r}",
            found="no preset of that name",
            expected=f"one of {', '.join(preset_names())}, or a path that ends in .toml",
        )
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"dataset file {path}", found=f"{error}", expected="a TOML file in UTF-8") from error
    return beside(parse_dataset(text, str(path), read_listing(path)), path)


def beside(dataset: Dataset, toml: Path) -> Dataset:
    """The dataset with the relative paths of its sources made absolute from the folder of its TOML file."""
    folder = toml.absolute().parent
    sources = tuple(
        place
        if "://" in place.url or place.url.startswith(("~", "{data_dir}"))
        else place.model_copy(update={"url": str(folder / place.url)})
        for place in dataset.sources
    )
    return dataset.model_copy(update={"sources": sources})


def parse_dataset(text: str, subject: str, listing: Listing | None = None) -> Dataset:
    """A dataset from the text of a TOML file and its lock file; `subject` names it in errors. Raises `DatasetError`."""
    return dataset_of(with_listing(parse_toml(text, subject), subject, listing), f"dataset file {subject}")


def parse_toml(text: str, subject: str) -> dict[str, Any]:
    """The fields of a TOML file. Raises `DatasetError`."""
    try:
        fields: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise DatasetError(f"dataset file {subject}", found=f"{error}", expected="valid TOML") from error
    if "listing" in fields:
        raise DatasetError(f"dataset file {subject}", found="listing", expected="the fields of docs/datasets.md")
    return fields


def with_listing(fields: dict[str, Any], subject: str, listing: Listing | None) -> dict[str, Any]:
    """The fields of a TOML file, completed with the shards and names of its lock file.

    Raises `DatasetError` where the two give a shard different names, and where neither says which shards there are.
    """
    if listing is None:
        if {"name", "dimension"} <= fields.keys() and fields.keys().isdisjoint(("shards", "names")):
            output = "" if subject.endswith(".toml") else f" --output {subject}.toml"
            raise DatasetError(
                f"dataset file {subject}",
                found="neither shards nor names",
                expected=f"one of them, or the lock file {lock_path(Path(subject)).name} beside it",
                advice=f"`laion-assets describe {subject}{output} --lock` looks which shards there are",
            )
        return fields
    said: dict[str, Any] = {"shards": [*listing.shards]} if "shards" not in fields and "names" not in fields else {}
    if listing.names and "names" not in fields:
        said["names"] = listing.names
    named = fields.get("names", {})
    pairs = named.items() if isinstance(named, Mapping) else enumerate(named)
    for shard, name in ((str(shard), name) for shard, name in pairs):
        locked = listing.names.get(int(shard)) if shard.isdecimal() else None
        if locked is not None and locked != name:
            raise DatasetError(
                f"dataset file {subject}",
                found=f"{name!r} as the name of shard {shard}",
                expected=f"{locked!r}, as its lock file says",
                advice="partitions keep their numbers: remove names from the TOML file, or the lock file",
            )
    return {**fields, **said, "listing": listing}


def dataset_of(fields: Mapping[str, Any], subject: str) -> Dataset:
    """A dataset from its fields; `subject` names it in errors. Raises `DatasetError`."""
    try:
        return Dataset.model_validate(fields)
    except ValidationError as error:
        raise DatasetError(
            subject,
            found=describe_validation(error),
            expected="the fields of docs/datasets.md",
        ) from error


def describe_validation(error: ValidationError, name: Callable[[str], str] = str) -> str:
    """Pydantic's errors in one line, each with its field. The input is left out, since it may be secret.

    `name` gives the name under which a user knows a field.
    """
    findings = []
    for item in error.errors(include_url=False, include_input=False):
        field, *deeper = item["loc"] or ("the whole",)
        place = ".".join([name(str(field)) if item["loc"] else str(field), *map(str, deeper)])
        findings.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(findings)

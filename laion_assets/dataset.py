"""What a dataset is: shard keys, file names, dimension, columns, known sizes, presets. It opens no shard file."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from laion_assets.columns import PAGE_ALIASES, PAGE_TYPES, WELL_KNOWN, ExtraColumn, Value, fits, refuse_name
from laion_assets.errors import DatasetError
from laion_assets.file_layout import FileKind, FileLayout
from laion_assets.shard_numbers import NUMBER, as_ranges
from laion_assets.text_file import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NPY_HEADER_BYTES = 128
"""Header of every npy file that numpy 1.0 format wrote for these shapes (tensorflow/datasets' checksums agree)."""

ID_STRIDE = 10_000_000
"""`id = shard * ID_STRIDE + row`: unique while no shard has more rows (LAION's largest has 1,000,501)."""


class Folders(BaseModel):
    """Where, below a source's URL, the three kinds of file lie; "" is the URL itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = "img_emb"
    text: str = "text_emb"
    metadata: str = "metadata"

    def of(self, kind: FileKind) -> str:
        """The folder of one kind of file."""
        return {"image": self.image, "text": self.text, "metadata": self.metadata}[kind]


class SourceLayout(BaseModel):
    """One place that is known to have the dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    folders: Folders = Folders()

    @field_validator("url")
    @classmethod
    def _can_be_taken_apart(cls, url: str) -> str:
        try:
            _ = urlsplit(url).port
        except ValueError:
            raise ValueError("a URL such as https://…, file:///… or s3://…, or a folder's path") from None
        return url


class Dataset(FileLayout):
    """A dataset of shards, each one or two sets of vectors and metadata whose rows correspond.

    Raises `DatasetError` from `load_dataset` when a description is not valid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    description: str = ""
    dimension: int = Field(gt=0, le=65_536)
    dtype: str = "<f2"
    normalised: bool = True
    alignment: Literal["check", "off"] = "check"
    clip_model: str | None = None
    columns: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    defaults: dict[str, Value] = Field(default_factory=dict)
    extra_columns: dict[str, ExtraColumn] = Field(default_factory=dict)
    default_rows: int | None = Field(default=None, ge=0, le=ID_STRIDE)
    rows: dict[int, Annotated[int, Field(ge=0, le=ID_STRIDE)]] = Field(default_factory=dict)
    sources: tuple[SourceLayout, ...] = ()

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
        for name, value in self.defaults.items():
            if not fits(value, types[name]):
                raise ValueError(f"defaults.{name}: {value!r} is no {types[name]}")
        outside = sorted(shard for shard in self.rows if not self.has_shard(shard))
        if outside:
            raise ValueError(f"rows names shards {outside} outside {self.shard_range}")
        return self

    @cached_property
    def shard_keys(self) -> list[str]:
        """Partition keys as people type them, in numeric order: "0" … "409"."""
        return [str(shard) for shard in self.shards]

    @property
    def shard_range(self) -> str:
        """The shards in words: `0 to 409`, or with holes `1-2,4`."""
        first, last = self.shards[0], self.shards[-1]
        return f"{first} to {last}" if last - first == len(self.shards) - 1 else as_ranges(self.shards)

    def has_shard(self, shard: int) -> bool:
        """Whether there is a shard of that number."""
        place = bisect_left(self.shards, shard)
        return place < len(self.shards) and self.shards[place] == shard

    @property
    def vector_columns(self) -> tuple[str, ...]:
        """The table's vector columns that this dataset fills."""
        return ("image_embedding", "text_embedding") if self.has_text else ("image_embedding",)

    def extra_column(self, name: str) -> ExtraColumn | None:
        """An extra column by its name in the table: declared here, or a well-known one; None where there is none."""
        return self.extra_columns.get(name) or WELL_KNOWN.get(name)

    def aliases(self, column: str) -> tuple[str, ...]:
        """The names under which `column` may stand in the metadata, first match wins."""
        if column in self.columns:
            return self.columns[column]
        extra = self.extra_column(column)
        return PAGE_ALIASES[column] if extra is None else extra.names or (column,)

    def default(self, column: str) -> Value | None:
        """The value for a column that the metadata lacks, and for a null; None where nothing is declared."""
        extra = self.extra_column(column)
        return self.defaults.get(column, extra.default if extra else None)

    def known_rows(self, shard: int) -> int | None:
        """Rows of a shard where they are known beforehand."""
        return self.rows.get(shard, self.default_rows)

    def expected_bytes(self, kind: FileKind, shard: int) -> int | None:
        """Bytes of one of a shard's npy files where its rows are known beforehand; None for metadata.

        An estimate: the file may be of another float type or have a longer header. It is for plans and progress.
        """
        rows = self.known_rows(shard)
        if rows is None or self.container(kind) != "npy":
            return None
        return NPY_HEADER_BYTES + rows * self.dimension * np.dtype(self.dtype).itemsize

    def shard_number(self, key: str) -> int:
        """The shard of a partition key. Raises `DatasetError` when there is none."""
        if not NUMBER.fullmatch(key) or not self.has_shard(int(key)):
            raise self._no_shard(key)
        return int(key)

    def shard_numbers(self, selection: str) -> list[int]:
        """Shards of a selection such as `0-9`, `3`, `1,4,7-9` or `all`, sorted, each once. Raises `DatasetError`.

        `all` is every shard. A range is those of its numbers that the dataset has: `0-9` of a dataset that begins at 1
        is 1 to 9.
        """
        if selection.strip() == "all":
            return list(self.shards)
        shards: set[int] = set()
        for piece in selection.split(","):
            first, dash, last = (part.strip() for part in piece.partition("-"))
            if not dash:
                shards.add(self.shard_number(first))
                continue
            for end in (first, last):
                if not NUMBER.fullmatch(end) or int(end) > self.shards[-1]:
                    raise self._no_shard(end)
            found = self.shards[bisect_left(self.shards, int(first)) : bisect_right(self.shards, int(last))]
            if not found:
                raise DatasetError(
                    f"dataset {self.name}",
                    found=f"the range {piece.strip()!r}",
                    expected=f"low-high, with shards of {self.shard_range} in it",
                )
            shards.update(found)
        return sorted(shards)

    def _no_shard(self, key: str) -> DatasetError:
        return DatasetError(
            f"dataset {self.name}",
            found=f"shard {key[:40]!r}",
            expected=self.shard_range,
            advice="shards are numbered without leading zeros",
        )


def preset_names() -> list[str]:
    """The datasets that ship, by name."""
    folder = resources.files("laion_assets") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def user_path(path: str | Path) -> Path:
    """A path as a person writes it: `~` is a home. What names nobody's home stays as it is, and is not found later."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def load_dataset(name_or_path: str) -> Dataset:
    """A preset by its name, or a dataset described in a TOML file by its path. Raises `DatasetError`."""
    if name_or_path in preset_names():
        text = (resources.files("laion_assets") / "presets" / f"{name_or_path}.toml").read_text(encoding="utf-8")
        return parse_dataset(text, name_or_path)
    path = user_path(name_or_path)
    if path.suffix != ".toml":
        raise DatasetError(
            f"dataset {name_or_path!r}",
            found="no preset of that name",
            expected=f"one of {', '.join(preset_names())}, or a path that ends in .toml",
        )
    try:
        return _beside(parse_dataset(read_text(path), str(path)), path.absolute().parent)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"dataset file {path}", found=f"{error}", expected="a TOML file in UTF-8") from error


def _beside(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with the relative paths of its sources taken from its file's folder: it can be used from any."""
    sources = tuple(
        place
        if "://" in place.url or place.url.startswith(("~", "{data_dir}"))
        else place.model_copy(update={"url": str(folder / place.url)})
        for place in dataset.sources
    )
    return dataset.model_copy(update={"sources": sources})


def parse_dataset(text: str, subject: str) -> Dataset:
    """A dataset from the text of a TOML file; `subject` names it in errors. Raises `DatasetError`."""
    try:
        fields: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise DatasetError(f"dataset file {subject}", found=f"{error}", expected="valid TOML") from error
    return dataset_of(fields, f"dataset file {subject}")


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
    """Pydantic's findings in one line, each with the field it is about, and without the input (it may be secret).

    `name` says what a field is called to its user.
    """
    findings = []
    for item in error.errors(include_url=False, include_input=False):
        field, *deeper = item["loc"] or ("the whole",)
        place = ".".join([name(str(field)) if item["loc"] else str(field), *map(str, deeper)])
        findings.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(findings)

"""What a dataset is: shard keys, file names, dimension, columns, known sizes, presets. It opens no shard file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from laion_assets.errors import DatasetError
from laion_assets.text_file import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NPY_HEADER_BYTES = 128
"""Header of every npy file that numpy 1.0 format wrote for these shapes (tensorflow/datasets' checksums agree)."""

ID_STRIDE = 10_000_000
"""`id = shard * ID_STRIDE + row`: unique while no shard has more rows (LAION's largest has 1,000,501)."""

MAX_SHARDS = 65_536
"""The table's partition key is a UInt16."""

FileKind = Literal["image", "text", "metadata"]
"""The three files of a shard."""

REQUIRED_COLUMNS = ("url", "caption")
OPTIONAL_COLUMNS = ("NSFW", "similarity")
METADATA_COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
"""The columns of the metadata that reach the table, under the names that ClickHouse's page gives them."""

KNOWN_ALIASES: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url"),
    "caption": ("caption", "TEXT", "text", "title"),
    "NSFW": ("NSFW", "nsfw"),
    "similarity": ("similarity", "clip_similarity_vitb32", "clip_similarity_vitl14"),
}
"""Names under which published metadata of this layout carries each column, first match wins."""


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


class Defaults(BaseModel):
    """What stands in the table where the metadata has no such column; None means that the column must be there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str | None = None
    caption: str | None = None
    NSFW: str | None = None
    similarity: float | None = None

    def of(self, column: str) -> str | float | None:
        """The default of one of the table's columns; None for columns that have none."""
        value: str | float | None = getattr(self, column) if column in METADATA_COLUMNS else None
        return value


class Dataset(BaseModel):
    """A dataset of LAION's layout: each shard is two npy files and a Parquet file whose rows correspond.

    Raises `DatasetError` from `load_dataset` when a description is not valid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    description: str = ""
    shards: int = Field(gt=0, le=MAX_SHARDS)
    digits: int = Field(default=1, ge=1, le=9)
    image_file: str = "img_emb_{shard}.npy"
    text_file: str = "text_emb_{shard}.npy"
    metadata_file: str = "metadata_{shard}.parquet"
    dimension: int = Field(gt=0, le=65_536)
    dtype: str = "<f2"
    normalised: bool = True
    has_text: bool = True
    clip_model: str | None = None
    columns: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    defaults: Defaults = Defaults()
    default_rows: int | None = Field(default=None, ge=0, le=ID_STRIDE)
    rows: dict[int, Annotated[int, Field(ge=0, le=ID_STRIDE)]] = Field(default_factory=dict)
    sources: tuple[SourceLayout, ...] = ()

    @field_validator("image_file", "text_file", "metadata_file")
    @classmethod
    def _names_the_shard(cls, name: str) -> str:
        if name.count("{shard}") != 1 or re.search(r"[{}/\\]", name.replace("{shard}", "")):
            raise ValueError("a file name has {shard} in it once, no other braces and no slash")
        return name

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

    @model_validator(mode="after")
    def _columns_are_known(self) -> Dataset:
        unknown = sorted(set(self.columns) - set(METADATA_COLUMNS))
        if unknown:
            raise ValueError(f"columns names {unknown}; the table has {list(METADATA_COLUMNS)}")
        if len({self.image_file, self.text_file, self.metadata_file}) < 3:
            raise ValueError("image_file, text_file and metadata_file are three names: they lie side by side")
        outside = sorted(shard for shard in self.rows if not 0 <= shard < self.shards)
        if outside:
            raise ValueError(f"rows names shards {outside} outside 0 to {self.shards - 1}")
        return self

    @cached_property
    def shard_keys(self) -> list[str]:
        """Partition keys as people type them, in numeric order: "0" … "409"."""
        return [str(shard) for shard in range(self.shards)]

    @property
    def file_kinds(self) -> tuple[FileKind, ...]:
        """The kinds of file that a shard has."""
        return ("image", "text", "metadata") if self.has_text else ("image", "metadata")

    @property
    def vector_columns(self) -> tuple[str, ...]:
        """The table's vector columns that this dataset fills."""
        return ("image_embedding", "text_embedding") if self.has_text else ("image_embedding",)

    def file_name(self, kind: FileKind, shard: int) -> str:
        """The name of one of a shard's files, for example `img_emb_0007.npy` where `digits` is 4."""
        pattern = {"image": self.image_file, "text": self.text_file, "metadata": self.metadata_file}[kind]
        return pattern.replace("{shard}", f"{shard:0{self.digits}d}")

    def aliases(self, column: str) -> tuple[str, ...]:
        """The names under which `column` may stand in the metadata, first match wins."""
        return self.columns.get(column) or KNOWN_ALIASES[column]

    def known_rows(self, shard: int) -> int | None:
        """Rows of a shard where they are known beforehand."""
        return self.rows.get(shard, self.default_rows)

    def expected_bytes(self, kind: FileKind, shard: int) -> int | None:
        """Bytes of one of a shard's npy files where its rows are known beforehand; None for metadata.

        An estimate: the file may be of another float type or have a longer header. It is for plans and progress.
        """
        rows = self.known_rows(shard)
        if rows is None or kind == "metadata":
            return None
        return NPY_HEADER_BYTES + rows * self.dimension * np.dtype(self.dtype).itemsize

    def shard_number(self, key: str) -> int:
        """The shard of a partition key. Raises `DatasetError` when there is none."""
        if not re.fullmatch(r"0|[1-9]\d{0,8}", key, re.ASCII) or int(key) >= self.shards:
            raise DatasetError(
                f"dataset {self.name}",
                found=f"shard {key!r}",
                expected=f"0 to {self.shards - 1}",
                advice="shards are numbered without leading zeros",
            )
        return int(key)

    def shard_numbers(self, selection: str) -> list[int]:
        """Shards of a selection such as `0-9`, `3`, `1,4,7-9` or `all`, sorted, each once. Raises `DatasetError`."""
        if selection.strip() == "all":
            return [int(key) for key in self.shard_keys]
        shards: set[int] = set()
        for piece in selection.split(","):
            first, dash, last = piece.strip().partition("-")
            start = self.shard_number(first.strip())
            end = self.shard_number(last.strip()) if dash else start
            if end < start:
                raise DatasetError(f"dataset {self.name}", found=f"the range {piece.strip()!r}", expected="low-high")
            shards.update(range(start, end + 1))
        return sorted(shards)


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

"""Which files hold a shard: their names, what they contain, which part of a larger file a shard is. Opens no file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from laion_assets.shard_numbers import MAX_SHARDS, parse_numbers

Part = Literal["image", "text", "metadata"]
"""What a shard consists of: vectors of images, vectors of texts, metadata. Row k of each is one sample."""

FileKind = Part
"""The file that holds a part. A file that holds several is called after the last of image, text and metadata."""

Container = Literal["npy", "npz", "parquet", "hdf5"]
"""The format of a file: one array, a zip of arrays by name, columns, or arrays by path."""

ENDINGS: dict[str, Container] = {".npz": "npz", ".parquet": "parquet", ".h5": "hdf5", ".hdf5": "hdf5"}
"""The endings of file names that are not npy files."""

PLACEHOLDERS = ("{shard}", "{file}", "{name}")
"""Placeholders in a file name, each at most once: the shard's number, the larger file's number, the listed name."""


def container_of(name: str, part: Part) -> Container:
    """The container of a file, by the ending of its name. Vectors without one of the endings are an npy file."""
    if part == "metadata":
        return "parquet"
    return next((container for ending, container in ENDINGS.items() if name.endswith(ending)), "npy")


@dataclass(frozen=True)
class Slice:
    """The row groups of a Parquet file that are one shard: share `index` of `count`, see `shard/parquet_slice.py`."""

    index: int
    count: int


class Join(BaseModel):
    """How to find the metadata of a vector where the two files have different orders: by a key that both files have.

    `metadata` is the key's column in the metadata, `image` the column or array beside the vectors. `unmatched` is the
    fraction of the metadata's rows that may have no vector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metadata: str = Field(min_length=1)
    image: str = Field(min_length=1)
    unmatched: float = Field(default=0.0, ge=0, le=1)


class Given(BaseModel):
    """Queries whose neighbours others computed: two Parquet files beside the metadata; row k of each is one query.

    `neighbours_array` has lists of the ids that the extra column `ids` has in the table, nearest first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queries: str = Field(pattern=r"^[^/\\]+\.parquet$")
    queries_array: str = Field(min_length=1)
    neighbours: str = Field(pattern=r"^[^/\\]+\.parquet$")
    neighbours_array: str = Field(min_length=1)
    ids: str = Field(min_length=1)


def _listed(value: object) -> object:
    """A list gives the names of the shards 0, 1, 2 and so on."""
    return dict(enumerate(value)) if isinstance(value, (list, tuple)) else value


class FileLayout(BaseModel):
    """The names of a dataset's files, by shard and part, and the place of each part within its file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shards: Annotated[tuple[int, ...], BeforeValidator(parse_numbers)]
    digits: int = Field(default=1, ge=1, le=9)
    image_file: str = "img_emb_{shard}.npy"
    text_file: str = "text_emb_{shard}.npy"
    metadata_file: str = "metadata_{shard}.parquet"
    image_array: str | None = Field(default=None, min_length=1)
    text_array: str | None = Field(default=None, min_length=1)
    has_text: bool = True
    has_metadata: bool = True
    shards_per_file: int = Field(default=1, ge=1, le=MAX_SHARDS)
    first_file: int = Field(default=0, ge=0, le=999_999_999)
    names: Annotated[dict[int, str], BeforeValidator(_listed)] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _names_are_shards(cls, fields: object) -> object:
        """Where shards are listed by name, the listed shards are all shards."""
        if isinstance(fields, Mapping) and "shards" not in fields and fields.get("names"):
            names = _listed(fields["names"])
            if isinstance(names, Mapping):
                return {**fields, "shards": [int(key) if str(key).isdecimal() else key for key in names]}
        return fields

    @field_validator("image_file", "text_file", "metadata_file")
    @classmethod
    def _names_the_shard(cls, name: str) -> str:
        placeholders = [each for each in PLACEHOLDERS if each in name]
        rest = name.replace(placeholders[0], "") if placeholders else "{"
        if len(placeholders) != 1 or name.count(placeholders[0]) != 1 or re.search(r"[{}/\\]", rest):
            raise ValueError("a file name has {shard}, {file} or {name} in it once, no other braces and no slash")
        return name

    @field_validator("names")
    @classmethod
    def _names_can_be_files(cls, names: dict[int, str]) -> dict[int, str]:
        for shard, name in names.items():
            steps = name.split("/")
            if not all(steps) or not {".", ".."}.isdisjoint(steps) or re.search(r"[\\\x00-\x1f\x7f]", name):
                raise ValueError(f"shard {shard}: {name[:60]!r} is no relative path of a file")
        if len(set(names.values())) < len(names):
            twice = next(name for name in names.values() if [*names.values()].count(name) > 1)
            raise ValueError(f"{twice[:60]!r} is there twice")
        return names

    @model_validator(mode="after")
    def _files_agree(self) -> FileLayout:
        patterns = {part: self._pattern(part) for part in self.parts}
        self._refuse_shared_files(patterns)
        placeholders = {each for each in PLACEHOLDERS for pattern in patterns.values() if each in pattern}
        if len(placeholders) > 1:
            raise ValueError(f"the file names have {' and '.join(sorted(placeholders))}: one of them, the same in all")
        (placeholder,) = placeholders
        if self.shards_per_file > 1:
            if placeholder != "{file}" or {container_of(name, part) for part, name in patterns.items()} != {"parquet"}:
                raise ValueError("shards_per_file cuts Parquet files, whose names have {file} in them")
            if len(set(patterns.values())) > 1:
                raise ValueError("shards_per_file cuts one Parquet file, which holds vectors and metadata")
        if self.first_file and placeholder != "{file}":
            raise ValueError("first_file is the number in place of {file}, which no file name has")
        if (placeholder == "{name}") != bool(self.names):
            raise ValueError("names (or a listing) say what replaces {name}: the one needs the other")
        unnamed = [shard for shard in self.shards if shard not in self.names] if self.names else []
        if unnamed:
            raise ValueError(f"names has no name for shard {unnamed[0]}")
        return self

    def _refuse_shared_files(self, patterns: dict[Part, str]) -> None:
        """Refuses two parts in one file, unless the container can hold several arrays under different names."""
        held: dict[str, list[Part]] = {}
        for part, pattern in patterns.items():
            held.setdefault(pattern, []).append(part)
            array, container = self.array(part), container_of(pattern, part)
            if array is not None and container == "npy":
                raise ValueError(f"{part}_array names an array of an npz or HDF5 file, or a column of a Parquet file")
            if array is None and part != "metadata" and container == "parquet":
                raise ValueError(f"{part}_array must name the column of {pattern} that has the vectors")
        for pattern, parts in held.items():
            containers = {container_of(pattern, part) for part in parts}
            arrays = {self.array(part) for part in parts}
            if len(parts) > 1 and (containers == {"npy"} or len(containers) > 1 or len(arrays) < len(parts)):
                raise ValueError(
                    f"{' and '.join(f'{part}_file' for part in parts)} have one name and lie side by side: they are "
                    "one file only where it is npz, HDF5 or Parquet, and image_array and text_array say where the "
                    "vectors are"
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of a shard."""
        there: dict[Part, bool] = {"image": True, "text": self.has_text, "metadata": self.has_metadata}
        return tuple(part for part, has in there.items() if has)

    @property
    def file_kinds(self) -> tuple[FileKind, ...]:
        """The files of a shard; a file that holds several parts comes once."""
        return tuple(part for part in self.parts if self.file_of(part) == part)

    def file_of(self, part: Part) -> FileKind:
        """Which file holds a part."""
        return self._holders[part]

    @cached_property
    def _holders(self) -> dict[Part, FileKind]:
        last = {self._pattern(part): part for part in self.parts}
        return {part: last[self._pattern(part)] for part in self.parts}

    def container(self, part: Part) -> Container:
        """The format of the file that holds a part."""
        return container_of(self._pattern(part), part)

    def array(self, part: Part) -> str | None:
        """The array (npz, HDF5) or column (Parquet) that holds a part; None for npy files and metadata."""
        return {"image": self.image_array, "text": self.text_array, "metadata": None}[part]

    def slice_of(self, shard: int) -> Slice | None:
        """The share of its file that a shard is; None where the shard is the whole file."""
        count = self.shards_per_file
        return Slice(shard % count, count) if count > 1 else None

    def remote_name(self, kind: FileKind, shard: int) -> str:
        """The name of one of a shard's files at its source, below its folder; listed names may have folders in it.

        For example `img_emb_0007.npy` where `digits` is 4, or for shard 17 `part_2.parquet` where a file has 10 shards
        and the first is number 1.
        """
        file = self.first_file + shard // self.shards_per_file
        return (
            self._pattern(kind)
            .replace("{shard}", f"{shard:0{self.digits}d}")
            .replace("{file}", f"{file:0{self.digits}d}")
            .replace("{name}", self.names.get(shard, ""))
        )

    def file_name(self, kind: FileKind, shard: int) -> str:
        """The name of one of a shard's files in the store, where the files of all shards are in one folder.

        The name is that of the source, with `%2F` for a slash. For a share of a larger file it also has the shard's
        number and the share, as in `part_2.shard-17.share-7-of-10.parquet`: a file that was cut in another way has
        another name.
        """
        name = self.remote_name(kind, shard).replace("/", "%2F")
        share = self.slice_of(shard)
        if share is None:
            return name
        stem, _, ending = name.rpartition(".")
        return f"{stem}.shard-{shard}.share-{share.index}-of-{share.count}.{ending}"

    @property
    def cut(self) -> str:
        """How files are cut and numbered, in words; "" if each shard is one file and the first is number 0."""
        if (self.shards_per_file, self.first_file) == (1, 0):
            return ""
        return f"{self.shards_per_file} shards a file from {self.first_file}"

    def _pattern(self, part: Part) -> str:
        return {"image": self.image_file, "text": self.text_file, "metadata": self.metadata_file}[part]

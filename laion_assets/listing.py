"""The lock file of a dataset: it records which file each shard is, so that a later load takes the same files.

`my-images.lock.json` is beside `my-images.toml`. `describe/lock.py` makes it; this module asks no source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from laion_assets.errors import DatasetError
from laion_assets.file_layout import FileKind
from laion_assets.text_file import read_text


class FileFacts(Protocol):
    """What a source says about a file; None means unknown."""

    @property
    def url(self) -> str:
        """Its address, without secrets."""

    @property
    def size(self) -> int | None:
        """Bytes."""

    @property
    def etag(self) -> str | None:
        """Its ETag."""

    @property
    def modified(self) -> str | None:
        """Its date, as the source writes dates."""

    @property
    def sha256(self) -> str | None:
        """Its SHA-256 in lower-case hexadecimal."""


class LockedFile(BaseModel):
    """A file as its source described it: URL (nothing secret in it), bytes, ETag, date; SHA-256 where it is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    size: int | None = None
    etag: str | None = None
    modified: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @property
    def version(self) -> str:
        """Tells this version of the file from others of the same name, in words."""
        return f"{'?' if self.size is None else f'{self.size:,}'} bytes of {self.etag or self.modified or 'no date'}"


class LockedShard(BaseModel):
    """The files of a shard, and its name where shards have names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[FileKind, LockedFile]
    name: str | None = None


class Listing(BaseModel):
    """What a lock file says. `retired` has the numbers of names that are gone: no other name gets these numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    source: str
    shards: dict[int, LockedShard] = Field(min_length=1)
    retired: dict[int, str] = Field(default_factory=dict)

    @property
    def names(self) -> dict[int, str]:
        """Names by shard; empty where shards have only numbers."""
        return {shard: each.name for shard, each in self.shards.items() if each.name is not None}

    def text(self) -> str:
        """The lock file's text: JSON with one shard a line, so that two versions can be compared line by line."""
        head = f' "version": {self.version},\n "source": {json.dumps(self.source)},\n "retired": '
        head += json.dumps({str(shard): name for shard, name in sorted(self.retired.items())})
        lines = (
            f'  "{shard}": {json.dumps(each.model_dump(exclude_none=True), sort_keys=True)}'
            for shard, each in sorted(self.shards.items())
        )
        return f'{{\n{head},\n "shards": {{\n' + ",\n".join(lines) + "\n }\n}\n"


def lock_path(toml: Path) -> Path:
    """Where the lock file of a dataset's TOML file lies."""
    return toml.with_name(f"{toml.stem}.lock.json")


def read_listing(toml: Path) -> Listing | None:
    """What the lock file beside a TOML file says; None where there is none. Raises `DatasetError`."""
    path = lock_path(toml)
    again = f"`laion-assets describe {toml} --lock` writes it"
    try:
        return Listing.model_validate_json(read_text(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise DatasetError(
            f"lock file {path}", found=f"{place}: {first['msg']}", expected="what describe --lock writes", advice=again
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"lock file {path}", found=str(error), expected="a text file in UTF-8") from error


def is_other(then: FileFacts, now: FileFacts) -> bool:
    """Whether a file has changed: another size, another ETag, or another date where there is no ETag.

    Two mirrors give the same file different ETags and dates, so for different URLs only sizes are compared. Where the
    URLs are not those of mirrors, see `is_surely_same`.
    """
    if None not in (then.size, now.size) and then.size != now.size:
        return True
    if then.sha256 and now.sha256:
        return then.sha256 != now.sha256
    if then.url != now.url:
        return False
    if then.etag and now.etag:
        return then.etag != now.etag
    return bool(then.modified and now.modified) and then.modified != now.modified


def is_surely_same(then: FileFacts, now: FileFacts) -> bool:
    """Whether two files at any two places are one, by SHA-256, or by size and a strong ETag. A size alone says nothing:
    of two datasets of as many rows, all vector files have equal sizes."""
    if then.sha256 and now.sha256:
        return then.sha256 == now.sha256
    return then.size is not None and then.size == now.size and is_strong(then.etag) and then.etag == now.etag


def is_strong(etag: str | None) -> bool:
    """Whether an ETag is there and changes with every byte, as object stores and the hub give them."""
    return etag is not None and etag.startswith('"')


def differences(then: Listing, now: Listing) -> Iterator[str]:
    """What has changed from one listing to the next, one line for each change, by shard and name."""
    for shard, each in sorted(then.shards.items()):
        label = f"shard {shard}" + (f" ({each.name})" if each.name else "")
        found = now.shards.get(shard)
        if found is None:
            yield f"gone: {label}"
            continue
        for kind, file in each.files.items():
            other = found.files.get(kind)
            if other is not None and is_other(file, other):
                yield f"changed: {label}, {file.url.rpartition('/')[2]}: {other.version}, locked is {file.version}"
    for shard, each in sorted(now.shards.items()):
        if shard not in then.shards:
            yield f"new: shard {shard}" + (f" ({each.name})" if each.name else "")

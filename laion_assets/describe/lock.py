"""Makes the lock file of a described dataset: which shards its source has, and what the source says about each file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from laion_assets.dataset import Dataset, beside, dataset_of, parse_toml
from laion_assets.describe.hub import HubPlace
from laion_assets.describe.places import StoredPlace, open_place
from laion_assets.errors import DatasetError, PermanentSourceError
from laion_assets.file_layout import FileKind
from laion_assets.listing import Listing, LockedFile, LockedShard
from laion_assets.redact import redact
from laion_assets.settings import Settings, load_settings
from laion_assets.shard_numbers import MAX_SHARDS
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.fetch_progress import ShardTransfer
from laion_assets.source.hub import is_hub
from laion_assets.source.mirrors import Mirrors
from laion_assets.source.places import ShardPlaces
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.side_by_side import side_by_side
from laion_assets.source.wanted import WantedFile
from laion_assets.source_layout import SourceLayout
from laion_assets.text_file import read_text

REQUESTS_AT_ONCE = 8
"""Requests at the same time. Each asks for the headers of one file."""

HASH_BLOCK_BYTES = 4 << 20

Files = dict[tuple[int, FileKind], RemoteFile]


def look_at_listing(toml: Path, before: Listing | None, *, source: str | None = None, digests: bool = False) -> Listing:
    """The present listing of a dataset's source. Names that `before` has keep their numbers.

    It asks the first of the dataset's sources, or `source`. With `digests` it reads every file for its SHA-256. Raises
    `DatasetError` if the source has no shard, `SourceError`.
    """
    try:
        text = read_text(toml)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"dataset file {toml}", found=f"{error}", expected="a TOML file in UTF-8") from error
    fields = parse_toml(text, str(toml))
    dataset = _without_listing(fields, toml)
    if source is None and not dataset.sources:
        raise DatasetError(f"dataset file {toml}", found="no [[sources]]", expected="one, or --source")
    place = dataset.sources[0] if source is None else SourceLayout(url=source, folders=_folders(dataset))
    settings = load_settings(dataset_name="sample", source=(place.url,), extra_columns=())
    place = place.model_copy(update={"url": place.url.replace("{data_dir}", str(settings.data_dir))})
    if is_hub(place.url):
        # From here on all files are of one commit.
        place = place.model_copy(update={"url": open_place(place.url).url})
    retired: dict[int, str] = {}
    numbered: dict[int, str] = {}
    if "shards" not in fields and "names" not in fields:
        found, retired = _found(dataset, place, before)
        dataset = beside(dataset_of({**fields, **found}, f"dataset file {toml}"), toml)
        numbered = dataset.names
    files = _observed(settings, dataset, place, may_be_gone=before is not None)
    hashes = _digests(place, dataset) if digests else {}
    shards = {
        shard: LockedShard(
            name=dataset.names.get(shard),
            files={
                kind: LockedFile(
                    url=each.url,
                    size=each.size,
                    etag=each.etag,
                    modified=each.modified,
                    sha256=each.sha256 or hashes.get((shard, kind)),
                )
                for kind in dataset.file_kinds
                for each in [files[shard, kind]]
            },
        )
        for shard in dataset.shards
        if all((shard, kind) in files for kind in dataset.file_kinds)
    }
    # A file that is listed but cannot be read now may come back. Its name keeps its number.
    unread = {shard: name for shard, name in numbered.items() if shard not in shards}
    return Listing(source=redact(place.url), shards=shards, retired={**retired, **unread})


def _without_listing(fields: dict[str, Any], toml: Path) -> Dataset:
    """The dataset with one shard in place of shards that only a listing names."""
    if "shards" not in fields and "names" not in fields:
        named = any("{name}" in str(fields.get(f"{part}_file")) for part in ("image", "text", "metadata"))
        fields = {**fields, "partition_keys": "numbers", **({"names": {0: "x"}} if named else {"shards": [0]})}
    return beside(dataset_of(fields, f"dataset file {toml}"), toml)


def _folders(dataset: Dataset) -> Any:
    return dataset.sources[0].folders if dataset.sources else SourceLayout(url="").folders


def _found(dataset: Dataset, place: SourceLayout, before: Listing | None) -> tuple[dict[str, Any], dict[int, str]]:
    """Shards or names for which the source has every file, as fields of the dataset; and the numbers to keep free."""
    paths = open_place(place.url).files()
    keys = [_keys(dataset, place, kind, paths) for kind in dataset.file_kinds]
    common = set.intersection(*keys)
    if not common:
        patterns = ", ".join(_pattern(dataset, place, kind) for kind in dataset.file_kinds)
        raise DatasetError(
            f"dataset {dataset.name}",
            found=f"no shard with all its files among {len(paths):,} in {redact(place.url)}",
            expected=patterns,
        )
    if not dataset.names:
        numbers = {int(key) for key in common}
        cut, first = dataset.shards_per_file, dataset.first_file
        if "{file}" in dataset.metadata_file:
            numbers = {(file - first) * cut + share for file in numbers if file >= first for share in range(cut)}
        return {"shards": sorted(numbers)}, {}
    known = {} if before is None else {name: shard for shard, name in {**before.retired, **before.names}.items()}
    free = max(known.values(), default=-1) + 1
    fresh = sorted(common - known.keys())
    numbered = {known[name]: name for name in common & known.keys()} | dict(enumerate(fresh, free))
    if max(numbered) >= MAX_SHARDS:
        raise DatasetError(f"dataset {dataset.name}", found=f"shard {max(numbered)}", expected=f"below {MAX_SHARDS}")
    gone = {shard: name for name, shard in known.items() if name not in common}
    return {"names": dict(sorted(numbered.items()))}, gone


def _pattern(dataset: Dataset, place: SourceLayout, kind: FileKind) -> str:
    name = {"image": dataset.image_file, "text": dataset.text_file, "metadata": dataset.metadata_file}[kind]
    folder = place.folders.of(kind).strip("/")
    return f"{folder}/{name}" if folder else name


def _keys(dataset: Dataset, place: SourceLayout, kind: FileKind, paths: list[str]) -> set[str]:
    """The text in the files' names in place of {shard}, {file} or {name}; numbers without their padding."""
    before, placeholder, after = re.split(r"(\{\w+\})", _pattern(dataset, place, kind))
    written = r"(.+)" if placeholder == "{name}" else r"(\d{1,9})"
    matcher = re.compile(re.escape(before) + written + re.escape(after), re.ASCII)
    found = {match[1] for match in map(matcher.fullmatch, paths) if match is not None}
    if placeholder == "{name}":
        return found
    return {str(int(number)) for number in found if number == f"{int(number):0{dataset.digits}d}"}


def _observed(settings: Settings, dataset: Dataset, place: SourceLayout, *, may_be_gone: bool) -> Files:
    """What the source says about each file. Raises `SourceError` for a missing file, or if nothing is said about it."""
    wanted = {(shard, kind): _wanted(dataset, kind, shard) for shard in dataset.shards for kind in dataset.file_kinds}
    where = open_place(place.url)
    facts: Mapping[str, RemoteFile] = where.facts() if isinstance(where, (StoredPlace, HubPlace)) else {}
    transfer = ShardTransfer(f"listing of {dataset.name}", {})
    limits = FetchLimits.of(settings)
    with closing(ShardPlaces(settings, limits, transfer)) as places:
        told: dict[str, RemoteFile] = {}
        for (_, kind), file in wanted.items():
            path = "/".join(part for part in (place.folders.of(kind).strip("/"), file.remote_path) if part)
            if path in facts:
                told[file.remote_path] = facts[path]
        # Several shards in one file need only one request.
        asked = {file.remote_path: file for file in wanted.values() if file.remote_path not in told}
        jobs = [partial(_ask, Mirrors(file, [places.whole(place, file)], limits, transfer)) for file in asked.values()]
        answers = side_by_side(jobs, threads=REQUESTS_AT_ONCE, stop=places.stop)
    gone = [answer for answer in answers if isinstance(answer, PermanentSourceError)]
    if gone and (not may_be_gone or len(gone) == len(asked)):
        raise gone[0]
    told |= {path: answer for path, answer in zip(asked, answers, strict=True) if isinstance(answer, RemoteFile)}
    return {key: told[file.remote_path] for key, file in wanted.items() if file.remote_path in told}


def _ask(mirrors: Mirrors) -> RemoteFile | PermanentSourceError:
    """What the source says about a file, or the error that it has no such file."""
    try:
        return mirrors.run(lambda source: source.observe())
    except PermanentSourceError as error:
        return error


def _wanted(dataset: Dataset, kind: FileKind, shard: int) -> WantedFile:
    return WantedFile(shard, kind, dataset.file_name(kind, shard), path=dataset.remote_name(kind, shard))


def _digests(place: SourceLayout, dataset: Dataset) -> dict[tuple[int, FileKind], str]:
    """SHA-256 of each file that belongs to one shard alone; the whole file is read."""
    if dataset.shards_per_file > 1:
        raise DatasetError(
            f"dataset {dataset.name}", found="files that are cut into shards", expected="no --digests: ETags pin them"
        )
    where, found = open_place(place.url), {}
    for shard in dataset.shards:
        for kind in dataset.file_kinds:
            folder = place.folders.of(kind).strip("/")
            name = dataset.remote_name(kind, shard)
            digest = hashlib.sha256()
            with where.open(f"{folder}/{name}" if folder else name) as file:
                while block := file.read(HASH_BLOCK_BYTES):
                    digest.update(block)
            found[shard, kind] = digest.hexdigest()
    return found

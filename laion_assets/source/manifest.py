"""The optional manifest: sizes and SHA-256 of a dataset's files, read from one text file. It hashes no file.

LAION_MANIFEST names a UTF-8 file in either of two forms, which may be mixed line by line:

- what `sha256sum` prints: 64 hexadecimal digits, a blank, a blank or `*`, the name;
- fields separated by tabs or commas: SHA-256, size in bytes and name, where SHA-256 or size may be missing or empty. A
  field is recognized by its form, so any order works, and a line of titles is skipped. The checksum files of
  tensorflow/datasets (URL, size, SHA-256, name) can be used unchanged.

A line is for a file whose name below its source's folder is the end of the line's path or URL: `img_emb/img_emb_0.npy`
is for `img_emb_0.npy`, and `set/a/0.npz` for `a/0.npz`, which is not `b/0.npz`. Empty lines and lines that start with
`#` are skipped.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from laion_assets.errors import SettingsError
from laion_assets.text_file import read_text


class ManifestEntry(NamedTuple):
    """A manifest's facts about one file: size in bytes and SHA-256 in lower-case hexadecimal; None if not given."""

    size: int | None
    sha256: str | None


class Manifest:
    """The entries of a manifest by path; a path has no `.` and no host in it."""

    def __init__(self, path: Path, entries: Mapping[str, ManifestEntry]) -> None:
        self._path = path
        self._by_name: dict[str, dict[str, ManifestEntry]] = {}
        for each, entry in entries.items():
            self._by_name.setdefault(each.rpartition("/")[2], {})[each] = entry

    def entry(self, name: str) -> ManifestEntry | None:
        """What is said of a file by its name below its source's folder, perhaps with folders in it; None if nothing is.

        The path that is the name goes before paths that end in it, and of these the shortest before others. Raises
        `SettingsError` if two that are equally long contradict each other.
        """
        paths = self._by_name.get(name.rpartition("/")[2], {})
        ending = [path for path in paths if f"/{path}".endswith(f"/{name}")]
        least = min((path.count("/") for path in ending), default=0)
        found: ManifestEntry | None = None
        for path in ending:
            if path.count("/") == least:
                found = _merged(found, paths[path], subject=f"manifest {self._path}, {name}: {path}")
        return found


def load_manifest(path: Path) -> Manifest:
    """The manifest's entries. Raises `SettingsError`, with the line, for a line that is not understood."""
    entries: dict[str, ManifestEntry] = {}
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"manifest {path}", found=f"{error}", expected="a text file in UTF-8") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            fields = _fields(line)
        except csv.Error as error:
            raise SettingsError(
                f"manifest {path}, line {number}", found=f"{error}", expected="fields separated by tabs or commas"
            ) from error
        if number == 1 and len(fields) > 1 and not any(_is_hash(field) or _is_size(field) for field in fields):
            continue  # the line of titles
        for name, entry in _entries(fields, subject=f"manifest {path}, line {number}"):
            entries[name] = _merged(entries.get(name), entry, subject=f"manifest {path}, line {number}, {name}")
    return Manifest(path, entries)


def _fields(line: str) -> list[str]:
    """The fields of one line, stripped, without the empty ones."""
    summed = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
    if summed:
        return [summed[1], summed[2].strip()]
    fields = line.split("\t") if "\t" in line else next(csv.reader([line], skipinitialspace=True))
    return [field.strip() for field in fields if field.strip()]


def _entries(fields: list[str], *, subject: str) -> list[tuple[str, ManifestEntry]]:
    hashes = [field.lower() for field in fields if _is_sha256(field)]
    sizes = [int(field) for field in fields if _is_size(field)]
    names = [field for field in fields if not _is_sha256(field) and not _is_size(field)]
    if not names or len(hashes) > 1 or len(sizes) > 1 or not (hashes or sizes) or any(map(_is_hash, names)):
        raise SettingsError(
            subject,
            found=f"{len(hashes)} SHA-256, {len(sizes)} sizes and {len(names)} names",
            expected="a name, with one SHA-256 of 64 hexadecimal digits, one size in bytes, or both",
        )
    entry = ManifestEntry(sizes[0] if sizes else None, hashes[0] if hashes else None)
    return [(name, entry) for name in {_path_of(name) for name in names}]


def _path_of(name: str) -> str:
    """A name or URL as a path without host, `.` and empty steps."""
    path = re.sub(r"^[A-Za-z][\w+.-]*://[^/]*", "", name)
    return "/".join(step for step in re.split(r"[/\\]", path) if step not in ("", "."))


def _merged(known: ManifestEntry | None, new: ManifestEntry, *, subject: str) -> ManifestEntry:
    """Joins two lines about one file, which may complete each other but not contradict."""
    if known is None:
        return new
    for old, other in zip(known, new, strict=True):
        if old is not None and other is not None and old != other:
            raise SettingsError(subject, found=f"{other}", expected=f"{old}, as an earlier line says")
    return ManifestEntry(
        known.size if new.size is None else new.size, known.sha256 if new.sha256 is None else new.sha256
    )


def _is_sha256(field: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{64}", field) is not None


def _is_hash(field: str) -> bool:
    """A checksum of some kind: MD5 has 32 digits, SHA-512 128. A file name without a dot is never that long."""
    return re.fullmatch(r"[0-9a-fA-F]{32,}", field) is not None


def _is_size(field: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", field) is not None

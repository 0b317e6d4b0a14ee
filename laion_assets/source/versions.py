"""The data version of a shard's remote files, as JSON. A file on two mirrors of one list has one version. Asks none."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from laion_assets.file_layout import FileKind
from laion_assets.listing import is_strong
from laion_assets.source.remote_file import RemoteFile


def shard_version(files: Mapping[FileKind, RemoteFile], before: str | None, urls: Collection[str]) -> str:
    """A text that changes with any of the files: a JSON object with `version`, `bytes` and `from` of each kind of file.

    `before` is the version that was recorded last, or None; `urls` are those at which the present sources may have the
    files. Mirrors give the same file different ETags and dates. If another of the sources answers than before, a file
    of the same size counts as the same (as in `listing.is_other`), and its part of the version does not change. If the
    file before came from none of them, as after LAION_SOURCE was changed, only a file of the same strong ETag does.
    """
    then = _recorded(before)
    folders = {_folder(url) for url in urls}
    return json.dumps({kind: _file_version(file, then.get(kind), folders) for kind, file in sorted(files.items())})


def _file_version(file: RemoteFile, before: object, folders: Collection[str]) -> object:
    now = {"version": file.etag or file.modified, "bytes": file.size, "from": _folder(file.url)}
    if (
        isinstance(before, dict)
        and file.size is not None
        and before.get("bytes") == file.size
        and before.get("from") != now["from"]
        and (before.get("from") in folders or (is_strong(file.etag) and before.get("version") == file.etag))
    ):
        return before
    return now


def _folder(url: str) -> str:
    return url.rpartition("/")[0]


def _recorded(version: str | None) -> dict[str, object]:
    """The parts of a version by kind of file; empty if it does not have this form."""
    try:
        parts = json.loads(version or "{}")
    except ValueError:
        return {}
    return parts if isinstance(parts, dict) else {}

"""The data version of a shard's remote files, as JSON. A file on two mirrors has one version. It asks no mirror."""

from __future__ import annotations

import json
from collections.abc import Mapping

from laion_assets.file_layout import FileKind
from laion_assets.source.mirrors import RemoteFile


def shard_version(files: Mapping[FileKind, RemoteFile], before: str | None) -> str:
    """A text that changes with any of the files: a JSON object with `version`, `bytes` and `from` of each kind of file.

    `before` is the version that was recorded last, or None. Mirrors give the same file different ETags and dates. If
    another mirror answers than before, a file of the same size counts as the same (as in `listing.is_other`), and its
    part of the version does not change.
    """
    then = _recorded(before)
    return json.dumps({kind: _file_version(file, then.get(kind)) for kind, file in sorted(files.items())})


def _file_version(file: RemoteFile, before: object) -> object:
    now = {"version": file.etag or file.modified, "bytes": file.size, "from": file.url.rpartition("/")[0]}
    if (
        isinstance(before, dict)
        and file.size is not None
        and before.get("bytes") == file.size
        and before.get("from") != now["from"]
    ):
        return before
    return now


def _recorded(version: str | None) -> dict[str, object]:
    """The parts of a version by kind of file; empty if it does not have this form."""
    try:
        parts = json.loads(version or "{}")
    except ValueError:
        return {}
    return parts if isinstance(parts, dict) else {}

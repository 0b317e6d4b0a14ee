"""The data version of a shard's remote files, as one text: a file that two mirrors have has one version. It asks
nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping

from laion_assets.file_layout import FileKind
from laion_assets.source.mirrors import RemoteFile


def shard_version(files: Mapping[FileKind, RemoteFile], before: str | None) -> str:
    """A text that changes with any of the files, by `before`, the version that was recorded last.

    Mirrors give one file ETags and dates of their own. Where another mirror answers than before, a file of the same
    size is the same (as `listing.is_other` has it), and its part of the version stays.
    """
    return "; ".join(_file_version(kind, file, before or "") for kind, file in sorted(files.items()))


def _file_version(kind: FileKind, file: RemoteFile, before: str) -> str:
    place = file.url.rpartition("/")[0].replace(" ", "%20").replace(";", "%3B")
    then = re.search(rf"(?:^|; )({kind}: .*?, (\d+) bytes from (\S+?))(?:; |$)", before)
    if then is not None and then[3] != place and then[2] == str(file.size):
        return then[1]
    return f"{kind}: {file.version} from {place}"

"""Reads text files that people write: UTF-8, or the encoding of their byte order mark. Knows no format."""

from __future__ import annotations

import codecs
import errno
from pathlib import Path

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and the codecs that remove them; a mark that begins with another mark comes first."""


GIVEN = ("/dev/fd", "/proc/self/fd")
"""The folders that list, by number, the files that this process has open."""


def read_text(path: Path) -> str:
    """The file's text. Windows' editors and shells write byte order marks, and UTF-16 after `>`. Without a mark the
    text is UTF-8.

    Anything but a regular file is refused: a device has no end, and a pipe without a writer would be waited for. A pipe
    that this process was given by number, as by a shell's `<(…)`, is read.

    Raises `OSError`, and `UnicodeDecodeError` (a `ValueError`) where the bytes are no text of that encoding.
    """
    if not path.is_file() and path.exists() and not path.is_dir() and str(path.parent) not in GIVEN:
        raise OSError(errno.EINVAL, "A pipe, a socket or a device", str(path))
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """Text from bytes, decoded in the same way, with Windows' line ends as plain newlines."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding).replace("\r\n", "\n")

"""Reads the text files that people write: UTF-8, or what their byte order mark says. It knows no format."""

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
"""Byte order marks, longest first where one begins another, and the codecs that take them off."""


GIVEN = ("/dev/fd", "/proc/self/fd")
"""Where the files are that a process was given open, by number."""


def read_text(path: Path) -> str:
    """The file's text. Windows' editors and shells write marks, and UTF-16 after `>`; without one it is UTF-8.

    What is no file is refused, since a device has no end and a pipe without a writer is waited for; a pipe that this
    process was given by number, as by a shell's `<(…)`, is read.

    Raises `OSError`, and `UnicodeDecodeError` (a `ValueError`) where the bytes are no text of that encoding.
    """
    if not path.is_file() and path.exists() and not path.is_dir() and str(path.parent) not in GIVEN:
        raise OSError(errno.EINVAL, "A pipe, a socket or a device", str(path))
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """Text from bytes, by the same rule, with newlines as Python has them."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding).replace("\r\n", "\n")

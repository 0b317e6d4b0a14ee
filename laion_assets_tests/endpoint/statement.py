"""Parses the text of a request: a statement, or an INSERT followed by its rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

INSERT = re.compile(rb"\s*(INSERT\s+INTO\s(?:(?!\sSELECT\s).)*?)\s+FORMAT\s+(\w+)[ \t]*(?:\r?\n)?", re.I | re.S)
READS = re.compile(r"\s*(?:SELECT|WITH|SHOW|DESCRIBE|EXPLAIN|EXISTS)\b", re.I)


def statement_and_rows(text: bytes, body: Iterator[bytes]) -> tuple[bytes, str, Iterator[bytes] | None]:
    """Separates an INSERT from its rows. The statement may be in the URL, or before the rows in the body."""
    while True:
        if found := INSERT.match(text):
            return found[1], found[2].decode(), chain([text[found.end() :]], body)
        piece = next(body, None)
        if piece is None:
            return text, "", None
        text += piece


def trailing_format(sql: str) -> str:
    """The format at the end of a statement, or the default of the HTTP interface."""
    found = re.search(r"\bFORMAT\s+(\w+)\s*;?\s*$", sql, re.I)
    return found[1] if found else "TabSeparated"

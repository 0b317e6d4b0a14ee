"""What a request's text is: a statement, or an INSERT with its rows behind it. It runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

INSERT = re.compile(rb"\s*(INSERT\s+INTO\s(?:(?!\sSELECT\s).)*?)\s+FORMAT\s+(\w+)[ \t]*(?:\r?\n)?", re.I | re.S)
READS = re.compile(r"\s*(?:SELECT|WITH|SHOW|DESCRIBE|EXPLAIN|EXISTS)\b", re.I)


def statement_and_rows(text: bytes, body: Iterator[bytes]) -> tuple[bytes, str, Iterator[bytes] | None]:
    """Parts an INSERT from its rows: the statement may be in the URL, or in front of the rows in the body."""
    while True:
        if found := INSERT.match(text):
            return found[1], found[2].decode(), chain([text[found.end() :]], body)
        piece = next(body, None)
        if piece is None:
            return text, "", None
        text += piece


def trailing_format(sql: str) -> str:
    """The format that a statement ends with; HTTP's default where it names none."""
    found = re.search(r"\bFORMAT\s+(\w+)\s*;?\s*$", sql, re.I)
    return found[1] if found else "TabSeparated"

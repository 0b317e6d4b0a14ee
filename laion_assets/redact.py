"""URLs as they may be shown: without user, password, query values and fragment. It opens nothing."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HIDDEN = "***"


def redact(url: str) -> str:
    """`url` without what may be secret; a plain path stays as it is.

    The whole query goes, since signed URLs and access tokens stand there. Where a password holds an unescaped slash,
    everything up to the last @ goes: a path with an @ then shows too little, which is the safe side.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    rest, query, _ = rest.partition("#")[0].partition("?")
    if _has_user(url):
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return f"{scheme}://{rest}?{HIDDEN}" if query else f"{scheme}://{rest}"


def redact_text(text: str) -> str:
    """`text`, such as another package's error message, with every URL in it redacted."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda match: redact(match[0]), text)


def _has_user(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # the "port" is the start of a password, or the address is no address
        return "@" in url
    return "@" in parts.netloc

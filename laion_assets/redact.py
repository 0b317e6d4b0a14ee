"""URLs as they may be shown: without user, password, query values and fragment. Opens nothing."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HIDDEN = "***"


def redact(url: str) -> str:
    """`url` without the parts that may be secret; a plain path is left unchanged.

    The whole query is removed, since it may be a signature or an access token. Where a password may hold an unescaped /
    ? or #, everything up to the last @ is removed. Of a path with an @ too little is shown then, which is the safe
    side.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    if has_user(url):
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    rest, query, _ = rest.partition("#")[0].partition("?")
    return f"{scheme}://{rest}?{HIDDEN}" if query else f"{scheme}://{rest}"


def redact_text(text: str) -> str:
    """`text`, such as another package's error message, with every URL in it redacted, and the query of every path."""
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda match: redact(match[0]), text)
    return re.sub(r"(/[^\s?'\"<>]*\?)[^\s'\"<>=]*=[^\s'\"<>]*", rf"\1{HIDDEN}", text)


SHORT = 6


def without(text: str, secret: str) -> str:
    """`text` without a password. A short password may be part of other words, so it is removed only where a password
    can be: after `:`, `=` or a quote, and before a character that ends it."""
    if not secret:
        return text
    if len(secret) >= SHORT:
        return text.replace(secret, HIDDEN)
    return re.sub(rf"(?<=[:='\"`]){re.escape(secret)}(?=[@'\"`\s,;&)]|$)", HIDDEN, text)


def redact_chain(error: BaseException) -> None:
    """Redacts the messages of an error and of all that caused it, in place.

    Programs that store or print an error also do so with its causes, as Dagster's event log does. Errors of urllib3
    hold whole URLs.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__, *(arg for arg in each.args if isinstance(arg, BaseException))]
        if any(isinstance(arg, str) for arg in each.args):
            each.args = tuple(redact_text(arg) if isinstance(arg, str) else arg for arg in each.args)


def origin_of(secret: str) -> str:
    """Scheme and host of a URL that is secret as a whole; empty for anything else."""
    scheme, mark, rest = redact(secret).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{HIDDEN}" if mark else HIDDEN


def has_user(url: str) -> bool:
    """Whether a URL holds a user, or may: in https://me:12/hunter2@host what looks like a port begins a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # what looks like a port is the start of a password, or the address is not valid
        return "@" in url
    return "@" in parts.netloc or is_ambiguous(url)


def is_ambiguous(url: str) -> bool:
    """Whether what looks like host, port and path may be a user and a password with an unescaped / ? or #."""
    netloc, *rest = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)
    return "@" not in netloc and re.search(r":[^\]]*$", netloc) is not None and "@" in "".join(rest)

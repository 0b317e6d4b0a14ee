"""Checks of setting values that go beyond their types. Reads no variable and no file."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, unquote, urlsplit

from laion_assets.dataset import user_path
from laion_assets.redact import is_ambiguous


def schedule(expression: str) -> str:
    """Checked by the same parser that Dagster contains. The parser also finds days that never come, such as 30 2."""
    # Imported only when a schedule is set: the import was a seventh of what importing the code location takes over
    # Dagster.
    from croniter import CroniterError, croniter

    if len(expression.split()) != 5:
        raise ValueError("a cron schedule has five fields, for example 0 * * * * for every hour")
    try:
        croniter(expression).get_next()
    except CroniterError as error:
        raise ValueError(
            f"no cron schedule: {error}; minute 0-59, hour 0-23, day 1-31, month 1-12 and weekday 0-6"
        ) from None
    return expression


def owner(name: str) -> str:
    """A team or a person, in the form that Dagster accepts."""
    if not re.fullmatch(r"team:[^\s,]+|[^\s,@:]+@[^\s,@:]+\.[^\s,@:]+", name):
        raise ValueError("an owner is team:name or an address such as me@example.org")
    return name


def repository(url: str) -> str:
    """The address of a repository to whose files links can be made."""
    address = web_page(url)
    if not re.search("github|gitlab", address):
        raise ValueError("links to source are known for github and gitlab, such as https://github.com/you/laion_assets")
    return address.removesuffix(".git")


def web_page(url: str) -> str:
    """The address of a page, without secrets, since the address is posted to chats."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname is not None and "@" not in parts.netloc
        plain = plain and not parts.query and not parts.fragment
    except ValueError:
        plain = False
    if not plain:
        raise ValueError("an address such as https://dagster.example, without a user, a query or a fragment")
    return url.rstrip("/")


def key_part(text: str) -> str:
    """One word that comes before an asset's name."""
    if not re.fullmatch(r"[A-Za-z0-9_]{1,100}", text):
        raise ValueError("words of letters, digits and _ with / between them, such as laion2b/en")
    return text


def source(text: str) -> str:
    """A URL that can be parsed, or a folder. A folder is made absolute, since commands may run in another folder."""
    if "://" not in text:
        return str(user_path(text).absolute())
    try:
        parts = urlsplit(text)
        whole = parts.port is None or 0 < parts.port < 65_536
    except ValueError:
        whole = False
    if not whole or not re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise ValueError("a source is a URL such as https://…, file:///… or s3://…, or a folder's path")
    if is_ambiguous(text):
        raise ValueError("in a URL with user and password, / ? # @ of the password are written %2F %3F %23 %40")
    return text


BEGINS_A_PLACE = r"""["'/~.]|[A-Za-z][A-Za-z0-9+.-]*://"""
PLACE = re.compile(
    rf"""\s*(?:"([^"]+)"|'([^']+)'|(\S.*?))\s*(?:$|[,\s]+(?={BEGINS_A_PLACE})|,\s*$)""",
    re.DOTALL,
)
"""Matches one place of a list and the separator after it: a comma or blanks before a quote, a path or a URL."""


def places(text: str) -> tuple[str, ...]:
    """The places of a list such as `https://a/x, /mnt/my shards`.

    A comma or blanks separate two places only where the second begins like a place: with a scheme, `/`, `~`, `.` or a
    quote. So a place may contain blanks and commas. A place in quotes is taken unchanged.
    """
    return tuple(next(filter(None, found.groups())) for found in PLACE.finditer(text.strip(", \n\t")))


def bucket(url: str) -> str:
    """A bucket, optionally with a prefix."""
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/+[A-Za-z0-9._=-]+)*/*", url):
        raise ValueError("expected s3://bucket or s3://bucket/prefix; a prefix has only letters, digits and . _ = - /")
    return url.rstrip("/")


def database(url: str) -> str:
    """A server, or the embedded engine's folder, which is made absolute.

    A server's URL must be parsed as its writer meant it: an unescaped special character in a password would end the
    password early. Parts of the URL that would be ignored, such as ?secure=true, are refused.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme == "chdb":
        if parts.query or parts.fragment:
            raise ValueError("expected chdb:///folder; in the folder's name write %3F %23 %25 for ? # %")
        folder = user_path(unquote(f"{parts.netloc}{parts.path}"))
        return f"chdb://{quote(str(folder.absolute()))}"
    rest = f"{parts.path}{parts.query}{parts.fragment}"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in rest:
        raise ValueError(
            "expected chdb:///folder or http(s)://user:password@host:port/database; "
            "in a password write %2F %23 %3F %40 for / # ? @"
        )
    if parts.query or parts.fragment or "/" in parts.path.strip("/"):
        what = "a query" if parts.query else "a fragment" if parts.fragment else "more than one name in its path"
        raise ValueError(
            f"the URL has {what}, which would not be used. Expected a URL that ends with /database. For TLS write "
            "https://. Time limits, compression and certificates have variables of their own"
        )
    return url


def with_password(url: str, password: str) -> str:
    """A server's URL with a password of any characters. A URL that already has a password is left unchanged."""
    parts = urlsplit(url)
    if parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or 'default'}:{quote(password, safe='')}@{host}").geturl()


def without_password(url: str) -> str:
    """A server's URL with its user but without the password."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}@{host}" if parts.username else host).geturl()


def token_pairs(text: str) -> list[tuple[str, str]]:
    """The host ("" where none is named) and the token of each word: `TOKEN`, or `HOST=TOKEN HOST:PORT=TOKEN`.

    A token may end in equals signs (RFC 6750, 2.1).
    """
    pairs = []
    for word in re.split(r"[,\s]+", text.strip()):
        host, _, token = word.partition("=")
        pairs.append((host, token) if token.strip("=") else ("", word))
    return pairs


def tokens(text: str) -> str:
    """Bearer tokens, which may hold only characters that a header allows."""
    if not re.fullmatch(r"[\x21-\x7e]+([,\s]+[\x21-\x7e]+)*", text):
        raise ValueError(
            "expected a token of ASCII letters, digits, signs; write several tokens as host=token, separated by blanks"
        )
    return text


def merged_place(place: str) -> str:
    """The place where a server finds merged files."""
    if not re.fullmatch(r"(?:(?:s3|gs|https?)://|(?![a-z0-9+.-]*://))[^*?{}'\\\s]+", place):
        raise ValueError("it is a folder under the server's user_files, or s3://…, gs://… or http(s)://…")
    return place.rstrip("/")


def webhook(url: str) -> str:
    """The URL that alerts are posted to."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError("a webhook is http(s)://host/…")
    return url


def database_object(name: str) -> str:
    """The name of a table, a collection or a cluster."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,100}", name):
        raise ValueError("a name in ClickHouse is letters, digits and underscores, and starts with no digit")
    return name


def table(name: str) -> str:
    """The name of the table."""
    if "_staging_" in name:
        raise ValueError("a name with _staging_ is that of a staging table, which the next load would remove")
    return database_object(name)


def codec(text: str) -> str:
    """The text within CODEC(…)."""
    if not re.fullmatch(r"[A-Za-z0-9_]+(\(\d+\))?(, ?[A-Za-z0-9_]+(\(\d+\))?)*", text):
        raise ValueError("a codec is written as in CODEC(…), for example NONE or ZSTD(3)")
    return text


def network(text: str) -> str:
    """A network of addresses, such as 10.0.0.0/8."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("a network is an address and its length, for example 10.0.0.0/8") from None

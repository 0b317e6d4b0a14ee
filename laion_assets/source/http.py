"""One file over HTTP(S): what to ask for, what each answer means, and when a partial file may be continued.

`mirrors` decides whether and where to try again; `client` makes connections.

When a partial file is continued, the first rule that applies is used:

1. At the same URL with a strong ETag: Range with If-Range of that ETag.
2. At the same URL without one: Range with If-Range of Last-Modified, if that was a second or more older than its
   answer's Date. Only then is a date a strong validator (RFC 9110, 8.8.2.2).
3. With a SHA-256 from the manifest and a known size, at any URL: plain Range. The hash over the whole file decides.
4. At another mirror: Range with If-Range of the strong ETag, if the size is known. Only a mirror whose file has the
   same ETag and size continues.
5. Otherwise the fetch starts again.

Each 206 must begin where our bytes end, be part of a file of the same size, and have the ETag that was asked for;
otherwise our bytes are thrown away. After a 200 to a Range the fetch starts again. After a 416 the sizes are compared:
the file is complete if the answer's size is ours.

Compressed answers (Content-Encoding) are refused: we do not ask for them, and sizes and ranges would be those of the
compressed bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from itertools import islice
from urllib.parse import quote

from urllib3.response import BaseHTTPResponse

from laion_assets.errors import PermanentSourceError, SourceError
from laion_assets.redact import redact, redact_text
from laion_assets.source.client import SourceClient, body
from laion_assets.source.failures import BusySourceError
from laion_assets.source.fetch_limits import FetchLimits, Pace
from laion_assets.source.hub import ADVICE as HUB_ADVICE
from laion_assets.source.index_page import has_file, listed_names
from laion_assets.source.mirrors import Arrival
from laion_assets.source.partial import Origin, PartialFile
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import WantedFile

PASSING_STATUS = {408, 421, 425, 429}
"""Statuses from 300 to 499 that may pass; other ones are permanent (redirects are followed before this check)."""

PERMANENT_STATUS = {501, 505}
"""Statuses from 500 on that do not pass: the server cannot do this at all."""

NAMES_SECONDS = 10.0
"""Time limit of each request for the names beside a missing file."""

ADVICE = {
    401: "put a token into LAION_HTTP_TOKEN, or user and password into ~/.netrc or the URL in LAION_SOURCE",
    403: "check whether this host wants a user, a password, a token or a signed URL",
    404: "check whether the host has this dataset under other folders",
}


class HttpFile:
    """One file at one http or https URL."""

    def __init__(self, url: str, wanted: WantedFile, client: SourceClient, limits: FetchLimits) -> None:
        self.url = redact(url)
        self._url = url
        self._wanted = wanted
        self._client = client
        self._limits = limits
        self._subject = f"{wanted.subject} from {self.url}"

    def fetch(self, partial: PartialFile, pace: Pace) -> Arrival:
        """Completes `partial` with one request. Raises `SourceError`, `StoreError` and their kinds."""
        asked = self._ask_from(partial)
        with self._open("GET", asked, pace.seconds_left) as response:
            if response.status == 416 and asked:
                return self._compare(response, partial)
            if response.status not in (200, 206) or (response.status == 206 and not asked):
                raise self._refusal(response)
            self._refuse_packed(response)
            origin = self._origin(response)
            continued = response.status == 206
            if continued:
                origin = self._continued(response, partial, origin, asked)
            partial.receive(origin, self._body(response, pace.seconds_left), pace, restart=not continued)
            remote = self._remote(response, origin.total)
        return Arrival(self.url, origin.etag, remote=remote)

    def observe(self) -> RemoteFile:
        """Size, ETag and date by HEAD, or by a GET of one byte if HEAD is refused. Raises `SourceError`."""
        for method, asked in (("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
            with self._open(method, asked, self._limits.file_seconds) as response:
                if response.status in (200, 206):
                    self._refuse_packed(response)
                    return self._remote(response, self._origin(response).total)
                # Signed URLs allow only GET, and answer HEAD with 403. 404 and 410 are the same for both methods.
                if method == "GET" or response.status in (404, 410, 429, 503):
                    raise self._refusal(response)
        raise AssertionError("the loop returns or raises")

    def read_range(self, first: int, end: int, pinned: RemoteFile, seconds_left: float) -> Iterator[bytes]:
        """The bytes from `first` to `end` of the file that `observe` described. Raises `SourceError`, also for another.

        A strong ETag is sent as If-Match, otherwise the date as If-Unmodified-Since (RFC 9110, 13.1).
        """
        asked = {"Range": f"bytes={first}-{end - 1}"}
        if pinned.etag and pinned.etag.startswith('"'):
            asked["If-Match"] = pinned.etag
        elif pinned.modified:
            asked["If-Unmodified-Since"] = pinned.modified
        with self._open("GET", asked, seconds_left) as response:
            if response.status in (200, 412):
                found = "another file than a moment ago" if response.status == 412 else "the whole file"
                kind = SourceError if response.status == 412 else PermanentSourceError
                raise kind(self._subject, found=f"{response.status}, {found}", expected="206, a range of it")
            if response.status != 206:
                raise self._refusal(response)
            self._refuse_packed(response)
            found = response.headers.get("Content-Range", "none")
            etag = response.headers.get("ETag", pinned.etag)
            if _content_range(found) != (first, end - 1, pinned.size) or etag != pinned.etag:
                expected = f"bytes {first}-{end - 1}/{pinned.size} of ETag {pinned.etag}"
                raise SourceError(self._subject, found=f"{found} of ETag {etag}", expected=expected)
            yield from self._body(response, seconds_left)

    def names_beside(self, likely: Sequence[str]) -> list[str]:
        """Names that the server lists in the file's folder; if it lists nothing, the first of `likely` that exists.

        Raises `SourceError`.
        """
        rest, mark, query = self._url.partition("?")
        folder = f"{rest.rpartition('/')[0]}/"
        found = listed_names(self._client, f"{folder}{mark}{query}", self._subject, NAMES_SECONDS)
        if found:
            return found
        urls = {name: f"{folder}{quote(name)}{mark}{query}" for name in likely}
        there = (name for name, url in urls.items() if has_file(self._client, url, self._subject, NAMES_SECONDS))
        return list(islice(there, 1))

    def _body(self, response: BaseHTTPResponse, seconds_left: float) -> Iterator[bytes]:
        return body(response, self._subject, min(self._limits.read_seconds, seconds_left))

    def _open(
        self, method: str, headers: dict[str, str], seconds_left: float
    ) -> AbstractContextManager[BaseHTTPResponse]:
        return self._client.open(method, self._url, headers, self._wanted.subject, seconds_left=seconds_left)

    def _ask_from(self, partial: PartialFile) -> dict[str, str]:
        """The headers that ask for the missing bytes; empty to ask for all bytes. See the rules above."""
        origin = partial.origin
        if origin is None or partial.size == 0:
            return {}
        asked = {"Range": f"bytes={partial.size}-"}
        same = origin.url == self.url
        if same and (origin.etag or origin.modified):
            return asked | {"If-Range": origin.etag or origin.modified or ""}
        if origin.total is None:
            return {}
        if self._wanted.sha256 is not None:
            return asked
        return asked | {"If-Range": origin.etag} if origin.etag else {}

    def _continued(
        self, response: BaseHTTPResponse, partial: PartialFile, new: Origin, asked: dict[str, str]
    ) -> Origin:
        """The origin of a 206 that continues our bytes; if it does not, they are thrown away for the next try."""
        old = partial.origin or new
        found = response.headers.get("Content-Range", "none")
        first, _, total = _content_range(found)
        if first != partial.size or (total != old.total and None not in (total, old.total)):
            problem = found, f"bytes {partial.size}-…/{'*' if old.total is None else old.total}"
        elif "If-Range" in asked and old.etag and new.etag != old.etag:
            problem = f"{found} of ETag {response.headers.get('ETag', 'none')}", f"ETag {old.etag}"
        elif "If-Range" in asked and not old.etag and _modified(response) not in (None, old.modified):
            problem = f"{found} of {_modified(response)}", f"the file of {old.modified}"
        else:
            known = old if old.url == self.url else new
            total = old.total if total is None else total
            return replace(known, total=total, remote=self._remote(response, total))
        partial.discard()
        raise SourceError(
            self._subject, found=f"206 with Content-Range {problem[0]}", expected=f"{problem[1]}; the fetch starts over"
        )

    def _compare(self, response: BaseHTTPResponse, partial: PartialFile) -> Arrival:
        """Handles 416, nothing after our bytes: the file is complete if its size is ours, else the fetch restarts."""
        total = _content_range(response.headers.get("Content-Range", ""))[2]
        known = partial.origin.total if partial.origin else None
        if partial.size in (total, known) and (total is None or known is None or total == known):
            left = partial.left_from()
            remote = left and replace(left, url=self.url, size=partial.size)
            return Arrival(self.url, partial.origin.etag if partial.origin else None, remote=remote)
        size = partial.size
        partial.discard()
        raise SourceError(
            self._subject,
            found=f"416, a file of {'unknown size' if total is None else f'{total} bytes'}",
            expected=f"more than the {size} bytes that are fetched already; the fetch starts over",
        )

    def _origin(self, response: BaseHTTPResponse) -> Origin:
        """The file that an answer's bytes belong to; weak ETags and dates are only in what the source said."""
        headers = response.headers
        if response.status == 206:
            total = _content_range(headers.get("Content-Range", ""))[2]
        else:
            total = int(headers["Content-Length"]) if headers.get("Content-Length", "").isdecimal() else None
        etag = headers.get("ETag", "")
        strong = etag if etag.startswith('"') else None
        return Origin(self.url, strong, _strong_date(headers), total, self._remote(response, total))

    def _remote(self, response: BaseHTTPResponse, total: int | None) -> RemoteFile:
        return RemoteFile(self.url, total, response.headers.get("ETag"), _modified(response))

    def _refuse_packed(self, response: BaseHTTPResponse) -> None:
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise PermanentSourceError(
                self._subject, found=f"Content-Encoding {coding}", expected="the file as it is (identity)"
            )

    def _refusal(self, response: BaseHTTPResponse) -> SourceError:
        status = response.status
        found = f"{status} {response.reason or ''}".strip()
        # The hub gives more details in its own headers.
        said = redact_text(response.headers.get("X-Error-Message", ""))[:200]
        found = f"{found}, {said}" if said else found
        advice = HUB_ADVICE.get(response.headers.get("X-Error-Code", ""), ADVICE.get(status, ""))
        if status in (429, 503):
            busy = BusySourceError(self._subject, found=found)
            busy.wait_seconds = _retry_after(response.headers)
            return busy
        passing = status in PASSING_STATUS or (not 300 <= status < 500 and status not in PERMANENT_STATUS)
        return (SourceError if passing else PermanentSourceError)(self._subject, found=found, advice=advice)


def _content_range(value: str) -> tuple[int | None, int | None, int | None]:
    """First byte, last byte and whole size of a Content-Range; None for a missing value."""
    match = re.fullmatch(r"\s*bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)\s*", value, re.ASCII | re.IGNORECASE)
    if match is None:
        return None, None, None
    first, last, total = (None if part in (None, "*") else int(part) for part in match.groups())
    return first, last, total


def _modified(response: BaseHTTPResponse) -> str | None:
    value = response.headers.get("Last-Modified")
    return None if value is None else str(value)


def _strong_date(headers: Mapping[str, str]) -> str | None:
    """Last-Modified, if it is older than Date by enough to exclude a change within the same second."""
    value = headers.get("Last-Modified", "")
    modified, now = _seconds(value), _seconds(headers.get("Date", ""))
    return value if modified is not None and now is not None and now - modified >= 1 else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks to wait, given as seconds or as a date; None without it."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return float(value)
    until, now = _seconds(value), _seconds(headers.get("Date", ""))
    return None if until is None else max(0.0, until - (time.time() if now is None else now))


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

"""The HTTP client of a shard's fetch: TLS, proxies, time limits, redirects, our own errors, an end on demand.

`http` decides what to ask for and what an answer means.

The client is urllib3. Its `read1` passes on what the socket has, in pieces of up to 256 KiB, so a gigabyte costs as
much processor time as with curl. httpx reads 64 KiB at a time with three copies, which costs half as much again.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout, Url, make_headers, parse_url

from laion_assets.errors import PermanentSourceError, SourceError, UnreachableSourceError
from laion_assets.redact import HIDDEN, redact, redact_chain, redact_text
from laion_assets.source.credentials import Credentials, WebOrigin
from laion_assets.source.failures import StoppedError
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.tls import add_authorities, trusting_context
from laion_assets.waiting import reporting_silence, waiting

CA_VARIABLE = "LAION_HTTP_CA_FILE"

MAX_REDIRECTS = 10
KEPT_CONNECTIONS = 4
"""Connections to one host that are kept: a shard has three files."""

PIECE_BYTES = 1 << 18

NOT_REACHED = (NewConnectionError, ConnectTimeoutError, ProxyError, SSLError)
"""Errors before an answer. An unknown host is a NewConnectionError, too; an answer that was cut or late is not here."""

HEADERS = {"Accept-Encoding": "identity", "User-Agent": "laion-assets"}
"""Asks for the file as it is: for a compressed answer, sizes and ranges would be those of the compressed bytes."""


class SourceClient:
    """The connections for the files of a shard; several threads may use them. Close it, or use it with `with`."""

    def __init__(
        self,
        limits: FetchLimits,
        ca_file: Path | None = None,
        stop: threading.Event | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Raises `SettingsError` if `ca_file` holds no certificates."""
        self._limits = limits
        self._credentials = credentials or Credentials()
        self._stop = stop or threading.Event()
        self._ca_file = ca_file
        if ca_file is not None:
            add_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file, CA_VARIABLE)
        self._managers: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._responses: weakref.WeakSet[BaseHTTPResponse] = weakref.WeakSet()
        # At level DEBUG urllib3 logs the path and query of each request. Adding the same filter again does nothing.
        logging.getLogger("urllib3.connectionpool").addFilter(_hide_queries)

    def __enter__(self) -> SourceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        for manager in self._managers.values():
            manager.clear()

    def interrupt(self) -> None:
        """Ends reads of other threads; call it after `stop` is set. A connecting thread ends by its time limit."""
        with self._lock:
            responses = list(self._responses)
        for response in responses:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # its connection has already ended
                response.shutdown()

    @contextlib.contextmanager
    def open(
        self, method: str, url: str, headers: dict[str, str], subject: str, *, seconds_left: float
    ) -> Iterator[BaseHTTPResponse]:
        """The answer to a request, after redirects, with its body not yet read; closed when the block ends.

        Raises `PermanentSourceError` (TLS, endless redirects or one from https to http, an invalid URL), `SourceError`
        (failures that may pass) and `StoppedError`, also for failures while the body is read.
        """
        place = f"{subject} from {redact(url)}"
        timeout = Timeout(
            connect=min(self._limits.connect_seconds, max(seconds_left, 0.001)),
            read=min(self._limits.read_seconds, max(seconds_left, 0.001)),
        )
        longest = (self._limits.connect_seconds or 0) + (self._limits.read_seconds or 0)
        with waiting(f"an answer: {place}", min(longest, seconds_left)), self._failures(place, connecting=True):
            response = self._follow(method, url, headers, timeout, place)
        try:
            with self._lock:
                self._responses.add(response)
            # Checked after the answer is kept: an answer that comes during `interrupt` is seen by one of the two.
            if self._stop.is_set():
                raise StoppedError
            with self._failures(place, connecting=False):
                yield response
        finally:
            response.close()

    def _follow(self, method: str, url: str, headers: dict[str, str], timeout: Timeout, place: str) -> BaseHTTPResponse:
        """Follows redirects. urllib3 would also follow one from https to http, and drops the user for the same host."""
        target = parse_url(url)
        user = self._credentials.header(target)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._manager(target).request(
                method,
                target._replace(auth=None, fragment=None).url,
                headers=HEADERS | headers | user,
                timeout=timeout,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            following = _redirected(target, location, place)
            if following.scheme not in ("http", "https") or (target.scheme, following.scheme) == ("https", "http"):
                raise PermanentSourceError(
                    place, found=f"a redirect to {redact(following.url)}", expected="one that stays with https"
                )
            if following.auth:
                user = Credentials().header(following)
            elif not WebOrigin.of(target).may_hand_on(WebOrigin.of(following)):
                user = {}
            target = following
        raise PermanentSourceError(place, found=f"more than {MAX_REDIRECTS} redirects", expected="an end of them")

    def _manager(self, target: Url) -> urllib3.PoolManager:
        """The connections to a host: direct, or through the proxy that HTTP(S)_PROXY and NO_PROXY name for it."""
        proxy = getproxies().get(target.scheme or "", "")
        if proxy_bypass(target.netloc or ""):
            proxy = ""
        with self._lock:
            key = target.scheme or "", proxy
            if key not in self._managers:
                self._managers[key] = self._connections(*key)
            return self._managers[key]

    def _connections(self, scheme: str, proxy: str) -> urllib3.PoolManager:
        if not proxy:
            return urllib3.PoolManager(maxsize=KEPT_CONNECTIONS, ssl_context=self._tls if scheme == "https" else None)
        address = parse_url(proxy if "://" in proxy else f"http://{proxy}")
        if address.scheme not in ("http", "https"):
            raise PermanentSourceError(
                f"proxy {redact(proxy)} of the environment",
                found=f"a proxy of kind {address.scheme}",
                expected="http://host:port or https://host:port",
                advice="set http_proxy and https_proxy to such a one, or NO_PROXY to hosts that need none",
            )
        user = make_headers(proxy_basic_auth=unquote(address.auth)) if address.auth else None
        return urllib3.ProxyManager(
            address._replace(auth=None).url, maxsize=KEPT_CONNECTIONS, proxy_headers=user, ssl_context=self._tls
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The TLS context, made when it is first needed."""
        return trusting_context(self._ca_file, CA_VARIABLE)

    @contextlib.contextmanager
    def _failures(self, place: str, *, connecting: bool) -> Iterator[None]:
        try:
            yield
        except LocationValueError as error:
            # urllib3's message would show a part of the URL, perhaps of a password.
            error.args = ("a URL that cannot be used",)
            redact_chain(error)
            raise PermanentSourceError(
                place, found="a URL or a redirect that cannot be used", expected="http(s)://host/path"
            ) from error
        except HTTPError as error:
            redact_chain(error)
            if self._stop.is_set():
                raise StoppedError from error
            raise _failure(place, error, connecting=connecting) from error


def body(response: BaseHTTPResponse, place: str, seconds: float) -> Iterator[bytes]:
    """The bytes of an answer, as they come; reports when `place` is silent. A piece may take `seconds`."""
    return reporting_silence(_pieces(response), place, seconds)


def _pieces(response: BaseHTTPResponse) -> Iterator[bytes]:
    while piece := response.read1(PIECE_BYTES, decode_content=False):
        yield piece


def _failure(place: str, error: HTTPError, *, connecting: bool) -> SourceError:
    """A failed connection or answer as our error: invalid certificates are permanent, other failures may pass."""
    cause = error.args[0] if error.args else ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return PermanentSourceError(
            place,
            found=f"an invalid TLS certificate ({cause.verify_message})",
            expected="a valid certificate",
            advice="use another mirror; LAION_HTTP_CA_FILE adds a certificate authority that you trust",
        )
    ended = isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    if connecting and isinstance(error, SSLError) and isinstance(cause, ssl.SSLError) and not ended:
        return PermanentSourceError(place, found=f"no TLS ({cause.reason or cause})", expected="a TLS server")
    found = f"{type(error).__name__}: {redact_text(str(cause))}"
    return (UnreachableSourceError if connecting and isinstance(error, NOT_REACHED) else SourceError)(
        place, found=found
    )


def _hide_queries(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            f"{arg.partition('?')[0]}?{HIDDEN}" if isinstance(arg, str) and "?" in arg else arg for arg in record.args
        )
    return True


def _redirected(target: Url, location: str, place: str) -> Url:
    try:
        return parse_url(urljoin(target._replace(auth=None).url, location))
    except ValueError as error:
        error.args = ("a redirect that cannot be used",)
        redact_chain(error)
        raise PermanentSourceError(
            place, found=f"a redirect to {redact_text(location)[:200]!r}", expected="one to a URL"
        ) from error

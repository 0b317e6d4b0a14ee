"""The HTTP client of a shard's fetch: TLS, time limits, redirects, failures in our words, and an end on demand.

What is asked for and what an answer means is `http`'s business.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from laion_assets.errors import PermanentSourceError, SettingsError, SourceError
from laion_assets.redact import redact
from laion_assets.source.failures import StoppedError
from laion_assets.source.transfer import Patience

MAX_REDIRECTS = 10

HEADERS = {"Accept-Encoding": "identity", "User-Agent": "laion-assets"}
"""httpx asks for gzip otherwise: sizes and ranges are then those of the packed bytes."""


class SourceClient:
    """One pool of connections for the files of a shard; several threads may use it. Close it, or use it with `with`."""

    def __init__(self, patience: Patience, ca_file: Path | None = None, stop: threading.Event | None = None) -> None:
        """Raises `SettingsError` when `ca_file` holds no certificates."""
        self._patience = patience
        self._stop = stop or threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._client = httpx.Client(verify=_tls(ca_file), headers=HEADERS)
        # httpx logs the whole URL of each request at level INFO; a filter that is there already is not added again.
        logging.getLogger("httpx").addFilter(_redact_urls)

    def __enter__(self) -> SourceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def interrupt(self) -> None:
        """End all requests of all threads, also those that wait for bytes; call it once `stop` is set."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def open(
        self, method: str, url: str, headers: dict[str, str], subject: str, *, seconds_left: float
    ) -> Iterator[httpx.Response]:
        """The answer to a request, after its redirects, its body still to be read; closed with the context.

        Raises `PermanentSourceError` (TLS, redirects without end or from https to http, a URL that is none),
        `SourceError` (all that may pass) and `StoppedError`, also for failures while the body is read.
        """
        with self._failures(f"{subject} from {redact(url)}"):
            request, user = self._request(method, url, headers, seconds_left)
            response = self._follow(request, user, f"{subject} from {redact(url)}")
            try:
                yield response
            finally:
                response.close()

    def _request(
        self, method: str, url: str, headers: dict[str, str], seconds_left: float
    ) -> tuple[httpx.Request, httpx.Auth | None]:
        """The request, and the user that stood in the URL: taken out of it, so that it gets into no message of httpx."""
        target = httpx.URL(url)
        user = httpx.BasicAuth(target.username, target.password) if target.userinfo else None
        timeout = httpx.Timeout(
            min(self._patience.read_seconds, max(seconds_left, 0.001)),
            connect=min(self._patience.connect_seconds, max(seconds_left, 0.001)),
        )
        target = target.copy_with(userinfo=b"")
        extensions = {"trace": self._trace}
        return self._client.build_request(method, target, headers=headers, timeout=timeout, extensions=extensions), user

    def _follow(self, request: httpx.Request, user: httpx.Auth | None, subject: str) -> httpx.Response:
        """Redirects by hand, for httpx would also follow one from https to http. It drops the user at another host."""
        response = self._client.send(request, stream=True, auth=user or httpx.USE_CLIENT_DEFAULT)
        for _ in range(MAX_REDIRECTS):
            following = response.next_request
            if following is None:
                return response
            response.close()
            if request.url.scheme == "https" and following.url.scheme != "https":
                raise PermanentSourceError(
                    subject, found=f"a redirect to {redact(str(following.url))}", expected="one that stays with https"
                )
            request = following
            response = self._client.send(request, stream=True)
        response.close()
        raise PermanentSourceError(subject, found=f"more than {MAX_REDIRECTS} redirects", expected="an end of them")

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore tells of each connection that it made: keep its socket, for `interrupt`."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            connected = info["return_value"].get_extra_info("socket")
            if isinstance(connected, socket.socket):
                self._sockets.add(connected)
        # Looked at after the socket is kept: one made while `interrupt` runs is seen by the one or the other.
        if self._stop.is_set():
            raise StoppedError

    @contextlib.contextmanager
    def _failures(self, subject: str) -> Iterator[None]:
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            # httpx's own words would show a part of the URL, perhaps of a password.
            raise PermanentSourceError(
                subject, found="a URL or a redirect that cannot be used", expected="http(s)://host/path"
            ) from error
        except httpx.TransportError as error:
            if self._stop.is_set():
                raise StoppedError from error
            raise _failure(subject, error) from error


def _failure(subject: str, error: httpx.TransportError) -> SourceError:
    """One failed connection or answer as our error: certificates that do not hold are permanent, the rest may pass."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PermanentSourceError(
                subject,
                found=f"a TLS certificate that does not hold ({cause.verify_message})",
                expected="a valid certificate",
                advice="use another mirror; LAION_HTTP_CA_FILE adds a certificate authority that you trust",
            )
        if isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
            break
        if isinstance(cause, ssl.SSLError) and isinstance(error, httpx.ConnectError):
            return PermanentSourceError(subject, found=f"no TLS ({cause.reason or cause})", expected="a TLS server")
    kind = type(error).__name__
    return SourceError(subject, found=f"{kind}: {error}" if str(error) else kind)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"LAION_HTTP_CA_FILE {ca_file}", found=f"{error}", expected="a file of certificates in PEM form"
            ) from error
    return context


def _redact_urls(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(redact(str(arg)) if isinstance(arg, httpx.URL) else arg for arg in record.args)
    return True

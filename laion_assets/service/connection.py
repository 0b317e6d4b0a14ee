"""One HTTP connection, which is closed if a request's headers are too large or too slow. uvicorn limits neither."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 64 * 1024
"""Most bytes of a request line and headers together. Browsers and proxies send 16 KiB at most."""

HEADER_SECONDS = 20.0
"""Seconds that a new connection, or a new request, may take until its headers are complete."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits on what comes before the application is called."""

    header_seconds = HEADER_SECONDS

    _reading_headers = False
    _header_bytes = 0
    _header_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has `header_seconds` for its first request."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts the bytes that come before the headers are complete, and ends the connection if there are too many."""
        if self._reading_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
                self.transport.close()
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """A request has begun: its headers must be complete within `header_seconds`."""
        self._reading_headers = True
        self._header_bytes = 0
        if self._header_deadline is None:
            self._expect_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The request's headers are complete."""
        self._reading_headers = False
        self._expect_nothing()
        super().on_headers_complete()

    def _expect_headers(self) -> None:
        self._header_deadline = self.loop.call_later(self.header_seconds, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

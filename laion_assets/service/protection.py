"""Checks that every request passes before its route: body limits, a token, security headers, errors in words."""

from __future__ import annotations

import hmac
import time

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from laion_assets.service.errors import RefusedError

OPEN_PATHS = ("/", "/config.json", "/healthz")
"""Paths without a token, as for the page's files: browsers and load balancers ask for them. They contain no rows."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob: http: https:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}
"""The page's pictures are on many hosts of the web, so images may come from anywhere; all else must be our own."""


BODIES = 16
"""This many bodies of the largest size may be in memory at a time, or more smaller ones with the same bytes."""


class Protection:
    """Refuses requests without the token, and bodies of more than `max_body` bytes or that take longer than
    `body_seconds`. Adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, *, max_body: int, token: str = "", body_seconds: float = 30.0) -> None:
        self.app = app
        self.max_body = max_body
        self.token = token.encode()
        self.body_seconds = body_seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The front end's default back-end URL ends in "/", so its paths begin with "//".
        scope = {**scope, "path": "/" + str(scope["path"]).lstrip("/")}
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    own.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refused(refusal)(scope, receive, send_with_headers)
            return
        body = _Body(self, receive)
        try:
            await self.app(scope, body.receive, send_with_headers)
        finally:
            self._held -= body.size

    def _refusal(self, scope: Scope, headers: Headers) -> RefusedError | None:
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self.max_body:
            return too_large(self.max_body)
        is_open = scope["path"] in OPEN_PATHS or scope["path"].startswith("/page/") or scope["method"] == "OPTIONS"
        if self.token and not is_open and not self._knows_token(headers):
            return RefusedError(401, "a token is needed: send the header Authorization: Bearer …")
        return None

    def _knows_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self.token)
        return known and scheme.lower() == "bearer"

    def hold(self, more: int, size: int) -> None:
        """Counts `more` bytes of a body whose size is now `size` bytes. Raises `RefusedError`."""
        self._held += more
        if size > self.max_body:
            raise too_large(self.max_body)
        if self._held > BODIES * self.max_body:
            raise RefusedError(503, "too many large requests at once; try again in a moment", retry_after=1)


class _Body:
    """A request's body while it arrives. A body that is too large, too slow, or one too many is refused."""

    def __init__(self, protection: Protection, receive: Receive) -> None:
        self.size = 0
        self._protection = protection
        self._receive = receive
        self._deadline = time.monotonic() + protection.body_seconds
        self._whole = False

    async def receive(self) -> Message:
        """The next part. After the last part it waits until the client goes away, however long that takes."""
        if self._whole:
            return await self._receive()
        with anyio.move_on_after(self._deadline - time.monotonic()):
            message = await self._receive()
            self._whole = not message.get("more_body", False)
            part = len(message.get("body", b""))
            self.size += part
            self._protection.hold(part, self.size)
            return message
        raise RefusedError(408, f"the body did not come within {self._protection.body_seconds:g} s")


def too_large(limit: int) -> RefusedError:
    """The refusal of a body that is too large."""
    return RefusedError(413, f"the body is larger than {limit:,} bytes")


def refused(error: RefusedError) -> JSONResponse:
    """The answer to a refused request: JSON with one line, and Retry-After if waiting helps."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 408:
        headers["Connection"] = "close"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.reason}, status_code=error.status, headers=headers)

"""What every request passes before its route: body limits, a token, security headers, errors in words."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from laion_assets.service.errors import RefusedError

OPEN_PATHS = ("/", "/config.json", "/healthz")
"""Answered without a token, as are the page's files: a browser and a load balancer ask for them. They hold no rows."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob: http: https:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}
"""The page's pictures lie on the web's own hosts, so that images may come from anywhere; nothing else may."""


class Protection:
    """Refuses large bodies and strangers, and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, *, max_body: int, token: str = "") -> None:
        self.app = app
        self.max_body = max_body
        self.token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The front end's default back end ends in "/", so that its paths begin with "//".
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
        await self.app(scope, self._limited(receive), send_with_headers)

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

    def _limited(self, receive: Receive) -> Receive:
        """The same body, ended by a refusal where it grows beyond the limit without saying its length before."""
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise too_large(self.max_body)
            return message

        return receive_within_limit


def too_large(limit: int) -> RefusedError:
    """The refusal of a body."""
    return RefusedError(413, f"the body is larger than {limit:,} bytes")


def refused(error: RefusedError) -> JSONResponse:
    """The answer to a refused request: JSON with one line, and Retry-After where waiting helps."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.reason}, status_code=error.status, headers=headers)

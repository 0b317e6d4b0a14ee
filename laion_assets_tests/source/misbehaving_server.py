"""A real HTTP server on loopback that misbehaves on purpose, as its URLs ask. It checks nothing; the tests do.

The first part of a path tells the server how to behave: `/cut=1000&validator=date/img_emb/img_emb_0.npy` sends 1,000
bytes for each connection and no ETag. `well-behaved` means no misbehaviour, and is also a valid name of a bucket. The
server records each request and the number of body bytes that it sent for it.
"""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

OLD_DATE = "Mon, 02 Aug 2021 10:00:00 GMT"
ERROR_PAGE = b"<!DOCTYPE html><html><head><title>Down</title></head><body>We are down</body></html>".ljust(635, b" ")
PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Behaviour:
    """The behaviour that a path asks for. The fields are the options; an empty string or 0 turns an option off."""

    times: int = 0
    """Misbehave for this many requests of a path, and then behave well."""
    validator: str = "etag"
    """`etag`, `weak`, `date`, `young` (the current date) or `none`."""
    ranges: str = "right"
    """How a Range is answered: `right`, `ignored`, `shifted`, `unlabelled`, `other-etag`, `no-etag`, `other-total`,
    `blind` (206 even if If-Range does not match), `open` (a total of *) or `capped` (60,000 bytes at most)."""
    length: str = "told"
    """How the length is sent: `told`, `chunked`, or `closed` (the end of the connection marks the end of the file)."""
    status: int = 0
    retry_after: str = ""
    """Seconds, or `date`: a date two seconds ahead."""
    redirects: int = 0
    """Number of redirects before the answer; 99 makes a loop."""
    to: str = ""
    """Another target of the redirect, with `~` for a slash."""
    cut: int = 0
    """Close the connection after this many bytes of body."""
    stall: int = 0
    """Send this many bytes of body and then nothing more."""
    dribble: int = 0
    """Send this many bytes per second."""
    truncated: int = 0
    """Truncate the file to this many bytes."""
    page: int = 0
    """Send an error page with status 200."""
    flipped: int = 0
    """Change one byte of the file."""
    grown: int = 0
    """From the request with this number on, the path's file is another one with another size."""
    encoding: str = ""
    head: int = 0
    """The status that answers HEAD."""

    @classmethod
    def of(cls, part: str) -> Behaviour:
        """Returns the behaviour that the first part of a path asks for."""
        options = dict(option.partition("=")[::2] for option in part.split("&") if "=" in option)
        numbers = {each.name for each in fields(cls) if each.type == "int"}
        return cls(**{name: int(value) if name in numbers else value for name, value in options.items()})  # type: ignore[arg-type]


@dataclass
class Request:
    """One request, the status of its answer, and the number of body bytes that were sent."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    at: float = field(default_factory=time.monotonic)

    @property
    def range(self) -> str | None:
        """The requested Range."""
        return self.headers.get("range")


class MisbehavingServer(ThreadingHTTPServer):
    """The server. `files` has the content by name; after `calm` is set, every path behaves well."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: Mapping[str, bytes], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.calm = False
        self.closing = threading.Event()
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.scheme = "https" if tls else "http"
        if tls:
            # Each connection's own thread does the handshake, so that a failed one does not end the server.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def base(self, behaviour: str = "well-behaved", *, user: str = "") -> str:
        """Returns a base URL whose files have this behaviour; `user` is `name:password@`."""
        return f"{self.scheme}://{user}127.0.0.1:{self.server_address[1]}/{behaviour}"

    def asked(self, name: str) -> list[Request]:
        """Returns the requests for a file, in their order."""
        return [request for request in self.requests if request.path.partition("?")[0].endswith(name)]

    def sent(self, name: str = "") -> int:
        """Returns the number of body bytes sent for a file, or for all files."""
        return sum(request.sent for request in self.requests if name in request.path)

    def handle_error(self, *_: object) -> None:
        """Prints nothing: these tests expect clients to disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: MisbehavingServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.record = Request(self.command, self.path, headers)
        path = self.path.partition("?")[0].strip("/")
        with self.server.lock:
            self.server.requests.append(self.record)
            if self.command == "GET":
                self.server.counts[path] += 1
            self.nth = self.server.counts[path]
            self.under_way = True
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self._behave(path)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Stops counting the request as active. Runs before the last bytes are sent, since the client may be faster."""
        with self.server.lock:
            self.server.at_once -= self.under_way
            self.under_way = False

    def _behave(self, path: str) -> None:
        wish, _, rest = path.partition("/")
        self.how = Behaviour.of(wish)
        if self.server.calm or (self.how.times and self.nth > self.how.times):
            self.how = Behaviour(validator=self.how.validator)
        content = self.server.files.get(rest) or self.server.files.get(path.rpartition("/")[2])
        if self.how.redirects or self.how.to:
            self._redirect(rest)
        elif self.how.status or content is None or (self.how.head and self.command == "HEAD"):
            status = self.how.status or (self.how.head if self.command == "HEAD" else 0) or 404
            self._answer(status, self._retry_after(), b"no")
        elif self.how.page:
            self._answer(200, {"Content-Type": "text/html"}, ERROR_PAGE)
        else:
            self._give(self._version(content))

    def _version(self, content: bytes) -> bytes:
        if self.how.truncated:
            return content[: self.how.truncated]
        if self.how.flipped:
            return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
        if self.how.grown and self.nth >= self.how.grown:
            return self.server.files["grown"]
        return content

    def _redirect(self, rest: str) -> None:
        left = self.how.redirects - (self.how.redirects != 99)
        where = unquote(self.how.to).replace("~", "/") or f"/redirects={left}" if left else "/well-behaved"
        self._answer(302, {"Location": f"{where}/{rest}"}, b"")

    def _retry_after(self) -> dict[str, str]:
        if self.how.retry_after == "date":
            return {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)}
        return {"Retry-After": self.how.retry_after} if self.how.retry_after else {}

    def _validators(self, content: bytes) -> dict[str, str]:
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        young = email.utils.formatdate(usegmt=True)
        return {
            "etag": {"ETag": etag, "Last-Modified": OLD_DATE},
            "weak": {"ETag": f"W/{etag}"},
            "date": {"Last-Modified": OLD_DATE},
            "young": {"Last-Modified": young},
            "none": {},
        }[self.how.validator]

    def _give(self, content: bytes) -> None:
        headers = self._validators(content)
        asked, condition = self.record.headers.get("range"), self.record.headers.get("if-range")
        holds = condition is None or condition in headers.values() or self.how.ranges == "blind"
        if self.record.headers.get("if-match", headers.get("ETag")) != headers.get("ETag"):
            self._answer(412, headers, b"")
        elif self.how.encoding:
            self._answer(200, headers | {"Content-Encoding": self.how.encoding}, gzip.compress(content))
        elif asked is None or not holds or self.how.ranges == "ignored":
            self._answer(200, headers, content)
        else:
            self._give_range(content, headers, asked)

    def _give_range(self, content: bytes, headers: dict[str, str], asked: str) -> None:
        first_text, _, last_text = asked.removeprefix("bytes=").partition("-")
        first, last = int(first_text), int(last_text or len(content) - 1)
        if first >= len(content):
            self._answer(416, headers | {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        first -= self.how.ranges == "shifted"
        if self.how.ranges == "capped":
            last = min(last, first + 59_999)
        total = {"other-total": str(len(content) + 1), "open": "*"}.get(self.how.ranges, str(len(content)))
        headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        if self.how.ranges == "unlabelled":
            del headers["Content-Range"]
        if self.how.ranges == "other-etag":
            headers["ETag"] = '"another"'
        if self.how.ranges == "no-etag":
            del headers["ETag"]
        self._answer(206, headers, content[first : last + 1])

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.record.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self._send_length(len(body))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body)

    def _send_length(self, length: int) -> None:
        if self.how.length == "told":
            self.send_header("Content-Length", str(length))
        elif self.how.length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")

    def _send_body(self, body: bytes) -> None:
        most = self.how.cut or self.how.stall or len(body)
        piece = max(1, self.how.dribble // 20) if self.how.dribble else PIECE_BYTES
        for start in range(0, min(most, len(body)), piece):
            block = body[start : min(start + piece, most)]
            framed = b"%x\r\n%s\r\n" % (len(block), block) if self.how.length == "chunked" else block
            if start + piece >= most:
                self._leave()
            self.wfile.write(framed)
            self.record.sent += len(block)
            if self.how.dribble and self.server.closing.wait(0.05):
                break
        if self.how.stall and most < len(body):
            self.server.closing.wait(30)
        if most < len(body) or self.how.length == "closed":
            self._hang_up()
        elif self.how.length == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def _hang_up(self) -> None:
        """Closes the connection after everything was sent: the client gets all of it, and then the end."""
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def misbehaving_server(files: Mapping[str, bytes], tls: ssl.SSLContext | None = None) -> Iterator[MisbehavingServer]:
    """Runs a server on a free port of loopback until the block ends."""
    server = MisbehavingServer(files, tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()

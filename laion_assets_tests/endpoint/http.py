"""Serves ClickHouse's HTTP interface: authentication, parsing of statements, sending of answers."""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import json
import secrets
import socket
import ssl
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from laion_assets_tests.endpoint.codec import BrokenBodyError, Compressor, accepted, body_pieces, decompressed
from laion_assets_tests.endpoint.engine import BLOCKWISE_FORMATS, Engine, EngineError, Running, Statement
from laion_assets_tests.endpoint.faults import Fault, Faults
from laion_assets_tests.endpoint.statement import READS, statement_and_rows, trailing_format

OF_THE_TRANSPORT = {
    *("query", "database", "user", "password", "session_id", "session_timeout", "session_check", "query_id"),
    *("buffer_size", "wait_end_of_query", "client_protocol_version", "compress", "decompress", "quota_key", "role"),
    *("enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms"),
}
"""URL parameters that are not settings of the statement."""

STATUS = {192: 403, 193: 403, 194: 401, 497: 403, 516: 403, 60: 404, 46: 404, 47: 404, 81: 404, 115: 404, 62: 400}
"""HTTP status by ClickHouse's error code, as in its server. Other errors have status 500."""

MOST_FIELD_BYTES = 131_072
"""http_max_field_value_size of a server: longer fields of a form are refused."""


@dataclass
class Asked:
    """One request in the log, for tests to check."""

    sql: str
    query_id: str
    user: str
    settings: dict[str, str]
    content_encoding: str
    chunked: bool
    status: int = 0
    code: int = 0
    answer_encoding: str = ""
    format: str = ""
    body_bytes: int = 0


@dataclass
class Endpoint(ThreadingHTTPServer):
    """The HTTP server. `users` maps names to passwords."""

    engine: Engine
    users: dict[str, str]
    tls: ssl.SSLContext | None = None
    address: tuple[str, int] = ("127.0.0.1", 0)
    faults: Faults = field(default_factory=Faults)
    log: list[Asked] = field(default_factory=list)
    daemon_threads = True
    request_queue_size = 64

    def __post_init__(self) -> None:
        super().__init__(self.address, Handler)
        self.stopped = threading.Event()
        if self.tls:
            # Each connection's thread does its handshake, so that a failed handshake does not stop the server.
            self.socket = self.tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    __hash__ = object.__hash__

    def handle_error(self, *_: object) -> None:
        """Prints nothing: tests close connections on purpose."""


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """As in ClickHouse's server. Otherwise an answer of two writes waits 40 ms for the client's acknowledgement."""
    server: Endpoint

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        """Answers `/ping`, `/log`, and read-only statements in the URL."""
        path = urlsplit(self.path).path
        if path == "/ping":
            self._send(200, {}, b"Ok.\n")
        elif path == "/log":
            self._send(200, {}, json.dumps([asdict(asked) for asked in self.server.log]).encode())
        else:
            self._answer(readonly=True)

    def do_POST(self) -> None:
        """Answers statements. `/faults` adds a fault, or removes all faults and the log if the body is empty."""
        if urlsplit(self.path).path != "/faults":
            self._answer(readonly=False)
            return
        body = b"".join(body_pieces(self.rfile, self.headers))
        if body:
            self.server.faults.add(Fault(**json.loads(body)))
        else:
            self.server.faults.clear()
            self.server.log.clear()
        self._send(200, {}, b"")

    def _answer(self, *, readonly: bool) -> None:
        self.pieces = body_pieces(self.rfile, self.headers)
        self.started = False
        try:
            self._authenticate()
            statement, form, rows = self._read(readonly)
            self._carry_out(statement, form, rows)
        except EngineError as error:
            self._fail(error)
        except BrokenBodyError:
            self._hang_up()

    def _authenticate(self) -> None:
        url = dict(parse_qsl(urlsplit(self.path).query))
        name, password = url.get("user", "default"), url.get("password", "")
        if (self.headers.get("Authorization") or "").startswith("Basic "):
            name, _, password = b64decode(self.headers["Authorization"][6:]).decode().partition(":")
        name = self.headers.get("X-ClickHouse-User", name)
        password = self.headers.get("X-ClickHouse-Key", password)
        self.user = name
        if not secrets.compare_digest(self.server.users.get(name, secrets.token_hex()).encode(), password.encode()):
            raise EngineError(
                f"Code: 516. DB::Exception: {name}: Authentication failed: password is incorrect, or there is no user "
                "with such name. (AUTHENTICATION_FAILED)"
            )

    def _read(self, readonly: bool) -> tuple[Statement, str, Iterator[bytes] | None]:
        """The statement, and the format and rows of an INSERT that carries its rows."""
        url = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = decompressed(self.pieces, self.headers.get("Content-Encoding") or "")
        text, form, rows = url.get("query", "").encode(), "", None
        if "multipart" in (self.headers.get("Content-Type") or ""):
            fields = self._fields(b"".join(body))
            text += fields.pop("query", "").encode()
            url |= fields
        else:
            text, form, rows = statement_and_rows(text, body)
        settings = {name: value for name, value in url.items() if name not in OF_THE_TRANSPORT}
        parameters = {name[6:]: settings.pop(name) for name in [*settings] if name.startswith("param_")}
        if readonly:
            settings.setdefault("readonly", "2")
        self.url = url
        self.asked = Asked(
            text.decode("utf-8", "replace"),
            url.get("query_id", ""),
            self.user,
            settings,
            self.headers.get("Content-Encoding") or "",
            "chunked" in (self.headers.get("Transfer-Encoding") or ""),
        )
        self.server.log.append(self.asked)
        names = (url.get(name, "") for name in ("database", "session_id", "query_id"))
        return Statement(text.decode("utf-8", "surrogateescape"), settings, parameters, *names), form, rows

    def _fields(self, body: bytes) -> dict[str, str]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        fields = {}
        for part in message.iter_parts():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            if len(content) > MOST_FIELD_BYTES:
                raise EngineError(
                    "Code: 1000. DB::Exception: HTML Form Exception: Field value too long. (POCO_EXCEPTION)"
                )
            fields[str(part.get_param("name", header="Content-Disposition"))] = content.decode("utf-8")
        return fields

    def _carry_out(self, statement: Statement, form: str, rows: Iterator[bytes] | None) -> None:
        fault = self.server.faults.next_for(statement.sql)
        if fault and fault.kind == "status":
            self._drain()
            self._send(int(fault.amount), {"Content-Type": "text/plain"}, b"unavailable")
            return
        if fault and fault.kind == "refused":
            raise EngineError(f"Code: {fault.amount:.0f}. DB::Exception: refused, as a test asked. (SOME_NAME)")
        if fault and fault.kind == "slow":
            self.server.stopped.wait(fault.amount)
        with self.server.engine.run(statement) as running:
            if rows is not None:
                running.insert(form, self._counted(rows, fault))
                self._lose_or(fault, lambda: self._send(200, self._facts(running, form), b""))
                return
            form = trailing_format(statement.sql)
            headers = self._facts(running, form)
            wait = self.url.get("wait_end_of_query") == "1"
            if form not in BLOCKWISE_FORMATS or not READS.match(statement.sql) or wait:
                whole = running.whole(form)
                self._lose_or(fault, lambda: self._send(200, self._facts(running, form), whole, compress=True))
            else:
                self._stream(running.blocks(form), headers)

    def _counted(self, rows: Iterator[bytes], fault: Fault | None) -> Iterator[bytes]:
        for piece in rows:
            self.asked.body_bytes += len(piece)
            if fault and fault.kind == "cut" and self.asked.body_bytes >= fault.amount:
                raise BrokenBodyError("as a test asked")
            yield piece

    def _lose_or(self, fault: Fault | None, answer: Any) -> None:
        if fault and fault.kind == "lost":
            self._hang_up()
        else:
            answer()

    def _facts(self, running: Running, form: str) -> dict[str, str]:
        summary = {name: str(value) for name, value in asdict(running.summary).items()}
        return {
            "X-ClickHouse-Summary": json.dumps(summary),
            "X-ClickHouse-Query-Id": self.asked.query_id,
            "X-ClickHouse-Format": form,
            "X-ClickHouse-Timezone": time.tzname[0],
            "X-ClickHouse-Server-Display-Name": "chdb",
        }

    def _stream(self, blocks: Iterator[bytes], headers: dict[str, str]) -> None:
        """Sends chunks as they come. Waits for the first block, so that an earlier error still gets its HTTP status."""
        first = next(blocks, b"")
        coder = self._coder()
        tag = secrets.token_hex(8)
        self._head(
            200, headers | self._encoding() | {"Transfer-Encoding": "chunked", "X-ClickHouse-Exception-Tag": tag}
        )
        self.started = True
        try:
            for block in chain([first], blocks):
                self._chunk(coder.add(block))
        except RuntimeError as error:
            text = str(error)[max(str(error).find("Code: "), 0) :].encode() + b"\n"
            frame = b"__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (
                tag.encode(),
                text,
                len(text),
                tag.encode(),
            )
            self._chunk(coder.add(b"\r\n" + frame))
        self._chunk(coder.end())
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _encoding(self) -> dict[str, str]:
        wanted = self.headers.get("Accept-Encoding") or ""
        encoding = accepted(wanted) if self.url.get("enable_http_compression", "1") == "1" else ""
        self.asked.answer_encoding = encoding
        return {"Content-Encoding": encoding} if encoding else {}

    def _coder(self) -> Compressor:
        self._encoding()
        return Compressor(self.asked.answer_encoding)

    def _fail(self, error: EngineError) -> None:
        self._drain()
        status = STATUS.get(error.code, 500)
        if hasattr(self, "asked"):
            self.asked.code = error.code
        body = f"{error} (version 26.9.2.1)\n".encode()
        self._send(status, {"X-ClickHouse-Exception-Code": str(error.code), "Content-Type": "text/plain"}, body)

    def _drain(self) -> None:
        """Reads the rest of the request, because the client reads the answer only after it has sent everything."""
        with contextlib.suppress(BrokenBodyError):
            for _ in self.pieces:
                pass

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, compress: bool = False) -> None:
        if compress:
            coder = self._coder()
            headers = headers | self._encoding()
            body = coder.add(body) + coder.end()
        self._head(status, headers | {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        if hasattr(self, "asked"):
            self.asked.status, self.asked.format = status, headers.get("X-ClickHouse-Format", "")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

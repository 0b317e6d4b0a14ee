"""Serves the files of a folder over HTTP with ranges, by sendfile, and counts the bytes. It is not a peer.

`/NAME` is a file. `/cut/NAME` is the same file, but the server closes each connection after `CUT_BYTES`. `/bytes` is
the number of body bytes sent since the last request for `/bytes`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CUT_BYTES = 100_000_000


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    folder = Path()
    cut_bytes = CUT_BYTES

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sent = 0
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_HEAD(self) -> None:
        """Answers with the headers of a GET."""
        self.do_GET()

    def do_GET(self) -> None:
        """Sends a file, or the count of bytes."""
        if self.path == "/bytes":
            with self.server.lock:
                body, self.server.sent = str(self.server.sent).encode(), 0
            self._head(200, len(body))
            self.wfile.write(body)
            return
        cut, name = "/cut/" in self.path, self.path.rsplit("/", 1)[-1]
        path = self.server.folder / name
        if not path.is_file():
            self._head(404, 0)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        end = min(size, int(asked[2]) + 1) if asked and asked[2] else size
        ranged = {"Content-Range": f"bytes {first}-{end - 1}/{size}"} if asked else {}
        self._head(206 if asked else 200, end - first, {**ranged, "ETag": f'"{size:x}"', "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        with path.open("rb") as file, contextlib.suppress(ConnectionError):
            self._send(file.fileno(), first, min(end, first + self.server.cut_bytes) if cut else end)
        self.close_connection = cut

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def _send(self, file: int, first: int, end: int) -> None:
        while first < end:
            count = os.sendfile(self.connection.fileno(), file, first, min(end - first, 1 << 20))
            first += count
            with self.server.lock:
                self.server.sent += count


def main() -> None:
    """`python -m benchmarks.fetch_server FOLDER [CUT_BYTES]` prints its URL and serves until its input ends."""
    server = _Server()
    server.folder = Path(sys.argv[1])
    server.cut_bytes = int(sys.argv[2]) if len(sys.argv) > 2 else CUT_BYTES
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()

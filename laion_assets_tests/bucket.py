"""Serves an S3 bucket on this machine with moto, and records the requests. Objects are kept in memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import ThreadedMotoServer

from laion_assets.shard.bucket import bucket_path

KEY = "AKIDOFTHETESTS"
SECRET = "s3cret/hunter2+x"  # noqa: S105 - not a real secret


@dataclass(frozen=True)
class Request:
    """One request: method, path with query, the access key that signed it, and the user agent."""

    method: str
    path: str
    signed_by: str
    agent: str


@dataclass
class S3Server:
    """The server and its log. `on_request` is called before each request is answered."""

    address: str
    requests: list[Request] = field(default_factory=list)
    on_request: Callable[[Request], None] | None = None

    def environment(self) -> dict[str, str]:
        """The environment variables with which clients find the server."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def wsgi(self, application: Any) -> Any:
        """Wraps the WSGI application to record its requests."""

        def watched(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            signed = str(environ.get("HTTP_AUTHORIZATION", "")).partition("Credential=")[2].partition("/")[0]
            query = environ.get("QUERY_STRING", "")
            path = environ["PATH_INFO"] + (f"?{query}" if query else "")
            request = Request(environ["REQUEST_METHOD"], path, signed, environ.get("HTTP_USER_AGENT", ""))
            self.requests.append(request)
            if self.on_request is not None:
                self.on_request(request)
            answer: Iterable[bytes] = application(environ, start)
            return answer

        return watched


class _WatchedServer(ThreadedMotoServer):
    """moto's server with a wrapped application, on a free port."""

    def __init__(self) -> None:
        super().__init__(ip_address="127.0.0.1", port=0, verbose=False)
        self.watched = S3Server("")

    def _server_entry(self) -> None:
        from werkzeug.serving import make_server

        application = self.watched.wsgi(DomainDispatcherApplication(create_backend_app))
        self._server = make_server("127.0.0.1", 0, application, True)
        self._server_ready_event.set()
        self._server.serve_forever()


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Runs the server with an empty bucket `laion`, for this process and its child processes."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = _WatchedServer()
    server.start()
    server._server_ready_event.wait(20)
    assert server._server is not None
    server.watched.address = f"http://127.0.0.1:{server._server.port}"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in server.watched.environment().items():
            environment.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        # moto keeps objects in this process, even those of an earlier server.
        httpx.post(f"{server.watched.address}/moto-api/reset").raise_for_status()
        s3fs.S3FileSystem().mkdir("laion")
        try:
            yield server.watched
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()


def keys(prefix: str) -> list[str]:
    """Names of the objects under a prefix of the bucket `laion`, without the prefix."""
    found = s3fs.S3FileSystem(use_listings_cache=False).find(f"laion/{prefix}")
    return sorted(str(path).removeprefix(f"laion/{prefix}/") for path in found)


def upload(folder: Path, url: str) -> None:
    """Copies a folder's files to `url`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket_path(url, *path.relative_to(folder).parts).write_bytes(path.read_bytes())

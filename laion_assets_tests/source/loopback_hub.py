"""A small Hugging Face hub on loopback for tests: revisions, pages of a tree, files behind a redirect.

As on the hub, a request for a large file is redirected to another origin, which must not get the token.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]
PAGE = 3
"""Number of entries on one page of a tree."""


class LoopbackHub(ThreadingHTTPServer):
    """Repositories by name, each with files by commit. `branches` names commits; `gated` and `private` need `token`."""

    daemon_threads = True

    def __init__(self, store: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.repositories: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, str] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.token = "hf_" + "s" * 34
        self.asked: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        """The hub's address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name: str, files: Files) -> str:
        """Puts these files on the branch main of a repository, and returns the commit."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()
        self.repositories.setdefault(name, {})[commit] = dict(files)
        self.branches[f"{name}/main"] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackHub

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/store/([0-9a-f]{64})", path):
            self._give(found[1])
        elif found := re.fullmatch(r"/api/datasets/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path):
            self._describe(found[1], found[2] or "revision", found[3] or "main", found[4] or "")
        elif found := re.fullmatch(r"/datasets/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        else:
            self._refuse(404, "", "Not Found")

    def _files(self, name: str, revision: str) -> tuple[str, Files] | None:
        """Returns the commit and its files; without them, or with a wrong token, sends an error and returns None."""
        hub = self.server
        allowed = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if name not in hub.repositories or (name in hub.private and not allowed):
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
            return None
        if name in hub.gated and not allowed:
            self._refuse(401, "GatedRepo", f"Access to dataset {name} is restricted.")
            return None
        commit = hub.branches.get(f"{name}/{revision}", revision)
        if commit not in hub.repositories[name]:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, hub.repositories[name][commit]

    def _describe(self, name: str, what: str, revision: str, folder: str) -> None:
        found = self._files(name, revision)
        if found is None:
            return
        commit, files = found
        if what == "revision":
            facts = {"id": name, "sha": commit, "private": False, "disabled": False, "gated": False, "tags": []}
            self._send(200, json.dumps({**facts, "downloads": 0, "likes": 0, "siblings": []}).encode())
            return
        below = [path for path in sorted(files) if path.startswith(f"{folder}/" if folder else "")]
        folders = sorted({path.rpartition("/")[0] for path in below} - {"", folder})
        entries: list[dict[str, Any]] = [{"type": "directory", "path": each, "size": 0, "oid": "0"} for each in folders]
        for path in below:
            digest = hashlib.sha256(files[path]).hexdigest()
            lfs = {"oid": digest, "size": len(files[path]), "pointerSize": 134}
            entries.append({"type": "file", "path": path, "size": len(files[path]), "oid": digest[:40], "lfs": lfs})
        first = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        more = {}
        if first + PAGE < len(entries):
            base = self.path.partition("?")[0]
            more = {"Link": f'<{self.server.url}{base}?recursive=True&cursor={first + PAGE}>; rel="next"'}
        self._send(200, json.dumps(entries[first : first + PAGE]).encode(), more)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._files(name, revision)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        digest = hashlib.sha256(files[path]).hexdigest()
        linked = {"X-Linked-Size": str(len(files[path])), "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": commit}
        where = f"{self.server.store or self.server.url}/store/{digest}?X-Amz-Signature=1"
        self._send(302, b"", {"Location": where, **linked})

    def _give(self, digest: str) -> None:
        every = (
            content
            for commits in self.server.repositories.values()
            for files in commits.values()
            for content in files.values()
        )
        content = next((each for each in every if hashlib.sha256(each).hexdigest() == digest), None)
        if content is None:
            self._refuse(404, "", "no such object")
            return
        facts = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, content, facts)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        facts["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], facts)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Sends an error in the hub's form."""
        self._send(status, b"no", {"X-Error-Code": code, "X-Error-Message": message} if code else {})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A hub whose large files are on another host: a second server with the same content."""
    with LoopbackHub() as store, LoopbackHub(store.url.replace("127.0.0.1", "localhost")) as hub:
        store.repositories = hub.repositories
        threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in (store, hub)]
        for thread in threads:
            thread.start()
        try:
            yield hub
        finally:
            for server in (store, hub):
                server.shutdown()

"""Tests of fetching a model from a hub on this machine: it is complete, verified, recorded; errors name the files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from laion_assets.clip.encoder import ClipEncoder
from laion_assets.clip.fetch import fetch_model
from laion_assets.clip.model import MODEL_FILES, ClipModel
from laion_assets.clip.model_files import read_manifest
from laion_assets.clip.sample_model import write_sample_model
from laion_assets.errors import ClipError
from laion_assets.sample.world import sample_world

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = ClipModel("ViT-B/32", 512, "vit-b-32", ("maker/text", "maker/vision"))


class Hub(ThreadingHTTPServer):
    """The part of Hugging Face's API that a download needs: a list of files with checksums, and the files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.wrong: set[str] = set()
        self.fetched: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The hub's address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        """Answers as for GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Sends a repository's description, or one of its files."""
        if described := re.match(r"/api/models/maker/(\w+)", self.path):
            half = self.server.folder / described[1]
            files = [_described(path) for path in sorted(half.iterdir())]
            self._send(json.dumps({"id": f"maker/{half.name}", "sha": COMMIT, "siblings": files}).encode(), "api")
            return
        found = re.fullmatch(rf"/maker/(\w+)/resolve/{COMMIT}/([\w.]+)", self.path)
        path = self.server.folder / found[1] / found[2] if found else None
        if path is None or not path.exists():
            self.send_error(404)
            return
        content = path.read_bytes()
        if self.command == "GET":
            self.server.fetched.append(f"{path.parent.name}/{path.name}")
        if path.name in self.server.wrong:
            content = content[:-1] + b"?"
        self._send(content, path.name)

    def _send(self, content: bytes, name: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{name}-{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


def _described(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    lfs = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return {"rfilename": path.name, "size": len(content), "blobId": digest[:40], "lfs": lfs}


class Seen:
    """Records the progress that a fetch reports."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None, str]] = []
        self.steps: list[tuple[int, int | None]] = []

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        """Records the begin of a stage."""
        self.stages.append((stage, total, unit))

    def advance(self, done: int, total: int | None = None) -> None:
        """Records the bytes that have arrived."""
        self.steps.append((done, total))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with a text and a vision repository, and one more file that is not needed."""
    write_sample_model(tmp_path / "hub", sample_world())
    (tmp_path / "hub" / "text" / "pytorch_model.bin").write_bytes(b"large")
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.shutdown()
    hub.server_close()


def test_model_is_fetched_verified_and_recorded(hub: Hub, tmp_path: Path) -> None:
    seen = Seen()
    fetch_model(MODEL, tmp_path / "model", seen, endpoint=hub.url)
    assert sorted(hub.fetched) == sorted(MODEL_FILES)
    assert ClipEncoder(tmp_path / "model", 512).encode_text("dog").shape == (512,)
    assert read_manifest(tmp_path / "model")["revision"] == f"maker/text@{COMMIT}, maker/vision@{COMMIT}"
    sizes = sum((tmp_path / "model" / name).stat().st_size for name in MODEL_FILES)
    assert sum(total or 0 for _, total, _ in seen.stages) == sizes
    assert sum(done for done, _ in seen.steps) == sizes
    assert not list((tmp_path / "model").rglob(".cache"))


def test_file_that_is_not_the_publishers_is_refused_and_removed(hub: Hub, tmp_path: Path) -> None:
    hub.wrong.add("tokenizer.json")
    with pytest.raises(ClipError, match=r"text/tokenizer\.json.*SHA-256"):
        fetch_model(MODEL, tmp_path / "model", endpoint=hub.url)
    assert not (tmp_path / "model" / "text" / "tokenizer.json").exists()
    assert not read_manifest(tmp_path / "model")
    hub.wrong.clear()
    hub.fetched.clear()
    fetch_model(MODEL, tmp_path / "model", endpoint=hub.url)
    assert "text/model.onnx" not in hub.fetched
    assert ClipEncoder(tmp_path / "model", 512).encode_text("dog").shape == (512,)


def test_hub_that_lacks_a_file_is_an_error_that_names_it(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub" / "vision" / "preprocessor_config.json").unlink()
    with pytest.raises(ClipError, match=r"vision/preprocessor_config\.json"):
        fetch_model(MODEL, tmp_path / "model", endpoint=hub.url)


def test_hub_that_cannot_be_reached_is_an_error_that_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(ClipError) as caught:
        fetch_model(MODEL, tmp_path / "model", endpoint="http://127.0.0.1:9")
    for name in (*MODEL_FILES, "LAION_CLIP_DIR", "maker/text"):
        assert name in str(caught.value)

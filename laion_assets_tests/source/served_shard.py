"""Helpers for tests of fetching: small shards to serve, a fetch of one file, and partial files of a killed run."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.errors import LaionError
from laion_assets.file_layout import FileKind
from laion_assets.source.client import SourceClient
from laion_assets.source.fetch import FetchedFile, fetch_file
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.fetch_progress import ProgressCallback, ShardTransfer
from laion_assets.source.http import HttpFile
from laion_assets.source.mirrors import Source
from laion_assets.source.partial import Origin
from laion_assets.source.places import file_url
from laion_assets.source.wanted import WantedFile
from laion_assets_tests.source.fetching import QUICK

ROWS = 300
DIMENSION = 512
IMAGE = "img_emb_0.npy"
TEXT = "text_emb_0.npy"
METADATA = "metadata_0.parquet"


def npy_bytes(rows: int = ROWS, *, seed: int = 0) -> bytes:
    """Returns an .npy file of float16 vectors."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype("<f2"))
    return file.getvalue()


def parquet_bytes(rows: int = ROWS) -> bytes:
    """Returns a Parquet file with a URL and a caption in each row; the captions do not compress well."""
    file = io.BytesIO()
    names = [np.random.default_rng(row).bytes(200).hex() for row in range(rows)]
    pq.write_table(pa.table({"url": [f"https://example.org/{name}.jpg" for name in names], "caption": names}), file)
    return file.getvalue()


def shard_files(shard: int = 0, rows: int = ROWS) -> dict[str, bytes]:
    """Returns the three files of a shard by name, and `grown`, the content of a file that changed."""
    return {
        f"img_emb_{shard}.npy": npy_bytes(rows, seed=1),
        f"text_emb_{shard}.npy": npy_bytes(rows, seed=2),
        f"metadata_{shard}.parquet": parquet_bytes(rows),
        "grown": npy_bytes(rows + 50, seed=3),
    }


FILES = shard_files()
CONTENT = FILES[IMAGE]
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def etag_of(content: bytes) -> str:
    """Returns the strong ETag that the misbehaving server sends."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def wanted_image(**known: object) -> WantedFile:
    """Returns the description of the image file of shard 0."""
    return replace(WantedFile(0, "image", IMAGE), **known)  # type: ignore[arg-type]


class OneFile:
    """Fetches one file from HTTP sources into a folder, and keeps the log."""

    def __init__(self, folder: Path, *, limits: FetchLimits = QUICK, ca_file: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.limits = limits
        self.ca_file = ca_file
        self.log: list[str] = []

    @contextmanager
    def sources(self, bases: Iterable[str], wanted: WantedFile) -> Iterator[list[Source]]:
        """The sources of the file, one for each base URL."""
        with SourceClient(self.limits, self.ca_file) as client:
            yield [HttpFile(file_url(base, "img_emb", wanted.name), wanted, client, self.limits) for base in bases]

    def fetch(
        self, *bases: str, wanted: WantedFile | None = None, progress: ProgressCallback | None = None
    ) -> FetchedFile:
        """Fetches the file from the first base URL that has it."""
        wanted = wanted or wanted_image()
        transfer = ShardTransfer("shard 0", {wanted.name: wanted.size}, progress=progress, log=self.log.append)
        with self.sources(bases, wanted) as sources:
            return fetch_file(wanted, sources, self.folder, self.limits, transfer)

    def failure(self, *bases: str, wanted: WantedFile | None = None) -> LaionError:
        """Returns the error of a failing fetch, and checks that the file did not get its final name."""
        try:
            self.fetch(*bases, wanted=wanted)
        except LaionError as error:
            assert not (self.folder / IMAGE).exists()
            return error
        raise AssertionError("the fetch did not fail")


def leave_part(folder: Path, name: str, content: bytes, origin: Origin | None) -> None:
    """Writes a partial file and its sidecar, as a killed run leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.part").write_bytes(content)
    if origin is not None:
        (folder / f"{name}.part.json").write_text(json.dumps(asdict(origin)))


def kinds(fetched: Iterable[FetchedFile]) -> dict[FileKind, FetchedFile]:
    """Returns the fetched files by their kind."""
    return {file.kind: file for file in fetched}

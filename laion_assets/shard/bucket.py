"""Whole objects of a bucket (S3 and similar stores): uploads, downloads, removes them. It knows no shard."""

from __future__ import annotations

import base64
import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from laion_assets.errors import LaionError, StoreError
from laion_assets.redact import redact_text

if TYPE_CHECKING:
    from upath import UPath

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
"""An upload of 400 MB with four parts of 16 MiB at once took 128 MB. S3 allows 10,000 parts: objects of 160 GB."""

COPY_KEY = "laion-assets-copy"
"""Metadata key of an object: a new name for each upload. It tells whether a file on this machine has the same bytes."""

NOTE_KEY = "laion-assets-note"
NOTE_BYTES = 1_500
"""Metadata key of the note that goes with an object. S3 takes 2 kB of ASCII metadata; a longer note is left out."""

FOREIGN = ("botocore", "aiobotocore", "aiohttp", "s3fs")
"""Packages whose errors are not `OSError`."""


def bucket_path(url: str, *parts: str) -> UPath:
    """An object below `s3://bucket/prefix`. Raises `StoreError` if the package for the scheme is missing."""
    with bucket_errors(url):
        from upath import UPath

        # Listings are not cached, so that objects from other hosts are seen at once.
        return UPath(url, use_listings_cache=False).joinpath(*parts)


def put(file: Path, target: UPath, *, subject: str, note: str = "") -> str:
    """Uploads a file as the object `target`, in parts; the object appears completely or not at all. Returns its name.

    The name identifies this upload. `note` goes with the object, for `note_of`. A killed upload leaves invisible parts;
    a lifecycle rule of the bucket removes them. Raises `StoreError`.
    """
    copy = uuid.uuid4().hex
    kept = base64.b64encode(note.encode()).decode()
    metadata = {COPY_KEY: copy} | ({NOTE_KEY: kept} if 0 < len(kept) <= NOTE_BYTES else {})
    with bucket_errors(subject):
        target.fs.put_file(
            str(file), target.path, chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE, Metadata=metadata
        )
    return copy


def get(source: UPath, file: Path, *, subject: str) -> None:
    """Writes the object into a file, block by block. Raises `StoreError`."""
    with bucket_errors(subject):
        source.fs.get_file(source.path, str(file), max_concurrency=1)


def remove(target: UPath, *, subject: str) -> int:
    """Removes the object if it exists; returns its bytes. Raises `StoreError`."""
    with bucket_errors(subject):
        try:
            size = int(target.fs.info(target.path)["size"])
        except FileNotFoundError:
            return 0
        target.fs.rm_file(target.path)
        return size


def exists(target: UPath, *, subject: str) -> bool:
    """Whether the object exists. Raises `StoreError` if the store does not answer."""
    with bucket_errors(subject):
        return bool(target.fs.exists(target.path))


def upload_of(target: UPath, *, subject: str) -> str | None:
    """The name of the upload that made the object: "" if another program uploaded it, None if there is no object."""
    return _metadata(target, COPY_KEY, subject)


def note_of(target: UPath, *, subject: str) -> str:
    """The note that was uploaded with the object; "" if there is none."""
    return base64.b64decode(_metadata(target, NOTE_KEY, subject) or "").decode()


def _metadata(target: UPath, key: str, subject: str) -> str | None:
    with bucket_errors(subject):
        try:
            return str(target.fs.metadata(target.path).get(key, ""))
        except FileNotFoundError:
            return None


def note_copy(file: Path, upload: str) -> None:
    """Records beside a file that it has the bytes of this upload."""
    facts = file.stat()
    _note_path(file).write_text(json.dumps([upload, facts.st_size, facts.st_mtime_ns]))


def copy_of(file: Path) -> str | None:
    """The upload whose bytes a file has, by the record beside it; None if the file was changed since, or has none."""
    try:
        upload, size, changed = json.loads(_note_path(file).read_text())
        facts = file.stat()
    except (OSError, ValueError):
        return None
    return str(upload) if upload and (size, changed) == (facts.st_size, facts.st_mtime_ns) else None


def forget_copy(file: Path) -> None:
    """Removes the record."""
    _note_path(file).unlink(missing_ok=True)


def _note_path(file: Path) -> Path:
    return file.with_name(f".{file.name}.copy")


@contextlib.contextmanager
def opened(source: UPath, *, subject: str) -> Iterator[IO[bytes]]:
    """The object, opened to read pieces of it: a Parquet footer takes two requests.

    Raises `FileNotFoundError`, and `StoreError` when the store refuses or cannot be reached.
    """
    with bucket_errors(subject, but=FileNotFoundError):
        file = source.open("rb", block_size=1 << 20)
    # pyarrow raises an OSError for a damaged file, which is not an error of the store.
    with file, bucket_errors(subject, but=OSError):
        yield file


@contextlib.contextmanager
def bucket_errors(subject: str, but: type[Exception] = LaionError) -> Iterator[None]:
    """Turns errors of the store's packages into `StoreError`; errors of the kind `but` pass unchanged."""
    try:
        yield
    except (LaionError, but):
        raise
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if not isinstance(error, (OSError, ImportError)) and package not in FOREIGN:
            raise
        raise StoreError(
            subject,
            found=f"{type(error).__name__}: {redact_text(str(error))}",
            expected="a bucket that can be read and written",
            advice="install laion_assets[s3]"
            if isinstance(error, ImportError)
            else "check LAION_STORE, and the AWS_* variables for its address and credentials",
        ) from error

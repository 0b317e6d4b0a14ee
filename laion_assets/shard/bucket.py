"""Whole objects of a bucket (S3 and its like): put there, brought to this machine, removed. It knows no shard."""

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
"""An upload of four parts of 16 MiB at once took 128 MB, of 400 MB; S3 allows 10,000 parts: objects of 160 GB."""

COPY_KEY = "laion-assets-copy"
"""Metadata of an object: a name of its own for each upload, by which a file here is known to be the same bytes."""

NOTE_KEY = "laion-assets-note"
NOTE_BYTES = 1_500
"""What else is to go with an object: S3 takes 2 kB of metadata, in ASCII. A longer note is left out."""

FOREIGN = ("botocore", "aiobotocore", "aiohttp", "s3fs")
"""Packages whose errors are no `OSError`."""


def bucket_path(url: str, *parts: str) -> UPath:
    """An object below `s3://bucket/prefix`. Raises `StoreError` without the package for it."""
    with bucket_errors(url):
        from upath import UPath

        # Without a cache of listings: what another host has put there is seen at once.
        return UPath(url, use_listings_cache=False).joinpath(*parts)


def put(file: Path, target: UPath, *, subject: str, note: str = "") -> str:
    """Makes the object `target` of a file: in parts, and there as a whole or not at all. The name of this upload.

    `note` goes with it, for `note_of`. A killed upload leaves invisible parts; a lifecycle rule of the bucket
    removes them. Raises `StoreError`.
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
    """Removes the object if it is there; its bytes. Raises `StoreError`."""
    with bucket_errors(subject):
        try:
            size = int(target.fs.info(target.path)["size"])
        except FileNotFoundError:
            return 0
        target.fs.rm_file(target.path)
        return size


def exists(target: UPath, *, subject: str) -> bool:
    """Whether the object is there. Raises `StoreError` when the store cannot say."""
    with bucket_errors(subject):
        return bool(target.fs.exists(target.path))


def upload_of(target: UPath, *, subject: str) -> str | None:
    """The name of the upload that made the object: "" where another program put it there, None where none is."""
    return _metadata(target, COPY_KEY, subject)


def note_of(target: UPath, *, subject: str) -> str:
    """The note that was put with the object; "" where there is none."""
    return base64.b64decode(_metadata(target, NOTE_KEY, subject) or "").decode()


def _metadata(target: UPath, key: str, subject: str) -> str | None:
    with bucket_errors(subject):
        try:
            return str(target.fs.metadata(target.path).get(key, ""))
        except FileNotFoundError:
            return None


def note_copy(file: Path, upload: str) -> None:
    """Notes beside a file that it holds the bytes of this upload."""
    facts = file.stat()
    _note_path(file).write_text(json.dumps([upload, facts.st_size, facts.st_mtime_ns]))


def copy_of(file: Path) -> str | None:
    """The upload whose bytes a file holds, by the note beside it; None when the file was changed since, or has none."""
    try:
        upload, size, changed = json.loads(_note_path(file).read_text())
        facts = file.stat()
    except (OSError, ValueError):
        return None
    return str(upload) if upload and (size, changed) == (facts.st_size, facts.st_mtime_ns) else None


def forget_copy(file: Path) -> None:
    """Removes the note."""
    _note_path(file).unlink(missing_ok=True)


def _note_path(file: Path) -> Path:
    return file.with_name(f".{file.name}.copy")


@contextlib.contextmanager
def opened(source: UPath, *, subject: str) -> Iterator[IO[bytes]]:
    """The object, to be read in pieces: a Parquet footer takes two requests.

    Raises `FileNotFoundError`, and `StoreError` when the store refuses or cannot be reached.
    """
    with bucket_errors(subject, but=FileNotFoundError):
        file = source.open("rb", block_size=1 << 20)
    # pyarrow says with an OSError that a file is damaged: in here that is not the store's fault.
    with file, bucket_errors(subject, but=OSError):
        yield file


@contextlib.contextmanager
def bucket_errors(subject: str, but: type[Exception] = LaionError) -> Iterator[None]:
    """Turns the errors of the store's packages into `StoreError`; those of the kind `but` pass as they are."""
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

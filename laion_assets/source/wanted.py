"""What a fetched file must be: size, magic bytes, the size in its header, SHA-256. `shard` checks rows and values."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from laion_assets.errors import SettingsError
from laion_assets.file_layout import Container, FileKind, Slice, container_of
from laion_assets.listing import LockedFile
from laion_assets.settings import Settings
from laion_assets.shard.npy import parse_header
from laion_assets.source.failures import WrongFileError
from laion_assets.source.manifest import ManifestEntry, load_manifest

MAGIC: dict[Container, bytes] = {"npy": b"\x93NUMPY", "npz": b"PK", "parquet": b"PAR1", "hdf5": b"\x89HDF"}
"""The first bytes of such a file. A zip without entries starts with PK, too; the check of its directory refuses it."""

KINDS: dict[Container, str] = {
    "npy": "an npy file",
    "npz": "an npz file",
    "parquet": "a Parquet file",
    "hdf5": "an HDF5 file",
}
"""The names of the formats in errors."""

PARQUET_LEAST_BYTES = 12
"""Magic bytes at both ends, and the four bytes of the footer's length."""

START_BYTES = 512
"""Bytes that `check_start` needs: numpy's header of such a file has 128."""

HDF5_START_BYTES = (1 << 14) + 8
"""The same for HDF5, whose magic bytes come after a block of the user's own of 0, 512, 1,024, 2,048 or more bytes."""

HALF_FLOAT_BYTES = 2
"""Bytes of the smallest float that is read."""

HASH_BLOCK_BYTES = 1 << 20
SHOWN_BYTES = 60


@dataclass(frozen=True)
class WantedFile:
    """One of a shard's files and what is known about it before the fetch; None if nothing is known.

    `size` (bytes) and `sha256` are the manifest's. `rows` are the dataset's, and are compared with an npy file's
    header. The file's bytes do not tell the rows, since writers make headers of 80, 96, 128 or 4,096 bytes and vectors
    of 2, 4 or 8 bytes a number. `expected_bytes` is an estimate, used only for progress.

    `name` is the file's name in the store, `path` its own name below its source's folder, "" if that is the same.
    `slice` says which share of the row groups the file should have. `locked` is the lock file's entry: no other file is
    accepted.
    """

    shard: int
    kind: FileKind
    name: str
    size: int | None = None
    sha256: str | None = None
    rows: int | None = None
    expected_bytes: int | None = None
    path: str = ""
    slice: Slice | None = None
    locked: LockedFile | None = None

    @property
    def subject(self) -> str:
        """The file's name in errors."""
        return f"shard {self.shard}, {self.name}"

    @property
    def remote_path(self) -> str:
        """The file's path below its source's folder."""
        return self.path or self.name

    @property
    def container(self) -> Container:
        """The kind of file, by its name."""
        return container_of(self.name, self.kind)

    @property
    def magic(self) -> bytes:
        """The first bytes of such a file."""
        return MAGIC[self.container]

    @property
    def start_bytes(self) -> int:
        """Bytes that `check_start` needs of such a file."""
        return HDF5_START_BYTES if self.container == "hdf5" else START_BYTES


def wanted_files(settings: Settings, shard: int) -> list[WantedFile]:
    """The files of a shard, with what the dataset and the manifest know about them.

    Raises `SettingsError` if the manifest cannot be read, or has fewer bytes than the dataset's rows need.
    """
    dataset = settings.dataset
    manifest = load_manifest(settings.manifest) if settings.manifest else None
    files = []
    for kind in dataset.file_kinds:
        name = dataset.file_name(kind, shard)
        share = dataset.slice_of(shard)
        # A manifest is about whole files, so it says nothing about a share of a file.
        path = dataset.remote_name(kind, shard)
        said = (manifest.entry(path) or manifest.entry(name)) if manifest is not None and share is None else None
        if settings.manifest and share is None and said is None and not settings.manifest_gaps:
            raise SettingsError(
                f"manifest {settings.manifest}",
                found=f"no line for {path}",
                expected="one for each file",
                advice="complete it, or set LAION_MANIFEST_GAPS=true to load such files unverified",
            )
        size, sha256 = said or ManifestEntry(None, None)
        locked = dataset.locked(kind, shard)
        if locked is not None and share is None:
            sha256 = sha256 or locked.sha256
        rows = dataset.known_rows(shard) if dataset.container(kind) == "npy" else None
        least = (rows or 0) * dataset.dimension * HALF_FLOAT_BYTES
        if size is not None and size < least:
            raise SettingsError(
                f"manifest {settings.manifest}, {name}",
                found=f"{size} bytes",
                expected=f"at least {least} bytes for the {rows} rows that dataset {dataset.name} says",
            )
        files.append(
            WantedFile(
                *(shard, kind, name, size, sha256),
                rows=rows,
                expected_bytes=dataset.expected_bytes(kind, shard) if size is None else size,
                path=path,
                slice=share,
                locked=locked,
            )
        )
    return files


def check_size(wanted: WantedFile, size: int, place: str) -> None:
    """Raises `WrongFileError` if the size that `place` has, or announces, cannot be that of the wanted file."""
    if wanted.size is not None and size != wanted.size:
        raise _wrong(wanted, place, f"{size} bytes", f"{wanted.size} bytes")


def check_start(wanted: WantedFile, start: bytes, place: str, total: int | None = None) -> None:
    """Raises `WrongFileError` if a file's first bytes (`start_bytes`, if it has so many) are not of its kind.

    If its `total` bytes are known, too, an npy header must fit them, provided that `start` contains the whole header.
    """
    if start.startswith(wanted.magic) or (wanted.container == "hdf5" and _hdf5_begin(start) is not None):
        if wanted.container == "npy" and total is not None and _holds_npy_header(start):
            _check_npy_size(wanted, io.BytesIO(start), total, place)
        return
    shown = start[:SHOWN_BYTES]
    page = shown.lstrip().startswith(b"<")
    found = f"an HTML or XML page that starts {shown!r}" if page else f"a file that starts {shown[:16]!r}"
    raise _wrong(wanted, place, found, f"{KINDS[wanted.container]}, which starts {wanted.magic!r}")


def check_file(wanted: WantedFile, path: Path, place: str, *, pause: Callable[[], None] | None = None) -> None:
    """Checks a whole file that came from `place`; `pause` is called now and then while it is hashed.

    Raises `WrongFileError`, and `OSError` if it cannot be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        check_size(wanted, size, place)
        check_start(wanted, file.read(wanted.start_bytes), place)
        CHECKS[wanted.container](wanted, file, size, place)
        if wanted.sha256 is not None:
            _check_sha256(wanted, file, place, pause)


def _check_parquet_end(wanted: WantedFile, file: IO[bytes], size: int, place: str) -> None:
    if size < PARQUET_LEAST_BYTES:
        raise _wrong(wanted, place, f"{size} bytes", f"a Parquet file, which has at least {PARQUET_LEAST_BYTES}")
    file.seek(size - 8)
    end = file.read(8)
    footer = int.from_bytes(end[:4], "little")
    if end[4:] != MAGIC["parquet"] or footer > size - PARQUET_LEAST_BYTES:
        raise _wrong(
            wanted, place, f"{size} bytes that end in {end!r}", f"a whole Parquet file, ending in {MAGIC['parquet']!r}"
        )


def _check_npy_size(wanted: WantedFile, file: IO[bytes], size: int, place: str) -> None:
    """Uses numpy's own header reader; data are not read, and objects (pickles) are refused."""
    file.seek(0)
    shape, _, dtype = parse_header(file, lambda found, expected: _wrong(wanted, place, found, expected))
    if dtype.hasobject:
        raise _wrong(wanted, place, "pickled Python objects", "numbers")
    promised = file.tell() + math.prod(shape) * dtype.itemsize
    if wanted.rows is not None and shape[:1] != (wanted.rows,):
        raise _wrong(wanted, place, f"shape {shape} in its header", f"{wanted.rows:,} rows, as the dataset says")
    if size != promised:
        raise _wrong(wanted, place, f"{size} bytes", f"{promised} as its header says: shape {shape} of {dtype.str}")


def _check_zip_directory(wanted: WantedFile, file: IO[bytes], size: int, place: str) -> None:
    """A zip's directory is at its end, so a truncated file has none."""
    try:
        with zipfile.ZipFile(file) as archive:
            archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _wrong(wanted, place, f"{size} bytes: {error}", "a whole npz file") from error


def _check_hdf5_size(wanted: WantedFile, file: IO[bytes], size: int, place: str) -> None:
    """The superblock has the file's end: after the base address; in versions 0 and 1 after the free space's address."""
    file.seek(0)
    begin = _hdf5_begin(file.read(HDF5_START_BYTES)) or 0
    file.seek(begin)
    start = file.read(64)
    version, width = start[8:9], start[9:10] if start[8:9] > b"\x01" else start[13:14]
    at = {b"\x00": 40, b"\x01": 44, b"\x02": 28, b"\x03": 28}.get(version)
    if at is None or width != b"\x08" or size < begin + at + 8:
        raise _wrong(wanted, place, f"{size} bytes, a superblock of version {version!r}", "a whole HDF5 file")
    promised = int.from_bytes(start[at : at + 8], "little")
    if size < promised:
        raise _wrong(wanted, place, f"{size} bytes", f"{promised} as its superblock says")


def _hdf5_begin(start: bytes) -> int | None:
    """Where the superblock is: at 0, 512 and doubles of that, as the format allows; None if it is not in `start`."""
    places = (0, *(512 << double for double in range(6)))
    return next((place for place in places if start.startswith(MAGIC["hdf5"], place)), None)


CHECKS: dict[Container, Callable[[WantedFile, IO[bytes], int, str], None]] = {
    "npy": _check_npy_size,
    "npz": _check_zip_directory,
    "parquet": _check_parquet_end,
    "hdf5": _check_hdf5_size,
}
"""The check of a whole file of each kind; each raises `WrongFileError`."""


def _holds_npy_header(start: bytes) -> bool:
    """Whether `start` has numpy's whole header: its length is after magic and version, in two bytes, later in four."""
    width = 2 if start[6:7] == b"\x01" else 4
    return len(start) >= 12 and len(start) >= 8 + width + int.from_bytes(start[8 : 8 + width], "little")


def _check_sha256(wanted: WantedFile, file: IO[bytes], place: str, pause: Callable[[], None] | None) -> None:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(HASH_BLOCK_BYTES):
        digest.update(block)
        if pause is not None:
            pause()
    if digest.hexdigest() != wanted.sha256:
        raise _wrong(
            wanted, place, f"SHA-256 {digest.hexdigest()}", f"{wanted.sha256} as the manifest or lock file says"
        )


def _wrong(wanted: WantedFile, place: str, found: str, expected: str) -> WrongFileError:
    return WrongFileError(f"{wanted.subject} from {place}", found=found, expected=expected)

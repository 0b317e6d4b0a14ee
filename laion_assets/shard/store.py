"""Where a shard's files lie, who may write them, and how long they stay. It reads none of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from laion_assets.dataset import Dataset, FileKind
from laion_assets.errors import MissingRawError, StoreError


@dataclass(frozen=True)
class ShardFiles:
    """The raw files of one shard: `text` is None for datasets without text embeddings."""

    dataset: Dataset
    shard: int
    image: Path
    text: Path | None
    metadata: Path

    def subject(self, kind: FileKind) -> str:
        """How errors name one of the files, for example `shard 3, img_emb_3.npy`."""
        return f"shard {self.shard}, {self.dataset.file_name(kind, self.shard)}"

    def paths(self) -> dict[FileKind, Path]:
        """Path of each file, by kind."""
        paths: dict[FileKind, Path] = {"image": self.image, "metadata": self.metadata}
        return paths if self.text is None else {**paths, "text": self.text}

    def missing(self) -> list[Path]:
        """Those that are not there."""
        return [path for path in self.paths().values() if not path.exists()]


@dataclass(frozen=True)
class ShardStore:
    """The store of one dataset: `raw/`, `merged/` and scratch files below `folder`."""

    folder: Path
    dataset: Dataset

    @property
    def raw_folder(self) -> Path:
        """Where the three raw files of every shard lie, under the names that their source gives them."""
        return self.folder / "raw"

    def raw_files(self, shard: int) -> ShardFiles:
        """The raw files of one shard, there or not."""
        return shard_files(self.dataset, shard, self.raw_folder)

    def merged_path(self, shard: int) -> Path:
        """`merged/merged_N.parquet`."""
        return self.folder / "merged" / f"merged_{shard}.parquet"

    def quarantine_path(self, shard: int) -> Path:
        """`merged/quarantine_N.parquet`: only there when rows were refused."""
        return self.folder / "merged" / f"quarantine_{shard}.parquet"

    def require_raw(self, shard: int) -> ShardFiles:
        """The raw files, which must be there. Raises `MissingRawError`, which says how to get them back."""
        files = self.raw_files(shard)
        missing = files.missing()
        if missing:
            gone = (
                " (removed after its merge, since LAION_KEEP_RAW is false)" if self.merged_path(shard).exists() else ""
            )
            raise MissingRawError(
                f"shard {shard}",
                found=f"no {', '.join(path.name for path in missing)} in {self.raw_folder}{gone}",
                advice=f"materialize raw_shard for partition {shard} first",
            )
        return files

    def remove_raw(self, shard: int) -> int:
        """Removes the raw files of a shard; the bytes that this freed here (a link frees none of its original's)."""
        paths = self.raw_files(shard).paths().values()
        freed = sum(remove_file(path) for path in paths)
        for path in paths:
            remove_file(origin_path(path))
        return freed


def shard_files(dataset: Dataset, shard: int, folder: Path) -> ShardFiles:
    """The files of one shard as they lie side by side in `folder`."""
    return ShardFiles(
        dataset=dataset,
        shard=shard,
        image=folder / dataset.file_name("image", shard),
        text=folder / dataset.file_name("text", shard) if dataset.has_text else None,
        metadata=folder / dataset.file_name("metadata", shard),
    )


def origin_path(path: Path) -> Path:
    """Where it is noted what a raw file came from, beside it."""
    return path.with_name(f".{path.name}.origin.json")


def remove_file(path: Path) -> int:
    """Removes a file if it is there; the bytes that this frees: none where another name of the file stays."""
    try:
        facts = path.lstat()
        path.unlink()
    except FileNotFoundError:
        return 0
    return facts.st_size if facts.st_nlink == 1 else 0


@contextlib.contextmanager
def replacing(path: Path, *, subject: str) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which takes its place, whole and synced, when the block ends well.

    One writer at a time: a second process waits for the first. A temporary that a killed process left is removed,
    and so is ours when the block fails. Raises `StoreError` when the folder cannot be written, or is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".{path.name}.lock")):
            remove_file(temporary)
            try:
                yield temporary
                _publish(temporary, path)
            finally:
                remove_file(temporary)
    except OSError as error:
        raise StoreError(
            subject,
            found=f"{error.strerror or error} while {path} was written",
            advice="free space, or point LAION_DATA_DIR to a folder that can be written",
        ) from error


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Holds an advisory lock, which the kernel frees with its process, and leaves no lock file behind."""
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The holder before us removed the file: what we locked is no longer what others would open.
            if _is_same_file(descriptor, lock):
                yield
                lock.unlink(missing_ok=True)
                return
        except BaseException:
            if _is_same_file(descriptor, lock):
                lock.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _publish(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, so that a name survives a loss of power. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

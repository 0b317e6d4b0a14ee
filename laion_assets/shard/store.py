"""Where a shard's files lie, who may write them, and how long they stay. It reads none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from laion_assets.dataset import Dataset
from laion_assets.errors import MissingRawError, StoreError
from laion_assets.file_layout import FileKind, Part
from laion_assets.settings import Settings
from laion_assets.shard import bucket
from laion_assets.shard.files import Location, remove_file, replacing
from laion_assets.shard.lock import file_lock
from laion_assets.shard.store_errors import store_errors

if TYPE_CHECKING:
    from upath import UPath


@dataclass(frozen=True)
class ShardFiles:
    """The raw files of one shard, side by side in `folder`."""

    dataset: Dataset
    shard: int
    folder: Path

    def path(self, part: Part) -> Path:
        """The file that holds a part."""
        return self.folder / self.dataset.file_name(self.dataset.file_of(part), self.shard)

    @property
    def image(self) -> Path:
        """The file that holds the vectors of images."""
        return self.path("image")

    @property
    def text(self) -> Path | None:
        """The file that holds the vectors of texts; None for datasets without them."""
        return self.path("text") if self.dataset.has_text else None

    @property
    def metadata(self) -> Path:
        """The Parquet file of metadata, where the dataset has any (`has_metadata`)."""
        return self.path("metadata")

    def subject(self, part: Part) -> str:
        """How errors name the file of a part, for example `shard 3, img_emb_3.npy`."""
        return f"shard {self.shard}, {self.path(part).name}"

    def paths(self) -> dict[FileKind, Path]:
        """Path of each file, by kind."""
        return {kind: self.path(kind) for kind in self.dataset.file_kinds}

    def missing(self) -> list[Path]:
        """Those that are not there."""
        return [path for path in self.paths().values() if not path.exists()]


@dataclass(frozen=True)
class ShardStore:
    """The store of one dataset: `raw/` and `merged/` below `folder`, or below `url` in a bucket.

    With a bucket, raw files are written and read in `folder` and merged ones are written there, so that any host can
    do any step: a file is put into the bucket whole, and what a step needs and has no copy of is brought from it.
    """

    folder: Path
    dataset: Dataset
    url: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> ShardStore:
        """The store that the settings name."""
        return cls(settings.data_dir, settings.dataset, settings.store)

    @property
    def raw_folder(self) -> Path:
        """Where the raw files of every shard lie on this machine, under the names that their source gives."""
        return self.folder / "raw"

    def raw_files(self, shard: int) -> ShardFiles:
        """The raw files of one shard on this machine, there or not."""
        return ShardFiles(self.dataset, shard, self.raw_folder)

    def merged_path(self, shard: int) -> Location:
        """`merged/merged_N.parquet`."""
        return self._location("merged", f"merged_{shard}.parquet")

    def quarantine_path(self, shard: int) -> Location:
        """`merged/quarantine_N.parquet`: only there when rows were refused."""
        return self._location("merged", f"quarantine_{shard}.parquet")

    def require_raw(self, shard: int) -> ShardFiles:
        """The raw files, on this machine. Raises `MissingRawError`, which says how to get them back, `StoreError`."""
        self.bring_raw(shard)
        files = self.raw_files(shard)
        missing = files.missing()
        if missing:
            merged = file_exists(self.merged_path(shard))
            gone = " (removed after its merge, since LAION_KEEP_RAW is false)" if merged else ""
            raise MissingRawError(
                f"shard {shard}",
                found=f"no {', '.join(path.name for path in missing)} in {self._location('raw')}{gone}",
                advice=f"materialize raw_shard for partition {shard} first",
            )
        return files

    def bring_raw(self, shard: int) -> None:
        """Brings those raw files that are in the bucket to this machine, unless their copies are here.

        Raises `StoreError`. Nothing is to do where the store is a folder.
        """
        for file, source in self._raw_objects(shard):
            subject = f"shard {shard}, {file.name}"
            upload = bucket.upload_of(source, subject=subject)
            if upload is None or upload == bucket.copy_of(file):
                continue
            # What this machine's file came from says nothing of the object's; the note comes with the object.
            remove_file(origin_path(file))
            with replacing(file, subject=subject) as temporary:
                bucket.get(source, temporary, subject=subject)
            origin = bucket.note_of(source, subject=subject)
            if bucket.upload_of(source, subject=subject) != upload:
                remove_file(file)
                raise StoreError(subject, found="another file in its place while it was copied", advice="try it again")
            with store_errors(subject):
                if origin:
                    origin_path(file).write_text(origin, encoding="utf-8")
                bucket.note_copy(file, upload)

    def publish_raw(self, shard: int) -> None:
        """Puts those raw files into the bucket that are not copies of its own, with what they came from.

        Raises `StoreError`.
        """
        for file, target in self._raw_objects(shard):
            subject = f"shard {shard}, {file.name}"
            if bucket.copy_of(file) != (bucket.upload_of(target, subject=subject) or ""):
                origin = origin_path(file).read_text(encoding="utf-8") if origin_path(file).exists() else ""
                bucket.note_copy(file, bucket.put(file, target, subject=subject, note=origin))

    def drop_copies(self, shard: int) -> None:
        """Removes this machine's copies of raw files that are in the bucket, when no step needs them any more."""
        for file, _ in self._raw_objects(shard):
            _remove_raw_file(file)

    def remove_raw(self, shard: int) -> int:
        """Removes the raw files of a shard; the bytes that this freed (a link frees none of its original's)."""
        freed = sum(remove_file(target) for _, target in self._raw_objects(shard))
        for path in self.raw_files(shard).paths().values():
            size = _remove_raw_file(path)
            freed += size if self.url is None else 0
        return freed

    @contextlib.contextmanager
    def at_work_on(self, shard: int, step: str, *, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """One run at a time does `step` with a shard of the store on this machine; a second waits, and says so once.

        Raises `StoreError` when the folder refuses, or the other does not come to its end.
        """
        with file_lock(self.raw_folder / f".{shard}.{step}.lock", f"shard {shard}, {step}", say=say):
            yield

    @contextlib.contextmanager
    def replacing(self, location: Location, *, subject: str) -> Iterator[Path]:
        """Gives a path to write a merged file to, which takes its place when the block ends well; see `replacing`."""
        if isinstance(location, Path):
            with replacing(location, subject=subject) as temporary:
                yield temporary
            return

        def publish(temporary: Path) -> None:
            bucket.put(temporary, location, subject=subject)

        with replacing(self.folder / "merged" / location.name, subject=subject, publish=publish) as temporary:
            yield temporary

    def _location(self, *parts: str) -> Location:
        return self.folder.joinpath(*parts) if self.url is None else bucket.bucket_path(self.url, *parts)

    def _raw_objects(self, shard: int) -> list[tuple[Path, UPath]]:
        """Each raw file on this machine with its object; none where the store is a folder."""
        if self.url is None:
            return []
        paths = self.raw_files(shard).paths().values()
        return [(path, bucket.bucket_path(self.url, "raw", path.name)) for path in paths]


def _remove_raw_file(path: Path) -> int:
    """Removes it with the notes beside it, which mean nothing without it; the bytes that this freed."""
    freed = remove_file(path)
    bucket.forget_copy(path)
    remove_file(origin_path(path))
    remove_file(new_origin_path(path))
    return freed


def origin_path(path: Path) -> Path:
    """Where it is noted what a raw file came from, beside it."""
    return path.with_name(f".{path.name}.origin.json")


def new_origin_path(path: Path) -> Path:
    """Under which name that note is written before it takes its place."""
    return path.with_name(f".{path.name}.origin.json.new")


def file_exists(location: Location) -> bool:
    """Whether a file of the store is there. Raises `StoreError` when a bucket cannot say."""
    return location.exists() if isinstance(location, Path) else bucket.exists(location, subject=str(location))


@contextlib.contextmanager
def readable(location: Location, *, subject: str) -> Iterator[Path | IO[bytes]]:
    """What pyarrow reads a file of the store from: its path, or an open object. Raises `StoreError`, `OSError`."""
    if isinstance(location, Path):
        yield location
    else:
        with bucket.opened(location, subject=subject) as file:
            yield file

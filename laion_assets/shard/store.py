"""Where a shard's files are, who may write them, and how long they are kept. It reads none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from laion_assets.dataset import Dataset
from laion_assets.errors import MissingRawError
from laion_assets.file_layout import FileKind, Part
from laion_assets.settings import Settings
from laion_assets.shard.files import Location
from laion_assets.shard.lock import file_lock
from laion_assets.shard.places import BucketPlace, FolderPlace, Place, file_exists


@dataclass(frozen=True)
class ShardFiles:
    """The raw files of one shard, all in `folder`."""

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
        """The Parquet file of metadata, if the dataset has metadata (`has_metadata`)."""
        return self.path("metadata")

    def subject(self, part: Part) -> str:
        """The name of a part's file in errors, for example `shard 3, img_emb_3.npy`."""
        return f"shard {self.shard}, {self.path(part).name}"

    def paths(self) -> dict[FileKind, Path]:
        """Path of each file, by kind."""
        return {kind: self.path(kind) for kind in self.dataset.file_kinds}

    def missing(self) -> list[Path]:
        """The files that do not exist."""
        return [path for path in self.paths().values() if not path.exists()]


@dataclass(frozen=True)
class ShardStore:
    """The store of one dataset: `raw/` and `merged/` below `folder`, or below `url` in a bucket.

    With a bucket, raw files are written and read in `folder`, and merged files are written there. So any host can do
    any step: finished files are uploaded whole, and a step downloads what it needs and does not have.
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
        """The folder with the raw files of all shards on this machine, under the names that their source gives."""
        return self.folder / "raw"

    def raw_files(self, shard: int) -> ShardFiles:
        """The raw files of one shard on this machine, whether they exist or not."""
        return ShardFiles(self.dataset, shard, self.raw_folder)

    def merged_path(self, shard: int) -> Location:
        """`merged/merged_N.parquet`."""
        return self._place.location("merged", f"merged_{shard}.parquet")

    def quarantine_path(self, shard: int) -> Location:
        """`merged/quarantine_N.parquet`: it exists only if rows were refused."""
        return self._place.location("merged", f"quarantine_{shard}.parquet")

    def require_raw(self, shard: int) -> ShardFiles:
        """The raw files, on this machine. Raises `MissingRawError`, which says how to get them again, `StoreError`."""
        self.bring_raw(shard)
        files = self.raw_files(shard)
        missing = files.missing()
        if missing:
            merged = file_exists(self.merged_path(shard))
            gone = " (a merge removes them, unless LAION_KEEP_RAW is true)" if merged else ""
            raise MissingRawError(
                f"shard {shard}",
                found=f"no {', '.join(path.name for path in missing)} in {self._place.location('raw')}{gone}",
                advice=f"materialize raw_shard for partition {shard} first",
            )
        return files

    def bring_raw(self, shard: int) -> None:
        """Downloads the raw files that are in the bucket to this machine, unless it has copies of them.

        Raises `StoreError`. Does nothing if the store is a folder.
        """
        for subject, file in self._named_raw_files(shard):
            self._place.bring(file, subject=subject)

    def publish_raw(self, shard: int) -> None:
        """Uploads raw files that are not copies of the bucket's own, with the note of their origin.

        Raises `StoreError`. Does nothing if the store is a folder.
        """
        for subject, file in self._named_raw_files(shard):
            self._place.publish(file, subject=subject)

    def drop_copies(self, shard: int) -> None:
        """Removes this machine's copies of raw files that are in the bucket, once no step needs them any more."""
        for _, file in self._named_raw_files(shard):
            self._place.drop_copy(file)

    def remove_raw(self, shard: int) -> int:
        """Removes the raw files of a shard; returns the bytes that this freed (0 for a link)."""
        return sum(self._place.remove(file) for _, file in self._named_raw_files(shard))

    @contextlib.contextmanager
    def at_work_on(self, shard: int, step: str, *, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """One run at a time does `step` with a shard of the store on this machine; a second reports once that it waits.

        Raises `StoreError` if the folder cannot be written, or if the other run does not end.
        """
        with file_lock(self.raw_folder / f".{shard}.{step}.lock", f"shard {shard}, {step}", say=say):
            yield

    def replacing(self, location: Location, *, subject: str) -> AbstractContextManager[Path]:
        """Yields a path to write a merged file to, which replaces the old file if the block succeeds; see
        `files.replacing`."""
        return self._place.replacing(location, subject=subject)

    @property
    def _place(self) -> Place:
        return FolderPlace(self.folder) if self.url is None else BucketPlace(self.folder, self.url)

    def _named_raw_files(self, shard: int) -> list[tuple[str, Path]]:
        """Each raw file on this machine, whether it exists or not, with its name in errors."""
        return [(f"shard {shard}, {path.name}", path) for path in self.raw_files(shard).paths().values()]

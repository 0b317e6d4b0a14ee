"""The sample shards of benchmarks, made once and linked into the folders of peers. It measures nothing."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from laion_assets.dataset import load_dataset
from laion_assets.sample.shards import write_sample_shard
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore

SHARD = 0
"""The number of the shard that every benchmark uses."""


@dataclass(frozen=True)
class SampleShard:
    """The raw files of one sample shard."""

    rows: int
    image: Path
    text: Path
    metadata: Path

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The three files."""
        return self.image, self.text, self.metadata

    @property
    def raw_bytes(self) -> int:
        """Bytes of the three files."""
        return sum(path.stat().st_size for path in self.paths)

    def link_into(self, folder: Path) -> None:
        """Links the three files into a folder. They are neither copied nor moved."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.paths:
            os.link(path, folder / path.name)


def sample_shard(scratch: Path, rows: int) -> SampleShard:
    """A sample shard of `rows` rows. It is made if it is missing. Its files appear complete or not at all."""
    folder = scratch / f"shard_of_{rows}"
    names = ("img_emb", "text_emb", "metadata")
    image, text, metadata = (
        folder / name / f"{name}_{SHARD}.{'parquet' if name == 'metadata' else 'npy'}" for name in names
    )
    if not (image.exists() and text.exists() and metadata.exists()):
        sys.stderr.write(f"  making a sample shard of {rows:,} rows\n")
        write_sample_shard(folder, SHARD, rows)
    return SampleShard(rows, image, text, metadata)


def merged_file(scratch: Path, rows: int) -> Path:
    """Our merged file of the sample shard of `rows` rows. It is made again each time, since the code that writes it may
    have changed."""
    store = ShardStore(scratch / f"merged_of_{rows}", load_dataset("sample"))
    shutil.rmtree(store.folder, ignore_errors=True)
    sample_shard(scratch, rows).link_into(store.raw_folder)
    return Path(str(merge_shard(store, SHARD, max_bad_fraction=0.001).path))

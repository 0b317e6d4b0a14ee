"""The fixtures of clip's tests: one sample table with indexes, encoders, functions and pictures for all modules."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from laion_assets.clip.encoder import ClipEncoder
from laion_assets.clip.ready import open_encoder
from laion_assets.clip.udf import install_embedded
from laion_assets.sample.shards import write_sample_shard
from laion_assets.sample.world import COLOURS
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition

ROWS = 10_000
"""With so many rows, each word is in at least 100 captions, and both indexes are built in 3 s."""


def sample_settings(folder: Path, **more: object) -> Settings:
    """Returns settings of a sample dataset whose store is `folder`."""
    return load_settings(**{"dataset_name": "sample", "data_dir": folder, "image_root": folder / "pictures", **more})


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with everything that a search needs."""
    folder = tmp_path_factory.mktemp("clip")
    settings = sample_settings(folder)
    store = ShardStore(settings.data_dir, settings.dataset)
    store.raw_folder.mkdir()
    for path in write_sample_shard(folder / "sample", 0, ROWS):
        shutil.move(path, store.raw_folder / path.name)
    merged = merge_shard(store, 0, max_bad_fraction=0.001)
    _paint(folder / "pictures")
    install_embedded(settings)
    with connect(settings) as db:
        load_partition(db, merged)
        _build_indexes(db)
    return settings


@pytest.fixture(scope="module")
def db(settings: Settings) -> Iterator[Database]:
    """A connection to the table, open for one module because a process has only one embedded engine at a time."""
    with connect(settings) as db:
        yield db


@pytest.fixture(scope="session")
def encoder(settings: Settings) -> ClipEncoder:
    """The sample's encoders."""
    return open_encoder(settings)


def _paint(folder: Path) -> None:
    folder.mkdir()
    for word, colour in COLOURS.items():
        Image.new("RGB", (64, 48), colour).save(folder / f"{word}.png")


def _build_indexes(db: Database) -> None:
    for by in ("image", "text"):
        db.command(
            f"ALTER TABLE {db.table} ADD INDEX {by}_index {by}_embedding "
            "TYPE vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 16, 64)"
        )
        db.command(f"ALTER TABLE {db.table} MATERIALIZE INDEX {by}_index", settings={"mutations_sync": 1})

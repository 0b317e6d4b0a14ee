"""Makes the CLIP model of the settings ready: built, fetched, or put into its folder by the user."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from laion_assets.clip.model import SAMPLE, ClipModel, clip_model, model_folder
from laion_assets.clip.model_files import missing_files, read_manifest, require_files, write_manifest
from laion_assets.progress import Progress
from laion_assets.settings import Settings
from laion_assets.shard.lock import file_lock
from laion_assets.shard.store_errors import store_errors

if TYPE_CHECKING:
    from laion_assets.clip.encoder import ClipEncoder

SAMPLE_REVISION = "seed 0, graphs 1"
"""To be raised with every change of the sample world or its graphs: a store with older ones makes them again."""


def ready_model(settings: Settings, *, fetch: bool = False, progress: Progress | None = None) -> Path:
    """The model's folder with all its files in it.

    The sample's model is built at first use (0.3 s). A real model is fetched only if `fetch` is true and the folder is
    the store's: nothing is written to LAION_CLIP_DIR. Raises `ClipError`, which names the missing files.
    """
    model, folder = clip_model(settings), model_folder(settings)
    if model.name == SAMPLE and settings.clip_dir is None:
        _build_sample(settings, model, folder)
    elif fetch and settings.clip_dir is None and missing_files(folder):
        _fetch(model, folder, progress)
    require_files(model, folder)
    return folder


def open_encoder(settings: Settings, *, threads: int | None = None) -> ClipEncoder:
    """The encoder of the settings' dataset; its halves are loaded at first use. Raises `ClipError`."""
    # Imported late: the encoder needs Pillow, and definitions need neither.
    from laion_assets.clip.encoder import ClipEncoder

    return ClipEncoder(ready_model(settings), settings.dataset.dimension, threads=threads)


def _build_sample(settings: Settings, model: ClipModel, folder: Path) -> None:
    dimension = settings.dataset.dimension
    revision = f"{SAMPLE_REVISION}, {dimension} dimensions"
    if _is_built(folder, revision):
        return
    # Imported late: building needs pyarrow for the world and onnx for the graphs; a model that is built needs neither.
    from laion_assets.clip.sample_model import write_sample_model
    from laion_assets.sample.world import sample_world

    subject = "the sample's CLIP model"
    with store_errors(subject), file_lock(folder.with_name(f".{folder.name}.lock"), subject):
        if _is_built(folder, revision):
            return
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            write_sample_model(made, sample_world(dimension=dimension))
            write_manifest(made, model, revision)
            _take_place(made, folder, Path(scratch) / "old")


def _is_built(folder: Path, revision: str) -> bool:
    return read_manifest(folder).get("revision") == revision and not missing_files(folder)


def _fetch(model: ClipModel, folder: Path, progress: Progress | None) -> None:
    from laion_assets.clip.fetch import fetch_model

    # The name is not random, so that a second try finds what the first try fetched.
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    subject = f"CLIP model {model.name}"
    with store_errors(subject), file_lock(folder.with_name(f".{folder.name}.lock"), subject):
        if missing_files(folder):
            partial.mkdir(exist_ok=True)
            fetch_model(model, partial, progress)
            shutil.rmtree(old, ignore_errors=True)
            _take_place(partial, folder, old)
            shutil.rmtree(old, ignore_errors=True)


def _take_place(made: Path, folder: Path, old: Path) -> None:
    """Renames a finished folder to its name; the folder that had this name is renamed to `old`."""
    if folder.exists():
        folder.rename(old)
    made.rename(folder)

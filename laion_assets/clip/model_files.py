"""The files of a CLIP model in a folder: which are missing, and what is recorded about them. Loads no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from laion_assets.clip.model import MODEL_FILES, MORE_FILES, ClipModel
from laion_assets.errors import ClipError

MANIFEST = "clip.json"
"""Written last, when all files are there: model and revision, and the size and SHA-256 of each file."""


@dataclass(frozen=True)
class FileFact:
    """One file of a model: its name below the folder, bytes, and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


def missing_files(folder: Path) -> list[str]:
    """The names of `MODEL_FILES` that are not in the folder."""
    return [name for name in MODEL_FILES if not (folder / name).is_file()]


def require_files(model: ClipModel, folder: Path) -> None:
    """Raises `ClipError`, which says what to put where, if the folder lacks any of the model's files."""
    missing = missing_files(folder)
    if not missing:
        return
    if model.repositories:
        text, vision = model.repositories
        advice = (
            f"materialize clip_encoders, which fetches them; without a network copy the files of "
            f"https://huggingface.co/{text} to {folder / 'text'} and of https://huggingface.co/{vision} to "
            f"{folder / 'vision'}, or name a folder that has text/ and vision/ in LAION_CLIP_DIR"
        )
    else:
        advice = (
            f"export {model.name}'s text and vision encoders with their projections to ONNX ({model.dimension} "
            f"dimensions) and put {', '.join(MODEL_FILES)} into {folder}, or name their folder in LAION_CLIP_DIR"
        )
    raise ClipError(f"CLIP model {model.name}", found=f"no {', '.join(missing)} in {folder}", advice=advice)


def file_facts(folder: Path) -> list[FileFact]:
    """Size and SHA-256 of every file of the model that is in the folder."""
    return [file_fact(folder, name) for name in (*MODEL_FILES, *MORE_FILES) if (folder / name).is_file()]


def file_fact(folder: Path, name: str) -> FileFact:
    """Size and SHA-256 of one file, read in blocks of 1 MiB."""
    digest, size = hashlib.sha256(), 0
    with (folder / name).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            size += len(block)
    return FileFact(name, size, digest.hexdigest())


def write_manifest(folder: Path, model: ClipModel, revision: str) -> None:
    """Records what the folder holds, as `clip.json` in the folder."""
    facts = {fact.name: {"bytes": fact.bytes, "sha256": fact.sha256} for fact in file_facts(folder)}
    content = {"model": model.name, "dimension": model.dimension, "revision": revision, "files": facts}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Mapping[str, object]:
    """The content of `clip.json`; empty if there is no such file, as in a folder that a user filled."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

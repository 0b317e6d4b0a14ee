"""Which files a CLIP model consists of, which models are known, what is recorded about them. It loads none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from laion_assets.errors import ClipError

TEXT_FILES = ("text/model.onnx", "text/tokenizer.json", "text/tokenizer_config.json")
VISION_FILES = ("vision/model.onnx", "vision/preprocessor_config.json")
MODEL_FILES = TEXT_FILES + VISION_FILES
"""What must be in a model's folder, in the formats of Hugging Face's ONNX exports; the first output is taken."""

MORE_FILES = ("text/config.json", "text/special_tokens_map.json", "vision/config.json")
"""Files of the same exports that are read where they are there."""

MANIFEST = "clip.json"
"""Written last, when all files are there: model, revision, and size and SHA-256 of each."""

SAMPLE = "sample"


@dataclass(frozen=True)
class ClipModel:
    """A pair of encoders under the name that datasets give it; `repositories` are its text and its vision export.

    `repositories` is None where no public pair in this layout is known: then the user provides the files.
    """

    name: str
    dimension: int
    folder: str
    repositories: tuple[str, str] | None = None


KNOWN_MODELS = {
    model.name: model
    for model in (
        ClipModel("ViT-B/32", 512, "vit-b-32", ("Qdrant/clip-ViT-B-32-text", "Qdrant/clip-ViT-B-32-vision")),
        ClipModel("ViT-L/14", 768, "vit-l-14"),
        ClipModel(SAMPLE, 512, SAMPLE),
    )
}
"""OpenAI's models behind LAION's datasets, and the tiny pair of the sample."""


@dataclass(frozen=True)
class FileFact:
    """One file of a model: its name below the folder, bytes, and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


def known_model(name: str | None, dataset: str) -> ClipModel:
    """The model that a dataset names. Raises `ClipError` where it names none, or one that is not known."""
    model = KNOWN_MODELS.get(name or "")
    if model is None:
        raise ClipError(
            f"dataset {dataset}",
            found=f"CLIP model {name!r}" if name else "no CLIP model",
            expected=f"clip_model in its description to be one of {', '.join(KNOWN_MODELS)}",
            advice="for any other model export its text and vision encoders to ONNX and name their folder in "
            f"LAION_CLIP_DIR: {', '.join(MODEL_FILES)}",
        )
    return model


def missing_files(folder: Path) -> list[str]:
    """The names of those files of `MODEL_FILES` that are not in the folder."""
    return [name for name in MODEL_FILES if not (folder / name).is_file()]


def require_files(model: ClipModel, folder: Path) -> None:
    """Raises `ClipError`, which says what to put where, unless the folder has all of the model's files."""
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
    """Records what the folder holds, as `clip.json` in it."""
    facts = {fact.name: {"bytes": fact.bytes, "sha256": fact.sha256} for fact in file_facts(folder)}
    content = {"model": model.name, "dimension": model.dimension, "revision": revision, "files": facts}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Mapping[str, object]:
    """What `clip.json` records; nothing where there is none, as in a folder that a user filled."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

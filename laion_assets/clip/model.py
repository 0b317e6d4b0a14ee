"""Which CLIP model a dataset needs, which files it consists of, and in which folder they belong. Reads no file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laion_assets.errors import ClipError
from laion_assets.settings import Settings

TEXT_FILES = ("text/model.onnx", "text/tokenizer.json", "text/tokenizer_config.json")
VISION_FILES = ("vision/model.onnx", "vision/preprocessor_config.json")
MODEL_FILES = TEXT_FILES + VISION_FILES
"""Files that a model's folder must have, in the formats of Hugging Face's ONNX exports; the first output is used."""

MORE_FILES = ("text/config.json", "text/special_tokens_map.json", "vision/config.json")
"""Files of the same exports that are used if they are there."""

SAMPLE = "sample"


@dataclass(frozen=True)
class ClipModel:
    """A pair of encoders under the name that datasets use; `repositories` are those of its text and vision exports.

    `repositories` is None if no public pair in this layout is known. Then the user must provide the files.
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


def _known_model(name: str | None, dataset: str) -> ClipModel:
    """The model that a dataset names. Raises `ClipError` if the dataset names none, or an unknown one."""
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


def clip_model(settings: Settings) -> ClipModel:
    """The model that the dataset names, or any model that the user has put into LAION_CLIP_DIR. The user's model may
    have any name. It is expected to have the table's dimension, and the encoder checks each vector.

    Raises `ClipError`, without LAION_CLIP_DIR, for a model that is unknown or does not have the table's dimension.
    """
    dataset = settings.dataset
    if settings.clip_dir is not None:
        known = KNOWN_MODELS.get(dataset.clip_model or "")
        if known is not None and known.dimension == dataset.dimension:
            return known
        name = dataset.clip_model or f"the model in {settings.clip_dir}"
        return ClipModel(name, dataset.dimension, settings.clip_dir.name)
    model = _known_model(dataset.clip_model, dataset.name)
    if model.name != SAMPLE and model.dimension != dataset.dimension:
        raise ClipError(
            f"dataset {dataset.name}",
            found=f"{dataset.dimension} dimensions, and CLIP model {model.name} with {model.dimension}",
            expected="a model of the table's dimension",
            advice="correct dimension or clip_model in the dataset's description",
        )
    return model


def model_folder(settings: Settings) -> Path:
    """The folder with the model's `text/` and `vision/`: LAION_CLIP_DIR, else the model's own folder in the store."""
    return settings.clip_dir or settings.data_dir / "clip" / clip_model(settings).folder

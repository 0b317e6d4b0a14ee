"""`clip_encoders`: the dataset's CLIP model in the store, ClickHouse functions that call it, and their check."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import numpy as np

from laion_assets.assets.location import CodeLocation, Metadata, asset, asset_check, check_failed, failing_clearly
from laion_assets.clip.model import clip_model
from laion_assets.clip.model_files import FileFact, file_facts, read_manifest
from laion_assets.clip.ready import open_encoder, ready_model
from laion_assets.clip.udf import InstalledFunctions, install_embedded
from laion_assets.errors import LaionError
from laion_assets.health.versions import digest


def clip_encoders_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset. It needs no shard, so it can be materialized at any time before the first search."""

    @asset(
        location,
        "clip_encoders",
        group="search",
        kinds={"onnx"},
        description="The CLIP encoders of texts and images that the dataset was made with, in the store or in "
        "LAION_CLIP_DIR. They are fetched once, with revision and checksums. Those of the sample are built. The "
        "embedded ClickHouse gets the functions encode_text and encode_image. For a server, use the command "
        "laion-assets udf install.",
    )
    def clip_encoders(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with failing_clearly():
            folder = ready_model(location.settings, fetch=True, progress=location.progress(context))
            installed = install_embedded(location.settings)
            model = clip_model(location.settings)
            facts = file_facts(folder)
        metadata = _metadata(model.name, folder, facts, installed)
        return dg.MaterializeResult(
            metadata={**metadata, "dimension": location.settings.dataset.dimension},
            data_version=dg.DataVersion(digest([(fact.name, fact.sha256) for fact in facts])),
        )

    return clip_encoders


def clip_encoders_checks(location: CodeLocation) -> Sequence[dg.AssetChecksDefinition]:
    """The check that searches can use the encoders."""

    @asset_check(
        location,
        "clip_encoders",
        "encoders_fit_table",
        description="A text and a picture encode to vectors of the table's dimension and of length 1. The "
        "command laion-assets clip check compares with stored vectors, and so shows whether the model is the one that "
        "made the dataset.",
    )
    def encoders_fit_table() -> dg.AssetCheckResult:
        from PIL import Image

        try:
            encoder = open_encoder(location.settings)
            vectors = {
                "text": encoder.encode_text("a photo of a cat"),
                "image": encoder.encode_image(Image.new("RGB", (64, 48), "white")),
            }
        except LaionError as error:
            return check_failed(error)
        lengths = {kind: float(np.linalg.norm(vector)) for kind, vector in vectors.items()}
        return dg.AssetCheckResult(
            passed=all(abs(length - 1) < 1e-4 for length in lengths.values()),
            metadata={
                "dimension": len(vectors["text"]),
                **{f"{kind}_vector_length": length for kind, length in lengths.items()},
            },
        )

    return [encoders_fit_table]


def _metadata(model: str, folder: Path, files: list[FileFact], installed: InstalledFunctions) -> Metadata:
    table = "\n".join(f"| {fact.name} | {fact.bytes:,} | `{fact.sha256}` |" for fact in files)
    return {
        "model": model,
        "revision": str(read_manifest(folder).get("revision", "not recorded: the user's own files")),
        "folder": dg.MetadataValue.path(str(folder)),
        "bytes": sum(fact.bytes for fact in files),
        "files": dg.MetadataValue.md(f"| file | bytes | SHA-256 |\n|---|---:|---|\n{table}"),
        "functions": ", ".join(installed.names),
        "scripts": dg.MetadataValue.path(str(installed.scripts[0].parent)),
    }

"""Fetches a CLIP model's two exports from Hugging Face, resumed and verified. Callers decide whether to fetch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_assets.clip.model import MODEL_FILES, MORE_FILES, ClipModel
from laion_assets.clip.model_files import file_fact, require_files, write_manifest
from laion_assets.errors import ClipError, first_line
from laion_assets.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling


def fetch_model(model: ClipModel, folder: Path, progress: Progress | None = None, endpoint: str | None = None) -> None:
    """Puts the newest revision of both exports into `folder`, each file compared with the publisher's size and SHA-256.

    A second call resumes what an earlier one left. The revisions (commits) are recorded in `clip.json`. `endpoint` is a
    hub other than https://huggingface.co (the variable HF_ENDPOINT works, too). Raises `ClipError`, which says which
    files to put where, when the model has no public export or the hub cannot be reached.
    """
    if model.repositories is None:
        require_files(model, folder)
        return
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=endpoint)
    try:
        revisions = [
            _fetch_half(hub, repository, half, folder, progress)
            for half, repository in zip(("text", "vision"), model.repositories, strict=True)
        ]
    except ClipError:
        raise
    except Exception as error:  # The hub's, httpx's and the file system's errors have no common base.
        raise _unreachable(model, error) from error
    require_files(model, folder)
    write_manifest(folder, model, ", ".join(revisions))


def _fetch_half(hub: HfApi, repository: str, half: str, folder: Path, progress: Progress | None) -> str:
    """Fetches the text or the vision export; its name and commit as `repository@commit`."""
    info = hub.model_info(repository, files_metadata=True)
    wanted = {name.removeprefix(f"{half}/") for name in (*MODEL_FILES, *MORE_FILES) if name.startswith(f"{half}/")}
    files = [file for file in info.siblings or [] if file.rfilename in wanted]
    if progress:
        progress.begin(f"fetch CLIP's {half} encoder", sum(file.size or 0 for file in files) or None, "bytes")
    for file in files:
        hub.hf_hub_download(
            repository,
            file.rfilename,
            revision=info.sha,
            local_dir=folder / half,
            tqdm_class=_reporting(progress.advance) if progress else None,
        )
        _verify(file, folder, half)
    # The hub's notes about unfinished files. All files are finished here.
    shutil.rmtree(folder / half / ".cache", ignore_errors=True)
    return f"{repository}@{info.sha}"


def _verify(file: RepoSibling, folder: Path, half: str) -> None:
    """Raises `ClipError` and removes the file if its size or SHA-256 differ from those that the hub states."""
    fact = file_fact(folder, f"{half}/{file.rfilename}")
    expected_sha = file.lfs.sha256 if file.lfs else fact.sha256
    if fact.bytes != (fact.bytes if file.size is None else file.size) or fact.sha256 != expected_sha:
        (folder / fact.name).unlink()
        raise ClipError(
            f"CLIP file {fact.name}",
            found=f"{fact.bytes:,} bytes with SHA-256 {fact.sha256}",
            expected=f"{file.size:,} bytes with SHA-256 {expected_sha}",
            advice="fetch it again",
        )


def _reporting(advance: Callable[[int], None]) -> type[Any]:
    """A progress bar class for the hub that draws nothing and calls `advance` with the bytes that arrived."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: object, **options: object) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

    return Reporting


def _unreachable(model: ClipModel, error: Exception) -> ClipError:
    text, vision = model.repositories or ("", "")
    return ClipError(
        f"CLIP model {model.name}",
        found=f"{type(error).__name__}: {first_line(error)}",
        expected=f"the files of {text} and {vision} from huggingface.co",
        advice=f"on a closed network put {', '.join(MODEL_FILES)} into a folder and name it in LAION_CLIP_DIR "
        f"(text/ is https://huggingface.co/{text}, vision/ is https://huggingface.co/{vision})",
    )

"""Tests that the model's folder is there when it is needed, or an error says which files belong where."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from laion_assets.clip.model import MODEL_FILES, clip_model, model_folder
from laion_assets.clip.model_files import MANIFEST, file_facts, read_manifest
from laion_assets.clip.ready import open_encoder, ready_model
from laion_assets.clip.sample_model import write_sample_model
from laion_assets.errors import ClipError
from laion_assets.sample.world import sample_world
from laion_assets.settings import load_settings
from laion_assets_tests.clip.conftest import sample_settings


def test_sample_model_is_built_at_first_use_only(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    started = time.perf_counter()
    folder = ready_model(settings)
    assert time.perf_counter() - started < 5
    built = (folder / MANIFEST).stat().st_mtime_ns
    assert ready_model(settings) == folder == tmp_path / "clip" / "sample"
    assert (folder / MANIFEST).stat().st_mtime_ns == built
    assert {path.name for path in folder.parent.iterdir()} == {"sample", ".sample.lock"}


def test_older_or_unfinished_sample_model_is_built_anew(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    folder = ready_model(settings)
    (folder / MANIFEST).write_text("{}")
    (folder / MODEL_FILES[0]).write_bytes(b"old")
    ready_model(settings)
    assert open_encoder(settings).encode_text("dog").shape == (512,)
    (folder / MODEL_FILES[1]).unlink()
    ready_model(settings)
    assert open_encoder(settings).encode_text("dog").shape == (512,)


def test_several_may_build_it_at_once(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: ready_model(settings), range(4)))
    assert len(folders) == 1
    assert {path.name for path in (tmp_path / "clip").iterdir()} == {"sample", ".sample.lock"}


def test_manifest_records_size_and_checksum_of_every_file(tmp_path: Path) -> None:
    folder = ready_model(sample_settings(tmp_path))
    manifest = read_manifest(folder)
    files = manifest["files"]
    assert isinstance(files, dict)
    assert files == {fact.name: {"bytes": fact.bytes, "sha256": fact.sha256} for fact in file_facts(folder)}
    assert set(MODEL_FILES) == set(files)


def test_missing_files_are_named_with_their_places(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="laion400m", data_dir=tmp_path)
    with pytest.raises(ClipError) as caught:
        ready_model(settings)
    for name in (*MODEL_FILES, "Qdrant/clip-ViT-B-32-text", "LAION_CLIP_DIR", str(tmp_path)):
        assert name in str(caught.value)


def test_model_without_public_export_says_what_to_provide(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="laion2b-en", data_dir=tmp_path)
    with pytest.raises(ClipError, match=r"ViT-L/14.*768 dimensions.*text/model\.onnx"):
        ready_model(settings, fetch=True)


def test_users_own_folder_is_used_and_never_written(tmp_path: Path) -> None:
    built = ready_model(sample_settings(tmp_path / "store"))
    settings = sample_settings(tmp_path / "other", clip_dir=built)
    assert model_folder(settings) == built
    assert open_encoder(settings).encode_text("dog").shape == (512,)
    assert not (tmp_path / "other").exists()
    empty = sample_settings(tmp_path / "other", clip_dir=tmp_path / "empty")
    with pytest.raises(ClipError, match=str(tmp_path / "empty")):
        ready_model(empty, fetch=True)


@pytest.mark.parametrize("name", ["ViT-H-14", "open_clip:ViT-H-14/laion2b_s32b_b79k", "ViT-L/14", None])
def test_a_users_own_folder_may_hold_any_model_of_the_tables_dimension(tmp_path: Path, name: str | None) -> None:
    write_sample_model(tmp_path / "h14", sample_world(dimension=1024))
    description = tmp_path / "own.toml"
    model = f'clip_model = "{name}"\n' if name else ""
    description.write_text(f'name = "own"\nshards = 1\ndimension = 1024\n{model}[[sources]]\nurl = "file:///x"\n')
    settings = load_settings(dataset_name=str(description), data_dir=tmp_path, clip_dir=tmp_path / "h14")
    assert open_encoder(settings).encode_text("a red car").shape == (1024,)
    assert clip_model(settings).name == (name or f"the model in {tmp_path / 'h14'}")
    other = load_settings(dataset_name="sample", data_dir=tmp_path, clip_dir=tmp_path / "h14")
    with pytest.raises(ClipError, match=r"1024"):
        open_encoder(other).encode_text("a red car")


def test_dataset_without_known_model_is_refused(tmp_path: Path) -> None:
    description = tmp_path / "own.toml"
    description.write_text('name = "own"\nshards = 1\ndimension = 512\n[[sources]]\nurl = "file:///x"\n')
    settings = load_settings(dataset_name=str(description), data_dir=tmp_path)
    with pytest.raises(ClipError, match=r"no CLIP model.*ViT-B/32.*LAION_CLIP_DIR"):
        ready_model(settings)


def test_model_and_table_of_different_dimensions_are_refused(tmp_path: Path) -> None:
    description = tmp_path / "own.toml"
    description.write_text(
        'name = "own"\nshards = 1\ndimension = 768\nclip_model = "ViT-B/32"\n[[sources]]\nurl = "file:///x"\n'
    )
    settings = load_settings(dataset_name=str(description), data_dir=tmp_path)
    with pytest.raises(ClipError, match=r"768.*512"):
        open_encoder(settings)

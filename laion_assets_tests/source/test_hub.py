"""Tests of hf:// sources: huggingface_hub lists them, files are of one commit, and errors say what to set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.errors
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from laion_assets.dataset import load_dataset
from laion_assets.describe.describe import describe
from laion_assets.errors import LaionError, PermanentSourceError, SettingsError
from laion_assets.source.fetch import fetch_shard
from laion_assets.source.hub import HubRepository
from laion_assets.terminal.describe import show_description, show_listing
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.loopback_hub import LoopbackHub, loopback_hub

NAME = "mlfoundations/pairs_small"


def pair(seed: int) -> tuple[bytes, bytes]:
    """Returns an .npz file and its metadata."""
    drawn = np.random.default_rng(seed).standard_normal((50, 8))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    archive, table = io.BytesIO(), io.BytesIO()
    np.savez(archive, l14_img=vectors)
    pq.write_table(pa.table({"url": [f"u{seed}"] * 50, "text": ["t"] * 50, "uid": [f"{seed}"] * 50}), table)
    return archive.getvalue(), table.getvalue()


def files(seed: int = 0, names: tuple[str, ...] = ("00/7c", "00/91", "01/0a")) -> dict[str, bytes]:
    """Returns pairs of files in nested folders, like those of DataComp's largest pool."""
    found = {"README.md": b"# a card"}
    for number, name in enumerate(names):
        archive, table = pair(seed + number)
        found |= {f"metadata/{name}.npz": archive, f"metadata/{name}.parquet": table}
    return found


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub with one repository; no token is set."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with loopback_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        hub.commit(NAME, files())
        yield hub


def described(hub: LoopbackHub, folder: Path, url: str = f"hf://datasets/{NAME}/metadata") -> Path:
    """Writes the description of the repository and its lock file."""
    toml = folder / "pairs.toml"
    show_description(url, toml, "pairs", Console(file=io.StringIO()), lock=True)
    return toml


def test_the_loopback_hub_is_one_to_huggingface_hubs_own_client(tmp_path: Path) -> None:
    with loopback_hub() as hub:
        hub.commit(NAME, files())
        api = huggingface_hub.HfApi(endpoint=hub.url, token=False)
        tree = list(api.list_repo_tree(NAME, repo_type="dataset", recursive=True))
        assert len([entry for entry in tree if isinstance(entry, huggingface_hub.RepoFile)]) == 7
        path = api.hf_hub_download(NAME, "metadata/00/7c.npz", repo_type="dataset", local_dir=tmp_path)
        assert Path(path).read_bytes() == files()["metadata/00/7c.npz"]
        hub.gated.add(NAME)
        with pytest.raises(huggingface_hub.errors.GatedRepoError):
            list(api.list_repo_tree(NAME, repo_type="dataset"))


def test_a_repository_is_described_locked_and_fetched_at_its_commit(hub: LoopbackHub, tmp_path: Path) -> None:
    toml = described(hub, tmp_path)
    commit = hub.branches[f"{NAME}/main"]
    dataset = load_dataset(str(toml))
    assert dataset.sources[0].url == f"hf://datasets/{NAME}@{commit}/metadata"
    assert dataset.names == {0: "00/7c", 1: "00/91", 2: "01/0a"}
    locked = dataset.locked("image", 2)
    assert locked is not None
    assert (locked.size, len(locked.sha256 or "")) == (len(files()["metadata/01/0a.npz"]), 64)
    hub.commit(NAME, files(seed=9))
    settings = settings_for(data_dir=tmp_path / "data", dataset=toml)
    fetched = {file.kind: file.path for file in fetch_shard(settings, 2, tmp_path / "raw", limits=QUICK)}
    assert fetched["image"].read_bytes() == files()["metadata/01/0a.npz"]


def test_a_branch_that_moves_moves_nothing_until_the_listing_is_taken_over(hub: LoopbackHub, tmp_path: Path) -> None:
    toml = described(hub, tmp_path)
    commit = hub.branches[f"{NAME}/main"]
    toml.write_text(toml.read_text().replace(f"@{commit}", "@main"))
    hub.commit(NAME, files() | {"metadata/00/7c.npz": pair(77)[0]})
    said = io.StringIO()
    assert not show_listing(toml, Console(file=said, width=300), check=True)
    assert "changed: shard 0 (00/7c), 7c.npz" in said.getvalue()
    settings = settings_for(data_dir=tmp_path / "data", dataset=toml)
    first = fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK)[0]
    assert first.path.read_bytes() == files()["metadata/00/7c.npz"], "the commit of the lock file"
    show_listing(toml, Console(file=io.StringIO()))
    settings = settings_for(data_dir=tmp_path / "data", dataset=toml)
    first = fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK)[0]
    assert first.path.read_bytes() == pair(77)[0]


def test_a_source_may_be_a_repository_without_a_description_of_it(hub: LoopbackHub, tmp_path: Path) -> None:
    toml = described(hub, tmp_path)
    (tmp_path / "pairs.lock.json").unlink()
    names = 'names = ["00/7c", "00/91", "01/0a"]\nname ='
    toml.write_text(toml.read_text().replace("name =", names, 1))
    settings = settings_for(f"hf://datasets/{NAME}@main/metadata", data_dir=tmp_path / "data", dataset=toml)
    fetched = fetch_shard(settings, 1, tmp_path / "raw", limits=QUICK)
    assert {file.path.read_bytes() for file in fetched} == {
        files()[f"metadata/00/91.{end}"] for end in ("npz", "parquet")
    }


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_a_repository_that_needs_a_token_says_so_and_is_read_with_one(
    kind: str, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = described(hub, tmp_path)
    getattr(hub, kind).add(NAME)
    settings = settings_for(data_dir=tmp_path / "data", dataset=toml)
    for ask in (
        lambda: describe(f"hf://datasets/{NAME}/metadata"),
        lambda: fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK),
    ):
        with pytest.raises(PermanentSourceError) as caught:
            ask()
        assert_one_line(caught.value, NAME, "HF_TOKEN", kind)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "l14_img" in describe(f"hf://datasets/{NAME}/metadata")
    assert len(fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK)) == 2
    assert not [each for each in hub.asked if each[1].startswith("/store")], "large files lie at another origin"


def test_the_token_is_not_sent_to_where_files_lie(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = described(hub, tmp_path)
    monkeypatch.setenv("MY_TOKEN", hub.token)
    hub.private.add(NAME)
    toml.write_text(toml.read_text().replace("[[sources]]", '[[sources]]\ntoken_variable = "MY_TOKEN"'))
    settings = settings_for(data_dir=tmp_path / "data", dataset=toml)
    hub.asked.clear()
    fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK)
    assert {authorization for _, _, authorization in hub.asked} == {f"Bearer {hub.token}"}
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(SettingsError, match="no variable MY_TOKEN"):
        fetch_shard(settings, 1, tmp_path / "raw", limits=QUICK)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hf://datasets/nobody/nothing", "check the name"),
        (f"hf://datasets/{NAME}@v9", "revision after @"),
        (f"hf://datasets/{NAME}/elsewhere", "no files"),
        ("hf://datasets/alone", "hf://datasets/OWNER/NAME"),
        ("hf://buckets/a/b", "hf://datasets/OWNER/NAME"),
    ],
)
def test_what_is_no_repository_is_said_in_one_line(url: str, said: str, hub: LoopbackHub) -> None:
    with pytest.raises(LaionError) as caught:
        describe(url)
    assert_one_line(caught.value, said)


def test_a_hub_that_cannot_be_reached_is_no_lasting_failure(monkeypatch: pytest.MonkeyPatch, hub: LoopbackHub) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LaionError) as caught:
        describe(f"hf://datasets/{NAME}")
    assert_one_line(caught.value, f"hf://datasets/{NAME}@main", "try it again")
    assert not isinstance(caught.value, PermanentSourceError)


def test_revisions_with_slashes_have_addresses() -> None:
    repository = HubRepository.of("hf://datasets/a/b@refs%2Fpr%2F1/x/")
    assert (repository.revision, repository.folder) == ("refs/pr/1", "x")
    assert repository.url == "hf://datasets/a/b@refs%2Fpr%2F1/x"
    assert repository.file_url("img", "y z.npz").endswith("/datasets/a/b/resolve/refs%2Fpr%2F1/x/img/y%20z.npz")
    assert HubRepository.of("hf://datasets/a/b").file_url("", "c").endswith("/datasets/a/b/resolve/main/c")

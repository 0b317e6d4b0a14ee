"""A repository of the Hugging Face hub as a place. huggingface_hub lists its files at one commit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO

from laion_assets.describe.web import RangedFile
from laion_assets.errors import PermanentSourceError, SourceError
from laion_assets.settings import load_settings
from laion_assets.source.client import SourceClient
from laion_assets.source.credentials import Credentials
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.hub import ADVICE, HubRepository, endpoint, hub_token
from laion_assets.source.remote_file import RemoteFile

MOST_FILES = 200_000

CODES = {
    "GatedRepoError": "GatedRepo",
    "RepositoryNotFoundError": "RepoNotFound",
    "RevisionNotFoundError": "RevisionNotFound",
    "EntryNotFoundError": "EntryNotFound",
    "RemoteEntryNotFoundError": "EntryNotFound",
}
"""The hub's HTTP status codes by the errors of huggingface_hub."""


class HubPlace:
    """A repository at the present commit of its revision. `url` has the commit, so it names the same files later."""

    def __init__(self, url: str) -> None:
        """Raises `PermanentSourceError` if the hub has no such repository, or denies access to it."""
        from huggingface_hub import HfApi

        asked = HubRepository.of(url)
        settings = load_settings(dataset_name="sample", source=(asked.url,), extra_columns=())
        self._client = SourceClient(FetchLimits.of(settings), settings.http_ca_file, None, Credentials.of(settings))
        self._api = HfApi(endpoint=endpoint(), token=hub_token() or False)
        self._subject = f"describe {asked.url}"
        with self._failures():
            info = self._api.repo_info(asked.name, revision=asked.revision, repo_type="dataset")
        self._repository = asked.at(str(info.sha))
        self.url = self._repository.url

    def files(self) -> list[str]:
        """Paths of the files below the folder."""
        return sorted(self._found)

    def facts(self) -> dict[str, RemoteFile]:
        """Size, and SHA-256 of files in LFS, by path below the folder."""
        return dict(self._found)

    def open(self, path: str) -> IO[bytes]:
        """Opens a file; each read is a request for a range."""
        return io.BufferedReader(RangedFile(self._repository.file_url("", path), self._client), buffer_size=1 << 16)

    @cached_property
    def _found(self) -> dict[str, RemoteFile]:
        repository, found = self._repository, {}
        with self._failures():
            tree = self._api.list_repo_tree(
                repository.name,
                repository.folder or None,
                recursive=True,
                revision=repository.revision,
                repo_type="dataset",
            )
            for entry in tree:
                size = getattr(entry, "size", None)
                if size is None:  # a folder
                    continue
                path = entry.path.removeprefix(repository.folder).strip("/")
                lfs = getattr(entry, "lfs", None)
                digest = str(lfs.sha256) if lfs is not None else None
                found[path] = RemoteFile(repository.file_url("", path), int(size), None, None, digest)
        if len(found) > MOST_FILES:
            raise PermanentSourceError(self._subject, found=f"{len(found):,} files", expected="one dataset's folder")
        return found

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns errors of huggingface_hub and its HTTP client into our own errors."""
        try:
            yield
        except Exception as error:
            name = type(error).__name__
            known = next((CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in CODES), None)
            status = getattr(getattr(error, "response", None), "status_code", None)
            lasting = known is not None or status in (401, 403, 404)
            said = " ".join(str(error).split())[:200]
            raise (PermanentSourceError if lasting else SourceError)(
                self._subject,
                found=f"{name}: {said}",
                expected="a repository that can be read",
                advice=ADVICE[known or "RepoNotFound"] if lasting else "try it again",
            ) from error

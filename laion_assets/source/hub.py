"""Repositories of the Hugging Face hub as sources: hf://datasets/OWNER/NAME@REVISION/FOLDER.

Their files are fetched over HTTPS like other files (`http`), with resume, ranges and ETags. The package huggingface_hub
gives the hub's address (HF_ENDPOINT) and the token (HF_TOKEN, or `hf auth login`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from laion_assets.errors import SettingsError

ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/+(.*?))?/*")
NEWEST = "main"

ACCESS = "ask for access on its page, and set HF_TOKEN to a token of that account"
ADVICE = {
    "GatedRepo": f"the repository is gated: {ACCESS}",
    "RepoNotFound": "check the name; for a private or gated repository set HF_TOKEN to a token that may read it",
    "RevisionNotFound": "check the revision after @: a branch, a tag or a commit",
    "EntryNotFound": "check whether the revision has this file, and the folders of the source",
}
"""Errors by the hub's X-Error-Code."""


@dataclass(frozen=True)
class HubRepository:
    """A repository of a dataset, one of its revisions, and a folder in it ("" is the whole repository)."""

    name: str
    revision: str
    folder: str

    @classmethod
    def of(cls, url: str) -> HubRepository:
        """Parses a URL. Raises `SettingsError`."""
        found = ADDRESS.fullmatch(url.partition("?")[0].partition("#")[0])
        if found is None:
            raise SettingsError(
                f"source {url}", found="no repository", expected="hf://datasets/OWNER/NAME@REVISION, perhaps /FOLDER"
            )
        name, revision, folder = found.groups(default="")
        return cls(name, unquote(revision) or NEWEST, folder)

    @property
    def url(self) -> str:
        """The URL as a source names it."""
        return f"hf://datasets/{self.name}@{quote(self.revision, safe='')}" + (f"/{self.folder}" if self.folder else "")

    def at(self, commit: str) -> HubRepository:
        """The same folder at a commit, which never changes."""
        return replace(self, revision=commit)

    def file_url(self, folder: str, path: str) -> str:
        """The address of a file below the folder."""
        parts = [part for part in (self.folder, folder, path) if part]
        revision = quote(self.revision, safe="")
        return f"{endpoint()}/datasets/{self.name}/resolve/{revision}/{quote('/'.join(parts))}"


def is_hub(url: str) -> bool:
    """Whether a source is a repository of the hub."""
    return url.startswith("hf://")


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, else https://huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip("/")


def hub_token() -> str:
    """The token that huggingface_hub finds; "" if there is none."""
    from huggingface_hub import get_token

    return get_token() or ""


def pinned(url: str, listed: str) -> str:
    """The source at the commit for which a listing was made, if both are of the same repository."""
    if not (is_hub(url) and is_hub(listed)):
        return url
    wanted, locked = HubRepository.of(url), HubRepository.of(listed)
    return wanted.at(locked.revision).url if wanted.name == locked.name else url

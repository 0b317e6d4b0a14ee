"""A digest that tells the raw files of one fetch from those of another. It asks no source and reads no raw file."""

from __future__ import annotations

from laion_assets.errors import MissingRawError
from laion_assets.shard.digest import digest_of
from laion_assets.shard.places import origin_path
from laion_assets.shard.store import ShardFiles


def raw_version(files: ShardFiles) -> str:
    """A digest of the files' names and sizes and of the notes of their origins; "" if a file or a note is missing.

    Nothing tells a file without a note, which somebody put there, from another file of its size.
    """
    facts = []
    for path in files.paths().values():
        try:
            facts.append((path.name, path.stat().st_size, origin_path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ""
    return digest_of(facts)


def require_fetched(files: ShardFiles, fetched: str) -> None:
    """Raises `MissingRawError` if these are not the raw files that were fetched last (`fetched` is their version, "" if
    it is not known): somebody has put others in their place, such as those of a backup."""
    if fetched and raw_version(files) != fetched:
        raise MissingRawError(
            f"shard {files.shard}",
            found=f"other files in {files.folder} than those that were fetched last",
            advice=f"materialize raw_shard for partition {files.shard} first: it compares them with their source",
        )

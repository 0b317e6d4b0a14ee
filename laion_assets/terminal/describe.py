"""`laion-assets describe`: the TOML text on standard output, or as a file, and what to do with it."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from laion_assets.dataset import user_path
from laion_assets.describe.describe import describe
from laion_assets.errors import DatasetError, StoreError
from laion_assets.shard.storing import store_errors


def show_description(place: str, output: Path | None, name: str | None, say: Console) -> None:
    """Describes what lies at `place`. Raises `DatasetError`, `SourceError`, `StoreError` for a file that is there."""
    path = None if output is None else user_path(output)
    if path is not None and path.suffix != ".toml":
        raise DatasetError(str(path), found="another ending", expected="a file that ends in .toml")
    text = describe(place, name)
    if path is None:
        sys.stdout.buffer.write(text.encode())
        return
    with store_errors(str(path)):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise StoreError(str(path), found="a file of that name", expected="none", advice="move it away") from None
    notes = sum("guessed" in line or line.startswith("# Note") for line in text.splitlines())
    say.print(
        f"wrote {path}: {notes} guesses and notes to check. Next: LAION_DATASET={path} laion-assets load all",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )

"""`laion-assets describe`: prints the TOML text or writes it as a file, with the next steps; and the lock file."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from laion_assets.dataset import preset_names, preset_text, user_path
from laion_assets.describe.describe import describe
from laion_assets.describe.lock import look_at_listing
from laion_assets.errors import DatasetError, SettingsError, StoreError
from laion_assets.listing import Listing, differences, is_other, lock_path, read_listing
from laion_assets.shard.files import replacing
from laion_assets.shard.store_errors import store_errors
from laion_assets.words import counted

SHOWN = 50
"""How many changes of a listing are shown; the others are counted."""


def show_description(place: str, output: Path | None, name: str | None, say: Console, *, lock: bool = False) -> None:
    """Describes the files at `place`, or copies a preset. Raises `DatasetError`, `SourceError`, `StoreError`."""
    path = None if output is None else user_path(output)
    if path is not None and path.suffix != ".toml":
        raise DatasetError(str(path), found="another ending", expected="a file that ends in .toml")
    if path is None and lock:
        raise SettingsError(
            "--lock", found="no --output", expected="--output FILE.toml: the lock file is written next to FILE.toml"
        )
    preset = place in preset_names() and not user_path(place).exists()
    text = preset_text(place) if preset else describe(place, name, locked=lock)
    if path is None:
        sys.stdout.buffer.write(text.encode())
        return
    if lock:
        _refuse_what_is_there(lock_path(path))
    with store_errors(str(path)):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            _refuse_what_is_there(path)
    notes = sum("guessed" in line or line.startswith("# Note") for line in text.splitlines())
    say.print(
        f"wrote {path}: {notes} guesses and notes to check. Next: laion-assets init FOLDER --dataset {path}; "
        "cd FOLDER; laion-assets load all",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if lock:
        show_listing(path, say)


def show_listing(
    toml: Path, say: Console, *, source: str | None = None, check: bool = False, digests: bool = False
) -> bool:
    """Shows the changes since the listing was locked, and locks them unless `check`; returns whether there are none.

    Raises `DatasetError`, `SourceError`, `StoreError`.
    """
    before = read_listing(toml)
    path = lock_path(toml)
    if before is None and check:
        raise DatasetError(
            f"dataset file {toml}",
            found="no lock file",
            expected=f"{path.name} in the same folder",
            advice=f"`laion-assets describe {toml} --lock` writes it",
        )
    now = look_at_listing(toml, before, source=source, digests=digests)
    if before is not None:
        now = _with_known_digests(before, now)
    changes = [] if before is None else [*differences(before, now)]
    for line in changes[:SHOWN]:
        say.print(line, markup=False, highlight=False, soft_wrap=True)
    if len(changes) > SHOWN:
        say.print(f"and {len(changes) - SHOWN} more")
    if check:
        said = f"{counted(len(changes), 'change')} since {path.name} was written" if changes else "nothing has changed"
        say.print(said, markup=False, highlight=False)
        return not changes
    with replacing(path, subject=str(path)) as temporary, store_errors(str(path)):
        temporary.write_text(now.text(), encoding="utf-8")
    say.print(f"wrote {path}: {counted(len(now.shards), 'shard')}", markup=False, highlight=False, soft_wrap=True)
    return True


def _with_known_digests(before: Listing, now: Listing) -> Listing:
    """Keeps a file's digest as long as the file has not changed."""
    shards = {}
    for shard, each in now.shards.items():
        then = before.shards.get(shard)
        files = {}
        for kind, file in each.files.items():
            known = then.files.get(kind) if then is not None else None
            same = known is not None and file.sha256 is None and not is_other(known, file)
            files[kind] = file.model_copy(update={"sha256": known.sha256}) if same and known is not None else file
        shards[shard] = each.model_copy(update={"files": files})
    return now.model_copy(update={"shards": shards})


def _refuse_what_is_there(path: Path) -> None:
    if path.exists():
        raise StoreError(str(path), found="a file of that name", expected="none", advice="move it away")

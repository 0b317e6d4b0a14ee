"""The commands about files of a dataset: `sample` writes shards, `describe` a TOML file about shards that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laion_assets.cli_options import SourceOption, console, errors


def sample(
    folder: Annotated[Path, typer.Argument(help="Where img_emb/, text_emb/ and metadata/ are written.")],
    shards: Annotated[int, typer.Option(min=1, help="How many shards.")] = 4,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a full shard; some are shorter.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write sample shards in LAION-400M's layout, whose captions and vectors agree."""
    from rich.progress import Progress

    from laion_assets.sample.shards import sample_row_counts, write_sample
    from laion_assets.shard.store_errors import store_errors

    with store_errors(f"sample in {folder}"), Progress(console=console) as progress:
        task = progress.add_task("writing", total=sum(sample_row_counts(shards, rows)))
        paths = write_sample(folder, shards, rows, seed=seed, progress=lambda done: progress.advance(task, done))
    console.print(
        f"{len(paths)} files in {folder}: use them with LAION_DATASET=sample LAION_SOURCE={folder.absolute()}",
        markup=False,
        soft_wrap=True,
    )


def describe(
    place: Annotated[
        str,
        typer.Argument(help="A folder or URL: /a/folder, s3://…, hf://datasets/…; a preset; or FILE.toml, to lock."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write this file, which is not there yet.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The dataset's name; else that of the folder.")] = None,
    lock: Annotated[
        bool, typer.Option("--lock", help="Write down which file each shard is, in FILE.lock.json.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only list what differs from the lock file.")] = False,
    digests: Annotated[bool, typer.Option("--digests", help="Read every file for its SHA-256, too.")] = False,
    source: SourceOption = None,
) -> None:
    """Look at the files of a dataset and write the TOML file that describes it, with a comment at each guess.

    With --lock the listing is written beside it. For an existing TOML file, --lock replaces the locked listing by the
    present one and says what has changed; with --check it only says so, with exit code 1 if anything has.
    """
    from laion_assets.dataset import user_path
    from laion_assets.terminal.describe import show_description, show_listing

    if lock and place.endswith(".toml"):
        same = show_listing(user_path(place), errors, source=source, check=check, digests=digests)
        raise typer.Exit(0 if same else 1)
    if check or digests or source:
        raise typer.BadParameter("--check, --digests and --source go with FILE.toml --lock")
    show_description(place, output, name, errors, lock=lock)

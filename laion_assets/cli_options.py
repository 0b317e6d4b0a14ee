"""What the commands of `laion-assets` share: options of the same meaning, the consoles, and JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from laion_assets.terminal.guard import sound_console

console = sound_console()
errors = sound_console(stderr=True)

DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Overrides LAION_DATASET.")]
SourceOption = Annotated[str | None, typer.Option("--source", help="Overrides LAION_SOURCE.")]
Again = Annotated[bool, typer.Option("--again", help="Load shards that are loaded already, too.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Demo = Annotated[bool, typer.Option("--demo", help="Search the demo's table in data/demo.")]
DEMO_FOLDER = Path("data/demo")


def print_json(value: object) -> None:
    """Prints one line on standard output. The line is ASCII where the console takes nothing else."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=plain) + "\n")

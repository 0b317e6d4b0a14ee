"""The commands that look after what is loaded: `bring-up-to-date`, `accept` and `status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from laion_assets.cli_options import DatasetOption, Json, SourceOption, console, errors, print_json


def bring_up_to_date(
    shards: Annotated[str, typer.Argument(help="0-9, 3, or 1,4,7-9; else those that were begun or asked for.")] = "",
    dataset: DatasetOption = None,
    source: SourceOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be made.")] = False,
) -> None:
    """Make again what is stale or missing, then index and recall if they are out of date, and nothing else.

    If a Dagster daemon runs, it is asked for a backfill; else everything is made in this process. Exit code 1 if
    something could not be made. Recall below its target is reported, but is no failure.
    """
    from laion_assets.terminal.instance import dagster_instance
    from laion_assets.terminal.settings import settings_of
    from laion_assets.terminal.update import bring_up_to_date as update

    settings = settings_of(dataset, source)
    with dagster_instance() as instance:
        well = update(settings, instance, console, shards, dry_run=dry_run)
    raise typer.Exit(0 if well else 1)


def accept(
    shards: Annotated[str, typer.Argument(help="0-9, 3, 1,4,7-9, or all")],
    dataset: DatasetOption = None,
    source: SourceOption = None,
    as_json: Json = False,
) -> None:
    """Record in Dagster what the table has of shards, after you deleted rows on purpose, or if the records are lost.

    It changes no row. Audits then compare these partitions with what they have now, and only `load --again` loads them
    again. A partition that equals its merged file is recorded as loaded. Exit code 1 if a shard was refused.
    """
    from laion_assets.terminal.accept import accept as record
    from laion_assets.terminal.accept import print_accepted
    from laion_assets.terminal.instance import dagster_instance
    from laion_assets.terminal.settings import settings_of

    settings = settings_of(dataset, source)
    recorded = []
    with dagster_instance() as instance:
        for one in record(settings, settings.dataset.shard_numbers(shards), instance):
            recorded.append(one)
            print_accepted(settings, one, errors if as_json else console)
    if as_json:
        print_json({"shards": [asdict(one) for one in recorded]})
    raise typer.Exit(1 if any(one.error for one in recorded) else 0)


def status(
    dataset: DatasetOption = None,
    source: SourceOption = None,
    shard: Annotated[str | None, typer.Option(help="All of one shard: its files, checks, runs, what to do.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks of --watch.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Show shards at each stage, what the table holds, the last recall, and whether all is well.

    Exit code 1 if a finding is bad; with --shard, if that shard failed or its partition is not what was loaded; with
    --watch always 0. While a load or another command holds the embedded engine, it shows at once what Dagster recorded,
    says which process holds the table, and judges only by what could be read.
    """
    from laion_assets.terminal.instance import dagster_instance
    from laion_assets.terminal.settings import settings_of
    from laion_assets.terminal.shard import print_shard, read_shard
    from laion_assets.terminal.status import print_status, read_status, watch_status

    settings = settings_of(dataset, source)
    with dagster_instance() as instance:
        if shard is not None:
            one = read_shard(settings, instance, settings.dataset.shard_number(shard))
            print_json(one.as_json()) if as_json else print_shard(one, console)
            raise typer.Exit(0 if one.sound else 1)
        if watch:
            watch_status(settings, instance, console, every)
            raise typer.Exit(0)
        found = read_status(settings, instance)
    if as_json:
        print_json(found.as_json())
    else:
        print_status(found, console)
    raise typer.Exit(0 if found.healthy else 1)

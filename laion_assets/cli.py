"""The `laion-assets` command: its commands and their options. What they do is in terminal/ and the rooms below."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from laion_assets.cli_dataset import describe, sample
from laion_assets.cli_options import DEMO_FOLDER, Again, DatasetOption, Json, SourceOption, console, errors, print_json
from laion_assets.cli_search import clip_app, search, serve, udf_app
from laion_assets.cli_upkeep import accept, bring_up_to_date, status
from laion_assets.terminal.guard import guarded

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"laion-assets {version('laion_assets')}")
        raise typer.Exit


@app.callback()
def before_all(
    dataset: DatasetOption = None,
    source: SourceOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """LAION's embeddings as a Dagster asset graph: shards to checked ClickHouse partitions, searched and measured."""
    from laion_assets.terminal.settings import read_env_file, take_options

    read_env_file()
    take_options(dataset, source)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's files, table and Dagster instance go.")] = DEMO_FOLDER,
) -> None:
    """Run the main job on four sample shards: raw, merged, loaded, then a search. Nothing is fetched."""
    from laion_assets.terminal.demo import run_demo

    raise typer.Exit(0 if run_demo(folder.absolute(), console) else 1)


app.command()(sample)
app.command()(describe)


@app.command()
def load(
    shards: Annotated[str, typer.Argument(help="0-9, 3, 1,4,7-9, or all")],
    again: Again = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Processes side by side, on a server.")] = 1,
    dataset: DatasetOption = None,
    source: SourceOption = None,
    as_json: Json = False,
    part: Annotated[bool, typer.Option("--part", hidden=True, help="One of the processes of --parallel.")] = False,
) -> None:
    """Load shards into the table, in the Dagster instance that the UI shows; continues where an earlier call ended.

    Exit code 1 if a shard failed. With --json standard output is one object, and progress goes to standard error.
    """
    from laion_assets.terminal.instance import dagster_instance
    from laion_assets.terminal.load import load_outcomes
    from laion_assets.terminal.outcome import outcome_table
    from laion_assets.terminal.settings import settings_of

    settings = settings_of(dataset, source)
    numbers = settings.dataset.shard_numbers(shards)
    shown = errors if as_json else console
    with dagster_instance() as instance:
        outcomes = load_outcomes(settings, numbers, instance, shown, again=again, parallel=parallel, part=part)
    loaded = not any(outcome.error for outcome in outcomes)
    if as_json:
        print_json({"loaded": loaded, "shards": [asdict(outcome) for outcome in outcomes]})
    else:
        console.print(outcome_table(outcomes))
    raise typer.Exit(0 if loaded else 1)


@app.command()
def index(dataset: DatasetOption = None, source: SourceOption = None, as_json: Json = False) -> None:
    """Build what is missing of the indexes, and measure their recall.

    Exit code 1 if that failed, or if a kind of query is below its target.
    """
    from laion_assets.recall.compare import targets_are_met
    from laion_assets.terminal.index import build_and_measure
    from laion_assets.terminal.instance import dagster_instance
    from laion_assets.terminal.recall import evaluation_json
    from laion_assets.terminal.settings import settings_of

    settings = settings_of(dataset, source)
    with dagster_instance() as instance:
        measured = build_and_measure(settings, instance, errors if as_json else console)
    if as_json and measured:
        print_json(evaluation_json(settings, measured[0]))
    raise typer.Exit(0 if targets_are_met(measured) else 1)


@app.command()
def recall(
    measured_again: Annotated[bool, typer.Option("--measure", help="Measure the indexes that there are.")] = False,
    dataset: DatasetOption = None,
    source: SourceOption = None,
    as_json: Json = False,
) -> None:
    """Show the last report of recall. Exit code 1 if a kind of query is below its target, or if --measure failed."""
    from laion_assets.terminal.recall import evaluation_json, kept_evaluation, measure, print_recall
    from laion_assets.terminal.settings import settings_of

    settings = settings_of(dataset, source)
    if measured_again:
        from laion_assets.terminal.instance import dagster_instance

        with dagster_instance() as instance:
            if not measure(settings, instance, errors if as_json else console):
                raise typer.Exit(1)
    evaluation = kept_evaluation(settings)
    if as_json:
        print_json(evaluation_json(settings, evaluation))
    met = print_recall(settings, evaluation, errors if as_json else console)
    raise typer.Exit(0 if met else 1)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A folder that is new, or has no such files.")] = Path(),
    dataset: DatasetOption = None,
    source: SourceOption = None,
) -> None:
    """Make a folder to work in: a Dagster instance, a workspace, and a file of settings."""
    from laion_assets.terminal.init import init_folder
    from laion_assets.terminal.settings import settings_of

    settings = settings_of(dataset, source)
    for path in init_folder(folder.absolute(), settings.dataset_name, settings.source if source else ()):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"next: cd '{folder.absolute()}'; laion-assets settings; laion-assets load 0\n"
        "for Dagster's UI, in that folder: DAGSTER_HOME=$PWD dagster dev",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


@app.command()
def plan(
    shards: Annotated[str, typer.Argument(help="0-409, 3, 1,4,7-9, or all")],
    hosts: Annotated[int, typer.Option(min=1, help="Machines like this one that share the shards.")] = 1,
    bandwidth: Annotated[float | None, typer.Option(min=0.001, help="MB/s per host; else measured for 8 s.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask the source for sizes that are not known.")] = False,
    recalibrate: Annotated[bool, typer.Option("--recalibrate", help="Measure this machine again.")] = False,
    dataset: DatasetOption = None,
    source: SourceOption = None,
    as_json: Json = False,
) -> None:
    """Say what loading shards will cost: bytes, time, disk and memory, by a calibration of this machine."""
    from laion_assets.terminal.plan import plan_load, print_methods, print_plan
    from laion_assets.terminal.settings import settings_of

    settings = settings_of(dataset, source)
    made = plan_load(
        settings,
        settings.dataset.shard_numbers(shards),
        errors if as_json else console,
        hosts=hosts,
        megabytes_per_second=bandwidth,
        ask=ask or None,
        recalibrate=recalibrate,
    )
    if as_json:
        print_json(made.as_json())
    else:
        print_plan(made, console)
        if made.table_rows:
            print_methods(settings, made, console)


app.command("bring-up-to-date")(bring_up_to_date)
app.command()(accept)
app.command()(status)
app.command()(search)
app.command()(serve)


@app.command()
def settings(dataset: DatasetOption = None, source: SourceOption = None, as_json: Json = False) -> None:
    """Print the value of every setting, and where it comes from: a default, a variable, an option or the dataset."""
    from laion_assets.terminal.settings import print_settings, settings_of, shown_settings

    shown = shown_settings(settings_of(dataset, source))
    if as_json:
        print_json([asdict(each) for each in shown])
    else:
        print_settings(shown, console)


@app.command()
def grants(
    user: Annotated[str, typer.Argument(help="The user who loads; default: the user of LAION_CLICKHOUSE.")] = "",
    searches: Annotated[bool, typer.Option("--search", help="Print the grants of a user who only searches.")] = False,
    dataset: DatasetOption = None,
) -> None:
    """Print the GRANT statements for a ClickHouse user who may do what is needed and no more. Nothing is connected."""
    from laion_assets.table.grants import load_grants, search_grants, user_of
    from laion_assets.terminal.settings import settings_of

    settings = settings_of(dataset, None)
    for grant in search_grants(settings) if searches else load_grants(settings):
        statement = f"{grant.statement(user or user_of(settings))};"
        console.print(f"{statement:<88} -- {grant.why}", highlight=False, soft_wrap=True, markup=False)


app.add_typer(clip_app, name="clip")
app.add_typer(udf_app, name="udf")


def main() -> None:
    """Runs the command. A failure that its user can act on is one line on standard error and exit code 2."""
    sys.exit(guarded(lambda: app(standalone_mode=False), errors))


if __name__ == "__main__":
    main()

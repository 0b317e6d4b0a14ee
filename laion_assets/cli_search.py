"""The commands that search: `search`, `serve`, and those about the CLIP encoders and their ClickHouse functions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from laion_assets.cli_options import DEMO_FOLDER, DatasetOption, Demo, Json, SourceOption, console

clip_app = typer.Typer(no_args_is_help=True, help="The CLIP encoders.")
udf_app = typer.Typer(no_args_is_help=True, help="The ClickHouse functions encode_text and encode_image.")


def search(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; - reads them from standard input.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Search by a picture; may be given several times.")] = None,
    like: Annotated[int | None, typer.Option(help="Search with the stored vector of the row with this id.")] = None,
    vector: Annotated[Path | None, typer.Option(help="Search with a vector from a .npy or .json file.")] = None,
    texts_from: Annotated[Path | None, typer.Option("--from", help="A file of texts, a line each.")] = None,
    by: Annotated[str, typer.Option(help="image or text: which vectors are searched.")] = "image",
    limit: Annotated[int, typer.Option(help="How many answers, at most 10,000.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Look at every row instead of using the index.")] = False,
    method: Annotated[
        str | None, typer.Option(help="exact, graph, codes or cells; else the cheapest that meets the recall target.")
    ] = None,
    ef: Annotated[int | None, typer.Option(min=1, help="ef_search; else what the recall report named.")] = None,
    where: Annotated[str | None, typer.Option(help="A SQL condition over columns, such as: similarity > 0.35")] = None,
    shards: Annotated[str | None, typer.Option(help="Only these shards: 0-9, 3, or 1,4,7-9")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page of the answers to this file.")] = None,
    warm: Annotated[bool, typer.Option("--warm", help="Read all graphs into ClickHouse's cache, and no more.")] = False,
    as_json: Json = False,
    demo_table: Demo = False,
    dataset: DatasetOption = None,
    source: SourceOption = None,
) -> None:
    """Show the rows nearest to a text, a picture, a row or a vector."""
    from laion_assets.terminal.search import Asked, show_search, show_warmth
    from laion_assets.terminal.separate_settings import demo_settings
    from laion_assets.terminal.settings import settings_of

    settings = demo_settings(DEMO_FOLDER.absolute()) if demo_table else settings_of(dataset, source)
    if warm:
        show_warmth(settings, console, as_json=as_json)
        return
    asked = Asked(texts or [], image or [], like, vector, texts_from)
    request = {"by": by, "limit": limit, "exact": exact, "where": where, "shards": shards, "ef": ef, "method": method}
    show_search(settings, asked, request, console, html=html, as_json=as_json)


def serve(
    host: Annotated[str, typer.Option(help="The address that is listened on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 1234,
    index: Annotated[
        list[Path] | None,
        typer.Option(help="A file with the LAION_* variables of another dataset: one more index. Can be repeated."),
    ] = None,
    demo_table: Demo = False,
    dataset: DatasetOption = None,
    source: SourceOption = None,
) -> None:
    """Serve searches over HTTP, as clip-retrieval's back end does, and a search page."""
    from laion_assets.terminal.separate_settings import demo_settings
    from laion_assets.terminal.serve import serve_indexes
    from laion_assets.terminal.settings import settings_of

    settings = demo_settings(DEMO_FOLDER.absolute()) if demo_table else settings_of(dataset, source)
    serve_indexes(settings, index or [], host, port, console)


@clip_app.command("check")
def clip_check() -> None:
    """Compare the encoders with the vectors of the table: cosine near 1 proves that the model is the dataset's."""
    from laion_assets.clip.check import check_clip
    from laion_assets.settings import load_settings

    found = check_clip(load_settings())
    for name, value in asdict(found).items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    raise typer.Exit(0 if found.passed else 1)


@udf_app.command("install")
def udf_install(
    scripts: Annotated[Path, typer.Option(help="The server's user_scripts_path.")],
    config: Annotated[Path, typer.Option(help="Where user_defined_executable_functions_config looks.")],
) -> None:
    """Write encode_text and encode_image for a ClickHouse server on this machine."""
    from laion_assets.clip.udf import install
    from laion_assets.settings import load_settings

    installed = install(load_settings(), scripts, config)
    for path in (*installed.scripts, *installed.configs):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)

"""Writes a dataset's TOML file from the files in a folder or at a URL, with a comment at each guess."""

from __future__ import annotations

import json
import re

from laion_assets.dataset import parse_dataset
from laion_assets.describe.columns import Columns, find_columns
from laion_assets.describe.contents import Arrays, Contents, Vectors, look_into
from laion_assets.describe.layout import Layout, find_layout
from laion_assets.describe.places import Place, open_place
from laion_assets.describe.web import WebPlace
from laion_assets.errors import DatasetError
from laion_assets.redact import redact
from laion_assets.shard_numbers import as_ranges

LARGE_ROWS = 2_000_000
"""Files with at least this many rows are cut into shards of about `ROWS_A_SHARD`."""

ROWS_A_SHARD = 1_000_000

LOCKED_NAMES = "# The names are in the lock file beside this one."

LIKELY_MODELS = {512: "ViT-B/32", 768: "ViT-L/14"}
"""OpenAI's models behind LAION's datasets, by dimension. Other models have these dimensions, too."""


def describe(where: str, name: str | None = None, *, locked: bool = False) -> str:
    """The text of a TOML file that describes the dataset at a folder or URL. `locked` leaves names to its lock file.

    It reads names, headers, footers and the first rows of four shards. Raises `DatasetError` if the files do not form
    shards, and `SourceError` if they cannot be read.
    """
    place = open_place(where)
    layout = find_layout(redact(place.url), place.files())
    if isinstance(place, WebPlace) and not place.listed:
        layout.notes.append(
            "the server lists nothing: shards were found by asking for names, holes were not looked for"
        )
    contents = look_into(place, layout)
    _refuse_several_dimensions(place, contents)
    columns = find_columns([*contents.metadata.values()])
    text = _text(place, layout, contents, columns, name or _name_of(where))
    parse_dataset(text, f"described from {redact(where)}")
    return re.sub(r"^names = \[\n.*?^\]", LOCKED_NAMES, text, flags=re.DOTALL | re.MULTILINE) if locked else text


def _text(place: Place, layout: Layout, contents: Contents, columns: Columns, name: str) -> str:
    image = next(iter(contents.images.values()))
    text = next(iter(contents.texts.values()), None)
    notes = [*layout.notes]
    if text is not None and text.dimension != image.dimension:
        notes.append(f"has_text is false: texts have {text.dimension} dimensions and images {image.dimension}")
    with_text = text is not None and text.dimension == image.dimension
    cut = _shards_per_file(layout, contents)
    lines = [
        f"# Written by `laion-assets describe {redact(place.url)}`. A line with a guess says so: check it.",
        *(f"# Note: {note}." for note in notes),
        "version = 1",
        f"name = {_quoted(name)}",
        *_shard_lines(layout, cut),
        *([f"digits = {layout.digits}"] if layout.digits > 1 else []),
        *_file_names(layout, contents.arrays, cut),
        f"dimension = {image.dimension}",
        f"dtype = {_quoted(image.dtype)}",
        *_lengths([*contents.images.values(), *(contents.texts.values() if with_text else [])]),
        *([] if with_text else ["has_text = false"]),
        *([] if layout.metadata is not None else ["has_metadata = false"]),
        *_model(image.dimension),
        f"# Rows of the shards that were opened: {_rows(contents)}.",
    ]
    lines += [*_column_lines(columns), "", "[[sources]]", f"url = {_quoted(place.url)}"]
    folders = ", ".join(f"{kind} = {_quoted(part.folder)}" for kind, part in layout.parts.items())
    if contents.arrays is not None and contents.arrays.text is not None:
        folders += f", text = {_quoted(layout.image.folder)}"
    return "\n".join([*lines, f"folders = {{ {folders} }}", ""])


def _refuse_several_dimensions(place: Place, contents: Contents) -> None:
    for kind, found in (("image", contents.images), ("text", contents.texts)):
        if len({vectors.dimension for vectors in found.values()}) > 1:
            raise DatasetError(
                f"describe {redact(place.url)}",
                found=f"{kind} vectors of " + ", ".join(f"{each.dimension} in shard {n}" for n, each in found.items()),
                expected="one dimension in all shards",
            )


def _shards_per_file(layout: Layout, contents: Contents) -> int:
    """Into how many shards of about `ROWS_A_SHARD` rows each file is cut; 1 if a file is one shard or cannot be cut."""
    if layout.metadata is None or layout.image is not layout.metadata or layout.image.is_listed:
        return 1
    smallest = min(contents.metadata.values(), key=lambda file: file.rows)
    return min(smallest.row_groups, round(smallest.rows / ROWS_A_SHARD)) if smallest.rows >= LARGE_ROWS else 1


def _shard_lines(layout: Layout, cut: int) -> list[str]:
    """The lines that say which shards there are, and how they are numbered or named."""
    if layout.image.is_listed:
        names = [layout.image.series.numbers[shard] for shard in layout.shards]
        return ["names = [", *(f"    {_quoted(name)}," for name in names), "]"]
    if cut == 1:
        return [f"shards = {_shards(layout.shards)}"]
    first = layout.shards[0]
    shards = tuple((file - first) * cut + share for file in layout.shards for share in range(cut))
    why = f"files of more than {LARGE_ROWS:,} rows are cut into shards"
    return [f"shards = {_shards(shards)}", f"shards_per_file = {cut}  # {why}", f"first_file = {first}"]


def _shards(shards: tuple[int, ...]) -> str:
    """The shards as TOML: a count if they begin at 0 and have no holes."""
    return str(len(shards)) if shards == tuple(range(len(shards))) else _quoted(as_ranges(shards))


def _file_names(layout: Layout, arrays: Arrays | None, cut: int) -> list[str]:
    if arrays is not None:
        file = {"image": layout.image.series.pattern}
        if layout.metadata is not None:
            file["metadata"] = layout.metadata.series.pattern
        lines = [
            f"{part}_file = {_quoted(name.replace('{shard}', '{file}') if cut > 1 else name)}"
            for part, name in file.items()
        ]
        guess = f"  # guessed among: {', '.join(arrays.every)}" if len(arrays.every) > 1 else ""
        lines.append(f"image_array = {_quoted(arrays.image)}{guess}")
        if arrays.text is not None:
            lines += [lines[0].replace("image", "text", 1), f"text_array = {_quoted(arrays.text)}{guess}"]
        return lines
    usual = {"image": "img_emb_{shard}.npy", "text": "text_emb_{shard}.npy", "metadata": "metadata_{shard}.parquet"}
    return [
        f"{kind}_file = {_quoted(part.series.pattern)}"
        for kind, part in layout.parts.items()
        if part.series.pattern != usual[kind]
    ]


def _lengths(looked: list[Vectors]) -> list[str]:
    if all(vectors.normalised for vectors in looked):
        return []
    shortest, longest = min(each.shortest for each in looked), max(each.longest for each in looked)
    return [f"normalised = false  # guessed: the first vectors have lengths from {shortest:.3g} to {longest:.3g}"]


def _model(dimension: int) -> list[str]:
    model = LIKELY_MODELS.get(dimension)
    say = f'# clip_model = "{model or "…"}"'
    why = f"a model of {dimension} dimensions" if model else "any name, with its encoders' folder in LAION_CLIP_DIR"
    return [f"{say}  # to search by words and pictures, remove the # if this model made the vectors ({why})"]


def _rows(contents: Contents) -> str:
    return ", ".join(f"{vectors.rows:,} in {shard}" for shard, vectors in contents.images.items())


def _column_lines(columns: Columns) -> list[str]:
    lines = []
    for table, found, quoted in (("columns", columns.names, True), ("defaults", columns.defaults, False)):
        if found:
            lines += ["", f"[{table}]"]
            lines += [
                f"{column} = {_quoted(value) if quoted else value}  # {why}" for column, (value, why) in found.items()
            ]
    if columns.others:
        lines += [
            "",
            "# [extra_columns]  # other columns: remove the # of this line and of the columns to load",
        ]
        plain = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
        for name, kind in columns.others.items():
            own = name if plain.fullmatch(name) else re.sub(r"\W", "_", f"c_{name}", flags=re.ASCII)
            value = _quoted(kind) if own == name else f"{{ type = {_quoted(kind)}, names = {_quoted(name)} }}"
            lines.append(f"# {own} = {value}")
    return lines


def _name_of(where: str) -> str:
    """A name for the dataset from the last part of its path."""
    last = where.partition("?")[0].rstrip("/").replace("\\", "/").rpartition("/")[2]
    if "://" not in where:
        from laion_assets.source.places import local_folder

        last = local_folder(where).absolute().resolve().name
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "my-dataset"


def _quoted(text: str) -> str:
    """A TOML basic string."""
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise DatasetError("describe", found=f"a control character in {text!r}", expected="names that TOML can hold")
    return json.dumps(text, ensure_ascii=False)

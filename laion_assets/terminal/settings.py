"""`laion-assets settings`: the value of every setting, and where it comes from. It changes none."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from laion_assets.errors import SettingsError
from laion_assets.redact import origin_of, redact
from laion_assets.settings import Settings, foreign_variables, load_settings, variable
from laion_assets.settings.fields import GROUPS
from laion_assets.source.credentials import NETRC
from laion_assets.text_file import read_text

Origin = Literal["default", "environment", ".env", "option", "dataset"]


@dataclass(frozen=True)
class ShownSetting:
    """One setting: its group, its variable, its value as it may be shown, and where the value comes from."""

    group: str
    variable: str
    value: str
    origin: Origin


ORIGINS: dict[str, Origin] = {}
"""The origin of variables that this command put into the environment: an option, or the file `.env`."""


IN_USE: Mapping[str, Callable[[Settings], str]] = {
    "clickhouse": lambda settings: redact(settings.clickhouse_url.get_secret_value()),
    "source": lambda settings: ", ".join(dict.fromkeys(redact(place.url) for place in settings.sources)),
    "extra_columns": lambda settings: ", ".join(settings.extra_column_types) or "none",
    "http_netrc": lambda _: str(NETRC),
    "clip_dir": lambda settings: str(settings.data_dir / "clip"),
}
"""What is used for these fields if they are not set."""


def read_env_file() -> None:
    """Reads the variables of the file `.env` in this folder that are not set, as Dagster's own commands do.

    Raises `SettingsError` if the file cannot be read.
    """
    path = Path(".env")
    if not path.is_file():
        return
    for name, value in variables_of(path).items():
        if not os.environ.get(name):
            os.environ[name] = value
            ORIGINS[name] = ".env"


def variables_of(path: Path) -> dict[str, str]:
    """The variables of a file of lines NAME=value, without empty ones. Raises `SettingsError` if it cannot be read."""
    try:
        found = dotenv_values(stream=io.StringIO(read_text(path)))
    except (OSError, ValueError) as error:
        raise SettingsError(f"file {path.absolute()}", found=str(error), expected="lines NAME=value") from error
    return {name: value for name, value in found.items() if value}


def quoted(value: str) -> str:
    """A value in the form for a line of `.env`."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" if re.search(r"[^\w./:+-]", value) else value


def take_options(dataset: str | None, source: str | None) -> None:
    """Puts --dataset and --source into the environment, so that processes started by this one have them, too."""
    for name, value in (("LAION_DATASET", dataset), ("LAION_SOURCE", source)):
        if value is not None:
            os.environ[name] = value
            ORIGINS[name] = "option"


def settings_of(dataset: str | None, source: str | None) -> Settings:
    """The settings, with --dataset and --source. Raises the errors of `load_settings`."""
    take_options(dataset, source)
    return load_settings()


def shown_settings(settings: Settings) -> list[ShownSetting]:
    """All settings, in the order of docs/settings.md; secrets are masked."""
    found, group = [], ""
    for field in Settings.model_fields:
        group = GROUPS.get(field, group)
        name = variable(field)
        origin: Origin = "default"
        if field in settings.model_fields_set:
            origin = ORIGINS.get(name, "environment")
        elif field in ("source", "extra_columns"):
            origin = "dataset"
        found.append(ShownSetting(group, name, _value(settings, field), origin))
    return found


def _value(settings: Settings, field: str) -> str:
    value = getattr(settings, field)
    if field in IN_USE and (value is None or field in ("clickhouse", "source")):
        return IN_USE[field](settings)
    if isinstance(value, SecretStr):
        # A webhook's path is secret; a token is secret as a whole.
        return origin_of(value.get_secret_value())
    if isinstance(value, Mapping):
        value = tuple(f"{key}={each}" for key, each in value.items())
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    if isinstance(value, Path):
        # A folder's name may hold bytes that are not UTF-8.
        return os.fsencode(value).decode("utf-8", "backslashreplace")
    return "none" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def print_settings(shown: list[ShownSetting], console: Console) -> None:
    """Prints a table for each group, then variables with our prefix that are not settings."""
    for group in dict.fromkeys(each.group for each in shown):
        table = Table("variable", "value", "from", title=group, title_justify="left", expand=True)
        table.columns[0].no_wrap = True
        table.columns[1].overflow = "fold"
        for each in shown:
            if each.group == group:
                style = "" if each.origin == "default" else "bold"
                table.add_row(each.variable, Text(each.value, style=style), each.origin)
        console.print(table)
    foreign = foreign_variables()
    if foreign:
        said = f"variables that are not settings and are ignored: {', '.join(foreign)}"
        console.print(said, markup=False, highlight=False)

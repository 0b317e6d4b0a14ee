"""The settings of each index that `laion-assets serve` serves: the first's, and one file for each further index."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from laion_assets.dataset import user_path
from laion_assets.errors import LaionError, SettingsError
from laion_assets.settings import Settings, settings_from
from laion_assets.terminal.settings import variables_of


def indexes_of(first: Settings, files: Sequence[Path]) -> dict[str, Settings]:
    """The settings of each index, by the name of its dataset.

    A further index has the settings of its file and the defaults; nothing of the first one's settings is used for it,
    since most of them are about one dataset: its recall report, its encoders, its columns. Raises `SettingsError` and
    `DatasetError` for a file that cannot be used, and `SettingsError` if two indexes share what belongs to one dataset.
    """
    named = {first.dataset.name: first}
    for file in files:
        other = file_settings(file)
        for name, each in named.items():
            _refuse_shared(f"index {file}", name, each, other)
        named[other.dataset.name] = other
    return named


def file_settings(file: Path) -> Settings:
    """The settings that a file's LAION_* variables give, without the environment.

    Relative paths in it start at the file's folder, as for a command that is started there. Raises `SettingsError`,
    `DatasetError`.
    """
    path = user_path(file).absolute()
    if not path.is_file():
        raise SettingsError(
            f"index {file}",
            found="no file of that name",
            expected="a file with the LAION_* variables of another dataset, such as the .env it is loaded with",
            advice="write LAION_DATASET, LAION_TABLE, LAION_DATA_DIR and LAION_CLICKHOUSE of that dataset into it",
        )
    variables = variables_of(path)
    with _in_folder(path.parent):
        try:
            return settings_from(variables)
        except LaionError as error:
            subject = f"index {file}, {error.subject}"
            raise type(error)(subject, found=error.found, expected=error.expected, advice=error.advice) from error


def _refuse_shared(subject: str, name: str, one: Settings, other: Settings) -> None:
    if other.dataset.name == name:
        raise SettingsError(subject, found=f"{name} twice", expected="each dataset once")
    if other.data_dir.resolve() == one.data_dir.resolve():
        raise SettingsError(
            subject,
            found=f"LAION_DATA_DIR {other.data_dir}, which is that of {name}, too",
            expected="a folder of its own: it has the recall report and the encoders of one dataset",
        )
    place, others = _database(one), _database(other)
    if others == place and other.table == one.table:
        raise SettingsError(
            subject, found=f"table {other.table}, which is that of {name}, too", expected="a table of its own"
        )
    if others != place and others.startswith("chdb:") and place.startswith("chdb:"):
        raise SettingsError(
            subject,
            found=f"another embedded engine than that of {name}",
            expected="the same, since a process can open only one",
            advice="load both into a ClickHouse server or into one engine (LAION_CLICKHOUSE), or start two services",
        )


def _database(settings: Settings) -> str:
    """The address of the database, without user and password."""
    scheme, _, rest = settings.clickhouse_url.get_secret_value().partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)

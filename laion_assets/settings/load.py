"""Loads all settings, once, from LAION_* variables, and checks them. Nothing else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from urllib.parse import quote, urlsplit

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from laion_assets.columns import WELL_KNOWN, ColumnType
from laion_assets.dataset import Dataset, describe_validation, load_dataset
from laion_assets.errors import SettingsError
from laion_assets.settings import checks
from laion_assets.settings.fields import Compression, SettingFields
from laion_assets.source_layout import Folders, SourceLayout
from laion_assets.variable_names import PREFIX, near_miss

PLAIN_LAYOUTS = (Folders(), Folders(image="", text="", metadata=""))
"""Layouts that copies of a dataset have: clip-retrieval's three folders, or all files in one folder (`wget`)."""


class Settings(SettingFields):
    """The settings of one code location. `load_settings` reads and checks them; docs/settings.md lists them."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings calls it by these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the caller gives, then the environment. An empty variable counts as unset, since compose files and
        charts set variables that were not filled in. Blanks around a value are removed, such as the newline of a
        mounted secret."""
        if isinstance(env_settings, EnvSettingsSource):
            found = env_settings.env_vars.items()
            env_settings.env_vars = {name: value.strip() for name, value in found if value and value.strip()}
        return init_settings, env_settings

    @property
    def builds_graphs(self) -> bool:
        """Whether HNSW indexes are built at milestones and by `build_index`."""
        return self.index in ("hnsw", "both")

    @property
    def builds_cells(self) -> bool:
        """Whether cells are built at milestones and by `build_index`."""
        return self.index in ("cells", "both")

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset that LAION_DATASET names. Raises `DatasetError`."""
        return load_dataset(self.dataset_name)

    @property
    def extra_column_types(self) -> dict[str, ColumnType]:
        """Name and type of the extra columns of the table, in order: those of LAION_EXTRA_COLUMNS, else all that the
        dataset declares. Raises `SettingsError` for a column that is neither declared nor well known."""
        dataset = self.dataset
        names = tuple(dataset.extra_columns) if self.extra_columns is None else self.extra_columns
        known = {name: dataset.extra_column(name) for name in names}
        unknown = [name for name, column in known.items() if column is None]
        if unknown:
            raise SettingsError(
                "LAION_EXTRA_COLUMNS",
                found=f"{', '.join(unknown)}",
                expected=f"columns among {', '.join([*dataset.extra_columns, *WELL_KNOWN])}",
                advice=f'declare others in the dataset\'s TOML file: [extra_columns] {unknown[0]} = "String"',
            )
        return {name: column.type for name, column in known.items() if column is not None}

    @cached_property
    def clickhouse_url(self) -> SecretStr:
        """The table's address: LAION_CLICKHOUSE with LAION_CLICKHOUSE_PASSWORD in it, else the embedded engine's folder
        in the data directory."""
        if self.clickhouse is None:
            return SecretStr(f"chdb://{quote(str(self.data_dir / 'clickhouse'))}")
        if self.clickhouse_password is None:
            return self.clickhouse
        password = self.clickhouse_password.get_secret_value()
        return SecretStr(checks.with_password(self.clickhouse.get_secret_value(), password))

    @cached_property
    def compression(self) -> Compression:
        """LAION_CLICKHOUSE_COMPRESSION. The default is none for a server on this machine, where compression cost a
        third of a push's rate (1.1 s for 100,000 rows, 1.7 s with zstd), and zstd for other servers."""
        if self.clickhouse_compression != "auto":
            return self.clickhouse_compression
        host = urlsplit(self.clickhouse_url.get_secret_value()).hostname
        return "none" if host in ("localhost", "127.0.0.1", "::1") else "zstd"

    @cached_property
    def sources(self) -> tuple[SourceLayout, ...]:
        """Places to try in order, each with the folders to look in.

        A base URL in LAION_SOURCE may have any known layout: the dataset's own, three folders, or one folder.
        """
        if not self.source:
            return tuple(
                place.model_copy(update={"url": place.url.replace("{data_dir}", str(self.data_dir))})
                for place in self.dataset.sources
            )
        layouts = dict.fromkeys((*(place.folders for place in self.dataset.sources), *PLAIN_LAYOUTS))
        return tuple(SourceLayout(url=url, folders=folders) for url in self.source for folders in layouts)


class GivenSettings(Settings):
    """Settings that come only from the caller: the environment is not read."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings calls it by these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the caller gives, and the defaults."""
        return (init_settings,)


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with `overrides` (by field name) on top. Raises `SettingsError`, `DatasetError`.

    An invalid value is named by its variable. The value itself is not shown, since it may be a secret.
    """
    _refuse_misspelt_variables()
    return _checked(Settings, variable, overrides)


def given_settings(kind: type[GivenSettings], **values: object) -> Settings:
    """Settings from `values` (by field name) alone, of a class that does not read the environment.

    Raises `SettingsError`, which names an invalid or unknown field, and `DatasetError`.
    """
    return _checked(kind, str, values)


def settings_from(variables: Mapping[str, str]) -> Settings:
    """Settings from these LAION_* variables alone: the environment is not read. Other variables are ignored.

    An empty variable counts as unset. Raises `SettingsError`, also for a LAION_* variable that is no setting, and
    `DatasetError`.
    """
    fields = {variable(field): field for field in Settings.model_fields}
    values = {
        fields.get(name, name): value.strip()
        for name, value in variables.items()
        if name.startswith(PREFIX) and value.strip()
    }
    return _checked(GivenSettings, lambda field: field if field.startswith(PREFIX) else variable(field), values)


def _checked(kind: type[Settings], name: Callable[[str], str], values: Mapping[str, object]) -> Settings:
    try:
        settings = kind(**values)  # type: ignore[arg-type]  # pydantic checks each value
    except ValidationError as error:
        raise SettingsError(
            "settings",
            found=describe_validation(error, name=name),
            advice="docs/settings.md lists every setting and its values",
        ) from None
    _ = settings.extra_column_types
    if not settings.sources:
        raise SettingsError(
            f"dataset {settings.dataset.name}",
            found="no source",
            expected="LAION_SOURCE, or [[sources]] in the dataset's file",
        )
    return settings


def variable(field: str) -> str:
    """The name of a field's variable. The field `dataset_name` is read from LAION_DATASET."""
    return "LAION_DATASET" if field in ("LAION_DATASET", "dataset_name") else f"{PREFIX}{field.upper()}"


def variable_of(settings: Settings, field: str) -> str | None:
    """The environment variable that holds the value of a secret setting, so that messages can name it without value."""
    value = getattr(settings, field)
    name = variable(field)
    return name if value is not None and os.environ.get(name, "").strip() == value.get_secret_value() else None


def value_of(name: str, subject: str) -> str:
    """The value of a variable that a user's file names. Raises `SettingsError` where it is unset or empty."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise SettingsError(subject, found=f"no variable {name}", expected="it in the environment, or in .env")
    return value


def foreign_variables() -> list[str]:
    """LAION_* variables of the environment that are not settings, sorted. They have no effect."""
    known = {variable(field) for field in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _refuse_misspelt_variables() -> None:
    """Raises `SettingsError` for a misspelt variable, which would silently leave its setting at the default."""
    known = [variable(field) for field in Settings.model_fields]
    meant = {name: near for name in foreign_variables() if (near := near_miss(name, known)) is not None}
    if meant:
        raise SettingsError(
            "settings",
            found=f"{', '.join(meant)} in the environment",
            expected=", ".join(dict.fromkeys(meant.values())),
            advice="docs/settings.md lists every variable",
        )

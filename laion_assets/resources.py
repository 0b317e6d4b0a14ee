"""The table and the store as Dagster resources, for users' own assets that read what our assets have loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from laion_assets.dataset import dataset_of, load_dataset
from laion_assets.health.keys import job_name
from laion_assets.settings import GivenSettings, Settings, given_settings, variable_of
from laion_assets.settings.checks import without_password
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database

TABLE = "embedding_table"
STORE = "shard_store"

OF_A_CONNECTION = (
    *("data_dir", "cluster", "clickhouse_memory_bytes", "clickhouse_wait_seconds", "clickhouse_ca_file"),
    *("clickhouse_connect_seconds", "clickhouse_search_seconds", "clickhouse_load_seconds", "clickhouse_compression"),
    *("index_cache_bytes", "index_build_threads"),
)
"""The settings that decide how to connect to a table, in addition to its URL."""


class EmbeddingTable(dg.ConfigurableResource["EmbeddingTable"]):
    """The ClickHouse table of one dataset, and how to connect to it."""

    url: str = Field(
        description="chdb:///folder for the embedded engine, or http(s)://user@host:port/database. A password in it is "
        "shown, unless the URL is an EnvVar."
    )
    password: str = Field(default="", description="The user's on a server: an EnvVar, which is shown by its name.")
    table: str = Field(default="laion", description="The table's name.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Other settings of the connection, such as clickhouse_wait_seconds."
    )

    @contextmanager
    def connect(self) -> Iterator[Database]:
        """A connection: `db.table` is the quoted name, `db.rows(sql)` the rows of a query.

        Raises `TableError`, and `SettingsError` for invalid values. Only one process at a time can open the embedded
        engine: an asset that connects to it must belong to the Dagster pool `clickhouse`, and must read within the
        block.
        """
        with connect(self.settings()) as db:
            yield db

    def settings(self) -> Settings:
        """The settings that the engine needs. Raises `SettingsError`."""
        password = {"clickhouse_password": self.password} if self.password else {}
        # Settings need a dataset. Which one it is does not change the connection.
        values = {"dataset_name": "sample", **self.options, **password, "clickhouse": self.url, "table": self.table}
        return given_settings(GivenSettings, **values)


class EmbeddingStore(dg.ConfigurableResource["EmbeddingStore"]):
    """The raw and merged files of one dataset."""

    folder: str = Field(description="A folder on this machine; with a bucket, what is brought from it.")
    bucket: str | None = Field(default=None, description="s3://bucket/prefix; credentials are AWS_* variables.")
    dataset: str = Field(default="", description="A preset, or the dataset's TOML file.")
    described: dict[str, Any] = Field(default_factory=dict, description="The dataset's description in place of that.")

    def open(self) -> ShardStore:
        """The store: `merged_path(3)` is a shard's merged file. Raises `DatasetError`."""
        described = dataset_of(self.described, "the resource's dataset") if self.described else None
        return ShardStore(Path(self.folder), described or load_dataset(self.dataset), self.bucket)


def build_resources(
    settings: Settings, variables: Mapping[str, str] | None = None
) -> dict[str, dg.ConfigurableResource[Any] | dg.ResourceDefinition]:
    """`embedding_table` and `shard_store`; their names begin with LAION_KEY_PREFIX, as those of jobs do.

    Dagster's UI shows the values of resources. So a password, or a URL that has one, is given by the name of its
    environment variable: one of `variables`, by the setting's field, or a LAION_* variable. If no variable holds the
    secret because a program gave the settings, the resource of the table shows none of its values.
    """
    return {
        job_name(settings, TABLE): _table(settings, variables or {}),
        job_name(settings, STORE): _store(settings),
    }


def _table(settings: Settings, variables: Mapping[str, str]) -> EmbeddingTable | dg.ResourceDefinition:
    defaults = Settings.model_fields
    given = {field: getattr(settings, field) for field in OF_A_CONNECTION if field in settings.model_fields_set}
    options = {field: _plain(value) for field, value in given.items() if value != defaults[field].default}
    url = settings.clickhouse_url.get_secret_value()
    if (shown := without_password(url)) == url:
        return EmbeddingTable(url=url, table=settings.table, options=options)
    field = "clickhouse" if settings.clickhouse_password is None else "clickhouse_password"
    variable = variables.get(field) or variable_of(settings, field)
    if variable is None:
        hidden = EmbeddingTable(url=url, table=settings.table, options=options)
        return dg.ResourceDefinition.hardcoded_resource(hidden, description=EmbeddingTable.__doc__)
    if field == "clickhouse":
        return EmbeddingTable(url=dg.EnvVar(variable), table=settings.table, options=options)
    return EmbeddingTable(url=shown, password=dg.EnvVar(variable), table=settings.table, options=options)


def _store(settings: Settings) -> EmbeddingStore:
    described = getattr(settings, "description", None)
    return EmbeddingStore(
        folder=str(settings.data_dir),
        bucket=settings.store,
        dataset="" if described else settings.dataset_name,
        described=described or {},
    )


def _plain(value: object) -> object:
    """The value in a form that a Dagster configuration can hold."""
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)

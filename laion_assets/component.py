"""`laion_assets.EmbeddingDataset`: one dataset's whole graph as a component of someone else's Dagster project."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from dagster.components.scaffold.scaffold import Scaffolder, ScaffoldRequest, scaffold_with
from pydantic import BaseModel, Field

from laion_assets.dataset import Dataset, dataset_of, user_path
from laion_assets.definitions import build_definitions
from laion_assets.errors import SettingsError
from laion_assets.settings import GivenSettings, Settings, checks, given_settings, value_of

VARIABLE = re.compile(r"""\s*\{\{\s*env(?:\.(\w+)|\(\s*["'](\w+)["']\s*\))\s*\}\}\s*""")
"""A value that consists of one variable of the environment and nothing else: `{{ env.NAME }}`."""


def _kept(field: str) -> dg.Resolver:
    """For a value that may be a secret: `{{ env.NAME }}` is kept as text, so that the UI shows only the name."""

    def resolve(context: dg.ResolutionContext, model: Any) -> str:
        written = getattr(model, field)
        return str(written if VARIABLE.fullmatch(written) else context.resolve_value(written, as_type=str))

    resolver: dg.Resolver = dg.Resolver.from_model(resolve, model_field_type=str | None)
    return resolver


class ScaffoldParams(BaseModel):
    """What `dg scaffold defs laion_assets.EmbeddingDataset` asks for."""

    dataset: str = Field(default="sample", description="A preset, or the dataset's TOML file")
    source: str | None = Field(default=None, description="A folder or URL that holds the shards")


class EmbeddingDatasetScaffolder(Scaffolder[ScaffoldParams]):
    """Writes a `defs.yaml` that names the dataset and its source, and nothing else."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """The options of the command."""
        return ScaffoldParams

    def scaffold(self, request: ScaffoldRequest[ScaffoldParams]) -> None:
        """Writes the file."""
        scaffold_component(request, request.params.model_dump(exclude_none=True))


class InlineSettings(GivenSettings):
    """Settings whose dataset is described in the component's own YAML."""

    description: dict[str, Any]

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset that the description describes. Raises `DatasetError`."""
        return dataset_of(self.description, "the component's dataset")


@scaffold_with(EmbeddingDatasetScaffolder)
class EmbeddingDataset(dg.Component, dg.Model, dg.Resolvable):
    """The asset graph of one dataset of LAION's layout: shards to checked ClickHouse partitions, indexes, recall.

    Several components in one code location are several datasets. They share nothing but the pool of steps that touch
    a table: the names of assets, jobs, schedules, sensors and resources begin with `key_prefix`, and each has a store
    and a table of its own. Dagster refuses to load two components with the same prefix. The environment's LAION_*
    variables are not read; `{{ env.NAME }}` puts one into the YAML file.
    """

    dataset: str | dict[str, Any]
    """A preset, a TOML file (relative paths start at the component's folder), or the description itself."""

    source: str | list[str] | None = None
    """Folders or URLs that hold the shards; they are tried in this order. By default those that the dataset names.
    Relative paths start at the project's root."""

    data_dir: str | None = None
    """The store. By default `data/<name>` in the project's root; relative paths start there, too."""

    clickhouse: Annotated[str | None, _kept("clickhouse")] = None
    """`chdb://…` or `http(s)://user@host:port/database`. A password in the URL is allowed only where the whole value is
    `{{ env.NAME }}`. By default the embedded engine, in the store."""

    clickhouse_password: Annotated[str | None, _kept("clickhouse_password")] = None
    """The password of the user on the server. It must be `{{ env.NAME }}`: a password must not be in a YAML file."""

    table: str | None = None
    """The table. By default the component's name."""

    key_prefix: str | None = None
    """Words before every asset key, with `/` between them; "" for none. By default the component's name."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Every other setting of docs/settings.md, without LAION_ and in lower case: `index_first: 5`."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of this dataset. Raises `SettingsError` or `DatasetError`, which name the invalid value."""
        # Jobs name their executor: a code location can have only one default executor, and the project chooses that.
        settings = self.settings_in(context.path, context.project_root)
        return build_definitions(settings, with_executor=False, variables=self.variables)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables from which `clickhouse` and `clickhouse_password` are read, by attribute."""
        written = {"clickhouse": self.clickhouse, "clickhouse_password": self.clickhouse_password}
        found = {field: VARIABLE.fullmatch(value) for field, value in written.items() if value is not None}
        return {field: match[1] or match[2] for field, match in found.items() if match is not None}

    def _secrets(self, name: str) -> dict[str, str | None]:
        """The real values of the URL and the password. Raises `SettingsError`."""
        written = {"clickhouse": self.clickhouse, "clickhouse_password": self.clickhouse_password}
        _no_password_in_text(name, written, self.variables)
        known = {field: value_of(variable, f"component {name}") for field, variable in self.variables.items()}
        return {**written, **known}

    def settings_in(self, folder: Path, project: Path) -> Settings:
        """The settings of a component in `folder` of a project. Raises `SettingsError`, `DatasetError`."""
        name = component_name(folder)
        own = {
            "source": _sources(self.source, project),
            "data_dir": project / (self.data_dir or f"data/{name}"),
            **self._secrets(name),
            "table": self.table or name,
            "key_prefix": name if self.key_prefix is None else self.key_prefix,
        }
        twice = sorted({*own, "dataset", "dataset_name"} & set(self.settings))
        if twice:
            raise SettingsError(
                f"component {name}",
                found=f"{', '.join(twice)} in settings",
                expected="these as attributes of the component",
            )
        values = {field: value for field, value in {**self.settings, **own}.items() if value is not None}
        if isinstance(self.dataset, dict):
            return given_settings(InlineSettings, dataset_name="", description=self.dataset, **values)
        return given_settings(GivenSettings, dataset_name=_dataset_name(self.dataset, folder), **values)


def _no_password_in_text(name: str, secrets: dict[str, str | None], variables: dict[str, str]) -> None:
    """Raises `SettingsError` for a password that is written in the YAML file, where the UI and git would show it."""
    url = secrets["clickhouse"] or ""
    in_url = "clickhouse" not in variables and checks.without_password(url) != url
    if in_url or (secrets["clickhouse_password"] and "clickhouse_password" not in variables):
        raise SettingsError(
            f"component {name}",
            found=f"a password in the text of {'clickhouse' if in_url else 'clickhouse_password'}",
            expected='clickhouse_password: "{{ env.NAME }}", and the URL without it',
        )


def component_name(folder: Path) -> str:
    """The folder's name, changed so that it can be a part of names in Dagster and ClickHouse."""
    words = re.sub(r"[^A-Za-z0-9_]+", "_", folder.stem if folder.suffix else folder.name).strip("_")
    return words if re.match(r"[A-Za-z_]", words) else f"dataset_{words}"


def _sources(source: str | list[str] | None, project: Path) -> list[str] | None:
    """The places of `source`, with folders made absolute from the project's root: Dagster's processes may be started in
    any folder."""
    if source is None:
        return None
    found = checks.places(source) if isinstance(source, str) else source
    return [place if "://" in place else str(project / user_path(place)) for place in found]


def _dataset_name(dataset: str, folder: Path) -> str:
    """A preset's name unchanged; a file's path made absolute from the component's folder."""
    if not dataset.endswith(".toml"):
        return dataset
    base = folder if folder.is_dir() else folder.parent
    return str(base / user_path(dataset))

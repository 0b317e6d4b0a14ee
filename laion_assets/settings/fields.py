"""The fields of the settings: the type, the default and the check of each LAION_* variable. `load.py` reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from laion_assets.dataset import user_path
from laion_assets.settings import checks

Quantization = Literal["f64", "f32", "f16", "bf16", "i8", "b1"]
"""The number formats that ClickHouse's HNSW index stores vectors in."""

QueryKind = Literal[
    "image_to_image",
    "text_to_text",
    "text_to_image",
    "image_to_text",
    "like_by_image",
    "like_by_text",
    "given_by_image",
]
"""The kinds of query whose recall is measured: what the query is, and which vectors are searched. Queries of `like` are
rows of the table, so the index has seen them."""

IndexKind = Literal["hnsw", "cells", "both", "none"]
"""The indexes that can be built over loaded shards to make searches fast."""

Compression = Literal["zstd", "lz4", "none"]
"""How rows and results travel between us and a ClickHouse server."""

Words = Annotated[tuple[str, ...], NoDecode]
"""Several words in one variable, separated by commas or blanks."""

Sources = Annotated[tuple[Annotated[str, AfterValidator(checks.source)], ...], NoDecode]
Name = Annotated[str, AfterValidator(checks.database_object)]

Cron = Annotated[str, AfterValidator(checks.schedule)]
"""When a schedule ticks, in UTC."""


GROUPS = {
    "dataset_name": "What is loaded, and where it goes",
    "keep_raw": "Files and rows",
    "vector_codec": "The table",
    "load_shards": "Schedules and alarms",
    "index": "Index and recall",
    "clickhouse_memory_bytes": "The connection to ClickHouse, and its engine",
    "http_tries": "Fetching",
    "clip_dir": "CLIP, alerts, clusters",
    "serve_searches": "The search service",
}
"""The groups of settings, by the first field of each group. The fields after it in `Settings` belong to its group."""


def _secret(check: Callable[[str], str]) -> Callable[[SecretStr], SecretStr]:
    """The same check for a value that must not be shown."""
    return lambda value: SecretStr(check(value.get_secret_value()))


class SettingFields(BaseSettings):
    """A field for each setting; docs/settings.md lists them. `Settings` adds values derived from them."""

    model_config = SettingsConfigDict(
        env_prefix="LAION_", extra="forbid", frozen=True, validate_default=True, populate_by_name=True
    )

    dataset_name: str = Field(default="laion400m", validation_alias="LAION_DATASET")
    source: Sources = ()
    data_dir: Path = Path("data")
    store: Annotated[str, AfterValidator(checks.bucket)] | None = None
    store_collection: Name | None = None
    clickhouse: Annotated[SecretStr, AfterValidator(_secret(checks.database))] | None = None
    clickhouse_password: SecretStr | None = None
    table: Annotated[str, AfterValidator(checks.table)] = "laion"
    key_prefix: Annotated[tuple[Annotated[str, AfterValidator(checks.key_part)], ...], NoDecode] = ()
    owners: Annotated[tuple[Annotated[str, AfterValidator(checks.owner)], ...], NoDecode] = ("team:embeddings",)
    git_url: Annotated[str, AfterValidator(checks.repository)] | None = None
    git_branch: str = Field(default="main", pattern=r"^[\w./-]+$")

    keep_raw: bool = False
    keep_merged: bool = True
    max_bad_fraction: float = Field(default=0.001, ge=0, le=1)
    extra_columns: Words | None = None

    vector_codec: Annotated[str, AfterValidator(checks.codec)] = "NONE"
    index_granularity: int = Field(default=64, ge=1, le=8192)
    load_shards: int = Field(default=10, ge=1)
    load_cron: Cron = "0 * * * *"
    retry_cron: Cron = "30 */6 * * *"
    retry_limit: int = Field(default=3, ge=0)
    observe_cron: Cron = "0 3 * * *"
    report_cron: Cron = "*/30 * * * *"
    stalled_hours: float = Field(default=6.0, gt=0)
    fresh_hours: float = Field(default=24.0, ge=1, le=8760)
    update_cron: Cron = "0 4 * * *"
    audit_cron: Cron = "0 5 * * *"
    audit_shards: int = Field(default=14, ge=1)
    audit_days: float = Field(default=60.0, gt=0)
    sweep_hours: float = Field(default=4.0, gt=0)
    digest_cron: Cron = "0 7 * * *"
    dagster_url: Annotated[str, AfterValidator(checks.web_page)] | None = None

    index: IndexKind = "hnsw"
    index_first: int = Field(default=10, ge=1)
    index_step: int = Field(default=10, ge=1)
    recall_target: float = Field(default=0.95, gt=0, le=1)
    recall_targets: Annotated[dict[QueryKind, Annotated[float, Field(gt=0, le=1)]], NoDecode] = Field(
        default_factory=dict
    )
    recall_queries: int = Field(default=200, ge=2, le=10_000)
    tuning_rows: int = Field(default=50_000, ge=1_000)
    tuning_partitions: int = Field(default=1, ge=1, le=1_000)
    tuning_granularities: Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], NoDecode] = ()
    hnsw_quantization: Quantization = "bf16"
    hnsw_m: int = Field(default=64, ge=2, le=512)
    hnsw_ef_construction: int = Field(default=256, ge=2, le=100_000)

    clickhouse_memory_bytes: int = Field(default=0, ge=0)
    clickhouse_wait_seconds: float = Field(default=20.0, ge=0)
    clickhouse_ca_file: Path | None = None
    clickhouse_connect_seconds: float = Field(default=10.0, gt=0)
    clickhouse_search_seconds: float = Field(default=300.0, ge=1)
    clickhouse_load_seconds: float = Field(default=3600.0, ge=1)
    clickhouse_compression: Compression | Literal["auto"] = "auto"
    clickhouse_merged: Annotated[str, AfterValidator(checks.merged_place)] | None = None
    index_cache_bytes: int = Field(default=5 * 2**30, ge=0)
    index_build_threads: int = Field(default=0, ge=0, le=1024)

    http_tries: int = Field(default=100, ge=1)
    http_connect_seconds: float = Field(default=20.0, gt=0)
    http_read_seconds: float = Field(default=60.0, gt=0)
    http_file_seconds: float = Field(default=6 * 3600.0, gt=0)
    http_min_bytes_per_second: int = Field(default=10_000, ge=0)
    http_connections: int = Field(default=3, ge=1, le=64)
    http_unreachable_seconds: float = Field(default=20.0, ge=0)
    http_ca_file: Path | None = None
    http_token: Annotated[SecretStr, AfterValidator(_secret(checks.tokens))] | None = None
    http_netrc: Path | None = None
    manifest: Path | None = None
    manifest_gaps: bool = False

    clip_dir: Path | None = None
    image_root: Path | None = None
    alert_webhook: Annotated[SecretStr, AfterValidator(_secret(checks.webhook))] | None = None
    cluster: Name | None = None

    serve_searches: int = Field(default=4, ge=1, le=256)
    serve_queue: int = Field(default=64, ge=0, le=10_000)
    serve_seconds: float = Field(default=30.0, gt=0)
    serve_idle_seconds: float = Field(default=5.0, gt=0)
    serve_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    serve_token: SecretStr | None = None
    serve_cors_origins: Words = ()
    serve_picture_urls: bool = False
    serve_private_networks: Annotated[tuple[Annotated[str, AfterValidator(checks.network)], ...], NoDecode] = ()

    @field_validator("source", mode="before")
    @classmethod
    def _split_places(cls, value: object) -> object:
        return checks.places(value) if isinstance(value, str) else value

    @field_validator(
        "owners", "extra_columns", "tuning_granularities", "serve_cors_origins", "serve_private_networks", mode="before"
    )
    @classmethod
    def _split_words(cls, value: object) -> object:
        return tuple(word for word in re.split(r"[,\s]+", value) if word) if isinstance(value, str) else value

    @field_validator("key_prefix", mode="before")
    @classmethod
    def _split_key(cls, value: object) -> object:
        return tuple(part for part in value.strip("/").split("/") if part) if isinstance(value, str) else value

    @field_validator("recall_targets", mode="before")
    @classmethod
    def _split_pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [word.partition("=") for word in re.split(r"[,\s]+", value) if word]
        return {kind: target for kind, _, target in pairs}

    @field_validator("extra_columns")
    @classmethod
    def _each_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if columns is None else tuple(dict.fromkeys(columns))

    @field_validator("data_dir", mode="before")
    @classmethod
    def _data_dir_is_here(cls, folder: object) -> object:
        if "://" in str(folder):
            raise ValueError("a folder on this machine; a bucket for raw and merged files is named in LAION_STORE")
        return folder

    @field_validator(
        "data_dir", "http_ca_file", "http_netrc", "clickhouse_ca_file", "manifest", "clip_dir", "image_root"
    )
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise ValueError("a path in UTF-8: neither ClickHouse nor Dagster's history takes another") from None
        return user_path(path).absolute()

    @field_validator("clickhouse_password")
    @classmethod
    def _only_password(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        url = info.data.get("clickhouse") or SecretStr("chdb:")
        if password is not None and url.get_secret_value().startswith("chdb:"):
            raise ValueError("a password of a server, but clickhouse names no server")
        if password is not None and urlsplit(url.get_secret_value()).password:
            raise ValueError("one of two passwords: the URL of clickhouse has one, too")
        return password

"""Tests settings: each LAION_* variable is read, checked, documented, and named in errors; secrets are never shown."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from dagster._utils.schedules import is_valid_cron_string
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from laion_assets.cli import app
from laion_assets.columns import WELL_KNOWN
from laion_assets.errors import DatasetError, LaionError, SettingsError
from laion_assets.settings import Settings, foreign_variables, load_settings
from laion_assets.source.places import local_folder
from laion_assets.source_layout import Folders
from laion_assets.terminal.settings import shown_settings
from laion_assets_tests.conftest import REPOSITORY, assert_one_line

SECRET = "hunter2-s3cret"  # noqa: S105 - not a real secret

ENVIRONMENT: dict[str, tuple[str, object]] = {
    "dataset_name": ("laion2b-en", "laion2b-en"),
    "source": ("https://a.example/x, file:///mnt/b  s3://c/d", ("https://a.example/x", "file:///mnt/b", "s3://c/d")),
    "data_dir": ("/mnt/store", Path("/mnt/store")),
    "store": ("s3://bucket/laion/", "s3://bucket/laion"),
    "store_collection": ("bucket", "bucket"),
    "load_shards": ("3", 3),
    "load_cron": ("5 * * * *", "5 * * * *"),
    "retry_cron": ("6 * * * *", "6 * * * *"),
    "retry_limit": ("1", 1),
    "observe_cron": ("7 * * * *", "7 * * * *"),
    "report_cron": ("8 * * * *", "8 * * * *"),
    "stalled_hours": ("2.5", 2.5),
    "fresh_hours": ("7", 7.0),
    "key_prefix": ("/laion2b/en/", ("laion2b", "en")),
    "update_cron": ("9 * * * *", "9 * * * *"),
    "audit_cron": ("10 * * * *", "10 * * * *"),
    "audit_shards": ("5", 5),
    "audit_days": ("30", 30.0),
    "sweep_hours": ("1.5", 1.5),
    "digest_cron": ("11 * * * *", "11 * * * *"),
    "owners": ("team:search, me@example.org", ("team:search", "me@example.org")),
    "git_url": ("https://github.com/you/laion_assets.git", "https://github.com/you/laion_assets"),
    "git_branch": ("release/1", "release/1"),
    "dagster_url": ("https://dagster.example/", "https://dagster.example"),
    "recall_queries": ("20", 20),
    "tuning_rows": ("40000", 40_000),
    "tuning_partitions": ("4", 4),
    "table": ("my_laion", "my_laion"),
    "keep_raw": ("true", True),
    "keep_merged": ("0", False),
    "max_bad_fraction": ("0.25", 0.25),
    "extra_columns": ("width,height,width LICENSE", ("width", "height", "LICENSE")),
    "vector_codec": ("ZSTD(3)", "ZSTD(3)"),
    "index_granularity": ("8192", 8192),
    "index": ("both", "both"),
    "index_first": ("1", 1),
    "index_step": ("5", 5),
    "recall_target": ("0.99", 0.99),
    "recall_targets": ("image_to_image=0.99, text_to_text=0.98", {"image_to_image": 0.99, "text_to_text": 0.98}),
    "tuning_granularities": ("64, 512", (64, 512)),
    "hnsw_quantization": ("i8", "i8"),
    "hnsw_m": ("32", 32),
    "hnsw_ef_construction": ("128", 128),
    "clickhouse_memory_bytes": ("1000000000", 1_000_000_000),
    "clickhouse_wait_seconds": ("1.5", 1.5),
    "clickhouse_ca_file": ("/etc/own-ca.pem", Path("/etc/own-ca.pem")),
    "clickhouse_connect_seconds": ("2.5", 2.5),
    "clickhouse_search_seconds": ("30", 30.0),
    "clickhouse_load_seconds": ("600", 600.0),
    "clickhouse_compression": ("lz4", "lz4"),
    "clickhouse_merged": ("s3://bucket/merged/", "s3://bucket/merged"),
    "index_cache_bytes": ("0", 0),
    "index_build_threads": ("4", 4),
    "http_tries": ("3", 3),
    "http_connect_seconds": ("1", 1.0),
    "http_read_seconds": ("2.5", 2.5),
    "http_file_seconds": ("60", 60.0),
    "http_min_bytes_per_second": ("0", 0),
    "http_connections": ("1", 1),
    "http_ca_file": ("/etc/ca.pem", Path("/etc/ca.pem")),
    "http_unreachable_seconds": ("5", 5.0),
    "http_netrc": ("/etc/netrc", Path("/etc/netrc")),
    "manifest": ("/etc/manifest.json", Path("/etc/manifest.json")),
    "manifest_gaps": ("true", True),
    "clip_dir": ("/mnt/clip", Path("/mnt/clip")),
    "image_root": ("/mnt/images", Path("/mnt/images")),
    "cluster": ("main", "main"),
    "serve_searches": ("2", 2),
    "serve_queue": ("7", 7),
    "serve_seconds": ("5", 5.0),
    "serve_idle_seconds": ("9", 9.0),
    "serve_body_bytes": ("2000", 2000),
    "serve_cors_origins": ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
    "serve_picture_urls": ("true", True),
    "serve_private_networks": ("10.0.0.0/8 fd00::/8", ("10.0.0.0/8", "fd00::/8")),
}
"""A valid text for each variable, and its value as a setting. Variables with secrets have separate tests."""

WRONG: dict[str, str] = {
    "source": "HTTP//://x",
    "data_dir": "s3://bucket/laion",
    "store": f"s3://user:{SECRET}@bucket/laion",
    "store_collection": "a.b",
    "load_cron": "every hour",
    "retry_limit": "-1",
    "stalled_hours": "0",
    "recall_queries": "0",
    "tuning_rows": "10",
    "table": "laion; DROP TABLE laion",
    "keep_raw": "perhaps",
    "keep_merged": "2",
    "max_bad_fraction": "1.5",
    "vector_codec": "ZSTD(3)) ORDER BY id --",
    "index_granularity": "0",
    "load_shards": "0",
    "retry_cron": "once a day",
    "observe_cron": "daily",
    "report_cron": "* * *",
    "fresh_hours": "-1",
    "key_prefix": "laion 2b",
    "update_cron": "soon",
    "audit_cron": "daily",
    "audit_shards": "0",
    "audit_days": "0",
    "sweep_hours": "0",
    "digest_cron": "each day",
    "owners": "the search team",
    "git_url": "https://example.org/laion_assets",
    "git_branch": "a b",
    "dagster_url": f"https://user:{SECRET}@dagster.example",
    "tuning_partitions": "0",
    "index": "faiss",
    "index_first": "0",
    "index_step": "ten",
    "recall_target": "0",
    "recall_targets": "image_to_image=1.5",
    "tuning_granularities": "64, 0",
    "hnsw_quantization": "f8",
    "hnsw_m": "1",
    "hnsw_ef_construction": "1",
    "clickhouse_memory_bytes": "-1",
    "clickhouse_wait_seconds": "-1",
    "clickhouse_connect_seconds": "0",
    "clickhouse_search_seconds": "0",
    "clickhouse_load_seconds": "nan",
    "clickhouse_compression": "brotli",
    "clickhouse_merged": "s3://bucket/*",
    "index_cache_bytes": "5 GB",
    "index_build_threads": "-1",
    "http_tries": "0",
    "http_connect_seconds": "0",
    "http_read_seconds": "nan",
    "http_file_seconds": "-5",
    "http_min_bytes_per_second": "-1",
    "http_connections": "65",
    "clickhouse": f"postgres://user:{SECRET}@host/db",
    "http_token": f"{SECRET}\x07",
}
"""An invalid text for each variable."""


def variable(field: str) -> str:
    """The environment variable of a settings field."""
    return "LAION_DATASET" if field == "dataset_name" else f"LAION_{field.upper()}"


def refusal(**overrides: object) -> SettingsError:
    """Loads invalid settings and returns their error, which must be one line."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    assert_one_line(caught.value)
    return caught.value


@pytest.mark.parametrize("field", ["load_cron", "retry_cron", "observe_cron", "report_cron"])
@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("61 * * * *", "[61 * * * *] is not acceptable, out of range"),
        ("0 25 * * *", "out of range"),
        ("0 0 30 2 *", "failed to find next date"),
        ("0 0 * * 8", "out of range"),
        ("*/0 * * * *", "step '0' in field 0 is not acceptable"),
        ("a b c d e", "is not acceptable"),
        ("H * * * *", "hash_id"),
        ("0 0 * * * *", "a cron schedule has five fields"),
    ],
)
def test_a_schedule_that_never_comes_is_refused(
    field: str, expression: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_valid_cron_string(expression), "Dagster would refuse it, too, when the code location is loaded"
    monkeypatch.setenv(variable(field), expression)
    assert_one_line(refusal(), variable(field), said)


@pytest.mark.parametrize(
    ("address", "wanted", "meant"),
    [
        ("http://127.0.0.1:8123", "auto", "none"),
        ("https://localhost/laion", "auto", "none"),
        ("http://[::1]:8123", "auto", "none"),
        ("https://me:localhost@clickhouse.example/laion", "auto", "zstd"),
        ("http://127.0.0.1:8123", "lz4", "lz4"),
    ],
)
def test_what_goes_to_another_machine_is_compressed_by_default(address: str, wanted: str, meant: str) -> None:
    assert load_settings(clickhouse=address, clickhouse_compression=wanted).compression == meant


def test_a_tilde_that_names_nobody_s_home_is_a_path_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_DATA_DIR", "~nobody_of_that_name/data")
    assert load_settings().data_dir.name == "data"
    monkeypatch.setenv("LAION_DATASET", "~0/mine.toml")
    with pytest.raises(DatasetError) as caught:
        load_settings()
    assert_one_line(caught.value, "~0/mine.toml")
    assert local_folder("~0/x").name == "x"


def test_every_setting_is_tried_by_these_tests() -> None:
    secrets = {"clickhouse", "clickhouse_password", "alert_webhook", "http_token", "serve_token"}
    assert set(ENVIRONMENT) | secrets == set(Settings.model_fields)


@pytest.mark.parametrize("field", ENVIRONMENT)
def test_each_variable_is_read_from_the_environment(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, meaning = ENVIRONMENT[field]
    assert getattr(load_settings(), field) != meaning
    monkeypatch.setenv(variable(field), text)
    assert getattr(load_settings(), field) == meaning


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_named_by_its_variable_and_not_shown(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(field), WRONG[field])
    error = refusal()
    assert f"{variable(field)}" in error.found
    assert "docs/settings.md" in error.advice
    assert SECRET not in str(error)


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("keep_raw", "hnsw_m", "table"):
        monkeypatch.setenv(variable(field), WRONG[field])
    found = refusal().found
    assert all(name in found for name in ("LAION_KEEP_RAW", "LAION_HNSW_M", "LAION_TABLE"))


def test_secrets_are_read_and_shown_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_CLICKHOUSE", f"https://me:{SECRET}@db.example:8443/laion")
    monkeypatch.setenv("LAION_ALERT_WEBHOOK", f"https://hooks.example/{SECRET}")
    settings = load_settings()
    assert settings.clickhouse_url.get_secret_value() == f"https://me:{SECRET}@db.example:8443/laion"
    assert settings.alert_webhook is not None
    assert settings.alert_webhook.get_secret_value().endswith(SECRET)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.clickhouse_url)):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "url",
    [
        *(f"postgres://u:{SECRET}@h/d", f"http//u:{SECRET}@h", f"{SECRET}", f"http://[::1:{SECRET}@h/d"),
        *(f"https://me:{SECRET}@h:8443/{rest}" for rest in ("db?secure=true", "db/more", "db#part", "?database=db")),
        f"chdb:///folder?token={SECRET}",
        *(f"http://me:{SECRET}@h:{port}/d" for port in ("abc", "99999", "-1")),
    ],
)
def test_a_clickhouse_url_that_cannot_be_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAION_CLICKHOUSE", url)
    error = refusal()
    assert "LAION_CLICKHOUSE" in error.found
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and not chain[-1].__suppress_context__:
        chain.append(cause)
    for each in chain:
        assert SECRET not in f"{each!r} {each}"


@pytest.mark.parametrize("sign", ["/", "#", "?"])
@pytest.mark.parametrize("secret", [SECRET, "12"])
def test_a_password_whose_signs_are_not_written_as_a_url_has_them_is_refused(secret: str, sign: str) -> None:
    error = refusal(clickhouse=f"http://me:{secret}{sign}{SECRET}@host:8123/laion")
    assert "LAION_CLICKHOUSE" in error.found
    assert SECRET not in str(error)


@pytest.mark.parametrize("name", ["per%20cent", "hash#tag", "with space", "a'b"])
def test_the_tables_folder_is_in_the_store_whatever_the_stores_name(name: str, tmp_path: Path) -> None:
    parts = urlsplit(load_settings(data_dir=tmp_path / name).clickhouse_url.get_secret_value())
    assert unquote(parts.netloc + parts.path) == str(tmp_path / name / "clickhouse")


def test_folders_are_those_of_where_the_settings_were_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(source=("shards/here", "https://a.example/x"), clickhouse="chdb://table")
    assert settings.source == (f"{tmp_path}/shards/here", "https://a.example/x")
    assert settings.clickhouse_url.get_secret_value() == f"chdb://{tmp_path}/table"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LAION_SOURCE", "http://[::1/x", "LAION_SOURCE.0: a source is a URL"),
        ("LAION_SOURCE", "http://host:99999/x", "LAION_SOURCE.0: a source is a URL"),
        ("LAION_SOURCE", "https://me:12/hunter2@host/x", "LAION_SOURCE.0: in a URL with user and password"),
        ("LAION_SOURCE", "https://me:12?hunter2@host/x", "LAION_SOURCE.0: in a URL with user and password"),
        ("LAION_ALERT_WEBHOOK", "hooks.example/x", "LAION_ALERT_WEBHOOK: a webhook is http(s)://host/"),
        ("LAION_TABLE", "laion_staging_v2", "LAION_TABLE: a name with _staging_"),
        *(
            (name, "laion2b-en", f"{name} in the environment")
            for name in ("LAION_DATASET_NAME", "LAION_SUORCE", "LAION_TABEL", "LAION_DATADIR", "LAION_CLICKHOUSE_URL")
        ),
    ],
)
def test_values_that_would_fail_later_are_refused_at_once(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert said in refusal().found


SERVICE_LINKS = {
    "LAION_ASSETS_SERVICE_HOST": "10.0.0.8",
    "LAION_ASSETS_SERVICE_PORT": "4000",
    "LAION_ASSETS_SERVICE_PORT_GRPC": "4000",
    "LAION_ASSETS_PORT": "tcp://10.0.0.8:4000",
    "LAION_ASSETS_PORT_4000_TCP": "tcp://10.0.0.8:4000",
    "LAION_ASSETS_PORT_4000_TCP_ADDR": "10.0.0.8",
    "LAION_CLICKHOUSE_SERVICE_HOST": "10.0.0.7",
    "LAION_CLICKHOUSE_PORT": "tcp://10.0.0.7:8123",
    "LAION_STORE_PORT": "tcp://10.0.0.9:9000",
    "LAION_PORT": "tcp://10.0.0.9:80",
}
"""Variables that Kubernetes sets in a pod for services named laion-assets, laion-clickhouse, laion-store and laion."""


def test_variables_of_someone_else_under_our_prefix_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    for name, value in (SERVICE_LINKS | {"LAION_REDIS_PASSWORD": SECRET, "LAION_HOME": "/opt"}).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == before
    assert set(SERVICE_LINKS) < set(foreign_variables())


def test_the_code_location_loads_in_a_pod_with_service_links(tmp_path: Path) -> None:
    """Loads the module with Dagster's own command, as the deployment of the chart does."""
    environment = {**os.environ, **SERVICE_LINKS, "DAGSTER_HOME": str(tmp_path), "LAION_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", "laion_assets.definitions"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Validation successful" in ended.stdout + ended.stderr


@pytest.mark.parametrize("field", Settings.model_fields)
@pytest.mark.parametrize("nothing", ["", "  ", "\n"])
def test_an_empty_variable_is_as_good_as_none(field: str, nothing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    monkeypatch.setenv(variable(field), nothing)
    assert load_settings() == before


def test_the_lines_end_of_a_mounted_secret_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_CLICKHOUSE", f"https://me:{SECRET}@db.example/laion\n")
    monkeypatch.setenv("LAION_DATA_DIR", "/mnt/store\n")
    settings = load_settings()
    assert settings.clickhouse_url.get_secret_value() == f"https://me:{SECRET}@db.example/laion"
    assert settings.data_dir == Path("/mnt/store")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("/mnt/my shards", ["/mnt/my shards"]),
        ("/mnt/a, b,c", ["/mnt/a, b,c"]),
        ("https://a.example/x,y /mnt/my shards, ~/z", ["https://a.example/x,y", "/mnt/my shards", "~/z"]),
        ("'/mnt/a, /b' \"/mnt/c /d\"", ["/mnt/a, /b", "/mnt/c /d"]),
        ("https://a.example/x\nhttps://b.example/y,", ["https://a.example/x", "https://b.example/y"]),
    ],
)
def test_a_place_of_a_list_may_hold_blanks_and_commas(
    text: str, places: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAION_SOURCE", text)
    assert [place.replace(f"{tmp_path}/", "~/") for place in load_settings().source] == places


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_dataset_s_relative_place_is_beside_its_file(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    text = 'name = "mine"\r\nshards = 1\ndimension = 8\n[[sources]]\nurl = "my shards"\n[[sources]]\nurl = "s3://b"\n'
    (tmp_path / "there" / "mine.toml").write_bytes(text.encode(encoding))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAION_DATASET", "there/mine.toml")
    assert [place.url for place in load_settings().sources] == [str(tmp_path / "there" / "my shards"), "s3://b"]


def test_a_wrong_schedule_names_its_variable_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_LOAD_CRON", "61 * * * *")
    found = refusal().found
    assert found.startswith("LAION_LOAD_CRON: no cron schedule")
    assert "; minute 0-59" in found
    assert found.count("LAION_") == 1


def test_unknown_overrides_are_refused() -> None:
    assert refusal(keep_rawish=True).found == "LAION_KEEP_RAWISH: Extra inputs are not permitted"


def test_overrides_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_TABLE", "from_environment")
    monkeypatch.setenv("LAION_DATASET", "laion2b-en")
    settings = load_settings(table="given", dataset_name="sample")
    assert (settings.table, settings.dataset.name) == ("given", "sample")


def test_the_defaults_are_those_of_clickhouses_page() -> None:
    settings = load_settings()
    assert settings.dataset.name == "laion400m"
    assert settings.table == "laion"
    assert (settings.hnsw_quantization, settings.hnsw_m, settings.hnsw_ef_construction) == ("bf16", 64, 256)
    assert (settings.keep_raw, settings.keep_merged, settings.max_bad_fraction) == (False, True, 0.001)
    assert (settings.index_first, settings.index_step, settings.recall_target) == (10, 10, 0.95)


def test_without_a_clickhouse_url_the_table_is_in_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().clickhouse_url.get_secret_value() == f"chdb://{tmp_path}/data/clickhouse"
    assert load_settings(data_dir="elsewhere").data_dir == tmp_path / "elsewhere"


def test_a_home_folder_may_be_written_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(data_dir="~/laion").data_dir == tmp_path / "laion"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.table = "other"  # type: ignore[misc]  # settings are frozen: the test checks this


def test_a_source_may_hold_any_layout_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_SOURCE", "https://mirror.example/laion /mnt/laion")
    places = load_settings().sources
    assert [place.url for place in places] == ["https://mirror.example/laion"] * 3 + ["/mnt/laion"] * 3
    assert {place.folders for place in places} == {
        Folders(),
        Folders(image="images", text="texts", metadata="metadata"),
        Folders(image="", text="", metadata=""),
    }


def test_without_a_source_the_datasets_own_places_are_tried() -> None:
    settings = load_settings()
    assert settings.sources == settings.dataset.sources


def test_the_samples_place_is_in_the_store(tmp_path: Path) -> None:
    assert load_settings(dataset_name="sample", data_dir=tmp_path).sources[0].url == f"{tmp_path}/sample"


def test_a_dataset_without_any_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nshards = 1\ndimension = 8\n', encoding="utf-8")
    monkeypatch.setenv("LAION_DATASET", str(path))
    assert "LAION_SOURCE" in refusal().expected
    monkeypatch.setenv("LAION_SOURCE", "/mnt/mine")
    assert load_settings().dataset.name == "mine"


def test_a_dataset_that_does_not_exist_is_refused_when_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_DATASET", "laion9000")
    with pytest.raises(DatasetError, match="'laion9000'"):
        load_settings()


@pytest.mark.parametrize("name", ["distance", "cells_load"])
def test_a_name_with_a_meaning_in_searches_is_no_extra_column(tmp_path: Path, name: str) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text(f'name = "mine"\nshards = 1\ndimension = 8\n[extra_columns]\n{name} = "Float32"\n')
    with pytest.raises(LaionError, match=f"{name} is a name that searches use themselves"):
        load_settings(dataset_name=str(toml))


def test_extra_columns_are_ones_that_the_metadata_has() -> None:
    assert load_settings(extra_columns=tuple(WELL_KNOWN)).extra_columns == tuple(WELL_KNOWN)
    for name in ("url", "colour"):
        error = refusal(extra_columns=("width", name))
        assert (error.subject, error.found) == ("LAION_EXTRA_COLUMNS", name)
        assert f'[extra_columns] {name} = "String"' in error.advice


def test_a_dataset_declares_columns_and_the_variable_chooses_among_them(tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text(
        'name = "mine"\nshards = 1\ndimension = 8\n[extra_columns]\nflag = "Bool"\nscore = "Float64"\n'
        '[[sources]]\nurl = "/x"\n'
    )
    every = load_settings(dataset_name=str(toml))
    assert every.extra_column_types == {"flag": "Bool", "score": "Float64"}
    chosen = load_settings(dataset_name=str(toml), extra_columns="score,width")
    assert chosen.extra_column_types == {"score": "Float64", "width": "Int32"}
    assert load_settings(dataset_name=str(toml), extra_columns=()).extra_column_types == {}


@pytest.mark.parametrize("codec", ["NONE", "ZSTD(3)", "LZ4HC(9)", "Delta(4), ZSTD(1)", "FPC, LZ4"])
def test_codecs_are_written_as_clickhouse_writes_them(codec: str) -> None:
    assert load_settings(vector_codec=codec).vector_codec == codec


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([*ENVIRONMENT, "clickhouse", "alert_webhook", "http_token"]),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
def test_any_text_in_a_variable_is_a_setting_or_an_error_of_ours(field: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable(field), text.replace("\x00", ""))
        try:
            load_settings()
        except LaionError as error:
            assert_one_line(error)


def test_settings_travel_to_another_process() -> None:
    settings = load_settings(table="travels", clickhouse=f"http://u:{SECRET}@h/d")
    copied = pickle.loads(pickle.dumps(settings))  # noqa: S301 - our own bytes
    assert copied == settings
    assert copied.clickhouse_url.get_secret_value() == f"http://u:{SECRET}@h/d"


DOCUMENT = REPOSITORY / "docs" / "settings.md"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_each_variable_is_documented(field: str) -> None:
    assert f"`{variable(field)}`" in DOCUMENT.read_text(encoding="utf-8")


def test_no_variable_is_documented_that_does_not_exist() -> None:
    known = {variable(field) for field in Settings.model_fields}
    words = DOCUMENT.read_text(encoding="utf-8").replace("`", " ").replace("=", " ").replace(",", " ").split()
    named = {word.rstrip(".:;)|") for word in words if word.startswith("LAION_")}
    assert named <= known, json.dumps(sorted(named - known))


def test_the_document_has_the_groups_that_the_command_shows() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(r"^## (.+)$|`(LAION_[A-Z_0-9]+)`(?= (?:/ `[A-Z_0-9]+` )*\|)", text, re.MULTILINE)
    group = ""
    documented: dict[str, str] = {}
    for title, name in found:
        group = title or group
        if name:
            documented.setdefault(name, group)
    shown = {each.variable: each.group for each in shown_settings(load_settings())}
    assert {name: group for name, group in documented.items() if shown.get(name) != group} == {}


def test_the_command_shows_each_setting_with_its_origin_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_CLICKHOUSE", f"https://me:{SECRET}@db.example:8443/laion")
    monkeypatch.setenv("LAION_ALERT_WEBHOOK", f"https://hooks.example/{SECRET}")
    monkeypatch.setenv("LAION_SOURCE", f"https://me:{SECRET}@mirror.example/x?token={SECRET}")
    monkeypatch.setenv("LAION_ASSETS_PORT", "tcp://10.0.0.8:4000")
    ended = CliRunner().invoke(app, ["settings", "--dataset", "sample", "--json"])
    assert ended.exit_code == 0
    assert SECRET not in ended.output
    found = {each["variable"]: (each["value"], each["origin"]) for each in json.loads(ended.output)}
    assert set(found) == {variable(field) for field in Settings.model_fields}
    assert found["LAION_DATASET"] == ("sample", "option")
    assert found["LAION_SOURCE"] == ("https://***@mirror.example/x?***", "environment")
    assert found["LAION_CLICKHOUSE"] == ("https://***@db.example:8443/laion", "environment")
    assert found["LAION_ALERT_WEBHOOK"] == ("https://hooks.example/***", "environment")
    assert found["LAION_TABLE"] == ("laion", "default")
    shown = CliRunner().invoke(app, ["settings"], env={"COLUMNS": "200"}).output
    assert "variables that are not settings and are ignored: LAION_ASSETS_PORT" in shown
    assert SECRET not in shown


def test_without_a_variable_the_source_is_the_dataset_s() -> None:
    found = {each.variable: each.origin for each in shown_settings(load_settings())}
    assert found["LAION_SOURCE"] == "dataset"

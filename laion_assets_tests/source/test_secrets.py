"""Tests that users, passwords and tokens of URLs go to their host only, and are in no error, log, report or file."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster._serdes import serialize_value
from urllib3.util import parse_url

from laion_assets.definitions import build_definitions
from laion_assets.errors import SettingsError
from laion_assets.redact import redact, redact_text, without
from laion_assets.source.credentials import Credentials, WebOrigin
from laion_assets.source.fetch import fetch_shard
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server
from laion_assets_tests.source.served_shard import FILES, IMAGE, SIZE, OneFile

TOKEN = "secretbearer"  # noqa: S105 - it opens nothing
HERE = Path()


def test_a_password_is_sent_to_its_host_only_and_shown_nowhere(
    server: MisbehavingServer, one: OneFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # another package sets it to WARNING where it was imported
    with misbehaving_server(FILES) as other:
        there = other.base("cut=200000").replace("/", "~")
        fetched = one.fetch(server.base(f"to={there}", user="me:secretpass@"))
        assert server.requests[0].headers["authorization"] == "Basic bWU6c2VjcmV0cGFzcw=="
        assert len(other.requests) == 2 and not any("authorization" in request.headers for request in other.requests)
    fetched.path.unlink()
    error = one.failure(server.base("status=500", user="me:secretpass@"))
    shown = f"{fetched} {one.log} {error} {caplog.text}"
    assert '"GET /' in caplog.text and "***@127.0.0.1" in shown
    assert "me:" not in shown and "secretpass" not in shown


def test_a_token_in_the_query_is_sent_and_shown_nowhere(
    server: MisbehavingServer, one: OneFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # another package sets it to WARNING where it was imported
    one.limits = replace(QUICK, read_seconds=0.2)
    fetched = one.fetch(server.base("stall=100000&times=1") + "?sig=secretsig")
    assert fetched.bytes_fetched == SIZE
    assert len(server.requests) == 2
    assert all(request.path.endswith(f"{IMAGE}?sig=secretsig") for request in server.requests)
    fetched.path.unlink()
    error = one.failure(server.base("status=500") + "?sig=secretsig")
    shown = f"{fetched} {one.log} {error} {caplog.text}"
    assert "?***" in shown and "secretsig" not in shown


def test_a_part_on_disk_holds_no_secret(server: MisbehavingServer, one: OneFile) -> None:
    one.failure(server.base("cut=2000", user="me:secretpass@") + "?sig=secretsig")
    kept = "".join(path.read_text(errors="replace") for path in one.folder.iterdir() if path.suffix == ".json")
    assert f"/img_emb/{IMAGE}?***" in kept and "secret" not in kept


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@host:8080/a/b", "https://***@host:8080/a/b"),
        ("https://me@host/a@b", "https://***@b"),
        ("https://host/a@b?token=x#y", "https://host/a@b?***"),
        ("https://me:pa/ss@host/a", "https://***@host/a"),
        ("https://me:12/hunter2@host/a", "https://***@host/a"),
        ("https://me:12?hunter2@host/a", "https://***@host/a"),
        ("https://host:8443/a", "https://host:8443/a"),
        ("https://me:pa[ss@host/a", "https://***@host/a"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("/a/b?c@d", "/a/b?c@d"),
        ("file:///a/b@c", "file:///a/b@c"),
    ],
)
def test_urls_are_shown_without_their_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact_text(f"error at '{url}' and elsewhere") == f"error at '{shown}' and elsewhere"


@pytest.mark.parametrize(
    ("text", "secret", "shown"),
    [
        ("Table laion does not exist", "a", "Table laion does not exist"),
        ("http://me:a@host and password='a', token=a", "a", "http://me:***@host and password='***', token=***"),
        ("Code: 516. me: Authentication failed", "516", "Code: 516. me: Authentication failed"),
        ("xhunter2-s3cretx", "hunter2-s3cret", "x***x"),
        ("nothing", "", "nothing"),
    ],
)
def test_a_short_password_does_not_garble_a_message(text: str, secret: str, shown: str) -> None:
    assert without(text, secret) == shown


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("http://a/x", "http://a:80/y", True),
        ("http://A/x", "https://a/y", True),
        ("https://a/x", "https://a:443/y", True),
        ("https://a/x", "https://a:8443/y", False),
        ("http://a:8080/x", "https://a/y", False),
        ("http://a/x", "http://a:8080/y", False),
        ("http://a/x", "https://b/y", False),
        ("https://a/x", "http://a/y", False),
    ],
)
def test_a_redirect_takes_credentials_to_the_same_origin_only(one: str, other: str, may: bool) -> None:
    assert WebOrigin.of(parse_url(one)).may_hand_on(WebOrigin.of(parse_url(other))) is may


def test_a_token_goes_to_its_origin_and_not_where_that_redirects_to(
    server: MisbehavingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another port of the same host is another origin (CVE-2022-27774)."""
    caplog.set_level(logging.DEBUG)
    with misbehaving_server(FILES) as other:
        there = other.base("times=1").replace("/", "~")
        settings = settings_for(server.base(f"to={there}"), data_dir=tmp_path, http_token=TOKEN)
        fetch_shard(settings, 0, tmp_path / "raw")
        assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {TOKEN}"}
        assert other.requests and not any("authorization" in request.headers for request in other.requests)
    assert TOKEN not in f"{caplog.text} {settings!r}"


def test_tokens_are_for_the_hosts_that_they_name() -> None:
    tokens = {"http_token": "b.example:8443=bbb== c=d"}
    credentials = Credentials.of(settings_for("https://a.example/x", "https://b.example:8443", data_dir=HERE, **tokens))
    assert credentials.header(parse_url("https://a.example/x")) == {}
    assert credentials.header(parse_url("https://b.example:8443/x")) == {"Authorization": "Bearer bbb=="}
    assert credentials.header(parse_url("https://b.example/x")) == {}
    assert credentials.header(parse_url("https://c/x")) == {"Authorization": "Bearer d"}
    own = Credentials.of(settings_for("https://a.example/x", data_dir=HERE, **{"http_token": "abc.def=="}))
    assert own.header(parse_url("https://a.example/y")) == {"Authorization": "Bearer abc.def=="}
    assert own.header(parse_url("https://b.example/y")) == {}
    assert "abc" not in repr(own)


def test_a_netrc_file_gives_users_by_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine a.example login me password pass\ndefault login any password thing\n")
    credentials = Credentials.of(settings_for("https://a.example/x", data_dir=HERE))
    assert credentials.header(parse_url("https://a.example/x")) == {"Authorization": "Basic bWU6cGFzcw=="}
    assert credentials.header(parse_url("https://b.example/x")) == {}
    assert credentials.header(parse_url("https://you:other@a.example/x")) != credentials.header(
        parse_url("https://a.example/x")
    )
    (tmp_path / "named").write_text("machine a.example login me secretpass\n")
    with pytest.raises(SettingsError) as caught:
        Credentials.of(settings_for("https://a.example/x", data_dir=HERE, http_netrc=tmp_path / "named"))
    assert_one_line(caught.value, "LAION_HTTP_NETRC", "machine HOST")
    assert "secretpass" not in str(caught.value)


@pytest.mark.parametrize(
    "behaviour", ["to=http:~~127.0.0.1:1~gone?X-Sig=secretsig", "status=500", "cut=2000&validator=none"]
)
def test_no_secret_is_in_a_chain_of_exceptions(server: MisbehavingServer, one: OneFile, behaviour: str) -> None:
    error = one.failure(server.base(behaviour, user="me:secretpass@") + "?token=secrettoken")
    told = "".join(traceback.format_exception(error))
    for secret in ("secretsig", "secretpass", "secrettoken"):
        assert secret not in told + "".join(repr(each) for each in chain(error))


def chain(error: BaseException | None) -> list[BaseException]:
    """Returns an error and all its causes and contexts, including those that are not printed."""
    return [] if error is None else [error, *chain(error.__cause__), *chain(error.__context__)]


def test_no_secret_of_a_failed_fetch_is_in_dagsters_event_log_or_tags(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    gone = "http:~~127.0.0.1:1~gone?X-Sig=secretsig"
    source = server.base(f"to={gone}", user="me:secretpass@") + "?token=secrettoken"
    settings = settings_for(source, data_dir=tmp_path, http_tries=1, **{"http_token": f"unused.example={TOKEN}"})
    definitions = build_definitions(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("load_shards").execute_in_process(
            partition_key="0", instance=instance, asset_selection=[dg.AssetKey("raw_shard")], raise_on_error=False
        )
        assert not result.success
        stored = [serialize_value(entry) for entry in instance.all_logs(result.run_id)]
        stored.append(f"{instance.get_run_by_id(result.run_id)} {result.dagster_run.tags}")
    told = "\n".join(stored)
    assert "raw_shard" in told and "127.0.0.1:1" in told
    for secret in ("secretsig", "secretpass", "secrettoken", TOKEN):
        assert secret not in told

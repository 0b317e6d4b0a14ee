"""Users, passwords and tokens of URLs reach their host, and no error, log, report or file."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from laion_assets.redact import redact, redact_text
from laion_assets_tests.source.fetching import QUICK
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server
from laion_assets_tests.source.served_shard import FILES, IMAGE, SIZE, OneFile


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
    one.patience = replace(QUICK, read_seconds=0.2)
    fetched = one.fetch(server.base("stall=100000&times=1") + "?sig=secretsig")
    assert fetched.bytes_fetched == SIZE
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
        ("https://me:pa[ss@host/a", "https://***@host/a"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("/a/b?c@d", "/a/b?c@d"),
        ("file:///a/b@c", "file:///a/b@c"),
    ],
)
def test_urls_are_shown_without_their_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact_text(f"error at '{url}' and elsewhere") == f"error at '{shown}' and elsewhere"

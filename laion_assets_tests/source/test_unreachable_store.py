"""Tests that fetching from an unreachable object store ends after seconds, as it does for a web server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec import get_filesystem_class

from laion_assets.errors import UnreachableSourceError
from laion_assets.source.fetch import fetch_shard
from laion_assets_tests.source.fetching import QUICK, settings_for

pytest.importorskip("s3fs")


@pytest.fixture(params=["http://127.0.0.1:9", "http://no-such-host.invalid"])
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Sets S3's endpoint to an address where nothing listens."""
    files = get_filesystem_class("s3")
    files.clear_instance_cache()
    for name, value in {
        "AWS_ENDPOINT_URL": request.param,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    yield str(request.param)
    files.clear_instance_cache()


@pytest.mark.usefixtures("endpoint")
def test_a_bucket_that_cannot_be_reached_is_given_up_after_seconds_and_its_wait_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = replace(QUICK, tries=100, backoff_seconds=5.0, backoff_most_seconds=60.0, unreachable_seconds=3.0)
    settings = settings_for("s3://bucket/shards", data_dir=tmp_path)
    started = time.monotonic()
    with pytest.raises(UnreachableSourceError, match="Could not connect to the endpoint"):
        fetch_shard(settings, 0, tmp_path / "raw", limits=limits)
    assert 3.0 <= time.monotonic() - started < 30
    said = [record.getMessage() for record in caplog.records if record.name == "laion_assets.waiting"]
    assert any("s3://bucket/shards" in line and "Ctrl-C" in line for line in said)

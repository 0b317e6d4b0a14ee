"""The fixtures of the service's tests: a service on loopback over two sample shards with graphs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.index.graphs import build_indexes
from laion_assets.service.app import SearchService
from laion_assets.service.limits import Limits
from laion_assets.service.picture import PictureLimits
from laion_assets.service.served import ServedIndex
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets_tests.service.loopback import served
from laion_assets_tests.table.loaded import load_sample, sample_settings

LIMITS = Limits(
    searches=2,
    queue=50,
    seconds=20,
    idle_seconds=1,
    body_bytes=1_000_000,
    pictures=PictureLimits(private=(ipaddress.ip_network("127.0.0.0/8"),)),
)


@pytest.fixture(scope="package")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a table with two shards and their graphs."""
    settings = sample_settings(Path(tmp_path_factory.mktemp("service")), hnsw_m=8, hnsw_ef_construction=32)
    load_sample(settings, {0: 1_500, 1: 700})
    with connect(settings) as db:
        build_indexes(db)
    return settings


@pytest.fixture(scope="package")
def url(loaded: Settings) -> Iterator[str]:
    """The service's base URL."""
    with served(SearchService({"sample": ServedIndex("sample", loaded, 1.0)}, LIMITS).app()) as base:
        yield base

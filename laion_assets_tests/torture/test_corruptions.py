"""Tests each named corruption: it is refused, or loaded as the files say. With a manifest, each is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from laion_assets_tests.torture.corruptions import CORRUPTIONS, opened, verdict_of
from laion_assets_tests.torture.judging import Court, Judge


@pytest.fixture(scope="module")
def trying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Court, Judge]]:
    """A court, and the process in which the product runs."""
    with opened(tmp_path_factory.mktemp("corruptions")) as trying:
        yield trying


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_file_that_was_spoilt_is_refused_or_read_as_it_is(name: str, trying: tuple[Court, Judge]) -> None:
    assert verdict_of(*trying, name)[1] is None


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_with_a_manifest_every_corruption_is_refused(name: str, trying: tuple[Court, Judge]) -> None:
    assert verdict_of(*trying, name, manifest=True)[1] is None

"""The fixtures that tests of several assets share: a Dagster instance, and sample shards that a test may damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from laion_assets_tests.conftest import copy_sample


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A separate Dagster instance for each test."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def source(sample_folder: Path, tmp_path: Path) -> Path:
    """A copy of the sample shards that a test may damage."""
    return copy_sample(sample_folder, tmp_path / "source")

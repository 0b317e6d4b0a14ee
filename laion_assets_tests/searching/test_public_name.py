"""Tests that `laion_assets.search` is always a function, whatever was imported and however often it is called."""

from __future__ import annotations

import subprocess
import sys

import pytest

CALLED_TWICE = """
import laion_assets
{before}
for _ in range(2):
    try:
        laion_assets.search()
    except laion_assets.errors.SearchError as error:
        print(error.found)
"""


@pytest.mark.parametrize("before", ["", "import laion_assets.searching.statement"])
def test_the_public_search_can_be_called_before_and_after_its_package_is_imported(before: str) -> None:
    program = CALLED_TWICE.format(before=f"import laion_assets.errors\n{before}")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("nothing\nnothing\n", 0), done.stderr

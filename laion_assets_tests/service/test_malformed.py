"""Tests that malformed requests get an error with a reason. `python -m …torture.malformed` sends thousands."""

from __future__ import annotations

from laion_assets_tests.torture.malformed import hostile_requests


def test_a_hundred_malformed_requests_are_answered_in_words(url: str) -> None:
    hostile_requests(url, 100)()

"""Tests errors: one line with what was found, what was expected and advice; pickling keeps all fields."""

from __future__ import annotations

import pickle

import pytest

from laion_assets import errors
from laion_assets.errors import LaionError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LaionError)]


def test_an_error_says_what_was_found_expected_and_to_be_done() -> None:
    error = LaionError("shard 3, img_emb_3.npy", found="7 bytes", expected="128", advice="fetch it again")
    assert str(error) == "shard 3, img_emb_3.npy: found 7 bytes, expected 128; fetch it again"
    assert (error.subject, error.found, error.expected, error.advice) == (
        "shard 3, img_emb_3.npy",
        "7 bytes",
        "128",
        "fetch it again",
    )


def test_an_error_may_know_no_expectation_and_no_advice() -> None:
    assert str(LaionError("table laion", found="no rows")) == "table laion: found no rows"


@pytest.mark.parametrize("mess", ["two\nlines", "tabs\tand\r\nreturns", "\u2028separators\x0b\x0c"])
def test_an_error_is_one_line_whatever_was_found(mess: str) -> None:
    message = str(LaionError("a\nfile", found=mess, expected=mess, advice=mess))
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_survives_the_way_to_another_process(kind: type[LaionError]) -> None:
    error = kind("subject", found="found", expected="expected", advice="advice")
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copied) is kind
    assert vars(copied) == vars(error)
    assert str(copied) == str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_it_is_for(kind: type[LaionError]) -> None:
    assert kind.__doc__

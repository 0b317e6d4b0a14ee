"""Tests that texts are cleaned for the tokenizer in the same way as in CLIP's own code."""

from __future__ import annotations

import pytest

from laion_assets.clip.texts import MAX_CHARACTERS, clean_text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a dog and a cat", "a dog and a cat"),
        ("  two\tdogs \r\n on\xa0grass\u3000 ", "two dogs on grass"),
        ("fish &amp;amp; chips &lt;b&gt;", "fish & chips <b>"),
        ("schÃ¶n", "schön"),
        ("“quoted” text", '"quoted" text'),
        ("nul\x00 bell\x07", "nul bell"),
        ("&#0;dog", "\ufffddog"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("", ""),
        ("\x00", ""),
    ],
)
def test_text_is_mended_and_its_blanks_are_one(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


def test_long_text_is_cut_far_above_what_77_tokens_need() -> None:
    assert len(clean_text("dog " * 1_000_000)) == MAX_CHARACTERS

"""What a text is made into before CLIP's tokenizer sees it. The cut at 77 tokens is the tokenizer's own."""

from __future__ import annotations

import html

MAX_TOKENS = 77
"""CLIP's context, with its two marks for start and end; the rest of a longer text is left out, as in training."""

MAX_CHARACTERS = 10_000
"""77 tokens have far fewer; a longer text is cut before the tokenizer works through all of it."""

MAX_RAW_CHARACTERS = 100_000
"""Bound on the work of repairing a text; entities and blanks may shrink what is left to nothing."""


def clean_text(text: str) -> str:
    """The text as CLIP's own tokenizer has it: repaired by ftfy, entities resolved twice, blanks of any kind as one.

    OpenAI's `basic_clean` and `whitespace_clean`; lower case is the tokenizer's business. NUL and other control
    characters are dropped.
    """
    text = text[:MAX_RAW_CHARACTERS]
    if not text.isascii() or not text.isprintable() or "&" in text:
        text = _mend(text)
    return " ".join(text.split())[:MAX_CHARACTERS]


def _mend(text: str) -> str:
    # Imported late: plain ASCII, which ftfy leaves alone, does not pay its 60 ms.
    import ftfy

    # Repaired text holds no lone surrogates, which no tokenizer takes.
    repaired = ftfy.fix_text(text).encode("utf-8", "replace").decode("utf-8")
    return html.unescape(html.unescape(repaired)).replace("\x00", "")

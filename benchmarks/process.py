"""Runs one command as a whole process and measures it: time, CPU, memory. It compares nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.01
"""Seconds between two measurements of a process's memory. A measurement takes about 0.1 ms."""

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "benchmarks" / "reports"
SCRATCH = REPORTS / "scratch"
"""The folder for sample shards, tables of a run, and compiled modules. git ignores it."""


class StageFailedError(RuntimeError):
    """A measured command failed. The message contains the end of the command's output."""


@dataclass(frozen=True)
class Measured:
    """One run of one command.

    `peak_bytes` is the peak of anonymous resident memory (RssAnon, without file-backed pages), children included.
    `phases` are the wall seconds of the parts that the command named. `phase_cpu` and `phase_peaks` are the CPU seconds
    and the peak memory of each part. `result` is the rest of the command's JSON. `others` is the number of cores that
    all other processes of the machine used at the same time. If it is more than a few hundredths, the times are too
    long.
    """

    wall: float
    user: float
    system: float
    peak_bytes: int
    others: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    phase_cpu: dict[str, float] = field(default_factory=dict)
    phase_peaks: dict[str, int] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def cpu(self) -> float:
        """CPU seconds, in user space and in the kernel."""
        return self.user + self.system

    @property
    def inside(self) -> float:
        """Wall seconds of the named parts, without the start of the interpreter, imports, and the end of the
        interpreter."""
        return sum(self.phases.values()) or self.wall


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs one of our modules."""
    return [sys.executable, "-m", module, *(str(argument) for argument in arguments)]


def compile_all() -> None:
    """Makes Python compile all modules that the measured programs import, so that the first round does not take
    longer."""
    programs = ("ours", "page_way", "paste_join", "client_way", "duckdb_way", "lance_way", "floor", "merge_encodings")
    modules = ["pandas", "laion_assets.cli", "laion_assets.sample.shards", *(f"benchmarks.{name}" for name in programs)]
    measure([sys.executable, "-c", f"import {', '.join(modules)}; pandas.DataFrame().to_csv()"])


def _environment() -> dict[str, str]:
    """Our environment without LAION_* variables. Python keeps compiled modules, as it does by default."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAION_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, "PYTHONPYCACHEPREFIX": str(SCRATCH / "compiled")}


def measure(command: Sequence[str]) -> Measured:
    """Runs the command in the project's folder. Raises `StageFailedError` if the command fails."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        busy, started = _busy_seconds(), time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=ROOT, env=_environment())
        memory = _MemoryWatch(process.pid)
        memory.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.monotonic() - started
        busy = _busy_seconds() - busy
        memory.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace")
        if process.returncode:
            errors.seek(0)
            end = errors.read().decode(errors="replace")[-1_500:]
            raise StageFailedError(
                f"{' '.join(command[1:])} ended with exit code {process.returncode}: {end}{said[-500:]}"
            )
    result = _last_json(said)
    spans: list[tuple[str, float, float, float]] = [tuple(span) for span in result.pop("phases", [])]
    return Measured(
        wall=wall,
        user=usage.ru_utime,
        system=usage.ru_stime,
        peak_bytes=memory.peak(),
        others=max(0.0, busy - usage.ru_utime - usage.ru_stime) / wall,
        phases={name: end - start for name, start, end, _ in spans},
        phase_cpu={name: cpu for name, *_, cpu in spans},
        phase_peaks={name: memory.peak(start, end) for name, start, end, _ in spans},
        result=result,
    )


def _busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on processes, in user space (nice or not) and in the kernel."""
    return sum(map(int, Path("/proc/stat").read_text().split()[1:4])) / os.sysconf("SC_CLK_TCK")


def _last_json(said: str) -> dict[str, Any]:
    """The JSON object on the last line of the output. It is empty for a command that prints none."""
    try:
        value = json.loads(said.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _MemoryWatch(threading.Thread):
    """Measures the anonymous memory of a process and its descendants every `SAMPLE_SECONDS`."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="memory-watch", daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self._seen: list[tuple[float, int]] = []

    def run(self) -> None:
        """Measures until `stop` is called."""
        while not self._ended.wait(SAMPLE_SECONDS):
            self._seen.append((time.monotonic(), sum(map(anonymous_bytes, _family(self._pid)))))

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self.join()

    def peak(self, start: float = 0.0, end: float = float("inf")) -> int:
        """The peak between two times of the monotonic clock, which is the same for all processes."""
        start -= 2 * SAMPLE_SECONDS
        return max((size for moment, size in self._seen if start <= moment <= end), default=0)


def _family(pid: int) -> list[int]:
    """A process and those of its descendants that run."""
    family = [pid]
    for member in family:
        try:
            for task in Path(f"/proc/{member}/task").iterdir():
                family += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return family


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process. It is 0 if the process has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0

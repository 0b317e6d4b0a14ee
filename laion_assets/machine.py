"""What this machine has, and what a step of this process took of it. It decides nothing and knows no step."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("laion_assets", "chdb-core", "dagster", "numpy", "pyarrow")
"""Whose versions decide what a step costs."""


@dataclass(frozen=True)
class Machine:
    """A machine by what figures depend on: processor, cores that this process may use, bytes of memory, versions."""

    processor: str
    cores: int
    memory_bytes: int
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls) -> Machine:
        """The machine at hand."""
        named = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
        return cls(
            processor=named[1] if named else platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB"


class StepMeter:
    """Measures the block that it surrounds: wall seconds, core seconds, and the peak of resident memory in bytes.

    Core seconds and memory are of the whole process, the embedded engine in it; of a server they say nothing. Where
    the kernel does not let the peak start anew, it is that of the process until now.
    """

    seconds = 0.0
    core_seconds = 0.0
    peak_bytes = 0

    def __enter__(self) -> StepMeter:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._started, self._cores = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.core_seconds = time.process_time() - self._cores
        peak = re.search(r"VmHWM:\s*(\d+) kB", _text("/proc/self/status"))
        self.peak_bytes = int(peak[1]) * 1024 if peak else 0

    def metadata(self) -> dict[str, float | int]:
        """What Dagster records of it beside the step's own seconds."""
        return {"core_seconds": round(self.core_seconds, 3), "peak_memory_bytes": self.peak_bytes}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def process_mark() -> str:
    """Host (or container) and process in letters, digits and an underscore, such as a table's name takes."""
    return f"{_host_mark()}_{os.getpid():x}"


def is_gone(mark: str) -> bool:
    """Whether the process of a `process_mark` is known to be gone: it was of this host, and is not there any more."""
    host, _, process = mark.partition("_")
    return host == _host_mark() and not is_alive(int(process, 16))


def is_alive(process: int) -> bool:
    """Whether there is a process of this number on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _host_mark() -> str:
    """Of this host since it was started, and of this container: the same number is another process elsewhere."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    host = "/".join((socket.gethostname(), _text("/proc/sys/kernel/random/boot_id").strip(), namespace))
    return hashlib.blake2b(host.encode(), digest_size=4).hexdigest()

"""The cores and memory of this machine, what a step of this process used, and how a process is identified."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
import os
import platform
import re
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from laion_assets.cgroup import allowed_bytes, allowed_cores

PACKAGES = ("laion_assets", "chdb-core", "dagster", "numpy", "pyarrow")
"""Whose versions decide what a step costs."""


@dataclass(frozen=True)
class Machine:
    """A machine by what figures depend on: processor, versions, and the cores and bytes of memory that this process may
    use, whether the machine has no more or its container."""

    processor: str
    cores: int
    memory_bytes: int
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        named = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            processor=named[1] if named else platform.machine(),
            cores=available_cores(),
            memory_bytes=min(memory, allowed_bytes() or memory),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB"


def available_cores() -> int:
    """How many cores this process may use: what `taskset` and a container's cpuset leave it, and a quota of CPU time.

    Threads beyond a quota are stopped together for the rest of each period of 100 ms once it is used up.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = allowed_cores()
    return here if quota is None else min(here, max(1, math.ceil(quota)))


class StepMeter:
    """Measures the block that it surrounds: wall seconds, core seconds, and the peak of resident memory in bytes.

    Core seconds and memory are of the whole process, the embedded engine in it; of a server they say nothing. Where
    the kernel does not reset the peak, it is that of the process until now.
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


@dataclass(frozen=True)
class ProcessIdentity:
    """What tells a process from all others: the number alone, or with the host's name, is another's soon.

    Containers share names and give each of their first processes number 1. So `boot` is the kernel's since it was
    started, `namespace` that of process numbers, and `started` when the process began, in clock ticks since the boot.
    """

    host: str
    boot: str
    namespace: str
    process: int
    started: int

    @classmethod
    def here(cls) -> ProcessIdentity:
        """This process."""
        namespace = ""
        with contextlib.suppress(OSError):
            namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
        boot = _text("/proc/sys/kernel/random/boot_id").strip()
        return cls(socket.gethostname(), boot, namespace, os.getpid(), _started(os.getpid()) or 0)

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """What `str` gave; None for anything else."""
        host, *rest = text.split("/")
        if len(rest) != 4 or not (rest[2].isdecimal() and rest[3].isdecimal()):
            return None
        return cls(host, rest[0], rest[1], int(rest[2]), int(rest[3]))

    def __str__(self) -> str:
        return f"{self.host}/{self.boot}/{self.namespace}/{self.process}/{self.started}"

    def is_gone(self) -> bool:
        """Whether it is known to have ended. Of another host, and of another container, nothing is known."""
        here = ProcessIdentity.here()
        if self.host != here.host or self.namespace != here.namespace:
            return False
        if self.boot != here.boot:
            # A host that was restarted; two containers of one name may be on two hosts.
            return self.namespace == HOSTS_NAMESPACE
        now = _started(self.process)
        # When it began is not known to a 0: any process of that number may be it.
        return now is None or self.started not in (0, now)


HOSTS_NAMESPACE = "4026531836"
"""The number of the first namespace of process numbers, the host's own, is the same with every Linux
(PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h)."""

PROCESS_DIGITS = 8
"""Of a process's number in a `process_mark`; what follows is when it began."""


def process_mark() -> str:
    """Host (or container) and process in letters, digits and an underscore, such as a table's name takes."""
    here = ProcessIdentity.here()
    return f"{_host_mark(here)}_{here.process:0{PROCESS_DIGITS}x}{here.started:x}"


def is_gone(mark: str) -> bool:
    """Whether the process of a `process_mark` is known to be gone: it was of this host, and is not there any more."""
    host, _, process = mark.partition("_")
    number, began = int(process[:PROCESS_DIGITS], 16), process[PROCESS_DIGITS:]
    now = _started(number)
    return host == _host_mark(ProcessIdentity.here()) and (now is None or (bool(began) and now != int(began, 16)))


def _started(process: int) -> int | None:
    """When a process of this number began, in clock ticks since the boot (proc(5), field 22 of stat); None where there
    is none, or it is a zombie."""
    fields = _text(f"/proc/{process}/stat").rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    return int(fields[19])


def _host_mark(here: ProcessIdentity) -> str:
    """Of this host since it was started, and of this container: the same number is another process elsewhere."""
    host = f"{here.host}/{here.boot}/{here.namespace}"
    return hashlib.blake2b(host.encode(), digest_size=4).hexdigest()

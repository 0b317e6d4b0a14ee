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
"""The packages whose versions decide what a step costs."""


@dataclass(frozen=True)
class Machine:
    """What measured figures depend on: the processor, package versions, and the cores and bytes of memory that this
    process may use. The machine or its container sets these limits."""

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
    """How many cores this process may use, by `taskset`, the container's cpuset, and the quota of CPU time.

    When all threads together have used up the quota of a period of 100 ms, they are stopped until the period ends.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = allowed_cores()
    return here if quota is None else min(here, max(1, math.ceil(quota)))


class StepMeter:
    """Measures the block that it surrounds: wall seconds, core seconds, and the peak of resident memory in bytes.

    Core seconds and memory are those of the whole process, with the embedded engine; those of a server are not
    included. Where the kernel does not reset the peak, the peak is that of the process since its start.
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
        """The figures that Dagster records beside the step's own seconds."""
        return {"core_seconds": round(self.core_seconds, 3), "peak_memory_bytes": self.peak_bytes}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


@dataclass(frozen=True)
class ProcessIdentity:
    """Identifies a process. Its number alone is not enough, also with the host's name: the number is soon used again.

    Containers may have the same name, and each gives its first process number 1. So `boot` identifies the kernel since
    its start, `namespace` is the namespace of process numbers, and `started` is the time when the process began, in
    clock ticks since the boot.
    """

    host: str
    boot: str
    namespace: str
    process: int
    started: int

    @classmethod
    def here(cls) -> ProcessIdentity:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, process: int) -> ProcessIdentity:
        """The process that has this number now, in the namespace of this process."""
        namespace = ""
        with contextlib.suppress(OSError):
            namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
        boot = _text("/proc/sys/kernel/random/boot_id").strip()
        return cls(socket.gethostname(), boot, namespace, process, _started(process) or UNKNOWN_START)

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """Reads the text that `str` gave; None for any other text."""
        host, *rest = text.split("/")
        if len(rest) != 4 or not (rest[2].isdecimal() and rest[3].isdecimal()):
            return None
        return cls(host, rest[0], rest[1], int(rest[2]), int(rest[3]))

    def __str__(self) -> str:
        return f"{self.host}/{self.boot}/{self.namespace}/{self.process}/{self.started}"

    def is_gone(self) -> bool:
        """Whether the process is known to have ended. Nothing is known about other hosts and other containers."""
        here = ProcessIdentity.here()
        if self.host != here.host or self.namespace != here.namespace:
            return False
        if self.boot != here.boot:
            # In the host's own namespace the host was restarted. Containers of one name may be on two hosts.
            # Where /proc cannot be read, the boot is empty.
            return self.namespace == HOSTS_NAMESPACE and bool(self.boot and here.boot)
        return _ended(self.process, self.started)


HOSTS_NAMESPACE = "4026531836"
"""On every Linux the host's own namespace of process numbers, which is the first, has this number (PROC_PID_INIT_INO in
the kernel's include/linux/proc_ns.h)."""

PROCESS_DIGITS = 8
"""Hexadecimal digits of the process's number in a `process_mark`; the start time comes after them."""


def process_mark() -> str:
    """Host (or container) and process in letters, digits and an underscore, for a part of a table's name."""
    here = ProcessIdentity.here()
    return f"{_host_mark(here)}_{here.process:0{PROCESS_DIGITS}x}{here.started:x}"


def is_gone(mark: str) -> bool:
    """Whether the process of a `process_mark` is known to have ended: it ran on this host and does not run any more."""
    host, _, process = mark.partition("_")
    number, began = int(process[:PROCESS_DIGITS], 16), int(process[PROCESS_DIGITS:] or "0", 16)
    return host == _host_mark(ProcessIdentity.here()) and _ended(number, began)


UNKNOWN_START = 0
"""The start time of a process that could not be read: any process of that number may be the one."""


def _ended(process: int, started: int) -> bool:
    """Whether no process has this number, or another one that began at another time."""
    now = _started(process)
    return now is None or (UNKNOWN_START not in (now, started) and now != started)


def _started(process: int) -> int | None:
    """When the process with this number began, in clock ticks since the boot (proc(5), field 22 of stat); None if there
    is no such process, or it is a zombie. `UNKNOWN_START` for a process that this user may not see: `hidepid` of /proc
    and systemd's `ProtectProc` hide the processes of other users."""
    fields = _text(f"/proc/{process}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return UNKNOWN_START if _has_number(process) else None
    return None if fields[0] in "ZX" else int(fields[19])


def _has_number(process: int) -> bool:
    """Whether a process has this number, by the kernel's answer to a signal that does nothing."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        return True
    return True


def _host_mark(here: ProcessIdentity) -> str:
    """Identifies this host since its last start, and this container: elsewhere the same number is another process."""
    host = f"{here.host}/{here.boot}/{here.namespace}"
    return hashlib.blake2b(host.encode(), digest_size=4).hexdigest()

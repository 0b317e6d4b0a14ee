"""The cores and bytes of memory that this process may use, as its control group (of a container or of systemd) says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

UNLIMITED_BYTES = 1 << 60
"""Where there is no limit, version 1 gives a number near 2^63."""


def allowed_cores(root: Path = ROOT, own: Path = OWN) -> float | None:
    """Cores by the quota of CPU time of this process's group and of the groups above it; None where no quota is set."""
    found = []
    for folder in _groups(root, own, "cpu"):
        quota, period = _words(folder / "cpu.max", 2) or (
            *(_words(folder / "cpu.cfs_quota_us", 1) or [""]),
            *(_words(folder / "cpu.cfs_period_us", 1) or [""]),
        )
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def allowed_bytes(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes of memory that the group and the groups above it may take; None where no limit is set."""
    found = []
    for folder in _groups(root, own, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            (limit,) = _words(folder / name, 1) or [""]
            if limit.isdecimal() and int(limit) < UNLIMITED_BYTES:
                found.append(int(limit))
    return min(found, default=None)


def _groups(root: Path, own: Path, controller: str) -> list[Path]:
    """The folders of this process's group and of the groups above it, in version 2 and in version 1 (cgroups(7)).

    In a container the group's own path is often that of the host. Then only the root can be seen.
    """
    folders = []
    for line in _text(own).splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = next((root / name for name in (controllers, controller) if (root / name).is_dir()), root)
        else:
            continue
        group = base / path.strip("/")
        folders += [each for each in (group, *group.parents) if each == base or base in each.parents]
    return folders


def _words(path: Path, count: int) -> list[str] | None:
    """The words of a file that has `count` words; None for a file with another number of words."""
    words = re.split(r"\s+", _text(path).strip())
    return words if len(words) == count and words[0] else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""

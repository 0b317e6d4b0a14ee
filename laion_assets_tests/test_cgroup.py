"""Tests reading the limits of control groups from files of the kernel: version 2, version 1, nested, and none."""

from __future__ import annotations

from pathlib import Path

import pytest

from laion_assets.cgroup import allowed_bytes, allowed_cores
from laion_assets.machine import Machine

GB = 2**30


def tree(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Makes a control group file system with these files, and the file that names the group of the process."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "own").write_text(own)
    return folder / "cgroup", folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "cores", "size"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": f"{2 * GB}\n"}, 1.5, 2 * GB),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        (
            "0::/a/b\n",
            {
                "a/b/cpu.max": "max 100000",
                "a/cpu.max": "200000 100000",
                "a/b/memory.max": f"{4 * GB}",
                "memory.max": "max",
            },
            2.0,
            4 * GB,
        ),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000", "memory.high": f"{GB}"}, 0.5, GB),
        (
            "4:cpu,cpuacct:/x\n5:memory:/x\n1:name=systemd:/\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": f"{GB}",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            3.0,
            GB,
        ),
        ("4:cpu:/\n5:memory:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ("", {}, None, None),
        ("nonsense", {"cpu.max": "nonsense"}, None, None),
    ],
)
def test_the_smallest_limit_of_a_group_and_those_above_it_holds(
    own: str, files: dict[str, str], cores: float | None, size: int | None, tmp_path: Path
) -> None:
    root, named = tree(tmp_path, own, files)
    assert (allowed_cores(root, named), allowed_bytes(root, named)) == (cores, size)


def test_a_plan_counts_what_this_process_may_use() -> None:
    here = Machine.here()
    assert here.cores >= 1
    assert here.memory_bytes <= (allowed_bytes() or here.memory_bytes)

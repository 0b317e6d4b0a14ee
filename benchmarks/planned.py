"""Measured program: plans a load of sample shards, or makes the load, or the index and the recall report.

It compares nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import threading
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.stage import StageReport
from laion_assets.plan.calibration import calibration_path, read_calibration
from laion_assets.plan.kept_plan import plan_path, read_plan
from laion_assets.settings import Settings, load_settings
from laion_assets.terminal.index import build_and_measure
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.load import load
from laion_assets.terminal.plan import plan_load
from laion_assets.terminal.status import read_status

LOOK_SECONDS = 0.2
QUICK = {"hnsw_m": 16, "hnsw_ef_construction": 64, "recall_queries": 20}


def main() -> None:
    """`python -m benchmarks.planned plan|load|index FOLDER [--quick]`. FOLDER contains `sample.toml`, the shards, and
    the store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("plan", "load", "index"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    folder = given.folder.absolute()
    fields = QUICK if given.quick else {}
    settings = load_settings(dataset_name=str(folder / "sample.toml"), data_dir=folder / "data", **fields)
    report = StageReport()
    if given.step == "plan":
        shards = list(settings.dataset.shards)
        with report.phase("plan, calibration included"):
            plan = plan_load(settings, shards, Console(file=io.StringIO()))
        calibration = read_calibration(calibration_path(settings))
        report.say(plan=plan.as_json(), calibration=None if calibration is None else asdict(calibration))
    else:
        _run(settings, folder, report, given.step)
    report.close()


def _run(settings: Settings, folder: Path, report: StageReport, step: str) -> None:
    make_instance(folder / "dagster")
    console = Console(file=io.StringIO())
    with dagster_instance() as instance, _DiskWatch(settings.data_dir) as disk:
        started = time.perf_counter()
        if step == "index":
            if not build_and_measure(settings, instance, console):
                raise RuntimeError("no index")
        elif not load(settings, list(settings.dataset.shards), instance, console, again=False):
            raise RuntimeError("not all shards were loaded")
        seconds = time.perf_counter() - started
        compared = read_status(settings, instance).plan
    kept = read_plan(plan_path(settings))
    if kept is None:
        raise RuntimeError("no plan was kept")
    peak = next(one.peak_bytes for one in kept.disks if one.chosen)
    report.say(
        compared=[asdict(one) | {"error": one.error} for one in compared],
        seconds=seconds,
        loading_planned=kept.seconds - kept.stages["index"].seconds - kept.stages["recall"].seconds,
        disk_peak=disk.peak,
        disk_left=disk.left,
        disk_peak_planned=peak,
        calibrated_here=kept.calibrated_here,
    )


class _DiskWatch(threading.Thread):
    """Measures the bytes of a folder at intervals. A file with several names counts once. A file that also has a name
    outside the folder does not count."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._ended = threading.Event()
        self._before = _bytes_of(folder)
        self._most = 0

    def __enter__(self) -> _DiskWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Measures until the block ends."""
        while not self._ended.wait(LOOK_SECONDS):
            # Folders of parts may disappear while they are read.
            with contextlib.suppress(OSError):
                self._most = max(self._most, _bytes_of(self._folder))

    @property
    def peak(self) -> int:
        """The peak of the bytes that were added."""
        return max(self._most - self._before, self.left)

    @property
    def left(self) -> int:
        """The bytes that were added and still exist."""
        return _bytes_of(self._folder) - self._before


def _bytes_of(folder: Path) -> int:
    sizes: dict[int, int] = {}
    for path in folder.rglob("*"):
        try:
            facts = path.lstat()
        except OSError:
            continue
        if path.parent.name != "raw" or facts.st_nlink == 1:
            sizes[facts.st_ino] = facts.st_size
    return sum(sizes.values())


if __name__ == "__main__":
    main()

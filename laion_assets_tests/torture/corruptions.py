"""Damages the files of a shard in every named way, without and with a manifest, and counts the outcomes.

`python -m laion_assets_tests.torture.corruptions`: exit code 1 when wrong data was loaded.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from laion_assets.sample.shards import write_sample_shard
from laion_assets_tests.torture import spoil_npy, spoil_parquet
from laion_assets_tests.torture.judging import Court, Judge, Verdict, judge
from laion_assets_tests.torture.spoil_npy import Spoils
from laion_assets_tests.torture.truth import RawFiles

ROWS = 250
"""The check that images and texts belong together needs at least 200 rows."""

CORRUPTIONS: Spoils = {**spoil_npy.HEADERS, **spoil_npy.CONTENTS, **spoil_parquet.FILES, **spoil_parquet.COLUMNS}


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Court, Judge]]:
    """A court for sample shards of 250 rows. At most 20 rows may be put into quarantine."""
    court = Court(folder, 512, 20 / ROWS)
    write_sample_shard(court.sound, 0, ROWS, seed=9)
    with judge(court) as judging:
        yield court, judging


def verdict_of(court: Court, judging: Judge, name: str, *, manifest: bool = False) -> tuple[Verdict, str | None]:
    """The verdict on one corruption, and the fault, or None if the verdict is the expected one."""
    expected, spoil = CORRUPTIONS[name]
    files = court.reset()
    spoil(files)
    verdict = judging.try_case(manifest=manifest)
    if manifest and _same(files, RawFiles.of(court.sound, 0)):
        return verdict, f"{name}: the files are as they were"
    wanted = "refused" if manifest else expected
    fault = f"{name}: {verdict.outcome} where {wanted} was expected: {verdict.kind} {verdict.said}"
    return verdict, None if verdict.outcome == wanted else fault


def _same(files: RawFiles, others: RawFiles) -> bool:
    return all(a.is_file() and a.read_bytes() == b.read_bytes() for a, b in zip(files.paths, others.paths, strict=True))


def run(names: Iterable[str] = CORRUPTIONS) -> dict[str, object]:
    """Tries these corruptions without and with a manifest, and returns counts of outcomes and all faults."""
    counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    faults = []
    with tempfile.TemporaryDirectory(prefix="corruptions-") as folder, opened(Path(folder)) as (court, judging):
        for name in names:
            for manifest in (False, True):
                verdict, fault = verdict_of(court, judging, name, manifest=manifest)
                said = f"{verdict.outcome} ({verdict.kind})" if verdict.kind else verdict.outcome
                counts[manifest][said] += 1
                faults += [f"{'with a manifest, ' if manifest else ''}{fault}"] if fault else []
    return {
        "corruptions": len(CORRUPTIONS),
        "without_manifest": dict(counts[False].most_common()),
        "with_manifest": dict(counts[True].most_common()),
        "faults": faults,
    }


def main() -> None:
    """Runs all corruptions and prints the counts."""
    found = run()
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()

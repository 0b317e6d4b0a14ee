"""Changes bytes and rows of a shard's files at random. The table must then equal the files, or be unchanged.

`python -m laion_assets_tests.torture.altered --cases 5000 --seed N` prints the counts of outcomes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from laion_assets_tests.torture.judging import Court, Judge, judge
from laion_assets_tests.torture.truth import RawFiles

ROWS = 24
DIMENSION = 8
"""Small, so that a case is cheap. The rows are too few for the check that images and texts belong together."""

ROUND = 250
"""Cases for each seed. A failed round ends with its smallest failing case, and then the next round starts."""

Edit = Callable[[RawFiles], None]


@dataclass(frozen=True)
class Place:
    """A place in a file: a distance in bytes from its start or its end, or a fraction of its length."""

    base: str
    distance: float

    def within(self, size: int) -> int:
        """The position in a file of `size` bytes: 0 to `size`."""
        if self.base == "share":
            return int(self.distance * size)
        steps = min(int(self.distance), size)
        return steps if self.base == "start" else size - steps


PLACES = st.one_of(
    st.builds(Place, st.just("start"), st.integers(0, 140)),
    st.builds(Place, st.just("end"), st.integers(0, 2_500)),
    st.builds(Place, st.just("share"), st.floats(0, 1)),
)
"""Most places are near the start and the end: headers and footers are few bytes but cause most errors."""

NUMBERS = st.integers(0, 2)
ROW = st.integers(0, ROWS - 1)


def _bytes(number: int, change: Callable[[bytes], bytes]) -> Edit:
    def edit(files: RawFiles) -> None:
        path = files.paths[number]
        path.write_bytes(change(path.read_bytes()))

    return edit


def flipped(number: int, place: Place, mask: int) -> Edit:
    """Flips bits of one byte."""

    def change(content: bytes) -> bytes:
        at = min(place.within(len(content)), max(len(content) - 1, 0))
        return content[:at] + bytes(byte ^ mask for byte in content[at : at + 1]) + content[at + 1 :]

    return _bytes(number, change)


def cut(number: int, place: Place, length: int) -> Edit:
    """Removes some bytes, or all bytes from `place` to the end."""

    def change(content: bytes) -> bytes:
        at = place.within(len(content))
        return content[:at] + (content[at + length :] if length < 64 else b"")

    return _bytes(number, change)


def inserted(number: int, place: Place, put: bytes) -> Edit:
    """Inserts some bytes."""

    def change(content: bytes) -> bytes:
        at = place.within(len(content))
        return content[:at] + put + content[at:]

    return _bytes(number, change)


def overwritten(number: int, place: Place, put: bytes) -> Edit:
    """Replaces some bytes. The file keeps its size."""

    def change(content: bytes) -> bytes:
        at = place.within(len(content))
        return content[:at] + put[: len(content) - at] + content[at + len(put) :]

    return _bytes(number, change)


def swapped(one: int, place: Place, other: int, other_place: Place, length: int) -> Edit:
    """Exchanges two byte ranges, within one file or between two files."""

    def edit(files: RawFiles) -> None:
        a, b = files.paths[one].read_bytes(), files.paths[other].read_bytes()
        taken = a[place.within(len(a)) :][:length], b[other_place.within(len(b)) :][:length]
        overwritten(one, place, taken[1])(files)
        overwritten(other, other_place, taken[0])(files)

    return edit


def rows(number: int, kind: str, row: int, other: int) -> Edit:
    """Exchanges, doubles or drops rows of one file. The file is valid."""
    order = list(range(ROWS))
    if kind == "exchanged":
        order[row], order[other] = other, row
    elif kind == "doubled":
        order.insert(row, other)
    else:
        del order[row]

    def edit(files: RawFiles) -> None:
        path = files.paths[number]
        # A file that an earlier edit made unreadable cannot be rewritten, and stays as it is. Any error may be raised.
        with contextlib.suppress(Exception):
            if number == 2:
                pq.write_table(pq.read_table(path).take(order), path)
            else:
                np.save(path, np.load(path, allow_pickle=False)[order])

    return edit


EDITS = st.one_of(
    st.builds(flipped, NUMBERS, PLACES, st.integers(1, 255)),
    st.builds(cut, NUMBERS, PLACES, st.integers(1, 64)),
    st.builds(inserted, NUMBERS, PLACES, st.binary(min_size=1, max_size=16)),
    st.builds(overwritten, NUMBERS, PLACES, st.binary(min_size=1, max_size=16)),
    st.builds(swapped, NUMBERS, PLACES, NUMBERS, PLACES, st.integers(1, 64)),
    st.builds(rows, NUMBERS, st.sampled_from(["exchanged", "doubled", "dropped"]), ROW, ROW),
)


def write_sound(court: Court) -> None:
    """Writes the valid shard: unit vectors and several kinds of texts."""
    generator = np.random.default_rng(17)
    files = RawFiles.of(court.sound, 0)
    for path in files.paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in (files.image, files.text):
        vectors = generator.standard_normal((ROWS, DIMENSION))
        np.save(path, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2"))
    table = {
        "url": [f"https://example.org/{row}.jpg" for row in range(ROWS)],
        "caption": [f'a "picture", no {row}\n' * (row % 3) for row in range(ROWS)],
        "NSFW": [("UNLIKELY", "UNSURE", "NSFW", None)[row % 4] for row in range(ROWS)],
        "similarity": [0.3 + row / 100 if row % 7 else None for row in range(ROWS)],
        "width": list(range(ROWS)),
    }
    pq.write_table(pa.table(table), files.metadata, compression="snappy", row_group_size=10)


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Court, Judge]]:
    """A court for these shards. At most a fifth of the rows may be put into quarantine."""
    court = Court(folder, DIMENSION, 0.2)
    write_sound(court)
    with judge(court) as judging:
        yield court, judging


@dataclass(frozen=True)
class Found:
    """Counts of the outcomes of a round, and its fault with the case that shows it. Without a fault it is empty."""

    outcomes: Counter[str]
    fault: str


def run(cases: int, seed: int) -> Found:
    """Tries `cases` cases and returns the counts of outcomes and the fault, if there is one."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="altered-") as folder, opened(Path(folder)) as (court, judging):

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
        )
        @given(st.lists(EDITS, min_size=1, max_size=3), st.booleans())
        def the_table_is_as_the_files_say_or_unchanged(edits: list[Edit], fetched: bool) -> None:
            files = court.reset()
            for edit in edits:
                edit(files)
            verdict = judging.try_case(fetched=fetched)
            counts[f"{verdict.outcome} ({verdict.kind})" if verdict.kind else verdict.outcome] += 1
            assert verdict.outcome != "wrong", verdict

        fault = ""
        try:
            the_table_is_as_the_files_say_or_unchanged()
        except Exception as error:
            notes = " ".join(getattr(error, "__notes__", []))
            fault = f"{error} {notes}"[:2_000]
    return Found(counts, fault)


def main() -> None:
    """Runs all cases and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=None)
    given_ = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given_.seed is None else given_.seed
    outcomes: Counter[str] = Counter()
    faults = []
    while outcomes.total() < given_.cases:
        found = run(min(ROUND, given_.cases - outcomes.total()), seed + outcomes.total())
        outcomes.update(found.outcomes)
        faults += [found.fault] if found.fault else []
        sys.stderr.write(f"{outcomes.total()} cases, {len(faults)} faults {found.fault}\n")
    report = {"seed": seed, "cases": outcomes.total(), "outcomes": dict(outcomes.most_common()), "faults": faults}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

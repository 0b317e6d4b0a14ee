"""Tests of resuming: a download that was cut continues if that is safe, and otherwise starts over; both are correct."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laion_assets.source import partial
from laion_assets.source.origin_note import read_origin
from laion_assets.source.partial import Origin
from laion_assets_tests.source import misbehaving_server
from laion_assets_tests.source.fetching import QUICK
from laion_assets_tests.source.misbehaving_server import MisbehavingServer
from laion_assets_tests.source.served_shard import (
    CONTENT,
    FILES,
    IMAGE,
    SHA256,
    SIZE,
    OneFile,
    etag_of,
    leave_part,
    npy_bytes,
    wanted_image,
)

OTHER = npy_bytes(seed=9)
"""Another release of the image file, of the same size."""


def killed(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, one: OneFile, base: str) -> None:
    """Fetches the file until a function is called, as a run that is killed there."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(place, name, die)
        one.fetch(base)


@pytest.mark.parametrize("validator", ["etag", "date"])
@pytest.mark.parametrize("cut", [40_001, 100_000, SIZE - 1])
@pytest.mark.parametrize("length", ["told", "chunked"])
def test_a_connection_that_is_cut_again_and_again_costs_no_byte_twice(
    server: MisbehavingServer, one: OneFile, validator: str, cut: int, length: str
) -> None:
    fetched = one.fetch(server.base(f"cut={cut}&validator={validator}&length={length}"))
    assert fetched.path.read_bytes() == CONTENT
    assert server.sent() == fetched.bytes_fetched == SIZE
    assert fetched.tries == len(server.requests) == -(-SIZE // cut)
    assert [request.range for request in server.requests[1:]] == [
        f"bytes={cut * number}-" for number in range(1, fetched.tries)
    ]
    assert all(request.headers["if-range"] for request in server.requests[1:])
    assert len(one.log) == fetched.tries - 1, "each failed try is logged once"


@pytest.mark.parametrize("cut", [2_000, 40_001])
def test_cuts_cost_at_most_five_hundredths_more(server: MisbehavingServer, tmp_path: Path, cut: int) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, tries=200, backoff_seconds=0.0001, backoff_most_seconds=0.001))
    fetched = one.fetch(server.base(f"cut={cut}"))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched <= 1.05 * SIZE


@pytest.mark.parametrize("validator", ["weak", "young", "none"])
def test_without_a_strong_validator_it_starts_over(server: MisbehavingServer, one: OneFile, validator: str) -> None:
    fetched = one.fetch(server.base(f"cut=100000&times=1&validator={validator}"))
    assert fetched.path.read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, None]
    assert fetched.bytes_fetched == SIZE + 100_000


@pytest.mark.parametrize("validator", ["weak", "young", "none"])
def test_with_a_sha256_it_resumes_without_a_validator(server: MisbehavingServer, one: OneFile, validator: str) -> None:
    fetched = one.fetch(server.base(f"cut=100000&validator={validator}"), wanted=wanted_image(sha256=SHA256))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched == SIZE


def test_a_200_to_a_range_starts_over(server: MisbehavingServer, one: OneFile) -> None:
    leave_part(
        one.folder,
        IMAGE,
        CONTENT[:50_000],
        Origin(f"{server.base('ranges=ignored')}/img_emb/{IMAGE}", '"e"', None, SIZE),
    )
    fetched = one.fetch(server.base("ranges=ignored"))
    assert fetched.path.read_bytes() == CONTENT
    assert (server.requests[0].range, fetched.tries, fetched.bytes_fetched) == ("bytes=50000-", 1, SIZE)


@pytest.mark.parametrize("ranges", ["shifted", "unlabelled", "other-etag", "no-etag", "other-total"])
def test_a_206_that_does_not_continue_what_is_there_starts_over(
    server: MisbehavingServer, one: OneFile, ranges: str
) -> None:
    base = server.base(f"ranges={ranges}")
    etag = etag_of(CONTENT)
    leave_part(one.folder, IMAGE, CONTENT[:50_000], Origin(f"{base}/img_emb/{IMAGE}", etag, None, SIZE))
    fetched = one.fetch(base)
    assert fetched.path.read_bytes() == CONTENT
    assert [request.range for request in server.requests] == ["bytes=50000-", None]
    assert "206 with Content-Range" in one.log[0] and "starts over" in one.log[0]


@pytest.mark.parametrize("ranges", ["open", "capped"])
def test_a_206_of_less_or_of_unknown_total_continues(server: MisbehavingServer, one: OneFile, ranges: str) -> None:
    fetched = one.fetch(server.base(f"ranges={ranges}&cut=100000"))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched == SIZE


@pytest.mark.parametrize("ranges", ["right", "blind"])
@pytest.mark.parametrize("validator", ["etag", "none"])
def test_a_file_that_changes_in_the_middle_is_never_joined_from_two(
    server: MisbehavingServer, one: OneFile, ranges: str, validator: str
) -> None:
    fetched = one.fetch(server.base(f"grown=2&cut=100000&times=3&ranges={ranges}&validator={validator}"))
    assert fetched.path.read_bytes() in (FILES["grown"], CONTENT)


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_416_is_compared(server: MisbehavingServer, one: OneFile, part: bytes) -> None:
    """The size of the partial file was not announced, so the file may be complete."""
    origin = Origin(f"{server.base()}/img_emb/{IMAGE}", etag_of(CONTENT), None, None)
    leave_part(one.folder, IMAGE, part, origin)
    fetched = one.fetch(server.base(), wanted=wanted_image())
    assert fetched.path.read_bytes() == CONTENT
    assert server.requests[0].status == 416
    assert fetched.bytes_fetched == (0 if part == CONTENT else SIZE)
    noted = read_origin(fetched.path)
    assert noted is not None and (noted.size, noted.etag) == (SIZE, etag_of(CONTENT)), "later runs can compare it"


def test_without_a_validator_a_part_of_unannounced_size_is_not_asked_to_go_on(
    server: MisbehavingServer, one: OneFile
) -> None:
    """Nothing shows whether the partial file belongs to the same file."""
    base = server.base("validator=none")
    leave_part(one.folder, IMAGE, b"x" * SIZE, Origin(f"{base}/img_emb/{IMAGE}", None, None, None))
    fetched = one.fetch(base, wanted=wanted_image())
    assert fetched.path.read_bytes() == CONTENT
    assert [(request.range, request.status) for request in server.requests] == [(None, 200)]
    assert fetched.bytes_fetched == SIZE


def test_a_complete_part_needs_no_server(one: OneFile) -> None:
    url = f"http://gone.invalid/img_emb/{IMAGE}"
    leave_part(one.folder, IMAGE, CONTENT, Origin(url, '"e"', None, SIZE))
    fetched = one.fetch("http://gone.invalid")
    assert (fetched.bytes_fetched, fetched.tries, fetched.url) == (0, 0, url)
    assert sorted(path.name for path in one.folder.iterdir()) == [f".{IMAGE}.origin.json", IMAGE]


KILLED = pytest.mark.parametrize(
    ("place", "name"), [(os, "fsync"), (partial, "write_origin")], ids=["before its name", "before its note"]
)


@KILLED
@pytest.mark.parametrize("validator", ["etag", "weak", "date"])
def test_a_finished_file_of_a_killed_run_is_compared_with_its_source(
    place: Any, name: str, validator: str, server: MisbehavingServer, one: OneFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = server.base(f"validator={validator}")
    killed(monkeypatch, place, name, one, base)
    monkeypatch.setattr(server, "files", {**server.files, IMAGE: OTHER})
    monkeypatch.setattr(misbehaving_server, "OLD_DATE", "Tue, 03 Aug 2021 10:00:00 GMT")
    fetched = one.fetch(base)
    assert fetched.path.read_bytes() == OTHER
    assert "it is fetched again" in one.log[0]


@KILLED
@pytest.mark.parametrize("validator", ["etag", "weak", "date", "none"])
def test_a_finished_file_of_a_killed_run_is_used_if_its_source_has_not_changed(
    place: Any, name: str, validator: str, server: MisbehavingServer, one: OneFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = server.base(f"validator={validator}")
    killed(monkeypatch, place, name, one, base)
    assert (one.fetch(base).bytes_fetched, one.log) == (0, [])


@pytest.mark.parametrize(
    "origin", [None, Origin("http://x/", '"e"', None, 10), Origin("http://x/", None, None, SIZE)], ids=str
)
def test_a_part_of_unknown_origin_is_not_used(server: MisbehavingServer, one: OneFile, origin: Origin | None) -> None:
    leave_part(one.folder, IMAGE, b"x" * 1000, origin)
    fetched = one.fetch(server.base())
    assert fetched.path.read_bytes() == CONTENT
    assert server.requests[0].range is None


@pytest.mark.parametrize("sidecar", ["", "{", "[]", '{"url": 1, "total": 9}', '{"url": "u", "total": "many"}', "\x00"])
def test_a_broken_sidecar_is_no_obstacle(server: MisbehavingServer, one: OneFile, sidecar: str) -> None:
    leave_part(one.folder, IMAGE, CONTENT[:1000], None)
    (one.folder / f"{IMAGE}.part.json").write_text(sidecar)
    assert one.fetch(server.base()).path.read_bytes() == CONTENT


def test_a_stale_beginning_is_found_by_the_sha256_and_fetched_anew(server: MisbehavingServer, one: OneFile) -> None:
    stale = bytes(100) + CONTENT[100:50_000]
    leave_part(one.folder, IMAGE, stale, Origin("http://other.example/x", '"e"', None, SIZE))
    fetched = one.fetch(server.base(), wanted=wanted_image(size=SIZE, sha256=SHA256))
    assert fetched.path.read_bytes() == CONTENT

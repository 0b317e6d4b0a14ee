"""Tests of several sources of one file: their order, and when a partial file from one is completed from another."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from laion_assets.errors import PermanentSourceError, SourceError, UnreachableSourceError
from laion_assets.source.partial import Origin
from laion_assets_tests.source.fetching import QUICK
from laion_assets_tests.source.misbehaving_server import MisbehavingServer
from laion_assets_tests.source.served_shard import (
    CONTENT,
    IMAGE,
    SHA256,
    SIZE,
    OneFile,
    etag_of,
    leave_part,
    wanted_image,
)

DEAD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "bad",
    ["status=404", "status=500", "status=503&retry_after=60", "page=1", "encoding=gzip", "redirects=99"],
)
def test_when_one_fails_the_next_serves_at_once(server: MisbehavingServer, tmp_path: Path, bad: str) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, backoff_seconds=30.0, backoff_most_seconds=30.0, read_seconds=0.3))
    started = time.monotonic()
    fetched = one.fetch(server.base(bad), server.base("times=1"))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.tries == 2 and len(one.log) == 1
    assert time.monotonic() - started < 10


def test_a_dead_mirror_costs_one_try(server: MisbehavingServer, one: OneFile) -> None:
    assert one.fetch(DEAD, server.base()).tries == 2


@pytest.mark.parametrize("place", [DEAD, "http://no-such-host.invalid/x"])
def test_a_host_that_cannot_be_reached_is_given_up_after_seconds_and_its_wait_is_said(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = replace(QUICK, tries=100, backoff_seconds=5.0, backoff_most_seconds=60.0, unreachable_seconds=4.0)
    started = time.monotonic()
    error = OneFile(tmp_path, limits=limits).failure(place, f"{place}/other/layout")
    assert isinstance(error, UnreachableSourceError)
    assert 4.0 <= time.monotonic() - started < 10
    (said, *_) = [record.getMessage() for record in caplog.records if record.name == "laion_assets.waiting"]
    assert re.match(rf"waiting for try \d at {place}/", said)
    assert "Ctrl-C" in said and re.search(r"until \d\d:\d\d:\d\d", said)


def test_a_body_that_stalls_in_the_middle_is_told_within_two_seconds(
    server: MisbehavingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server sends a part and then nothing; the next try gets the rest from another mirror."""
    one = OneFile(tmp_path, limits=replace(QUICK, read_seconds=3.0))
    started = time.time()
    assert one.fetch(server.base("stall=100000"), server.base("times=1")).path.read_bytes() == CONTENT
    (said, *_) = [record for record in caplog.records if record.name == "laion_assets.waiting"]
    assert said.created - started < 2.0
    until = r"until \d\d:\d\d:\d\d at most \([12] s\)\. Ctrl-C"
    assert re.match(rf"waiting for more of .*{IMAGE} from {server.base('stall=100000')}/.*, {until}", said.getMessage())


def test_mirrors_that_fail_take_turns_and_all_are_named(server: MisbehavingServer, one: OneFile) -> None:
    places = [server.base("status=500"), server.base("status=404"), server.base("status=502")]
    error = one.failure(*places)
    assert type(error) is SourceError
    assert all(place in str(error) for place in places)
    assert "500 Internal Server Error (tries: 8)" in str(error) and "404 Not Found (tries: 1)" in str(error)
    statuses = [request.status for request in server.requests]
    assert statuses[:3] == [500, 404, 502]
    assert statuses.count(500) == statuses.count(502) == QUICK.tries
    assert max(abs(statuses[:n].count(500) - statuses[:n].count(502)) for n in range(len(statuses))) <= 2


def test_only_when_all_said_no_for_good_it_is_permanent(server: MisbehavingServer, one: OneFile) -> None:
    error = one.failure(server.base("status=404"), server.base("status=403"), server.base("status=410"))
    assert isinstance(error, PermanentSourceError)
    assert all(f"{status}" in str(error) for status in ("404 Not Found", "403 Forbidden", "410 Gone"))
    assert len(server.requests) == 3


def test_a_mirror_that_gets_on_keeps_its_turn(server: MisbehavingServer, one: OneFile) -> None:
    fetched = one.fetch(server.base("cut=100000"), server.base())
    assert fetched.bytes_fetched == SIZE
    assert {request.path.split("/")[1] for request in server.requests} == {"cut=100000"}


def test_a_mirror_that_gets_no_further_is_left(server: MisbehavingServer, one: OneFile) -> None:
    """Each try starts over and is cut at the same byte: bytes arrive, but none beyond those of earlier tries."""
    fetched = one.fetch(server.base("cut=100000&validator=none"), server.base("times=1"))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.tries <= 1 + QUICK.idle_tries + 1


def test_a_mirror_that_falls_silent_is_left(server: MisbehavingServer, tmp_path: Path) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, read_seconds=0.1))
    assert one.fetch(server.base("stall=100000&validator=none"), server.base()).tries <= 1 + QUICK.idle_tries + 1


def test_a_slow_mirror_is_left(server: MisbehavingServer, tmp_path: Path) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, min_bytes_per_second=200_000))
    assert one.fetch(server.base("dribble=50000"), server.base()).tries == 2


def test_a_part_goes_on_at_a_mirror_with_the_same_etag_and_size(server: MisbehavingServer, one: OneFile) -> None:
    leave_part(one.folder, IMAGE, CONTENT[:100_000], Origin(f"{DEAD}/img_emb/{IMAGE}", etag_of(CONTENT), None, SIZE))
    fetched = one.fetch(server.base())
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched == SIZE - 100_000
    assert server.requests[0].headers["if-range"] == etag_of(CONTENT)


@pytest.mark.parametrize(
    "origin",
    [
        Origin(f"{DEAD}/x", '"another"', None, SIZE),
        Origin(f"{DEAD}/x", None, "Mon, 02 Aug 2021 10:00:00 GMT", SIZE),
        Origin(f"{DEAD}/x", etag_of(CONTENT), None, SIZE + 1),
        Origin(f"{DEAD}/x", etag_of(CONTENT), None, None),
        Origin(f"{DEAD}/x", None, None, SIZE),
    ],
    ids=["other ETag", "date only", "other size", "no size", "nothing"],
)
def test_a_part_without_proof_starts_over_at_another_mirror(
    server: MisbehavingServer, one: OneFile, origin: Origin
) -> None:
    leave_part(one.folder, IMAGE, b"\x93NUMPY of another release".ljust(1000), origin)
    assert one.fetch(server.base()).path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, '"another"'])
@pytest.mark.parametrize("validator", ["etag", "none"])
def test_a_part_goes_on_anywhere_when_a_sha256_will_prove_it(
    server: MisbehavingServer, one: OneFile, etag: str | None, validator: str
) -> None:
    leave_part(one.folder, IMAGE, CONTENT[:100_000], Origin(f"{DEAD}/x", etag, None, SIZE))
    fetched = one.fetch(server.base(f"validator={validator}"), wanted=wanted_image(sha256=SHA256))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched == SIZE - 100_000


def test_a_page_at_the_next_mirror_does_not_cost_the_part(server: MisbehavingServer, one: OneFile) -> None:
    place = f"{server.base('status=500')}/img_emb/{IMAGE}"
    leave_part(one.folder, IMAGE, CONTENT[:100_000], Origin(place, etag_of(CONTENT), None, SIZE))
    one.failure(server.base("status=500"), server.base("page=1&length=chunked"), server.base("truncated=500"))
    assert (one.folder / f"{IMAGE}.part").stat().st_size == 100_000


def test_a_host_that_answered_once_and_is_gone_gets_all_tries(tmp_path: Path) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, tries=6, unreachable_seconds=0.0))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    answering = threading.Thread(target=answer_once, args=(listening,))
    answering.start()
    error = one.failure(f"http://127.0.0.1:{port}")
    answering.join()
    assert type(error) is UnreachableSourceError
    assert "(tries: 6)" in str(error)


def answer_once(listening: socket.socket) -> None:
    """Answers one request with status 500, and then closes the port."""
    connection, _ = listening.accept()
    listening.close()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

"""Tests of one file over HTTP: whatever the server does, the file is complete and correct or the error says why not."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from laion_assets.errors import PermanentSourceError, SourceError, UnreachableSourceError
from laion_assets.source.remote_file import RemoteFile
from laion_assets_tests.source.fetching import QUICK
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server
from laion_assets_tests.source.served_shard import (
    CONTENT,
    IMAGE,
    SHA256,
    SIZE,
    OneFile,
    etag_of,
    npy_bytes,
    wanted_image,
)


def test_a_file_arrives_whole_with_its_facts(server: MisbehavingServer, one: OneFile) -> None:
    fetched = one.fetch(server.base())
    assert fetched.path.read_bytes() == CONTENT
    assert sorted(path.name for path in one.folder.iterdir()) == [f".{IMAGE}.origin.json", IMAGE]
    assert (fetched.kind, fetched.bytes, fetched.bytes_fetched, fetched.tries) == ("image", SIZE, SIZE, 1)
    assert fetched.url == f"{server.base()}/img_emb/{IMAGE}"
    assert fetched.etag and not fetched.linked and fetched.seconds > 0
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert one.log == []


@pytest.mark.parametrize("length", ["told", "chunked", "closed"])
@pytest.mark.parametrize("wanted", [wanted_image(), wanted_image(size=SIZE, sha256=SHA256)], ids=["", "known"])
def test_a_file_arrives_whole_however_its_end_is_told(
    server: MisbehavingServer, one: OneFile, length: str, wanted: object
) -> None:
    assert one.fetch(server.base(f"length={length}"), wanted=wanted).path.read_bytes() == CONTENT  # type: ignore[arg-type]


def test_memory_stays_flat(tmp_path: Path) -> None:
    large = npy_bytes(1) + bytes(1024 * 59_999)
    large = large.replace(b"(1, 512), }    ", b"(60000, 512), }")
    with misbehaving_server({IMAGE: large}) as server:
        tracemalloc.start()
        OneFile(tmp_path).fetch(server.base())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8_000_000


# Temporary and permanent failures.


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failure_that_passes_is_tried_again(server: MisbehavingServer, one: OneFile, status: int) -> None:
    fetched = one.fetch(server.base(f"status={status}&times=2"))
    assert (fetched.path.read_bytes(), fetched.tries) == (CONTENT, 3)
    assert len(one.log) == 2 and str(status) in one.log[0] and fetched.url in one.log[0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 410, 451, 501])
def test_a_permanent_refusal_ends_it_at_once(server: MisbehavingServer, one: OneFile, status: int) -> None:
    error = one.failure(server.base(f"status={status}"))
    assert isinstance(error, PermanentSourceError)
    assert str(status) in str(error) and f"/status={status}/img_emb/{IMAGE}" in str(error) and "shard 0" in str(error)
    assert len(server.requests) == 1


def test_tries_are_limited_and_each_is_logged(server: MisbehavingServer, one: OneFile) -> None:
    error = one.failure(server.base("status=500"))
    assert type(error) is SourceError
    assert "tries: 8" in str(error) and len(server.requests) == 8 and len(one.log) == 7


def test_waits_grow(server: MisbehavingServer, tmp_path: Path) -> None:
    OneFile(tmp_path, limits=replace(QUICK, tries=5, backoff_seconds=0.05, backoff_most_seconds=0.2)).failure(
        server.base("status=500")
    )
    times = [request.at for request in server.requests]
    waits = [after - before for before, after in pairwise(times)]
    for wait, longest in zip(waits, (0.05, 0.1, 0.2, 0.2), strict=True):
        assert longest / 2 <= wait < longest + 1


@pytest.mark.parametrize(("status", "asked"), [(429, "1"), (503, "1"), (503, "date")])
def test_retry_after_is_honoured(server: MisbehavingServer, one: OneFile, status: int, asked: str) -> None:
    assert one.fetch(server.base(f"status={status}&retry_after={asked}&times=1")).tries == 2
    assert server.requests[1].at - server.requests[0].at >= 0.9


@pytest.mark.parametrize("asked", ["86400", "0", "soon", "-1"])
def test_retry_after_is_bounded(server: MisbehavingServer, tmp_path: Path, asked: str) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, retry_after_most_seconds=0.3))
    one.fetch(server.base(f"status=503&retry_after={asked}&times=1"))
    assert server.requests[1].at - server.requests[0].at < 5


def test_a_refused_connection_is_tried_again_until_the_tries_are_over(one: OneFile) -> None:
    error = one.failure("http://127.0.0.1:9")
    assert type(error) is UnreachableSourceError and "refused" in str(error) and "tries: 8" in str(error)


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://[::1", "ftp+http://x", "http://"])
def test_an_url_that_is_none_is_permanent(one: OneFile, url: str) -> None:
    assert isinstance(one.failure(url), PermanentSourceError)


# Time and throughput.


def test_a_trickle_is_left(server: MisbehavingServer, tmp_path: Path) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, tries=2, min_bytes_per_second=100_000))
    error = one.failure(server.base("dribble=20000"))
    assert "bytes a second" in str(error) and "100,000" in str(error)
    assert server.requests[1].range, "what came is kept"


def test_a_slow_server_above_the_floor_is_borne(server: MisbehavingServer, tmp_path: Path) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, min_bytes_per_second=20_000))
    assert one.fetch(server.base("dribble=400000")).tries == 1


def test_a_silent_server_is_left_after_the_read_limit(server: MisbehavingServer, tmp_path: Path) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, read_seconds=0.3))
    fetched = one.fetch(server.base("stall=100000&times=1"))
    assert "ReadTimeout" in one.log[0]
    assert fetched.bytes_fetched == SIZE


@pytest.mark.parametrize("behaviour", ["dribble=20000", "stall=1000", "status=503&retry_after=60", "status=500"])
def test_the_time_for_a_file_is_limited(server: MisbehavingServer, tmp_path: Path, behaviour: str) -> None:
    one = OneFile(tmp_path, limits=replace(QUICK, file_seconds=0.5, tries=1000))
    started = time.monotonic()
    error = one.failure(server.base(behaviour))
    assert time.monotonic() - started < 5
    assert type(error) is SourceError and "LAION_HTTP_FILE_SECONDS" in str(error)


# Answers with status 200 that are not the file.


@pytest.mark.parametrize("length", ["told", "chunked", "closed"])
@pytest.mark.parametrize("known", [None, SIZE])
def test_an_error_page_is_refused(server: MisbehavingServer, one: OneFile, length: str, known: int | None) -> None:
    error = one.failure(server.base(f"page=1&length={length}"), wanted=wanted_image(size=known))
    assert type(error) is SourceError
    said = str(error)
    assert (
        ("635 bytes, expected" in said)
        if known and length == "told"
        else ("an HTML or XML page" in said and "NUMPY" in said)
    )
    assert len(server.requests) == 2, "a passing page gets a second chance, not a hundredth"
    assert list(one.folder.iterdir()) == []


def test_an_error_page_that_passes_does_no_harm(server: MisbehavingServer, one: OneFile) -> None:
    assert one.fetch(server.base("page=1&times=1")).path.read_bytes() == CONTENT


@pytest.mark.parametrize("length", ["told", "closed"])
@pytest.mark.parametrize("size", [1, 100, 128, 200_000, SIZE - 1])
def test_a_truncated_file_is_refused(server: MisbehavingServer, one: OneFile, length: str, size: int) -> None:
    error = one.failure(server.base(f"truncated={size}&length={length}"))
    assert type(error) is SourceError and (
        f"{size} bytes" in str(error) or "header" in str(error) or "starts" in str(error)
    )


def test_a_short_answer_without_an_error_is_refused_and_completed(server: MisbehavingServer, one: OneFile) -> None:
    """The end of the connection marks the end of the file here, but the .npy header shows that bytes are missing."""
    fetched = one.fetch(server.base("length=closed&cut=100000&times=1"))
    assert fetched.path.read_bytes() == CONTENT
    fetched.path.unlink()
    server.counts.clear()
    known = one.fetch(server.base("length=closed&cut=100000&times=1"), wanted=wanted_image(size=SIZE))
    assert known.bytes_fetched == SIZE, "where the size is known, what came is kept"


def test_wrong_bytes_of_the_right_size_are_found_by_their_sha256(server: MisbehavingServer, one: OneFile) -> None:
    error = one.failure(server.base("flipped=1"), wanted=wanted_image(size=SIZE, sha256=SHA256))
    assert f"expected {SHA256}" in str(error)
    assert list(one.folder.iterdir()) == []


def test_a_packed_answer_is_refused(server: MisbehavingServer, one: OneFile) -> None:
    error = one.failure(server.base("encoding=gzip"))
    assert isinstance(error, PermanentSourceError) and "Content-Encoding gzip" in str(error)


# Redirects.


@pytest.mark.parametrize("behaviour", ["redirects=3", "to=~cut=100000"])
def test_redirects_are_followed_also_when_resuming(server: MisbehavingServer, one: OneFile, behaviour: str) -> None:
    fetched = one.fetch(server.base(behaviour))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched == SIZE
    assert fetched.url == f"{server.base(behaviour)}/img_emb/{IMAGE}"


def test_a_ring_of_redirects_is_permanent(server: MisbehavingServer, one: OneFile) -> None:
    error = one.failure(server.base("redirects=99"))
    assert isinstance(error, PermanentSourceError) and "10 redirects" in str(error)
    assert len(server.requests) == 11


def test_a_redirect_to_what_is_no_url_is_permanent(server: MisbehavingServer, one: OneFile) -> None:
    error = one.failure(server.base("to=http:~~[x"))
    assert isinstance(error, PermanentSourceError) and "a redirect to 'http://[x" in str(error)


def test_the_proxy_of_the_environment_is_used(
    server: MisbehavingServer, one: OneFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.base().replace("//", "//me:secretpass@").removesuffix("/well-behaved"))
    fetched = one.fetch("http://far.example.org/shards")
    assert fetched.path.read_bytes() == CONTENT
    assert server.requests[0].path == f"http://far.example.org/shards/img_emb/{IMAGE}"
    assert server.requests[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0cGFzcw=="


# Observing a file at its source without fetching it.


@pytest.mark.parametrize(
    ("behaviour", "methods"),
    [
        ("well-behaved", ["HEAD"]),
        ("head=403", ["HEAD", "GET"]),
        ("head=405", ["HEAD", "GET"]),
        ("redirects=1", ["HEAD"] * 2),
    ],
)
def test_a_file_is_observed(server: MisbehavingServer, one: OneFile, behaviour: str, methods: list[str]) -> None:
    with one.sources([server.base(behaviour)], wanted_image()) as (source,):
        seen = source.observe()
    assert (seen.size, seen.etag, seen.modified) == (SIZE, etag_of(CONTENT), "Mon, 02 Aug 2021 10:00:00 GMT")
    assert [request.method for request in server.requests] == methods
    assert server.sent() <= 1
    assert seen.version == f"{seen.etag}, {SIZE} bytes"


def test_an_observation_of_a_file_that_is_not_there_is_permanent(server: MisbehavingServer, one: OneFile) -> None:
    with one.sources([server.base("status=404")], wanted_image()) as (source,), pytest.raises(PermanentSourceError):
        source.observe()
    assert len(server.requests) == 1


def test_the_version_of_a_file_changes_with_it() -> None:
    files = [
        RemoteFile("u", 1, '"a"', "Monday"),
        RemoteFile("u", 1, '"b"', "Monday"),
        RemoteFile("u", 2, '"a"', "Monday"),
        RemoteFile("u", 1, None, "Monday"),
        RemoteFile("u", 1, None, None),
        RemoteFile("u", None, None, None),
    ]
    assert len({file.version for file in files}) == len(files)


@pytest.mark.parametrize("proxy", ["socks5://u:hunter2@127.0.0.1:1080", "socks://127.0.0.1:1080"])
def test_a_proxy_of_another_kind_is_refused(one: OneFile, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    error = one.failure("http://mirror.example/laion")
    assert isinstance(error, PermanentSourceError)
    assert "a proxy of kind socks" in str(error) and "NO_PROXY" in str(error) and "hunter2" not in str(error)

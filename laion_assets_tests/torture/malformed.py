"""Sends thousands of malformed requests to the search service.

`python -m laion_assets_tests.torture.malformed [REQUESTS]`. Each request must get a 2xx answer, or a 4xx answer with
one line of text. hypothesis makes the requests, and shows the smallest one that fails.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from laion_assets.index.graphs import build_indexes
from laion_assets.service.app import SearchService
from laion_assets.service.limits import Limits
from laion_assets.service.served import ServedIndex
from laion_assets.table.connect import connect
from laion_assets_tests.service.loopback import served
from laion_assets_tests.table.loaded import load_sample, sample_settings

REQUESTS = 5_000
ENDLESS_SECONDS = 30.0

_TEXT = st.text(st.characters(), max_size=30)
_NUMBER = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63) - 1, 10**400, 0.5, 1e308, -0.0])
_ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBER | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)

_CONDITIONS = [
    *("shard = 0", "shard", "NSFW", "caption", "1 = 1", "not", "shard = 0) OR (1", "caption LIKE '%", "/*", "--", ";"),
    *("id IN (SELECT 1)", "throwIf(id >= 0)", "toUInt8(caption) = 1", "intDiv(1, 0) = 1", "sleep(1) = 0", "''", "'\0'"),
    *("shard = 18446744073709551616", "image_embedding[1] > 0", "image_embedding", "1/0", "[1] = 1", "(1, 2)", "*"),
    *("L2Distance(image_embedding, [1]) > 0", "match(caption, '(')", "toDate(caption) = today()", "x -> x", "1 AS a"),
    *("file('/etc/passwd') = ''", "getSetting('a') = 1", "arrayJoin([1, 2]) = 1", "count() > 1", "NULL", "nan"),
    *("row_number() OVER () = 1", "similarity > 0.3 FORMAT Null", "similarity > 0 SETTINGS max_threads = 0", "\ud800"),
    *("{a:UInt8} = 1", "repeat(caption, 1000000000) = ''", "range(id) = []", "caption = " + "(" * 900),
    " AND ".join(["1"] * 2_000),
]
_WHERE = st.sampled_from(_CONDITIONS)

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "modality": st.sampled_from(["image", "text"]),
    "num_images": st.integers(1, 50),
    "num_result_ids": st.sampled_from([1, 50, 10_000]),
    "indice_name": st.sampled_from([None, "", "sample"]),
    "text": _TEXT,
    "image": st.sampled_from(["iVBORw0KGgo=", "data:image/png;base64,AAAA", "R0lGODlhAQABAAAAACw=", "/9j/4AAQ"]),
    "image_url": st.sampled_from(
        ["http://127.0.0.1:1/x", "file:///etc/passwd", "http://[", "gopher://a", "http://a@b/"]
    ),
    "embedding_input": st.lists(_NUMBER, min_size=512, max_size=512) | st.lists(_NUMBER, max_size=3),
    "like": st.sampled_from([0, 5, 10_000_003, -1]),
    "where": _WHERE,
    "exact": st.booleans(),
    "method": st.sampled_from(["exact", "graph", "codes", "cells"]),
    "deduplicate": st.booleans(),
    "ids": st.lists(_NUMBER, max_size=5),
    "use_safety_model": st.booleans(),
    "aesthetic_score": _NUMBER,
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A request body of known fields, some with invalid values. Some bodies are cut off or are not JSON."""
    body = {"modality": "image", "num_images": 3, "indice_name": None, "ids": [1]}
    for name in draw(st.lists(st.sampled_from(sorted(_FIELDS)), max_size=5, unique=True)):
        body[name] = draw(_FIELDS[name] | _ANY)
    encoded = json.dumps(draw(st.just(body) | _ANY)).encode()
    return draw(
        st.just(encoded)
        | st.integers(0, len(encoded)).map(lambda end: encoded[:end])
        | st.binary(max_size=50)
        | st.sampled_from(
            [b"[" * 100_000, b'{"modality":' * 5_000, encoded.decode().encode("utf-16"), b"\xef\xbb\xbf" + encoded]
        )
    )


_PATHS = st.sampled_from(
    [
        *(
            "/knn-service",
            "/knn-service",
            "/metadata",
            "//knn-service",
            "/",
            "/config.json",
            "/indices-list",
            "/metrics",
        ),
        *("/metrics-summary", "/healthz", "/page/search.js", "/page/..%2f..%2fapp.py", "/%00", "/%ff", "/knn-service/"),
    ]
)
_METHODS = st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH"])
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "Authorization", "Origin", "Range", "Accept-Encoding", "X-Forwarded-For", "Expect"]
    ),
    st.sampled_from(
        ["", "a", "text/html; charset=\x7f", "bytes=0-,9-,-5", "Bearer \xff", "null", "100-continue", "*/*;q=x"]
    ),
    max_size=2,
)


def hostile_requests(url: str, requests: int) -> Callable[[], None]:
    """A function that sends this many requests to the service at `url` and checks the answers."""

    @settings(
        max_examples=requests,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(_METHODS, _PATHS, _HEADERS, bodies())
    def answered_in_words(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = httpx.request(method, url + path, headers=encoded, content=body, timeout=ENDLESS_SECONDS)
        assert answer.is_success or answer.is_client_error, (answer.status_code, answer.text)
        if answer.status_code in (400, 401, 403, 408, 413) and path != "/page/search.js" and method != "HEAD":
            _is_one_line(answer)

    return answered_in_words


def _is_one_line(answer: httpx.Response) -> None:
    """Checks that a refusal is one line: JSON, or plain text for a request that is not HTTP or has a refused Origin."""
    kind = answer.headers["content-type"]
    line = answer.json()["error"] if kind == "application/json" else answer.text
    assert line
    assert "\n" not in line
    assert len(line) < 2_000
    assert "Traceback" not in line


def main() -> None:
    """Serves a small table and sends the requests to it."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    with tempfile.TemporaryDirectory(prefix="laion-malformed-") as folder:
        table = sample_settings(Path(folder))
        load_sample(table, {0: 1_500, 1: 700})
        with connect(table) as db:
            build_indexes(db)
        service = SearchService({"sample": ServedIndex("sample", table, 60.0)}, Limits())
        with served(service.app()) as url:
            hostile_requests(url, requests)()
    sys.stdout.write(f"{requests:,} requests were answered\n")


if __name__ == "__main__":
    main()

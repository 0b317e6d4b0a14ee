"""Tests of the service over HTTP: answers that clip-retrieval's clients expect, and errors that give a reason."""

from __future__ import annotations

import base64
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import laion_assets.api
from laion_assets.service.app import SearchService
from laion_assets.service.limits import Limits
from laion_assets.service.served import ServedIndex
from laion_assets.settings import Settings
from laion_assets_tests.service.loopback import served
from laion_assets_tests.table.loaded import holder

WORDS = "white clock"
TOKEN = "-".join(["a", "token"])


def ask(url: str, path: str = "/knn-service", **changed: Any) -> httpx.Response:
    body = {"modality": "image", "num_images": 5, "indice_name": "sample", "text": WORDS, **changed}
    return httpx.post(url + path, content=json.dumps(body).encode(), timeout=30)


def rows(url: str, **changed: Any) -> list[dict[str, Any]]:
    answer = ask(url, **changed)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def ids(url: str, **changed: Any) -> list[int]:
    return [row["id"] for row in rows(url, **changed)]


def wait_until_given_back(url: str) -> None:
    """Waits until the service has released the engine, which it does after a second without a search."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/healthz").json()["indexes"]["sample"]["table"] != "given back":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_words_find_what_the_command_line_finds(url: str, loaded: Settings) -> None:
    found = rows(url, exact=True)
    wait_until_given_back(url)
    expected = laion_assets.api.search(WORDS, limit=5, exact=True, settings=loaded)
    assert [row["id"] for row in found] == expected["id"].to_list()
    assert [row["caption"] for row in found] == expected["caption"].to_list()
    assert np.allclose([row["similarity"] for row in found], 1 - expected["distance"].to_numpy(), atol=1e-5)


def test_the_first_rows_have_metadata_and_the_rest_id_and_similarity(url: str) -> None:
    found = rows(url, num_images=3, num_result_ids=8)
    assert [set(row) for row in found[:3]] == [{"id", "similarity", "url", "caption", "NSFW", "shard"}] * 3
    assert [set(row) for row in found[3:]] == [{"id", "similarity"}] * 5
    similarities = [row["similarity"] for row in found]
    assert similarities == sorted(similarities, reverse=True)


def test_a_search_by_row_by_its_vector_and_by_modality(url: str, loaded: Settings) -> None:
    like = ids(url, text=None, like=10_000_003)
    assert like[0] == 10_000_003
    with_vector = ask(url, path="/metadata", ids=[10_000_003]).json()
    assert with_vector[0]["metadata"]["shard"] == 1
    by_caption = ids(url, modality="text", exact=True)
    assert by_caption != ids(url, exact=True)
    vector = np.random.default_rng(3).normal(size=loaded.dataset.dimension)
    assert ids(url, text=None, embedding_input=(vector * 1e30).tolist(), exact=True) == ids(
        url, text=None, embedding_input=vector.tolist(), exact=True
    )


def test_a_picture_is_searched_by_its_bytes_and_by_its_url(url: str) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, format="PNG")
    encoded = base64.b64encode(picture.getvalue()).decode()
    assert len(ids(url, text=None, image=encoded)) == 5
    assert "picture" in ask(url, text=None, image=base64.b64encode(b"no picture").decode()).json()["error"]
    assert ask(url, text=None, image_url=f"{url}/healthz").status_code == 400


def test_a_condition_and_what_it_may_not_do(url: str) -> None:
    assert {row["shard"] for row in rows(url, where="shard = 1")} == {1}
    refused = ask(url, where="1 IN (SELECT 1)")
    assert refused.status_code == 400
    assert "subquery" in refused.json()["error"]


def test_near_duplicates_are_left_out(url: str) -> None:
    everything, few = ids(url, num_images=500), ids(url, num_images=500, deduplicate=True)
    assert set(few) < set(everything)
    assert few[0] == everything[0]


def test_ten_thousand_results_are_as_many_as_there_are_rows(url: str) -> None:
    assert len(ids(url, num_images=10, num_result_ids=10_000)) == 2_200


def test_what_is_asked_and_not_here_is_said(url: str) -> None:
    answer = ask(url, use_safety_model=True, use_violence_detector=True, aesthetic_score=9)
    assert answer.status_code == 200
    assert "no safety model" in answer.headers["x-search-note"]
    assert answer.headers["x-search-method"].startswith("by the index")


def test_metadata_keeps_the_order_and_leaves_out_what_no_row_has(url: str) -> None:
    found = ask(url, path="/metadata", ids=[10_000_001, 5, 9_999_999, -1, 2**62]).json()
    assert [row["id"] for row in found] == [10_000_001, 5]
    assert {"url", "caption", "NSFW", "similarity", "shard", "id"} <= set(found[0]["metadata"])


def test_the_small_routes(url: str) -> None:
    assert httpx.get(f"{url}/indices-list").json() == ["sample"]
    config = httpx.get(f"{url}/config.json").json()
    assert config["defaultIndex"] == "sample"
    assert config["urlColumn"] == "url"
    assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
    rows(url)
    metrics = httpx.get(f"{url}/metrics").text
    assert 'laion_assets_seconds_count{stage="search"}' in metrics
    assert 'laion_assets_answers_total{path="/knn-service",status="200"}' in metrics
    assert "search: " in httpx.get(f"{url}/metrics-summary").text
    # The front end's default back end ends in "/".
    assert httpx.get(f"{url}//indices-list").json() == ["sample"]


def test_refusals_are_one_line_of_json_with_security_headers(url: str) -> None:
    for answer in (
        httpx.post(f"{url}/knn-service", content=b"{"),
        ask(url, indice_name="another"),
        httpx.post(f"{url}/knn-service", content=b"x" * 1_000_001),
        ask(url, text=None, image_url="http://10.0.0.1/x.png"),
    ):
        assert 400 <= answer.status_code < 500
        assert "\n" not in answer.json()["error"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


def test_a_body_without_a_length_is_limited_too(url: str) -> None:
    def blocks() -> Any:
        for _ in range(20):
            yield b"x" * 100_000

    assert httpx.post(f"{url}/knn-service", content=blocks()).status_code == 413


def test_many_clients_at_once_are_all_answered(url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: ask(url, text=f"{WORDS} {number % 3}").status_code, range(40)))
    assert found == [200] * 40


def test_the_engine_is_given_back_when_idle_and_whoever_asks_meanwhile_is_told_of_the_load(
    url: str, loaded: Settings
) -> None:
    rows(url)
    wait_until_given_back(url)
    with holder(loaded.data_dir):
        held = ask(url)
        assert (held.status_code, held.headers["retry-after"]) == (503, "5")
        assert "a load holds the table" in held.json()["error"]
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert len(rows(url)) == 5


def test_a_token_is_asked_for_everywhere_but_where_no_rows_are(loaded: Settings) -> None:
    service = SearchService({"sample": ServedIndex("sample", loaded, 1.0)}, Limits(token=TOKEN))
    with served(service.app()) as base:
        for path in ("/indices-list", "/metrics"):
            assert httpx.get(base + path).status_code == 401
        assert ask(base).status_code == 401
        assert httpx.get(f"{base}/indices-list", headers={"Authorization": "Bearer wrong"}).status_code == 401
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{base}/indices-list", headers=known).json() == ["sample"]
        for path in ("/", "/healthz", "/config.json", "/page/search.js"):
            answer = httpx.get(base + path)
            assert answer.status_code == 200
            assert TOKEN not in answer.text


def test_other_sites_pages_may_ask_where_the_settings_say(loaded: Settings) -> None:
    service = SearchService({"sample": ServedIndex("sample", loaded, 1.0)}, Limits(cors_origins=("https://a.example",)))
    with served(service.app()) as base:
        asked = {"Origin": "https://a.example"}
        allowed = httpx.get(f"{base}/indices-list", headers=asked).headers["access-control-allow-origin"]
        assert allowed == asked["Origin"]
        other = httpx.get(f"{base}/indices-list", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("path", ["/nowhere", "/page/../app.py", "/page/%2e%2e/app.py"])
def test_a_path_that_is_not_there(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 404

"""Tests of `laion_assets.search`: it returns a frame of the nearest rows for a text, a picture, a vector or a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from laion_assets.api import answer, search
from laion_assets.clip.encoder import ClipEncoder
from laion_assets.errors import ClipError, SearchError
from laion_assets.query import Query
from laion_assets.searching.statement import SearchRequest
from laion_assets.settings import Settings
from laion_assets_tests.clip.conftest import sample_settings


def test_text_finds_rows_as_a_frame(settings: Settings) -> None:
    found = search("lego dog", settings=settings, limit=5)
    assert found.schema == {
        "rank": pl.Int64,
        "distance": pl.Float64,
        "caption": pl.String,
        "url": pl.String,
        "shard": pl.Int64,
        "id": pl.Int64,
        "nsfw": pl.String,
    }
    assert found["rank"].to_list() == [1, 2, 3, 4, 5]
    assert found["distance"].is_sorted()
    assert all("lego" in caption.lower() or "dog" in caption.lower() for caption in found["caption"])


def test_vector_and_picture_and_row_find_the_same_as_their_vectors(settings: Settings, encoder: ClipEncoder) -> None:
    assert settings.image_root
    picture = settings.image_root / "green.png"
    for image in (picture, str(picture), picture.read_bytes()):
        by_image = search(image=image, settings=settings, exact=True)
        by_vector = search(vector=encoder.encode_image(picture), settings=settings, exact=True)
        assert by_image["id"].to_list() == by_vector["id"].to_list()
    like = search(like=by_image["id"][3], settings=settings, by="text")
    assert like["id"][0] == by_image["id"][3]
    assert like["distance"][0] == pytest.approx(0, abs=1e-5)


def test_conditions_and_shards_limit_the_rows(settings: Settings) -> None:
    found = search("dog", settings=settings, where="NSFW = 'UNLIKELY' AND similarity > 0.3", shards=[0])
    assert set(found["nsfw"]) == {"UNLIKELY"}
    assert search("dog", settings=settings, shards=[3]).is_empty()
    assert search("dog", settings=settings, shards=[3]).columns == found.columns


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"text": "dog", "like": 3},
        {"text": " "},
        {"vector": np.zeros(512)},
        {"vector": [1.0]},
        {"text": "dog", "by": "url"},
    ],
)
def test_query_that_cannot_be_answered_is_an_error(settings: Settings, query: dict[str, object]) -> None:
    with pytest.raises(SearchError):
        search(**query, settings=settings)  # type: ignore[arg-type]


def test_bad_picture_is_an_error_before_the_table_is_opened(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    with pytest.raises(ClipError, match=r"none\.png"):
        search(image=tmp_path / "none.png", settings=settings)
    assert not (tmp_path / "clickhouse").exists()


def test_several_queries_are_answered_in_order_over_one_connection(settings: Settings) -> None:
    queries = [Query(text="dog"), Query(like=7), Query(text="cat"), Query(vector=[1.0] * 512)]
    found = answer(queries, SearchRequest(limit=1), settings)
    assert [one.query for one in found] == queries
    assert [one.model for one in found] == ["sample", None, "sample", None]
    assert found[1].result.neighbours[0].id == 7
    assert [query.label for query in queries] == ["dog", "like id 7", "cat", "a vector"]

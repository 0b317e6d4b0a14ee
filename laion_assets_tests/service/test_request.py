"""Tests of the requests that /knn-service and /metadata accept, and of the errors for all others."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_assets.service.errors import RefusedError
from laion_assets.service.request import KnnRequest, knn_request, metadata_request

WHOLE: dict[str, object] = {"modality": "image", "num_images": 40, "indice_name": None, "text": "a red bicycle"}


def read(**changed: object) -> KnnRequest:
    return knn_request(json.dumps({**WHOLE, **changed}).encode())


def refusal(body: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        knn_request(body)
    assert caught.value.status == 400
    assert "\n" not in caught.value.reason
    return caught.value.reason


def test_a_request_of_clip_retrievals_client_is_understood() -> None:
    request = read(
        deduplicate=True,
        use_safety_model=True,
        use_violence_detector=True,
        use_mclip=False,
        aesthetic_score=9,
        aesthetic_weight=0.5,
        num_result_ids=3000,
    )
    assert (request.by, request.num_images, request.num_result_ids) == ("image", 40, 3000)
    assert request.text == "a red bicycle"
    assert request.deduplicate
    assert len(request.ignored) == 3


def test_the_first_of_text_picture_url_and_embedding_counts() -> None:
    picture = base64.b64encode(b"picture").decode()
    more: dict[str, object] = {"image": picture, "image_url": "http://a/b.png", "embedding_input": [1.0, 2.0]}
    assert read(**more).text == "a red bicycle"
    assert read(**{**more, "text": ""}).picture == b"picture"
    assert read(**{**more, "text": "", "image": ""}).picture_url == "http://a/b.png"
    vector = read(**{**more, "text": None, "image": None, "image_url": ""}).vector
    assert vector is not None
    assert np.allclose(vector, np.array([1.0, 2.0]) / np.sqrt(5))


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e-30, 1e20])
def test_an_embedding_of_any_length_keeps_its_direction(scale: float) -> None:
    vector = read(text=None, embedding_input=[3 * scale, 4 * scale]).vector
    assert vector is not None
    assert np.allclose(vector, [0.6, 0.8])


@pytest.mark.parametrize(
    "image",
    [
        base64.b64encode(b"a picture!").decode(),
        base64.b64encode(b"a picture!").decode().rstrip("="),
        "data:image/png;base64," + base64.b64encode(b"a picture!").decode(),
        base64.encodebytes(b"a picture!").decode(),
    ],
)
def test_base64_is_read_as_clients_write_it(image: str) -> None:
    assert read(text=None, image=image).picture == b"a picture!"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"modality": "video"}, "modality"),
        ({"modality": None}, "modality"),
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": 10_001}, "from 1 to 10,000"),
        ({"num_images": "ten"}, "num_images"),
        ({"num_images": True}, "num_images"),
        ({"num_result_ids": -1}, "num_result_ids"),
        ({"indice_name": 3}, "indice_name"),
        ({"text": ["a"]}, "text is a JSON array"),
        ({"text": "x" * 20_000}, "20,000 characters"),
        ({"text": None}, "nothing to search for"),
        ({"text": None, "image": "%%%"}, "base64"),
        ({"text": None, "embedding_input": []}, "embedding_input"),
        ({"text": None, "embedding_input": [0, 0]}, "no direction"),
        ({"text": None, "embedding_input": ["a"]}, "other than numbers"),
        ({"text": None, "embedding_input": [10**400]}, "beyond"),
        ({"text": None, "embedding_input": [float("nan")]}, "no direction"),
        ({"text": None, "like": 1.5}, "no row's"),
        ({"text": None, "like": 2**63}, "no row's"),
        ({"deduplicate": "yes"}, "deduplicate"),
    ],
)
def test_a_field_that_cannot_be_is_named(changed: dict[str, object], words: str) -> None:
    assert words in refusal(json.dumps({**WHOLE, **changed}).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'"text"'])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert "JSON" in refusal(body)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.text() | st.integers() | st.floats() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    for read_body in (knn_request, metadata_request):
        try:
            read_body(body)
        except RefusedError as error:
            assert error.status == 400


VALUES = (
    st.none() | st.text(max_size=20) | st.integers() | st.floats() | st.booleans() | st.lists(st.floats(), max_size=4)
)


@given(
    st.dictionaries(
        st.sampled_from([*WHOLE, "image", "image_url", "embedding_input", "like", "num_result_ids"]), VALUES
    )
)
def test_any_values_of_the_fields_are_a_request_or_a_refusal(changed: dict[str, object]) -> None:
    try:
        read(**changed)
    except RefusedError as error:
        assert error.status == 400


def test_ids_of_a_metadata_request_keep_their_order() -> None:
    assert metadata_request(b'{"ids": [3, 1, 2], "indice_name": "laion"}').ids == (3, 1, 2)

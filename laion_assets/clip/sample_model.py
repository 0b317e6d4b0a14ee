"""The sample world's own CLIP: a tiny ONNX text encoder and vision encoder that fastembed loads like a real pair.

The text encoder sums the directions of a caption's words. The vision encoder sums those of the colour words nearest to
a picture's mean colour. They are `SampleWorld.embed_text` and `embed_colour` as graphs, and know no more than the
world.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from laion_assets.clip.texts import MAX_TOKENS
from laion_assets.sample.world import CENTRE_SHARE, Floats, SampleWorld

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

PIXELS = 32
"""Side of the square that the vision encoder sees; it uses only the mean colour."""

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""How CLIP's preprocessing shifts and scales red, green and blue; the graph undoes it."""

TEXT_LENGTH = 10.0
"""Length of the text vectors: vectors of the real export have about this length, so users must normalise them."""

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<|startoftext|>", "<|endoftext|>"
MARKS = (PAD, UNKNOWN, START, END)
"""Tokens without a meaning: their vectors are zero."""

OPSET, IR_VERSION = 17, 8
"""An ONNX version that every onnxruntime accepted by fastembed can read."""


def write_sample_model(folder: Path, world: SampleWorld) -> None:
    """Writes the pair for a world: `text/` and `vision/` below `folder`, 300 kB, the same bytes every time."""
    (folder / "text").mkdir(parents=True)
    (folder / "vision").mkdir()
    (folder / "text" / "model.onnx").write_bytes(_text_graph(world).SerializeToString(deterministic=True))
    (folder / "vision" / "model.onnx").write_bytes(_vision_graph(world).SerializeToString(deterministic=True))
    (folder / "text" / "tokenizer.json").write_text(_tokenizer(world), encoding="utf-8")
    _write_json(folder / "text" / "tokenizer_config.json", {"model_max_length": MAX_TOKENS, "pad_token": PAD})
    _write_json(folder / "vision" / "preprocessor_config.json", _preprocessing())


def _tokenizer(world: SampleWorld) -> str:
    """A tokenizer of lower-case words with any separators, in the tokenizers library's JSON."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {token: number for number, token in enumerate((*MARKS, *world.words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}]+"), "removed")
    marks = [(START, vocabulary[START]), (END, vocabulary[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    tokenizer.add_special_tokens(list(MARKS))
    return tokenizer.to_str(pretty=True)


def _preprocessing() -> dict[str, object]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": PIXELS},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": PIXELS, "width": PIXELS},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def _text_graph(world: SampleWorld) -> ModelProto:
    """From (n, tokens) numbers and mask to (n, D): the mask times the words' vectors is their sum."""
    from onnx import TensorProto, helper

    words = world.word_weights[:, None] * world.word_directions
    vectors = np.concatenate([np.zeros((len(MARKS), world.dimension), np.float32), words])
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["token_vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "one"], ["mask_rows"]),
        helper.make_node("MatMul", ["mask_rows", "token_vectors"], ["sums"]),
        helper.make_node("Squeeze", ["sums", "one"], ["direction"]),
        *_in_cloud_nodes("text_embeds"),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    weights = {"vectors": vectors, "one": np.array([1], np.int64), **_cloud(world.text_centre, TEXT_LENGTH)}
    return _model("sample_text", nodes, inputs, "text_embeds", world.dimension, weights)


def _vision_graph(world: SampleWorld) -> ModelProto:
    """From (n, 3, P, P) normalised pixels to (n, D): mean colour, softmax over the colour words, their directions."""
    from onnx import TensorProto, helper

    matrix, bias = world.colour_scorer()
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "std"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["rgb"]),
        helper.make_node("Gemm", ["rgb", "matrix", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=1),
        helper.make_node("MatMul", ["shares", "colours"], ["direction"]),
        *_in_cloud_nodes("image_embeds"),
    ]
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, PIXELS, PIXELS])]
    weights = {
        "std": np.array(STD, np.float32),
        "shift": np.array(MEAN, np.float32),
        "matrix": matrix,
        "bias": bias,
        "colours": world.word_directions[: len(bias)],
        **_cloud(world.image_centre, 1.0),
    }
    return _model("sample_vision", nodes, inputs, "image_embeds", world.dimension, weights)


def _in_cloud_nodes(output: str) -> list[NodeProto]:
    """From `direction` (n, D) to the vectors of its cloud: length 1, shrunk, moved by the centre, scaled."""
    from onnx import helper

    return [
        helper.make_node("ReduceL2", ["direction"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "tiny"], ["safe_length"]),
        helper.make_node("Div", ["direction", "safe_length"], ["unit"]),
        helper.make_node("Mul", ["unit", "shrink"], ["apart"]),
        helper.make_node("Add", ["apart", "centre"], ["moved"]),
        helper.make_node("ReduceL2", ["moved"], ["moved_length"], axes=[1], keepdims=1),
        helper.make_node("Div", ["moved", "moved_length"], ["moved_unit"]),
        helper.make_node("Mul", ["moved_unit", "scale"], [output]),
    ]


def _cloud(centre: Floats, length: float) -> dict[str, Floats]:
    return {
        "tiny": np.array(1e-12, np.float32),
        "shrink": np.array(np.sqrt(1 - CENTRE_SHARE), np.float32),
        "centre": (np.sqrt(CENTRE_SHARE) * centre).astype(np.float32),
        "scale": np.array(length, np.float32),
    }


def _model(
    name: str,
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    output: str,
    dimension: int,
    weights: Mapping[str, npt.NDArray[Any]],
) -> ModelProto:
    from onnx import TensorProto, checker, helper, numpy_helper

    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", dimension])]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="laion_assets", opset_imports=opset, ir_version=IR_VERSION)
    checker.check_model(model)
    return model


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Builds CLIP encoders of ViT-B/32's full size with random weights, as ONNX graphs, only to measure their cost.

The tokenizer is that of the sample's encoders. Its words have small numbers, but the token table has the real size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from laion_assets.clip.sample_model import IR_VERSION, OPSET, write_sample_model
from laion_assets.clip.texts import MAX_TOKENS
from laion_assets.sample.world import sample_world

DIMENSION = 512
LAYERS = 12
VOCABULARY, TEXT_WIDTH, TEXT_HEADS = 49_408, 512, 8
PIXELS, PATCH, VISION_WIDTH, VISION_HEADS = 224, 32, 768, 12
PATCHES = (PIXELS // PATCH) ** 2
MASKED = -1e4
"""Added to the scores of later tokens, so that they have no effect."""


class GraphBuilder:
    """Collects nodes and weights. Every method returns the name of a tensor."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._names = 0

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """A tensor of given values."""
        name = self._name()
        self._weights.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def random(self, *shape: int) -> str:
        """Random weights, small enough that values stay finite through twelve layers."""
        return self.constant(0.02 * self._random.standard_normal(shape, np.float32), np.float32)

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator that has one output."""
        name = self._name()
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def linear(self, rows: str, width: int, to_width: int) -> str:
        """A linear layer: a matrix and a bias."""
        product = self.apply("MatMul", rows, self.random(width, to_width))
        return self.apply("Add", product, self.random(to_width))

    def normalised(self, rows: str, width: int) -> str:
        """Layer normalisation."""
        scale, shift = self.constant(np.ones(width), np.float32), self.constant(np.zeros(width), np.float32)
        return self.apply("LayerNormalization", rows, scale, shift, axis=-1, epsilon=1e-5)

    def attention(self, rows: str, width: int, heads: int, mask: str | None) -> str:
        """Self-attention, with `mask` added to the scores if it is given."""
        apart, together = self.constant([0, 0, heads, width // heads]), self.constant([0, 0, width])
        query, key, value = (
            self.apply("Transpose", self.apply("Reshape", self.linear(rows, width, width), apart), perm=[0, 2, 1, 3])
            for _ in range(3)
        )
        product = self.apply("MatMul", query, self.apply("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.apply("Mul", product, self.constant((width // heads) ** -0.5, np.float32))
        if mask is not None:
            scores = self.apply("Add", scores, mask)
        mixed = self.apply("MatMul", self.apply("Softmax", scores, axis=-1), value)
        joined = self.apply("Reshape", self.apply("Transpose", mixed, perm=[0, 2, 1, 3]), together)
        return self.linear(joined, width, width)

    def layer(self, rows: str, width: int, heads: int, mask: str | None = None) -> str:
        """One layer of a transformer: attention, then two matrices with CLIP's quick GELU between them."""
        rows = self.apply("Add", rows, self.attention(self.normalised(rows, width), width, heads, mask))
        wide = self.linear(self.normalised(rows, width), width, 4 * width)
        gate = self.apply("Sigmoid", self.apply("Mul", wide, self.constant(1.702, np.float32)))
        return self.apply("Add", rows, self.linear(self.apply("Mul", wide, gate), 4 * width, width))

    def write(self, path: Path, inputs: list[ValueInfoProto], output: str) -> None:
        """The graph as a model of (n, `DIMENSION`) vectors."""
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", DIMENSION])]
        graph = helper.make_graph(self._nodes, path.parent.name, inputs, outputs, self._weights)
        opset = [helper.make_opsetid("", OPSET)]
        path.write_bytes(
            helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString(deterministic=True)
        )

    def _name(self) -> str:
        self._names += 1
        return f"tensor_{self._names}"


def write_random_pair(folder: Path) -> None:
    """Writes `text/` and `vision/` below `folder`, 600 MB, the same bytes every time."""
    write_sample_model(folder, sample_world())
    _write_text(folder / "text" / "model.onnx")
    _write_vision(folder / "vision" / "model.onnx")
    path = folder / "vision" / "preprocessor_config.json"
    sizes = {"size": {"shortest_edge": PIXELS}, "crop_size": {"height": PIXELS, "width": PIXELS}}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | sizes), encoding="utf-8")


def _write_text(path: Path) -> None:
    """From token numbers and mask, both (n, tokens), to vectors. A text's vector is that of its last token."""
    graph = GraphBuilder()
    zero, one = graph.constant([0]), graph.constant([1])
    tokens = graph.apply("Shape", "input_ids", start=1, end=2)
    places = graph.apply("Slice", graph.random(MAX_TOKENS, TEXT_WIDTH), zero, tokens, zero)
    rows = graph.apply("Add", graph.apply("Gather", graph.random(VOCABULARY, TEXT_WIDTH), "input_ids"), places)
    later = graph.constant(np.triu(np.full((MAX_TOKENS, MAX_TOKENS), MASKED), 1), np.float32)
    square = graph.apply("Concat", tokens, tokens, axis=0)
    mask = graph.apply("Slice", later, graph.constant([0, 0]), square, graph.constant([0, 1]))
    for _ in range(LAYERS):
        rows = graph.layer(rows, TEXT_WIDTH, TEXT_HEADS, mask)
    rows = graph.normalised(rows, TEXT_WIDTH)
    last = graph.apply("Sub", graph.apply("ReduceSum", "attention_mask", one, keepdims=1), one)
    numbers = graph.apply("Range", graph.constant(0), graph.apply("Squeeze", tokens), graph.constant(1))
    is_last = graph.apply("Cast", graph.apply("Equal", numbers, last), to=TensorProto.FLOAT)
    chosen = graph.apply("Squeeze", graph.apply("MatMul", graph.apply("Unsqueeze", is_last, one), rows), one)
    output = graph.apply("MatMul", chosen, graph.random(TEXT_WIDTH, DIMENSION))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    graph.write(path, inputs, output)


def _write_vision(path: Path) -> None:
    """From pixels, (n, 3, 224, 224), to vectors. A picture's vector is that of the class token."""
    graph = GraphBuilder()
    kernel = graph.random(VISION_WIDTH, 3, PATCH, PATCH)
    squares = graph.apply("Conv", "pixel_values", kernel, kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
    flat = graph.apply("Reshape", squares, graph.constant([0, VISION_WIDTH, PATCHES]))
    patches = graph.apply("Transpose", flat, perm=[0, 2, 1])
    pictures = graph.apply("Shape", patches, start=0, end=1)
    shape = graph.apply("Concat", pictures, graph.constant([1, 1]), axis=0)
    first = graph.apply("Expand", graph.random(1, 1, VISION_WIDTH), shape)
    rows = graph.apply("Concat", first, patches, axis=1)
    rows = graph.normalised(graph.apply("Add", rows, graph.random(PATCHES + 1, VISION_WIDTH)), VISION_WIDTH)
    for _ in range(LAYERS):
        rows = graph.layer(rows, VISION_WIDTH, VISION_HEADS)
    chosen = graph.apply("Gather", rows, graph.constant(0), axis=1)
    output = graph.apply("MatMul", graph.normalised(chosen, VISION_WIDTH), graph.random(VISION_WIDTH, DIMENSION))
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, PIXELS, PIXELS])
    graph.write(path, [pixels], output)

"""Graph of the transformer over some positions of one step, with a cache that it updates.

One graph serves decoding passes, given actions and prefill: they differ in the number of positions. Another computes,
once a step, what its positions have before any token is known. B sessions, Q positions of the P of a step, R predicting
ones, D width, M query heads, G key/value heads, E head width; S places of a layer's cache.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from playloom.models.onnx.graph import CONTRIB, Graph
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.layers import STEP_PERIOD
from playloom.models.transformer.transformer import Transformer

_TINY = 1e-12


def step_graph(transformer: Transformer, weights: Path) -> Graph:
    """Return the graph of what a step's positions have before any token is known."""
    g, config = Graph(weights), transformer.config
    positions, steps = g.input("positions", "int64", "P"), g.input("steps", "int64", "B")
    table, places = g.weight("place.weight"), positions
    if config.positions == "absolute":
        first = g.op("Mul", g.reshape(steps, -1, 1), g.constant(transformer.layout.positions))
        places = g.op("Add", first, positions)
    x = g.op("Gather", table, places)
    if config.action_condition:
        x = g.op("Add", x, _condition(g, transformer, positions))
    shape = [g.op("Shape", steps), g.op("Shape", positions), g.constant([config.width])]
    g.op("Expand", x, g.op("Concat", *shape, axis=0), out="places")
    g.output("places", "float32", "B", "P", config.width)
    if (rotary := transformer.rotary) is not None:  # cosine and sine of the angles, from float64
        speed_F, place_PF = rotary.step_freq_F.cpu().numpy(), rotary.place_angle_PF.cpu().numpy()
        speed_F, place_PF = np.pad(speed_F, (0, place_PF.shape[1])), np.pad(place_PF, ((0, 0), (len(speed_F), 0)))
        step = g.op("Cast", g.op("Mod", g.reshape(steps, -1, 1, 1), g.constant(STEP_PERIOD)), to=TensorProto.DOUBLE)
        angle = g.op("Add", g.op("Mul", step, g.constant(speed_F)), g.op("Gather", g.constant(place_PF), positions))
        for kind, name in (("Cos", "cosine"), ("Sin", "sine")):
            g.op("Cast", g.op(kind, angle), to=TensorProto.FLOAT, out=name)
            g.output(name, "float32", "B", "P", config.head_width // 2)
    return g


def _condition(g: Graph, transformer: Transformer, positions: str) -> str:
    """Sum of the embeddings of the previous action's values, at image positions."""
    layout = transformer.layout
    previous = g.input("previous", "int64", "B", layout.action_slots)
    table = g.op("Concat", g.weight("action_condition.weight"), _no_token(g, transformer.config), axis=0)
    known = g.op("Greater", previous, g.constant(-1))
    ids = g.op("Where", known, g.op("Sub", previous, g.constant(layout.vocab.codebook_size)), g.constant(-1))
    sums = g.op("ReduceSum", g.op("Gather", table, ids), g.constant([1]), keepdims=1)
    images = transformer.image_position_P.cpu().numpy().astype(np.float32)[:, None]
    return g.op("Mul", sums, g.op("Gather", g.constant(images), positions))


class TransformerGraph:
    """Builds the graph of a transformer; `graph` is the result."""

    def __init__(self, transformer: Transformer, weights: Path, *, int8: bool = False) -> None:
        self.config, layout, c = transformer.config, transformer.layout, transformer.config
        self.graph = g = Graph(weights, int8=int8)
        windows = dict.fromkeys(c.window(layer) for layer in range(c.layers))
        self.windows = {window: str(index) for index, window in enumerate(windows)}
        ids = g.input("ids", "int64", "B", "Q")
        order, rows = g.input("order", "int64", "Q"), g.input("rows", "int64", "R")
        places = g.input("places", "float32", "B", "P", c.width)
        self.turn: list[str] = []
        if c.positions == "rolling":
            tables = [g.input(name, "float32", "B", "P", c.head_width // 2) for name in ("cosine", "sine")]
            self.turn = [g.op("Gather", table, order, axis=1) for table in tables]
        shape = g.op("Shape", ids)
        self.by_head = g.op("Concat", shape, g.constant([c.heads + 2 * c.key_value_heads, c.head_width]), axis=0)
        for name in self.windows.values():
            g.input(f"start_{name}", "int64", "B")
            g.input(f"mask_{name}", "float32", "b", 1, "q", f"S{name}")
        table = g.op("Concat", g.weight("token.weight"), _no_token(g, c), axis=0)
        x = g.op("Add", g.op("Gather", table, ids), g.op("Gather", places, order, axis=1))
        self.x, self.added = g.reshape(x, -1, c.width), ("", "")
        for layer in range(c.layers):
            self._block(layer)
        shape = g.op("Concat", shape, g.constant([-1]), axis=0)
        hidden = g.op("Reshape", self._norm("norm"), shape, out="hidden")
        g.output("hidden", "float32", "B", "Q", c.width)
        chosen = g.reshape(g.op("Gather", hidden, rows, axis=1), -1, c.width)
        logits = g.product(chosen, ["token.weight"])
        shape = g.op("Concat", g.op("Shape", ids, end=1), g.op("Shape", rows), g.constant([layout.vocab.size]), axis=0)
        g.op("Reshape", logits, shape, out="logits", allowzero=1)
        g.output("logits", "float32", "B", "R", layout.vocab.size)

    def _norm(self, name: str) -> str:
        """Add the last branch and its bias to the residual stream; return its norm."""
        g, (value, bias) = self.graph, self.added
        if not value:
            return g.layer_norm(self.x, name)
        out = [f"{name}_normed", "", "", f"{name}_sum"]
        inputs = value, self.x, g.weight(f"{name}.weight"), g.weight(f"{name}.bias"), bias
        normed, *_, self.x = g.ops("SkipLayerNormalization", *inputs, out=out, domain=CONTRIB, epsilon=1e-5)
        return normed

    def _block(self, layer: int) -> None:
        g, name = self.graph, f"blocks.{layer}"
        normed, out, mlp = self._norm(f"{name}.attention_norm"), f"{name}.attention.out", f"{name}.mlp"
        first, last = f"{name}.attention.query_key_value", f"{mlp}.2"
        if not self.config.parallel:
            attended = self._attention(g.linear(normed, first), layer)
            self.added = g.product(attended, [f"{out}.weight"]), g.weight(f"{out}.bias")
            hidden = g.op("Gelu", g.linear(self._norm(f"{name}.mlp_norm"), f"{mlp}.0"))
            self.added = g.product(hidden, [f"{last}.weight"]), g.weight(f"{last}.bias")
            return
        # The layers that read the norm are one product. Those that end in the output add up in place.
        enter = [first, f"{mlp}.0"]
        bias = g.op("Concat", *(g.weight(f"{one}.bias") for one in enter), axis=0)
        sizes = [g.entries[f"{one}.weight"]["shape"][0] for one in enter]
        projected, hidden = g.split(g.product(normed, [f"{one}.weight" for one in enter], bias=bias), sizes)
        attended = g.product(self._attention(projected, layer), [f"{out}.weight"])
        both = g.product(g.op("Gelu", hidden), [f"{last}.weight"], added=attended)
        self.added = both, g.op("Add", g.weight(f"{out}.bias"), g.weight(f"{last}.bias"))

    def _attention(self, projected: str, layer: int) -> str:
        """Rotate, write to the cache, attend to it; [B Q, ...] to [B Q, D]."""
        g, c = self.graph, self.config
        groups, width, window = c.key_value_heads, c.head_width, self.windows[c.window(layer)]
        heads = g.op("Reshape", projected, self.by_head)
        turned, values = g.split(g.op("Transpose", heads, perm=[0, 2, 1, 3]), [c.heads + groups, groups], axis=1)
        turned = self._scaled(turned, layer)
        if self.turn:
            turned = g.op("RotaryEmbedding", turned, *self.turn)
        queries, keys = g.split(turned, [c.heads, groups], axis=1)
        keys, values = self._cached("keys", layer, window, keys), self._cached("values", layer, window, values)
        # Heads that share keys are more queries.
        queries = g.reshape(queries, 0, groups, -1, width)
        scores = g.op("MatMul", queries, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
        # The mask is an upper bound: the softmax of a sum with -inf takes three times as long, for numbers near 0.
        shares = g.op("Softmax", g.op("Min", scores, f"mask_{window}"), axis=-1)
        mixed = g.reshape(g.op("MatMul", shares, values), 0, c.heads, -1, width)
        return g.reshape(g.op("Transpose", mixed, perm=[0, 2, 1, 3]), -1, c.width)

    def _scaled(self, turned: str, layer: int) -> str:
        """Normalise queries and keys, and scale queries by 1 / sqrt(E)."""
        g, c = self.graph, self.config
        scale = [[[c.head_width**-0.5]]] * c.heads + [[[1.0]]] * c.key_value_heads
        if not c.qk_norm:
            return g.op("Mul", turned, g.constant(scale))
        query, key = (g.weight(f"blocks.{layer}.attention.{name}_norm.weight") for name in ("query", "key"))
        weights = g.op("Concat", *[query] * c.heads, *[key] * c.key_value_heads, axis=0)
        weights = g.op("Mul", g.reshape(weights, -1, 1, c.head_width), g.constant(scale))
        ones = g.constant(np.ones(c.head_width, np.float32))
        return g.op("Mul", g.op("RMSNormalization", turned, ones, axis=-1, epsilon=_TINY), weights)

    def _cached(self, kind: str, layer: int, window: str, new: str) -> str:
        g, c = self.graph, self.config
        shape = ("B", c.key_value_heads, f"S{window}", c.head_width)
        past = g.input(f"{kind}_{layer}", "float32", *shape)
        present = g.op("TensorScatter", past, new, f"start_{window}", axis=2, out=f"new_{kind}_{layer}")
        g.output(present, "float32", *shape)
        return present


def _no_token(g: Graph, config: TransformerConfig) -> str:
    """Last row of a table of embeddings, which index -1 takes."""
    return g.constant(np.zeros((1, config.width), np.float32))

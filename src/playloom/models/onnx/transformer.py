"""Graph of the transformer over some positions of one step, with a cache that it updates.

One graph serves decoding passes, given actions and prefill: they differ in the number of positions. B sessions, Q
positions, R predicting ones, D width, M query heads, G key/value heads, E head width; S places of a layer's cache.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from playloom.models.onnx.graph import Graph
from playloom.models.transformer.config import Window
from playloom.models.transformer.layers import STEP_PERIOD
from playloom.models.transformer.transformer import Transformer

_TINY = 1e-12


def window_names(transformer: Transformer) -> dict[Window, str]:
    """Return the name of each kind of cache: the suffix of its inputs."""
    windows = [transformer.config.window(layer) for layer in range(transformer.config.layers)]
    return {window: f"{index}" for index, window in enumerate(dict.fromkeys(windows))}


class TransformerGraph:
    """Builds the graph of a transformer; `graph` is the result."""

    def __init__(self, transformer: Transformer, weights: Path) -> None:
        self.net, self.config, self.layout = transformer, transformer.config, transformer.layout
        self.graph = g = Graph(weights)
        self.windows = window_names(transformer)
        ids = g.input("ids", "int64", "B", "Q")
        positions = g.input("positions", "int64", "Q")
        steps = g.input("steps", "int64", "B")
        rows = g.input("rows", "int64", "R")
        bq, all_heads = g.op("Shape", ids), self.config.heads + 2 * self.config.key_value_heads
        self.by_head = g.op("Concat", bq, g.constant([all_heads, self.config.head_width]), axis=0)
        for name in self.windows.values():
            g.input(f"start_{name}", "int64", "B")
            g.input(f"mask_{name}", "float32", "b", 1, "q", f"S{name}")
        table = g.op(
            "Concat", g.weight("token.weight"), g.constant(np.zeros((1, self.config.width), np.float32)), axis=0
        )
        x = g.op("Add", g.op("Gather", table, ids), self._places(positions, steps))
        if self.config.action_condition:
            x = g.op("Add", x, self._condition(positions))
        self.turn = self._turn(positions, steps) if self.config.positions == "rolling" else None
        x = g.reshape(x, -1, self.config.width)
        for layer in range(self.config.layers):
            x = self._block(x, layer)
        shape = g.op("Concat", bq, g.constant([-1]), axis=0)
        hidden = g.op("Reshape", g.layer_norm(x, "norm"), shape, out="hidden")
        g.output("hidden", "float32", "B", "Q", self.config.width)
        chosen = g.reshape(g.op("Gather", hidden, rows, axis=1), -1, self.config.width)
        logits = g.op("Gemm", chosen, g.weight("token.weight"), transB=1)
        shape = g.op("Concat", g.op("Shape", steps), g.op("Shape", rows), g.constant([self.layout.vocab.size]), axis=0)
        g.op("Reshape", logits, shape, out="logits", allowzero=1)
        g.output("logits", "float32", "B", "R", self.layout.vocab.size)

    def _places(self, positions: str, steps: str) -> str:
        g = self.graph
        if self.config.positions == "rolling":
            return g.op("Gather", g.weight("place.weight"), positions)
        first = g.op("Mul", g.reshape(steps, -1, 1), g.constant(self.layout.positions))
        return g.op("Gather", g.weight("place.weight"), g.op("Add", first, positions))

    def _condition(self, positions: str) -> str:
        """Sum of the embeddings of the previous action's values, at image positions."""
        g, vocab = self.graph, self.layout.vocab
        previous = g.input("previous", "int64", "B", self.layout.action_slots)
        none = g.constant(np.zeros((1, self.config.width), np.float32))
        table = g.op("Concat", g.weight("action_condition.weight"), none, axis=0)
        known = g.op("Greater", previous, g.constant(-1))
        ids = g.op("Where", known, g.op("Sub", previous, g.constant(vocab.codebook_size)), g.constant(-1))
        sums = g.op("ReduceSum", g.op("Gather", table, ids), g.constant([1]), keepdims=1)
        images = self.net.image_position_P.cpu().numpy().astype(np.float32)[:, None]
        return g.op("Mul", sums, g.op("Gather", g.constant(images), positions))

    def _turn(self, positions: str, steps: str) -> tuple[str, str]:
        """Cosine and sine [B, Q, E / 2] of the rotary angles, from float64."""
        g, rotary = self.graph, self.net.rotary
        assert rotary is not None
        speed_F, place_PF = rotary.step_freq_F.cpu().numpy(), rotary.place_angle_PF.cpu().numpy()
        speed_F, place_PF = np.pad(speed_F, (0, place_PF.shape[1])), np.pad(place_PF, ((0, 0), (len(speed_F), 0)))
        step = g.op("Cast", g.op("Mod", g.reshape(steps, -1, 1, 1), g.constant(STEP_PERIOD)), to=TensorProto.DOUBLE)
        angle = g.op("Add", g.op("Mul", step, g.constant(speed_F)), g.op("Gather", g.constant(place_PF), positions))
        cosine, sine = (g.op("Cast", g.op(kind, angle), to=TensorProto.FLOAT) for kind in ("Cos", "Sin"))
        return cosine, sine

    def _block(self, x: str, layer: int) -> str:
        g, name = self.graph, f"blocks.{layer}"
        normed = g.layer_norm(x, f"{name}.attention_norm")
        if not self.config.parallel:
            attended = self._attention(g.linear(normed, f"{name}.attention.query_key_value"), layer)
            x = g.op("Add", x, g.linear(attended, f"{name}.attention.out"))
            hidden = g.linear(g.layer_norm(x, f"{name}.mlp_norm"), f"{name}.mlp.0")
            return g.op("Add", x, g.linear(g.op("Gelu", hidden), f"{name}.mlp.2"))
        # Both layers that read the norm are one product, and so are both that end in the output.
        enter = [f"{name}.attention.query_key_value", f"{name}.mlp.0"]
        weight, bias = (
            g.op("Concat", *(g.weight(f"{one}.{kind}") for one in enter), axis=0) for kind in ("weight", "bias")
        )
        sizes = [g.entries[f"{one}.weight"]["shape"][0] for one in enter]
        projected, hidden = g.split(g.op("Gemm", normed, weight, bias, transB=1), sizes)
        leave = [f"{name}.attention.out", f"{name}.mlp.2"]
        weight = g.op("Concat", *(g.weight(f"{one}.weight") for one in leave), axis=1)
        bias = g.op("Add", *(g.weight(f"{one}.bias") for one in leave))
        both = g.op("Concat", self._attention(projected, layer), g.op("Gelu", hidden), axis=-1)
        return g.op("Add", x, g.op("Gemm", both, weight, bias, transB=1))

    def _attention(self, projected: str, layer: int) -> str:
        """Rotate, write to the cache, attend to it; [B Q, ...] to [B Q, D]."""
        g, c = self.graph, self.config
        groups, width, window = c.key_value_heads, c.head_width, self.windows[c.window(layer)]
        heads = g.op("Reshape", projected, self.by_head)
        turned, values = g.split(g.op("Transpose", heads, perm=[0, 2, 1, 3]), [c.heads + groups, groups], axis=1)
        turned = self._scaled(turned, layer)
        if self.turn is not None:
            turned = g.op("RotaryEmbedding", turned, *self.turn)
        queries, keys = g.split(turned, [c.heads, groups], axis=1)
        keys, values = self._cached("keys", layer, window, keys), self._cached("values", layer, window, values)
        # Heads that share keys are more queries.
        queries = g.reshape(queries, 0, groups, -1, width)
        scores = g.op("MatMul", queries, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
        shares = g.op("Softmax", g.op("Add", scores, f"mask_{window}"), axis=-1)
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

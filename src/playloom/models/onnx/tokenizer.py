"""Graphs of the tokenizer's encoder and decoder, of its codes' risk, and of the heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from playloom.models.heads import HeadsConfig
from playloom.models.onnx.graph import Graph
from playloom.models.tokenizer.config import TokenizerConfig

_UNIT = np.float32(1e-3)  # an entry whose length is further from 1 is normalised, as in the quantizer


def encoder_graph(config: TokenizerConfig, weights: Path) -> Graph:
    """Return the graph from `frames`, uint8 [B, H, W, 3], to `codes`, int64 [B, N]."""
    g, c = Graph(weights), config
    frames = g.input("frames", "uint8", "B", c.frame_height, c.frame_width, 3)
    pixels = g.op("Cast", g.op("Transpose", frames, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    x = g.op("Sub", g.op("Div", pixels, g.constant(127.5)), g.constant(1.0))
    x = _convolution(g, x, "encoder.stem", stride=c.stem_patch)
    for rung, stride in enumerate(c.strides):
        for block in range(c.encoder_blocks[rung]):
            x = _block(g, x, f"encoder.rungs.{rung}.{block}")
        x = _convolution(g, x, f"encoder.rungs.{rung}.{c.encoder_blocks[rung]}", stride=(stride, stride))
    x = g.op("Transpose", g.reshape(x, 0, c.widths[-1], -1), perm=[0, 2, 1])
    x = g.reshape(_layers(g, x, "encoder", c, c.encoder_layers), -1, c.widths[-1])
    x = g.linear(
        g.op("Tanh", g.linear(g.layer_norm(x, "encoder.head.norm"), "encoder.head.inner")), "encoder.head.outer"
    )
    spread = g.op("Sqrt", g.op("Add", g.weight("quantizer.variance_C"), g.constant(1e-6)))
    # The length of a latent does not change which entry is nearest.
    x = g.op("Div", g.op("Sub", x, g.weight("quantizer.mean_C")), spread)
    codes = g.op("ArgMax", g.op("Gemm", x, _entries(g), transB=1), axis=1, keepdims=0)
    g.op("Reshape", codes, g.constant([-1, c.image_slots]), out="codes")
    g.output("codes", "int64", "B", c.image_slots)
    return g


def decoder_graph(config: TokenizerConfig, weights: Path) -> Graph:
    """Return the graph from `codes`, int64 [B, N], to `frames`, uint8 [B, H, W, 3]."""
    g, c = Graph(weights), config
    codes = g.reshape(g.input("codes", "int64", "B", c.image_slots), -1)
    x = g.linear(g.op("Gather", _entries(g), codes), "decoder.entry")
    x = _layers(g, g.reshape(x, -1, c.image_slots, c.widths[-1]), "decoder", c, c.decoder_layers)
    x = g.op("Transpose", x, perm=[0, 2, 1])
    rows, columns = c.grid_height, c.grid_width
    x = g.reshape(x, 0, 0, rows, columns)
    for index, rung in enumerate(reversed(range(len(c.strides)))):
        stride = c.strides[rung]
        x = _convolution(g, x, f"decoder.rungs.{index}.0.spread")
        x = _unfold(g, x, (rows, columns), (stride, stride), c.widths[rung])
        rows, columns = rows * stride, columns * stride
        x = g.reshape(x, 0, c.widths[rung], rows, columns)
        for block in range(c.decoder_blocks[rung]):
            x = _block(g, x, f"decoder.rungs.{index}.{1 + block}")
    kernel = 3 if c.strides else 1
    x = _convolution(g, _channel_norm(g, x, "decoder.norm.norm"), "decoder.to_pixels.spread", kernel=kernel)
    scaled = g.op("Round", g.op("Mul", g.op("Add", x, g.constant(1.0)), g.constant(127.5)))
    x = g.op("Cast", g.op("Clip", scaled, g.constant(0.0), g.constant(255.0)), to=TensorProto.UINT8)
    x = _unfold(g, x, (rows, columns), c.stem_patch, 3, last=True)
    g.op("Reshape", x, g.constant([-1, c.frame_height, c.frame_width, 3]), out="frames")
    g.output("frames", "uint8", "B", c.frame_height, c.frame_width, 3)
    return g


def heads_graph(config: HeadsConfig, weights: Path) -> Graph:
    """Return the graph from `features`, float32 [B, 2 D], to `outputs`, float32 [B, O]."""
    g = Graph(weights)
    features = g.input("features", "float32", "B", g.entries["mean_F"]["shape"][0])
    normed = g.op("Div", g.op("Sub", features, g.weight("mean_F")), g.weight("scale_F"))
    hidden = g.op("Gelu", g.linear(normed, "hidden"))
    g.op("Gemm", hidden, g.weight("out.weight"), g.weight("out.bias"), transB=1, out="outputs")
    g.output("outputs", "float32", "B", config.outputs)
    return g


def risk_graph(weights: Path, size: int) -> Graph:
    """Return the graph from `logits`, float32 [B, R, K], to the `risk` of each of the K codes, see `Sampling`."""
    g = Graph(weights)
    shares = g.op("Softmax", g.input("logits", "float32", "B", "R", size), axis=-1)
    entries = _entries(g)
    near = g.op("MatMul", g.op("MatMul", shares, entries), g.op("Transpose", entries, perm=[1, 0]))
    g.op("Sub", g.constant(2.0), g.op("Mul", near, g.constant(2.0)), out="risk")
    g.output("risk", "float32", "B", "R", size)
    return g


def _entries(g: Graph) -> str:
    stored = g.weight("quantizer.codebook_KC")
    length = g.op("ReduceL2", stored, g.constant([1]), keepdims=1)
    exact = g.op("Less", g.op("Abs", g.op("Sub", length, g.constant(1.0))), g.constant(_UNIT))
    return g.op("Where", exact, stored, g.op("Div", stored, length))


def _convolution(g: Graph, x: str, name: str, *, stride: tuple[int, int] | None = None, kernel: int = 1) -> str:
    """Convolve; with a stride its cells do not overlap."""
    sizes = list(stride or (kernel, kernel))
    weights = g.weight(f"{name}.weight"), g.weight(f"{name}.bias")
    pads = [0 if stride else kernel // 2] * 4
    return g.op("Conv", x, *weights, kernel_shape=sizes, strides=list(stride or (1, 1)), pads=pads)


def _channel_norm(g: Graph, x: str, name: str) -> str:
    normed = g.layer_norm(g.op("Transpose", x, perm=[0, 2, 3, 1]), name)
    return g.op("Transpose", normed, perm=[0, 3, 1, 2])


def _block(g: Graph, x: str, name: str) -> str:
    inner = _convolution(g, _channel_norm(g, x, f"{name}.norm.norm"), f"{name}.inner", kernel=3)
    return g.op("Add", x, _convolution(g, g.op("Mul", inner, g.op("Sigmoid", inner)), f"{name}.outer", kernel=3))


def _unfold(g: Graph, x: str, grid: tuple[int, int], block: tuple[int, int], width: int, *, last: bool = False) -> str:
    """Make a block of finer cells of each cell; `last` puts channels last."""
    x = g.reshape(x, 0, *block, width, *grid)
    return g.op("Transpose", x, perm=[0, 4, 1, 5, 2, 3] if last else [0, 3, 4, 1, 5, 2])


def _layers(g: Graph, x: str, side: str, config: TokenizerConfig, count: int) -> str:
    """Apply the transformer on the code grid; [B, N, D] to the same shape."""
    width, heads = config.widths[-1], config.widths[-1] // config.head_width
    x = g.reshape(g.op("Add", x, g.weight(f"{side}.transformer.positions")), -1, width)
    for layer in range(count):
        name = f"{side}.transformer.layers.{layer}"
        qkv = g.linear(g.layer_norm(x, f"{name}.attention_norm"), f"{name}.query_key_value")
        parts = g.split(g.reshape(qkv, -1, config.image_slots, 3 * width), [width] * 3)
        mixed = g.op("Attention", *parts, q_num_heads=heads, kv_num_heads=heads)
        x = g.op("Add", x, g.linear(g.reshape(mixed, -1, width), f"{name}.attention_out"))
        hidden = g.op("Gelu", g.linear(g.layer_norm(x, f"{name}.mlp_norm"), f"{name}.mlp_in"))
        x = g.op("Add", x, g.linear(hidden, f"{name}.mlp_out"))
    return g.reshape(x, -1, config.image_slots, width)

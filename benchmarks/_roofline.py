"""Roofline of a dreamed frame: bytes and FLOPs counted from a config, over the measured peak rates of the machine.

Counts one frame in world mode with a full context. Every image pass reads all block weights, the embedding of the legal
codes (tied to the output layer) and, for every session, the keys and values that its positions may see. The given
action can share the first pass, so it costs FLOPs but no pass. Every position of a step is computed once; masked keys
are not counted. The pixel decoder comes on top.

Weights and caches that stay in a processor's cache between passes are read faster than memory. There a frame can be
faster than its bytes allow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from _harness import count, progress
from playloom.inference.benchmark import synchronized_time
from playloom.inference.engine import Engine
from playloom.models.checkpoint import require_networks
from playloom.models.config import ModelConfig
from playloom.models.decode_order import Schedule
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.config import TransformerConfig

_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}  # many times any processor's own cache
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices


@dataclass(frozen=True)
class PeakRates:
    """Measured bandwidth of reading, in bytes per second, and matrix rate, in FLOPs per second (multiply-add: two)."""

    bandwidth: float
    flops: float

    def to_json(self) -> dict[str, float]:
        """Return gigabytes and gigaflops per second."""
        return {"gigabytes_per_second": self.bandwidth / 1e9, "gigaflops_per_second": self.flops / 1e9}


def measure_peak_rates(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> PeakRates:
    """Measure a device for `seconds` per rate. The faster of a sum and a copy counts, so that rooflines are low."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    source = torch.ones(_BYTES[kind] // 4, device=device)
    target = torch.empty_like(source)
    reading = source.nbytes / _best_seconds(lambda: source.sum(), device, seconds / 2)
    copying = 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device, seconds / 2)
    del source, target
    side = _SIDE[kind]
    left = torch.randn(side, side, device=device).to(dtype)
    flops = 2 * side**3 / _best_seconds(lambda: left @ left, device, seconds)
    del left
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return PeakRates(max(reading, copying), flops)


def _best_seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Shortest of at least three runs within about `seconds`, after one warm-up run."""
    work()
    best, runs, begun = float("inf"), 0, synchronized_time(device)
    while runs < 3 or synchronized_time(device) - begun < seconds:
        started = synchronized_time(device)
        work()
        best, runs = min(best, synchronized_time(device) - started), runs + 1
    return best


@dataclass(frozen=True)
class Cost:
    """Bytes read from memory, and floating point operations (multiply-add: two)."""

    bytes: int = 0
    flops: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, number: int) -> Cost:
        """Return the cost of the same work `number` times."""
        return Cost(self.bytes * number, self.flops * number)

    def seconds(self, rates: PeakRates) -> float:
        """Return the least time: bytes over bandwidth or FLOPs over the matrix rate, whichever is longer."""
        return max(self.bytes / rates.bandwidth, self.flops / rates.flops)


def frame_cost(config: ModelConfig, schedule: Schedule, dtype: torch.dtype, sessions: int = 1) -> Cost:
    """Cost of one frame of each of `sessions` dreams in a batch, without the pixel decoder.

    With `absolute` positions the window is recomputed for every frame. That prefill is included.
    """
    net = config.transformer
    weights = schedule.image_passes * pass_weights(config) * dtype.itemsize
    cache = cache_reads(config, schedule) * dtype.itemsize
    flops = step_flops(config, schedule, net.context_steps - 1)
    cost = Cost(weights + sessions * cache, sessions * flops)
    if net.positions == "absolute":
        cost += prefill_cost(config, schedule, dtype, net.context_steps - 1).times(sessions)
    return cost


def prefill_cost(config: ModelConfig, schedule: Schedule, dtype: torch.dtype, steps: int) -> Cost:
    """Cost of `steps` given steps in one call: one reading of the weights, no output layer."""
    flops = sum(step_flops(config, schedule, past, logits=False) for past in range(steps))
    return Cost(config.transformer.parameter_count(0) * dtype.itemsize, flops)


def pass_weights(config: ModelConfig) -> int:
    """Parameters that one image pass reads: blocks, last norm, embedding of the codes."""
    return config.transformer.parameter_count(config.layout.vocab.codebook_size)


def cache_reads(config: ModelConfig, schedule: Schedule) -> int:
    """Cache entries (numbers) that the image passes of one session read in one frame."""
    net, positions = config.transformer, config.layout.positions
    past = sum(net.window(layer).capacity for layer in range(net.layers)) * positions * schedule.image_passes
    own = sum(int((schedule.pass_P <= index).sum()) for index in range(schedule.image_passes)) * net.layers
    return (past + own) * 2 * net.key_value_heads * net.head_width


def step_flops(config: ModelConfig, schedule: Schedule, past_steps: int, logits: bool = True) -> int:
    """FLOPs of all positions of one step after `past_steps` steps."""
    net, layout = config.transformer, config.layout
    own = int((schedule.pass_P[None, :] <= schedule.pass_P[:, None]).sum())
    attention = 0
    for layer in range(net.layers):
        past = min(past_steps, net.window(layer).capacity) * layout.positions
        attention += attention_flops(net, layout.positions * past + own)
    head = 2 * layout.image_slots * net.width * layout.vocab.codebook_size if logits else 0
    return net.layers * layout.positions * _linear_flops(net) + attention + head


def _linear_flops(net: TransformerConfig) -> int:
    """FLOPs of one layer for one position: attention's projections and the MLP."""
    keys = net.key_value_heads * net.head_width
    return 2 * net.width * (net.width + 2 * keys + net.width + 2 * net.mlp_ratio * net.width)


def attention_flops(net: TransformerConfig, pairs: int) -> int:
    """FLOPs of one layer's attention over `pairs` of a query and a key, all heads."""
    return 4 * net.width * pairs


def tokenizer_cost(tokenizer: FrameTokenizer, *, decode: int = 0, encode: int = 0) -> Cost:
    """Cost of decoding and encoding pictures: weights read once, FLOPs counted by running one picture of each."""
    sizes, cost = tokenizer.config, Cost()
    if decode:
        codes_1N = torch.zeros(1, sizes.image_slots, dtype=torch.int64, device=tokenizer.last_layer.device)
        cost += Cost(_bytes(tokenizer.decoder), decode * counted_flops(lambda: tokenizer.decode(codes_1N)))
    if encode:
        frame = torch.from_numpy(np.zeros((1, sizes.frame_height, sizes.frame_width, 3), np.uint8))
        cost += Cost(_bytes(tokenizer.encoder), encode * counted_flops(lambda: tokenizer.encode(frame)))
    return cost


def counted_flops(work: Callable[[], object]) -> int:
    """FLOPs that torch counts while `work()` runs, with attention in the plain form that the counter knows."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        work()
    return int(counter.get_total_flops())


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


@dataclass
class Setup:
    """Options, device and peak rates of all cases on one device."""

    given: argparse.Namespace
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and cache."""
        default = "bfloat16" if self.device.type == "cuda" else "float32"
        dtype: torch.dtype = getattr(torch, getattr(self.given, "dtype", None) or default)
        return dtype

    @cached_property
    def rates(self) -> PeakRates:
        """Of this device, measured once."""
        progress(f"peak rates of {self.device}")
        return measure_peak_rates(self.device, self.dtype, 0.2 if self.given.quick else 1.0)

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON values for the report."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "rates": self.rates.to_json()}

    def count(self, full: int, quick: int) -> int:
        """Number of frames or repeats, at most --frames."""
        return count(self.given, full, quick)

    def roofline(self, engine: Engine, sessions: int = 1) -> float:
        """Least seconds of one frame of so many dreams, pixels included."""
        cost = frame_cost(engine.model.config, engine.schedule, self.dtype, sessions)
        return (cost + tokenizer_cost(require_networks(engine.model).tokenizer, decode=sessions)).seconds(self.rates)

    def free(self) -> None:
        """Return the memory that torch keeps for later use."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

"""The least a frame can cost: bytes that must be read and FLOPs that must be done, from a config alone.

Counts one dreamed frame in world mode with the context full. Every image pass reads all block weights, the embedding of
the legal codes (the output layer, tied) and, for every session, the keys and values its positions may see. The given
action can ride in the first pass, so it costs FLOPs but no pass of its own. Every position of a step is computed once;
masked keys are not counted. The pixel decoder comes on top and is counted as it runs. Knows no clock and no device.

Weights and caches that stay in a processor's own cache between passes are read faster than memory: there the floor by
bytes can be beaten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from playloom.benchmarks.rates import Rates
from playloom.models.decode_order import Schedule
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.config import TransformerConfig
from playloom.models.world_model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Bytes that must be read from memory, and floating point operations (a multiply-add is two)."""

    bytes: int = 0
    """Bytes read."""
    flops: int = 0
    """Floating point operations."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(bytes=self.bytes + other.bytes, flops=self.flops + other.flops)

    def times(self, count: int) -> Cost:
        """The same work `count` times."""
        return Cost(bytes=self.bytes * count, flops=self.flops * count)

    def seconds(self, rates: Rates) -> float:
        """The least time: bytes over bandwidth or FLOPs over the matrix rate, whichever is longer."""
        return max(self.bytes / rates.bytes_per_second, self.flops / rates.flops_per_second)


def frame_cost(config: ModelConfig, schedule: Schedule, dtype: torch.dtype, sessions: int = 1) -> Cost:
    """One frame of each of `sessions` dreams that advance together, context full, world mode; no pixel decoder.

    With `absolute` positions the window has to be run again for every frame: that prefill is counted too.
    """
    net, size = config.transformer, dtype.itemsize
    weights = schedule.image_passes * pass_weights(config) * size
    cache = cache_reads(config, schedule) * size
    flops = step_flops(config, schedule, net.context_steps - 1)
    cost = Cost(bytes=weights + sessions * cache, flops=sessions * flops)
    if net.positions == "absolute":
        cost += prefill_cost(config, schedule, dtype, net.context_steps - 1).times(sessions)
    return cost


def prefill_cost(config: ModelConfig, schedule: Schedule, dtype: torch.dtype, steps: int) -> Cost:
    """Running `steps` given steps at once: their FLOPs, and one reading of the weights. No output layer."""
    flops = sum(step_flops(config, schedule, past, logits=False) for past in range(steps))
    return Cost(bytes=config.transformer.parameter_count(0) * dtype.itemsize, flops=flops)


def pass_weights(config: ModelConfig) -> int:
    """Parameters one image pass reads: every block, the last norm, the embedding of the codes."""
    return config.transformer.parameter_count(config.layout.vocab.codebook_size)


def cache_reads(config: ModelConfig, schedule: Schedule) -> int:
    """Cache entries (numbers) one session's image passes read in one frame, the context full."""
    net, positions = config.transformer, config.layout.positions
    past = sum(net.window_steps(layer) - 1 for layer in range(net.layers)) * positions * schedule.image_passes
    own = sum(int((schedule.pass_P <= index).sum()) for index in range(schedule.image_passes)) * net.layers
    return (past + own) * 2 * net.key_value_heads * net.head_width


def step_flops(config: ModelConfig, schedule: Schedule, past_steps: int, logits: bool = True) -> int:
    """FLOPs of all positions of one step that has `past_steps` steps before it."""
    net, layout = config.transformer, config.layout
    own = int((schedule.pass_P[None, :] <= schedule.pass_P[:, None]).sum())
    attention = 0
    for layer in range(net.layers):
        past = min(past_steps, net.window_steps(layer) - 1) * layout.positions
        attention += attention_flops(net, layout.positions * past + own)
    head = 2 * layout.image_slots * net.width * layout.vocab.codebook_size if logits else 0
    return net.layers * layout.positions * linear_flops(net) + attention + head


def linear_flops(net: TransformerConfig) -> int:
    """FLOPs of one layer's matrix products for one position: attention's projections and the MLP."""
    keys = net.key_value_heads * net.head_width
    return 2 * net.width * (net.width + 2 * keys + net.width + 2 * net.mlp_ratio * net.width)


def attention_flops(net: TransformerConfig, pairs: int) -> int:
    """FLOPs of one layer's attention over so many pairs of a query and a key, all heads."""
    return 4 * net.width * pairs


def tokenizer_cost(tokenizer: FrameTokenizer, *, decode: int = 0, encode: int = 0) -> Cost:
    """Decoding and encoding so many pictures: weights read once, FLOPs counted by running one picture of each."""
    device = tokenizer.last_layer.device
    sizes = tokenizer.config
    cost = Cost()
    if decode:
        codes_1N = torch.zeros(1, sizes.image_slots, dtype=torch.int64, device=device)
        flops = counted_flops(lambda: tokenizer.decode(codes_1N))
        cost += Cost(bytes=_bytes(tokenizer.decoder), flops=flops * decode)
    if encode:
        frame = np.zeros((1, sizes.frame_height, sizes.frame_width, 3), np.uint8)
        flops = counted_flops(lambda: tokenizer.encode(torch.from_numpy(frame)))
        cost += Cost(bytes=_bytes(tokenizer.encoder), flops=flops * encode)
    return cost


def counted_flops(work: object) -> int:
    """FLOPs that torch itself counts while `work()` runs; attention in its plain form, which the counter knows."""
    assert callable(work)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        work()
    return int(counter.get_total_flops())


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())

"""Copy of a transformer with oneDNN-packed weights: about twice as fast for a CPU's few rows a pass (docs/log.md).

The operators are those of torch's compiler for CPUs; where they are missing, or elsewhere, modules are unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from playloom.models.transformer.kv_cache import AttentionSpan, KeyValueCache
from playloom.models.transformer.layers import RotaryFactors
from playloom.models.transformer.transformer import Attention, Block, Transformer

_M = TypeVar("_M", bound=nn.Module)
_TYPICAL_ROWS = 8  # rows that the layout is chosen for; any number works


class PackedLinear(nn.Module):
    """x W^T + b with a weight in oneDNN's blocked layout, optionally followed by an exact GELU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _TYPICAL_ROWS)
        self.bias = None if bias is None else bias.detach()
        self.after, self.how = ("gelu", "none") if gelu else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [..., in] to [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.after, [], self.how)
        return out


class PackedParallelBlock(Block):
    """A parallel block in two products: everything that reads its input, everything that ends in its output."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        first, last = _linear(block.mlp[0]), _linear(block.mlp[2])
        enter, leave = block.attention.query_key_value, block.attention.out
        self.attention, self.attention_norm = _with_fixed_scales(block.attention), block.attention_norm
        self.widths = [enter.out_features, first.out_features]
        self.enter = PackedLinear(torch.cat([enter.weight, first.weight]), torch.cat([enter.bias, first.bias]))
        self.leave = PackedLinear(torch.cat([leave.weight, last.weight], dim=1), leave.bias + last.bias)

    def extend(self, x_BQD: Tensor, turn: RotaryFactors, cache: KeyValueCache, reach: AttentionSpan) -> Tensor:
        """See `Block.extend`."""
        all_BQO, hidden = self.enter(self.attention_norm(x_BQD)).split(self.widths, dim=-1)
        attended = self.attention.cached(all_BQO, turn, cache, reach)
        return x_BQD + self.leave(torch.cat([attended, F.gelu(hidden)], dim=-1))


def can_pack(weight: Tensor) -> bool:
    """Return True if the packing operators take this weight."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    return known and weight.device.type == "cpu" and weight.dtype == torch.float32


def pack(transformer: Transformer) -> Transformer:
    """Return a copy of the transformer with packed weights where possible, else the transformer itself."""
    if not can_pack(transformer.token.weight):
        return transformer
    return _with(transformer, blocks=nn.ModuleList(_packed(block) for block in transformer.blocks))


def pack_head(transformer: Transformer, first_id: int, last_id: int) -> Callable[[Tensor], Tensor]:
    """Return the output head for ids `first_id` to `last_id` - 1; see `Transformer.logits`."""
    weight = transformer.token.weight[first_id:last_id]
    return PackedLinear(weight, None) if can_pack(weight) else partial(F.linear, weight=weight)


def _packed(block: nn.Module) -> Block:
    assert isinstance(block, Block)
    if block.parallel:
        return PackedParallelBlock(block)
    attention = block.attention
    enter, leave = (PackedLinear(li.weight, li.bias) for li in (attention.query_key_value, attention.out))
    first, last = _linear(block.mlp[0]), _linear(block.mlp[2])
    mlp = nn.Sequential(PackedLinear(first.weight, first.bias, gelu=True), PackedLinear(last.weight, last.bias))
    new_attention = _with(_with_fixed_scales(attention), query_key_value=enter, out=leave)
    return _with(block, attention=new_attention, mlp=mlp)


def _with_fixed_scales(attention: Attention) -> Attention:
    fixed = copy.copy(attention)
    if attention.config.qk_norm:
        scales_HE = attention.scales().detach()
        fixed.scales = lambda: scales_HE  # type: ignore[method-assign]
    return fixed


def _with(module: _M, **changed: nn.Module) -> _M:
    other = copy.copy(module)
    other._modules = {**module._modules, **changed}
    return other


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module

"""A copy of a transformer for decoding on a CPU: the same numbers from weights laid out for a handful of tokens.

torch's float32 product reads its weights in an order that suits many rows. A pass of decoding has one to nine, and its
weights come cold from memory every time: measured, oneDNN's blocked layout is two to three times faster there (docs/log.md).
The packing operators are those that torch's own compiler emits for a CPU; where they are missing, or on another device
or dtype, modules stay as they are.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from playloom.model.transformer import Attention, Transformer

_TYPICAL_ROWS = 8
"""Rows the layout is chosen for; any number is computed."""


class PackedLinear(nn.Module):
    """x W^T + b with a weight in oneDNN's blocked layout, optionally with an exact GELU behind it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _TYPICAL_ROWS)
        self.bias = None if bias is None else bias.detach()
        self.after, self.how = ("gelu", "none") if gelu else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [..., in] to [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.after, [], self.how)
        return out


def can_pack(weight: Tensor) -> bool:
    """Whether the packing operators take this weight."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and weight.device.type == "cpu" and weight.dtype == torch.float32


def pack(transformer: Transformer) -> Transformer:
    """The transformer for decoding: a copy with packed weights where that is possible, else itself. Not for training."""
    if not can_pack(transformer.token.weight):
        return transformer
    packed = copy.copy(transformer)
    packed._modules = {**transformer._modules, "blocks": nn.ModuleList(_block(block) for block in transformer.blocks)}
    return packed


def pack_head(transformer: Transformer, first_id: int, last_id: int) -> nn.Module:
    """Hidden states to the logits of ids `first_id` to `last_id` - 1; see `Transformer.logits`."""
    weight = transformer.token.weight[first_id:last_id]
    return PackedLinear(weight, None) if can_pack(weight) else _Head(weight)


class _Head(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight_CD = weight

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight_CD)


def _block(block: nn.Module) -> nn.Module:
    """A block with the same norms and packed products; nothing else of it is copied."""
    attention, mlp = block.attention, block.mlp
    assert isinstance(mlp, nn.Sequential)
    assert isinstance(attention, Attention)
    new_attention = _with(attention, query_key_value=_linear(attention.query_key_value), out=_linear(attention.out))
    if attention.config.qk_norm:
        scales_HE = attention.scales().detach()
        new_attention.scales = lambda: scales_HE  # type: ignore[assignment]  # they no longer change
    new_mlp = nn.Sequential(_linear(mlp[0], gelu=True), _linear(mlp[2]))
    return _with(block, attention=new_attention, mlp=new_mlp)


def _with(module: nn.Module, **changed: nn.Module) -> nn.Module:
    other = copy.copy(module)
    other._modules = {**module._modules, **changed}
    return other


def _linear(linear: object, *, gelu: bool = False) -> PackedLinear:
    assert isinstance(linear, nn.Linear)
    return PackedLinear(linear.weight, linear.bias, gelu=gelu)

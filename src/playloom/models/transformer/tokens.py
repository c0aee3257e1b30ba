"""Tokens of steps as tensors. B batch, T steps; N, A, K, P as in `playloom.models.sequence`."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from playloom.models.sequence import NO_TOKEN, StepLayout


def interleave(
    layout: StepLayout, codes_BTN: Int[Tensor, "B T N"], values_BTA: Int[Tensor, "B T A"]
) -> Int[Tensor, "B T K"]:
    """Codes and action values to joint token ids, step by step in slot order."""
    offsets_A = torch.tensor(layout.vocab.action_offsets, device=values_BTA.device)
    return torch.cat([codes_BTN.long(), values_BTA.long() + offsets_A], dim=-1)


def position_inputs(layout: StepLayout, tokens_BTK: Int[Tensor, "B T K"]) -> Int[Tensor, "B T P"]:
    """Return the input of every position: token ids, or `NO_TOKEN`."""
    source_P = torch.as_tensor(layout.source_P, device=tokens_BTK.device)
    inputs = tokens_BTK[..., source_P.clamp(min=0)]
    inputs = inputs.masked_fill(source_P < 0, NO_TOKEN)
    if not layout.rows:
        inputs[:, 1:, 0] = tokens_BTK[:, :-1, -1]
    return inputs

"""Scaled dot-product attention and rotary position embedding over step, row and column (RoPE, Su et al. 2021).

Only differences of step, row and column enter a dot product, so a key stays valid however far the context rolls on.
Step frequencies are whole multiples of one turn per `STEP_PERIOD` steps, so the step index may wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.models.transformer.config import Window


def attend(q_BGQE: Tensor, k_BGRE: Tensor, v_BGRE: Tensor, mask_QR: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017): queries [B, G, Q, E], keys and values [B, G, R, E].

    `mask_QR` is True where a query may attend; it broadcasts to [B, G, Q, R]. bfloat16 on a CPU uses two plain
    products: torch's fused kernel needs twice as long there.
    """
    kind = q_BGQE.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        q_BGQE, k_BGRE, v_BGRE = (x.to(dtype) for x in (q_BGQE, k_BGRE, v_BGRE))
    if kind != "cpu" or q_BGQE.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q_BGQE, k_BGRE, v_BGRE, attn_mask=mask_QR)
    scores_BGQR = (q_BGQE * q_BGQE.shape[-1] ** -0.5) @ k_BGRE.transpose(-1, -2)
    if mask_QR is not None:
        scores_BGQR += scores_BGQR.new_zeros(mask_QR.shape).masked_fill(~mask_QR, -torch.inf)
    return scores_BGQR.softmax(dim=-1) @ v_BGRE


class WindowedAttention(torch.autograd.Function):
    """Attention of every step to its window, with a backward pass that adds gradients of shared keys in place.

    Autograd would write a gradient of full length for every window; that took a seventh of a training step on a CPU.
    Gradients of keys and values are summed as [Z, E, T P] in float32: no product reads transposed probabilities.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, own_RP: Tensor, window: Window) -> Tensor:
        """Return [T, Z, R, E] for scaled queries [T, Z, R, E] and keys and values [Z, T P, E]; Z is batch and head."""
        positions, probabilities, out = own_RP.shape[1], [], torch.empty_like(q)
        bias_RP = q.new_zeros(own_RP.shape).masked_fill_(~own_RP, -torch.inf)
        k_ZER = k.mT.contiguous()
        for step in range(len(q)):
            scores = q[step] @ seen(k_ZER, window, step, positions, dim=-1)
            scores[..., -positions:] += bias_RP
            probabilities.append(scores.softmax(dim=-1))
            torch.bmm(probabilities[-1], seen(v, window, step, positions), out=out[step])
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.window, ctx.positions = window, positions
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        q, k, v, *probabilities = ctx.saved_tensors
        window, positions, grad = ctx.window, ctx.positions, grad.contiguous()
        v_ZER, q_TZER, grad_TZER = v.mT.contiguous(), q.mT.contiguous(), grad.mT.contiguous()
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (v_ZER, v_ZER)
        )
        for step, share in enumerate(probabilities):
            through = grad[step] @ seen(v_ZER, window, step, positions, dim=-1)
            through = torch._softmax_backward_data(through, share, -1, share.dtype)
            torch.bmm(through, seen(k, window, step, positions), out=grad_q[step])
            of_keys, of_values = q_TZER[step] @ through, grad_TZER[step] @ share
            first = 0
            for part in _stretches(window, step, positions):
                columns = slice(first, first + part.stop - part.start)
                grad_k[..., part] += of_keys[..., columns]
                grad_v[..., part] += of_values[..., columns]
                first = columns.stop
        return grad_q, grad_k.mT.to(k.dtype), grad_v.mT.to(v.dtype), None, None


def seen(x: Tensor, window: Window, step: int, positions: int, *, dim: int = -2) -> Tensor:
    """Return what step `step` attends to, its own step last, of keys or values with T P positions along `dim`."""
    parts = [x.narrow(dim, part.start, part.stop - part.start) for part in _stretches(window, step, positions)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def _stretches(window: Window, step: int, positions: int) -> list[slice]:
    past = window.past(step)
    newest = max(0, step - window.steps + 1)
    early = [slice(at * positions, (at + 1) * positions) for at in past if at < newest]
    return [*early, slice(newest * positions, (step + 1) * positions)]


SHORTEST = 1e-6  # of a query or key, for its norm
_CACHED = 2**16  # elements of queries and keys that are computed at a time
STEP_PERIOD = 4096  # steps after which the step angles repeat exactly; far longer than any context


def frequencies(pairs: int, longest: float) -> Float[Tensor, F]:
    """Return `pairs` geometric angular frequencies, from a half turn per unit to one turn per `longest`."""
    if pairs < 2:
        return torch.full((pairs,), math.pi / 4)
    ratio = (2.0 / longest) ** (1.0 / (pairs - 1))
    return math.pi * ratio ** torch.arange(pairs, dtype=torch.float64)


class Rotary(nn.Module):
    """Rotary angles of every position."""

    def __init__(self, head_width: int, grid_P2: NDArray[np.float32], longest_step: int) -> None:
        super().__init__()
        pairs = head_width // 2
        across = pairs // 3
        along = pairs - 2 * across
        longest_place = 2.0 * float(grid_P2.max()) + 4.0
        place_freq = frequencies(across, longest_place)
        angle_P = [torch.as_tensor(grid_P2[:, axis, None]).double() * place_freq for axis in (0, 1)]
        self.place_angle_PF: Tensor = nn.Buffer(torch.cat(angle_P, dim=1), persistent=False)
        unit = 2 * math.pi / STEP_PERIOD
        step_freq_F = (frequencies(along, 4.0 * longest_step).double() / unit).round().clamp(min=1) * unit
        self.step_freq_F: Tensor = nn.Buffer(step_freq_F, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """Follow the network to another device, but stay float64: angles in bf16 would be off by whole places."""
        place_angle_PF, step_freq_F = self.place_angle_PF, self.step_freq_F
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.place_angle_PF = place_angle_PF.to(self.place_angle_PF.device)
        self.step_freq_F = step_freq_F.to(self.step_freq_F.device)
        return self

    def angles(
        self, steps_XQ: Int[Tensor, "*X #Q"], positions_Q: Int[Tensor, Q]
    ) -> tuple[Float[Tensor, "*X Q 1 E"], Float[Tensor, "*X Q 1 E"]]:
        """Return cosine and signed sine, float32, equal for all heads; `steps_XQ` may broadcast over positions."""
        step_angle = (steps_XQ % STEP_PERIOD)[..., None].double() * self.step_freq_F
        place_angle = self.place_angle_PF[positions_Q]
        shape = (*step_angle.shape[:-2], len(positions_Q), -1)
        both = [angle.expand(shape) for angle in (step_angle, place_angle)]
        cosine, sine = torch.cat([a.cos() for a in both], -1).float(), torch.cat([a.sin() for a in both], -1).float()
        return torch.cat([cosine, cosine], -1).unsqueeze(-2), torch.cat([-sine, sine], -1).unsqueeze(-2)


RotaryFactors = tuple[Tensor, ...]
"""Rotary factors of queries and keys: nothing (absolute positions); cosine and signed sine, see `Rotary.angles`; or
one matrix per position, see `matrices`. In the dtype of the rotated tensor."""


def matrices(cosine: Float[Tensor, "*X Q 1 E"], sine: Float[Tensor, "*X Q 1 E"]) -> Float[Tensor, "*X Q E E"]:
    """Return the rotation as matrices for a product from the right: one kernel on a GPU instead of three."""
    keep = torch.eye(cosine.shape[-1], device=cosine.device, dtype=cosine.dtype)
    return torch.addcmul(keep * cosine, keep.roll(cosine.shape[-1] // 2, dims=-1), sine)


def rotate(x_BQME: Float[Tensor, "B Q M E"], *turn: Tensor) -> Float[Tensor, "B Q M E"]:
    """Rotate each pair (i, i + E/2) of every head by the position's angles, in either form of `RotaryFactors`."""
    if len(turn) == 1:
        return x_BQME @ turn[0]
    cosine, sine = turn
    return torch.addcmul(x_BQME * cosine, x_BQME.roll(x_BQME.shape[-1] // 2, dims=-1), sine)


class NormalizedRotation(torch.autograd.Function):
    """Scale every head to length 1, multiply it by `scales_ME` and rotate it, some positions at a time.

    Computes in float32 and stays in the processor's cache, forward and backward; separate operators on a whole window
    took an eighth of a training step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x_BQME: Tensor, scales_ME: Tensor, cosine_Q1E: Tensor, sine_Q1E: Tensor) -> Tensor:
        """Return heads [B, Q, M, E] in the dtype of `x_BQME`."""
        out_BQME = torch.empty_like(x_BQME, memory_format=torch.contiguous_format)
        for part in _parts(x_BQME):
            unit, _ = _unit(x_BQME[:, part])
            out_BQME[:, part] = rotate(unit * scales_ME, cosine_Q1E[part], sine_Q1E[part])
        ctx.save_for_backward(x_BQME, scales_ME, cosine_Q1E, sine_Q1E)
        return out_BQME

    @staticmethod
    def backward(ctx: Any, grad_BQME: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of heads and scales."""
        x_BQME, scales_ME, cosine_Q1E, sine_Q1E = ctx.saved_tensors
        grad_x, grad_scales = torch.empty_like(grad_BQME), torch.zeros_like(scales_ME)
        for part in _parts(x_BQME):
            unit, inverse = _unit(x_BQME[:, part])
            grad = grad_BQME[:, part].to(unit.dtype)
            grad = grad * cosine_Q1E[part] + (grad * sine_Q1E[part]).roll(grad.shape[-1] // 2, -1)
            grad_scales += (grad * unit).sum((0, 1))
            grad *= scales_ME
            grad_x[:, part] = inverse * (grad - unit * (grad * unit).sum(-1, keepdim=True))
        return grad_x, grad_scales, None, None


def _parts(x_BQME: Tensor) -> list[slice]:
    size = max(1, _CACHED // x_BQME[:, 0].numel())
    return [slice(first, first + size) for first in range(0, x_BQME.shape[1], size)]


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SHORTEST).reciprocal()
    return x * inverse, inverse

"""Scaled dot-product attention, one way for tokenizer and transformer. Knows no heads, positions or caches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q_BGQE: Tensor, k_BGRE: Tensor, v_BGRE: Tensor, mask_QR: Tensor | None = None) -> Tensor:
    """Values weighted by how well their keys fit the queries (Vaswani et al. 2017, section 3.2.1).

    On a CPU in bfloat16 by two plain products: torch's fused kernel takes twice as long there, forward and backward.

    Args:
        q_BGQE: queries, float [B, G, Q, E].
        k_BGRE: keys, float [B, G, R, E]. All three may be of different dtypes under autocast.
        v_BGRE: values, float [B, G, R, E].
        mask_QR: bool, True where a query may look; anything that broadcasts to [B, G, Q, R]. None: everywhere.

    Returns:
        Float [B, G, Q, E].
    """
    kind = q_BGQE.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        q_BGQE, k_BGRE, v_BGRE = (x.to(dtype) for x in (q_BGQE, k_BGRE, v_BGRE))
    if kind != "cpu" or q_BGQE.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q_BGQE, k_BGRE, v_BGRE, attn_mask=mask_QR)
    return _products(q_BGQE * q_BGQE.shape[-1] ** -0.5, k_BGRE, v_BGRE, mask_QR)


def _products(q_BGQE: Tensor, k_BGRE: Tensor, v_BGRE: Tensor, mask_QR: Tensor | None) -> Tensor:
    scores_BGQR = q_BGQE @ k_BGRE.transpose(-1, -2)
    if mask_QR is not None:
        scores_BGQR += scores_BGQR.new_zeros(mask_QR.shape).masked_fill(~mask_QR, -torch.inf)
    return scores_BGQR.softmax(dim=-1) @ v_BGRE

"""The PatchGAN: says of each patch of a picture how real it looks. Knows nothing of codes or of when it is
used.

Isola et al. 2017 (arXiv:1611.07004), hinge loss as in Lim & Ye 2017 (arXiv:1705.02894). Group norm in place
of batch norm: no running statistics, so a picture is judged alone and a checkpoint resumes exactly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """4 x 4 convolutions of stride 2, then one score for each overlapping patch."""

    def __init__(self, *, width: int = 64, layers: int = 3, seed: int = 0) -> None:
        """The same seed gives the same weights; no global generator is touched. Width: a multiple of 8."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
            for i in range(1, layers + 1):
                before, after = width * min(2 ** (i - 1), 8), width * min(2**i, 8)
                stride = 2 if i < layers else 1
                parts += [
                    nn.Conv2d(before, after, 4, stride, 1, bias=False),
                    nn.GroupNorm(8, after),
                    nn.LeakyReLU(0.2),
                ]
            parts.append(nn.Conv2d(width * min(2**layers, 8), 1, 4, 1, 1))
            self.body = nn.Sequential(*parts)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels float [B, 3, H, W] in [-1, 1] to scores [B, 1, rows, columns]; larger is more real."""
        scores: Tensor = self.body(pixels_BCHW)
        return scores


def hinge_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What the discriminator minimises: real scores above 1, fake ones below -1. A scalar, at least 0."""
    return 0.5 * (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean())

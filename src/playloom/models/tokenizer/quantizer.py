"""Codebook of the tokenizer, on the unit sphere (Yu et al. 2021), with straight-through gradients (van den Oord 2017).

Entries follow the mean of their latents; an unused one moves to a recent latent. All state is in `state_dict`. In eval
mode nothing changes. B h w C latents, M = B*h*w, K entries, R recent.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from playloom.models.tokenizer.config import TokenizerConfig

_SPREAD_PACE = 0.1  # update rate of the running mean and variance of the latents


def codebook_use(codes: Tensor, size: int) -> tuple[float, float]:
    """Return the share of a codebook of `size` entries that codes use, and their perplexity, exp(entropy)."""
    counts_K = torch.bincount(codes.reshape(-1), minlength=size).double()
    share_K = counts_K[counts_K > 0] / counts_K.sum()
    return len(share_K) / size, float(torch.exp(-(share_K * share_K.log()).sum()))


class Quantizer(nn.Module):
    """L2-normalised codebook with straight-through gradients and revival of dead codes."""

    def __init__(self, config: TokenizerConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.decay, self.revive_after = config.codebook_decay, config.revive_after
        size, width = config.codebook_size, config.code_width
        start_KC = torch.randn(size, width, generator=torch.Generator().manual_seed(seed))
        # Parameters without a gradient, so that `AveragedWeights` averages them with the encoder; it copies buffers.
        self.codebook_KC = nn.Parameter(F.normalize(start_KC, dim=-1), requires_grad=False)
        self.mean_C = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.variance_C = nn.Parameter(torch.ones(width), requires_grad=False)
        self.mass_K = nn.Buffer(torch.ones(size))
        self.unused_K = nn.Buffer(torch.zeros(size, dtype=torch.int64))
        self.recent_RC = nn.Buffer(torch.zeros(config.recent_outputs, width))
        self.recent_total = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.updates = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.seed = nn.Buffer(torch.tensor(seed))

    def forward(self, latents_BhwC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map latents float [B, h, w, C] to their nearest entries; in training mode update the codebook.

        Returns unit entries with straight-through gradients, codes int64 [B, h, w], and the commitment loss in [0, 4].
        """
        with torch.autocast(latents_BhwC.device.type, enabled=False):
            if self.training:
                self._follow_spread(latents_BhwC.detach().float().flatten(0, -2))
            unit_BhwC = self._to_sphere(latents_BhwC.float())
            if self.training and self.updates == 0:
                self._start(unit_BhwC.detach().flatten(0, -2))
            codes_Bhw = (unit_BhwC @ self.entries().T).argmax(-1)
            entries_BhwC = self.lookup(codes_Bhw)
            commitment = (unit_BhwC - entries_BhwC).square().sum(-1).mean()
            if self.training:
                self._follow(unit_BhwC.detach().flatten(0, -2), codes_Bhw.flatten())
            vectors_BhwC = unit_BhwC + (entries_BhwC - unit_BhwC).detach()
        return vectors_BhwC, codes_Bhw, commitment

    def nearest(self, latents_BhwC: Tensor) -> Tensor:
        """Return the code of largest cosine for each latent, without an update; float [..., C] to int64 [...]."""
        return (self._to_sphere(latents_BhwC.float()) @ self.entries().T).argmax(-1)

    def entries(self) -> Tensor:
        """Codebook, float [K, C], normalised again because averaging shortens entries."""
        stored_KC = self.codebook_KC.detach().float()
        length_K1 = stored_KC.norm(dim=-1, keepdim=True)
        return torch.where((length_K1 - 1).abs() < 1e-3, stored_KC, stored_KC / length_K1)

    def _to_sphere(self, latents_BhwC: Tensor) -> Tensor:
        spread_BhwC = (latents_BhwC - self.mean_C.detach()) * torch.rsqrt(self.variance_C.detach() + 1e-6)
        return F.normalize(spread_BhwC, dim=-1)

    @torch.no_grad()
    def _follow_spread(self, latents_MC: Tensor) -> None:
        """Update the running mean and variance, equally on all ranks."""
        moments_3C = torch.stack([latents_MC, latents_MC.square(), torch.ones_like(latents_MC)]).sum(1)
        _sum_over_ranks(moments_3C)
        mean_C, square_C = moments_3C[:2] / moments_3C[2]
        pace = 1.0 if self.updates == 0 else _SPREAD_PACE
        self.mean_C.lerp_(mean_C, pace)
        self.variance_C.lerp_((square_C - mean_C.square()).clamp_min(0.0), pace)

    def lookup(self, codes_Bhw: Tensor) -> Tensor:
        """Return the entry of each code; int64 [...] to float [..., C] of length 1."""
        return F.embedding(codes_Bhw, self.entries())

    @torch.no_grad()
    def _start(self, unit_MC: Tensor) -> None:
        self._remember(unit_MC)
        self.codebook_KC.copy_(self._draw(len(self.codebook_KC)))
        _same_on_all_ranks(self.codebook_KC)

    @torch.no_grad()
    def _follow(self, unit_MC: Tensor, codes_M: Tensor) -> None:
        counts_K = torch.zeros_like(self.mass_K).index_add_(0, codes_M, torch.ones_like(unit_MC[:, 0]))
        sums_KC = torch.zeros_like(self.codebook_KC).index_add_(0, codes_M, unit_MC)
        _sum_over_ranks(counts_K)
        _sum_over_ranks(sums_KC)
        # An entry weighs as much as its gathered latents, so rarely chosen ones still move when chosen.
        old_K, new_K = self.decay * self.mass_K, (1 - self.decay) * counts_K
        moved_KC = old_K[:, None] * self.codebook_KC + (1 - self.decay) * sums_KC
        self.codebook_KC.copy_(F.normalize(moved_KC, dim=-1))
        self.mass_K.copy_(old_K + new_K)
        self.unused_K.copy_(torch.where(counts_K > 0, 0, self.unused_K + 1))
        self._remember(unit_MC)
        self._revive(mean_count=float(counts_K.mean()))
        self.updates.add_(1)

    def _remember(self, unit_MC: Tensor) -> None:
        ring = self.recent_RC.shape[0]
        kept_MC = unit_MC[-ring:]
        places_M = (self.recent_total + torch.arange(len(kept_MC), device=unit_MC.device)) % ring
        self.recent_RC[places_M] = kept_MC
        self.recent_total.add_(len(kept_MC))

    def _revive(self, mean_count: float) -> None:
        dead_K = self.unused_K >= self.revive_after
        count = int(dead_K.sum())
        if not count:
            return
        self.codebook_KC[dead_K] = self._draw(count)
        self.mass_K[dead_K] = mean_count
        self.unused_K[dead_K] = 0
        _same_on_all_ranks(self.codebook_KC)

    def _draw(self, count: int) -> Tensor:
        """`count` random recent latents; float [count, C]. Depends on seed and update number only."""
        filled = min(int(self.recent_total), self.recent_RC.shape[0])
        generator = torch.Generator().manual_seed(int(self.seed) + 1_000_003 * int(self.updates))
        order = torch.cat([torch.randperm(filled, generator=generator) for _ in range(-(-count // filled))])
        return self.recent_RC[order[:count].to(self.recent_RC.device)]


def _sum_over_ranks(values: Tensor) -> None:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)


def _same_on_all_ranks(values: Tensor) -> None:
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(values, src=0)

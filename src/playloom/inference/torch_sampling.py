"""Sampling with torch; see `Sampling`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from playloom.inference.sampling import LEAST, Sampling


class BatchSampler:
    """The draws of one step for a batch of dreams, each with its own sampling."""

    def __init__(
        self,
        samplings: Sequence[Sampling],
        noise_BSC: Tensor,
        scales_B2: Tensor | None = None,
        entropy_BS: Tensor | None = None,
        *,
        codebook_KC: Tensor | None = None,
    ) -> None:
        """Take Gumbel noise by dream, slot and choice, and scales (None: those of `samplings`).

        `codebook_KC` has the image codes, for their risk; None: these slots have none.
        """
        self.samplings, self.noise_BSC, self.entropy_BS = tuple(samplings), noise_BSC, entropy_BS
        if scales_B2 is None:
            scales_B2 = torch.tensor([how.scales for how in samplings], device=noise_BSC.device)
        self.scales_B2 = scales_B2
        self.codebook_KC = codebook_KC if any(how.scales[1] for how in samplings) else None

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """Key of all that is not a tensor: draws with equal keys launch the same kernels."""
        return self.codebook_KC is None, self.entropy_BS is None, *(how.filters for how in self.samplings)

    def sample(self, logits_BRC: Float[Tensor, "B R C"], slots_R: Int[Tensor, R]) -> Int[Tensor, "B R"]:
        """Return one token per row: an index into the C legal tokens of the slot, int64."""
        logits_BRC = logits_BRC.float()
        if self.entropy_BS is not None:  # in nats, at temperature 1, unfiltered
            self.entropy_BS.index_copy_(1, slots_R, torch.special.entr(logits_BRC.softmax(dim=-1)).sum(dim=-1))
        scaled_BRC = logits_BRC / self.scales_B2[:, :1, None]
        if self.codebook_KC is not None:
            mean_BRE = logits_BRC.softmax(dim=-1) @ self.codebook_KC
            scaled_BRC = scaled_BRC - self.scales_B2[:, 1:, None] * (2 - 2 * mean_BRE @ self.codebook_KC.T)
        if any(how.filters != (None, None) for how in self.samplings):
            rows = [_filter(row, *how.filters) for row, how in zip(scaled_BRC, self.samplings, strict=True)]
            scaled_BRC = torch.stack(rows)
        return (scaled_BRC + self.noise_BSC[:, slots_R, : scaled_BRC.shape[-1]]).argmax(dim=-1)


def noise(sampling: Sampling, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return Gumbel noise, float32, finite so that filtered tokens never tie with allowed ones; zeros for greedy."""
    if sampling.greedy:
        return torch.zeros(shape, device=generator.device)
    uniform = torch.rand(shape, generator=generator, device=generator.device).clamp_(min=LEAST)
    return uniform.log_().neg_().log_().neg_()


def _filter(logits_RC: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    if top_k is not None and top_k < logits_RC.shape[-1]:
        least = logits_RC.topk(top_k, dim=-1).values[:, -1:]
        logits_RC = logits_RC.masked_fill(logits_RC < least, -torch.inf)
    if top_p is None or top_p >= 1:
        return logits_RC
    ordered, index = logits_RC.sort(dim=-1, descending=True)
    likely = ordered.softmax(dim=-1)
    drop = likely.cumsum(dim=-1) - likely >= top_p
    return logits_RC.masked_fill(drop.scatter(-1, index, drop), -torch.inf)

"""Sampling with torch; see `Sampling`."""

from __future__ import annotations

from collections.abc import Sequence

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
        temperature_B11: Tensor | None = None,
        entropy_BS: Tensor | None = None,
    ) -> None:
        """Take Gumbel noise by dream, slot and choice, and divisors of the logits (None: those of `samplings`)."""
        self.samplings, self.noise_BSC, self.entropy_BS = tuple(samplings), noise_BSC, entropy_BS
        if temperature_B11 is None:
            divisors = [how.divisor for how in samplings]
            temperature_B11 = torch.tensor(divisors, device=noise_BSC.device)[:, None, None]
        self.temperature_B11 = temperature_B11

    @property
    def filters(self) -> tuple[tuple[int | None, float | None], ...]:
        """Top-k and top-p of each dream; the only part that is not a tensor."""
        return tuple(how.filters for how in self.samplings)

    def sample(self, logits_BRC: Float[Tensor, "B R C"], slots_R: Int[Tensor, R]) -> Int[Tensor, "B R"]:
        """Return one token per row: an index into the C legal tokens of the slot, int64."""
        logits_BRC = logits_BRC.float()
        if self.entropy_BS is not None:  # in nats, at temperature 1, unfiltered
            self.entropy_BS.index_copy_(1, slots_R, torch.special.entr(logits_BRC.softmax(dim=-1)).sum(dim=-1))
        scaled_BRC = logits_BRC / self.temperature_B11
        if any(filters != (None, None) for filters in self.filters):
            rows = [_filter(row, *filters) for row, filters in zip(scaled_BRC, self.filters, strict=True)]
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

"""From logits to a token: temperature, top-k, top-p, greedy. Pure; neither loops nor caches.

Draws by arg-max of probability over exponential noise, which is the same distribution as a multinomial draw (the
"exponential race", equivalent to the Gumbel-max trick) and needs no synchronisation with a device. The noise comes from
the request's own generator, so a request's tokens do not depend on what it is batched with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from playloom.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn.

    Raises:
        BadInputError: when a value is out of range; names it and the range.
    """

    temperature: float = 0.9
    """Divides the logits; 0 takes the most likely token (greedy) and ignores the seed."""
    top_k: int | None = None
    """Only the k most likely tokens; None: all."""
    top_p: float | None = None
    """Only the smallest set of tokens whose probability reaches p (nucleus, Holtzman et al. 2020); None: all."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise BadInputError(f"temperature is {self.temperature}; expected 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise BadInputError(f"top_k is {self.top_k}; expected 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInputError(f"top_p is {self.top_p}; expected more than 0 and at most 1")

    @classmethod
    def of_card(cls, card: Mapping[str, Any], **asked: float | int | None) -> Sampling:
        """What was asked for, over what a model's card recommends, over the defaults.

        Args:
            card: a model's card; its `sampling` holds fields of this class.
            asked: fields of this class; None where nothing was asked.
        """
        wanted = {name: value for name, value in asked.items() if value is not None}
        return cls(**{**card.get("sampling", {}), **wanted})

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0


def noise_like(logits_QC: Float[Tensor, "Q C"], generator: torch.Generator) -> Float[Tensor, "Q C"]:
    """Exponential noise for one request's logits, drawn from its own generator (on the generator's device)."""
    noise = torch.empty(logits_QC.shape, device=generator.device).exponential_(generator=generator)
    return noise.to(logits_QC.device)


def sample(
    logits_QC: Float[Tensor, "Q C"], sampling: Sampling, noise_QC: Float[Tensor, "Q C"] | None
) -> Int[Tensor, Q]:
    """One token per row.

    Args:
        logits_QC: logits of the legal tokens only.
        sampling: how to draw.
        noise_QC: exponential noise (see `noise_like`); not needed for greedy.

    Returns:
        int64 [Q], indices into the C legal tokens.
    """
    if sampling.greedy:
        return logits_QC.argmax(dim=-1)
    assert noise_QC is not None, "drawing needs noise"
    logits = logits_QC.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = _nucleus(logits, sampling.top_p)
    return (logits.softmax(dim=-1) / noise_QC).argmax(dim=-1)


def _nucleus(logits_QC: Tensor, top_p: float) -> Tensor:
    ordered, index = logits_QC.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    drop = (before >= top_p).scatter(-1, index, before >= top_p)
    return logits_QC.masked_fill(drop, -torch.inf)

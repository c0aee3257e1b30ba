"""Sampling of tokens from logits: temperature, top-k, top-p, greedy.

A token is the arg-max of logits plus Gumbel noise (Maddison et al. 2014), without synchronisation with a device. The
noise of a whole step is drawn at once from the dream's own generator, whatever the batch and the passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from playloom.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings; BadInputError when a value is out of range."""

    temperature: float = 0.9
    """Divisor of the logits; 0 takes the most likely token (greedy) and ignores the seed."""
    top_k: int | None = None
    """Only the k most likely tokens, and ties of the last one; None: all."""
    top_p: float | None = None
    """Only the smallest set of tokens whose probability reaches p (nucleus, Holtzman et al. 2020); None: all."""
    action_temperature: float | None = None
    """Temperature of actions; None: as for frames. A low temperature suits frames, but rarely releases a control."""

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("action_temperature", self.action_temperature)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadInputError(f"{name} is {value}; expected 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise BadInputError(f"top_k is {self.top_k}; expected 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInputError(f"top_p is {self.top_p}; expected more than 0 and at most 1")

    @classmethod
    def from_card(cls, card: Mapping[str, Any], **requested: float | int | None) -> Sampling:
        """Return the requested fields, completed by a model's card; a requested temperature holds for actions too."""
        given = {name: value for name, value in requested.items() if value is not None}
        recommended = dict(card.get("sampling", {}))
        if "temperature" in given:
            recommended.pop("action_temperature", None)
        return cls(**{**recommended, **given})

    @property
    def of_actions(self) -> Sampling:
        """Sampling of the actions."""
        if self.action_temperature is None:
            return self
        return replace(self, temperature=self.action_temperature, action_temperature=None)

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Return the fields for a manifest; `action_temperature` only if it is set."""
        fields = asdict(self)
        if self.action_temperature is None:
            del fields["action_temperature"]
        return fields

    @property
    def greedy(self) -> bool:
        """True if the most likely token is taken."""
        return self.temperature == 0


LEAST = 2.0**-126  # replaces a uniform draw of exactly 0, which comes once in sixteen million
COLDEST = 1e-6  # lowest divisor of logits: below it they would overflow and become equal


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
            divisors = [1.0 if how.greedy else max(how.temperature, COLDEST) for how in samplings]
            temperature_B11 = torch.tensor(divisors, device=noise_BSC.device)[:, None, None]
        self.temperature_B11 = temperature_B11

    @property
    def filters(self) -> tuple[tuple[int | None, float | None], ...]:
        """Top-k and top-p of each dream; the only part that is not a tensor."""
        return tuple((None, None) if how.greedy else (how.top_k, how.top_p) for how in self.samplings)

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
    return logits_RC if top_p is None or top_p >= 1 else _nucleus(logits_RC, top_p)


def _nucleus(logits_RC: Tensor, top_p: float) -> Tensor:
    ordered, index = logits_RC.sort(dim=-1, descending=True)
    likely = ordered.softmax(dim=-1)
    drop = likely.cumsum(dim=-1) - likely >= top_p
    return logits_RC.masked_fill(drop.scatter(-1, index, drop), -torch.inf)

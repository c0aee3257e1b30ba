"""From logits to a token: temperature, top-k, top-p, greedy. Pure; neither loops nor caches.

Draws by arg-max of logits plus Gumbel noise, which is the same distribution as a multinomial draw (Gumbel-max trick,
Maddison et al. 2014, section 2) and needs no synchronisation with a device. The noise of a whole step is drawn at once,
slot by slot, from the dream's own generator: its tokens depend neither on what it is batched with nor on how its slots
are shared out among passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """Divides the logits; 0 takes the most likely token (greedy) and ignores the seed. Least above it: a millionth."""
    top_k: int | None = None
    """Only the k most likely tokens, and those that are exactly as likely as the last of them; None: all."""
    top_p: float | None = None
    """Only the smallest set of tokens whose probability reaches p (nucleus, Holtzman et al. 2020); None: all."""

    action_temperature: float | None = None
    """The same for controller input; None: as for pictures. Pictures are best drawn cold, but a cold player holds on
    to what it presses."""

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("action_temperature", self.action_temperature)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadInputError(f"{name} is {value}; expected 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise BadInputError(f"top_k is {self.top_k}; expected 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInputError(f"top_p is {self.top_p}; expected more than 0 and at most 1")

    @classmethod
    def from_card(cls, card: Mapping[str, Any], **asked: float | int | None) -> Sampling:
        """What was asked for, over what a model's card recommends, over the defaults.

        Args:
            card: a model's card; its `sampling` holds fields of this class.
            asked: fields of this class; None where nothing was asked. A temperature that is asked for holds for all
                tokens, unless one for actions is asked for too.
        """
        wanted = {name: value for name, value in asked.items() if value is not None}
        own = dict(card.get("sampling", {}))
        if "temperature" in wanted:
            own.pop("action_temperature", None)
        return cls(**{**own, **wanted})

    @property
    def of_actions(self) -> Sampling:
        """How controller input is drawn."""
        if self.action_temperature is None:
            return self
        return replace(self, temperature=self.action_temperature, action_temperature=None)

    def to_dict(self) -> dict[str, float | int | str | None]:
        """What a manifest says of it; the actions' temperature only where it is another."""
        own: dict[str, float | int | str | None] = {"temperature": self.temperature}
        own |= {"top_k": self.top_k, "top_p": self.top_p}
        return own if self.action_temperature is None else {**own, "action_temperature": self.action_temperature}

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0


_LEAST = torch.finfo(torch.float32).tiny
"""What a uniform draw of exactly 0 becomes: one in sixteen million does come."""
_COLDEST = 1e-6
"""Least temperature that logits are divided by: with less they would overflow, and all of them look alike."""


class BatchSampler:
    """The draws of one step for a batch of dreams, each with its own sampling: all noise there is, ahead of time."""

    def __init__(self, samplings: Sequence[Sampling], noise_BSC: Tensor) -> None:
        """Ready to pick.

        Args:
            samplings: how each dream draws.
            noise_BSC: Gumbel noise by dream, slot and choice; zeros for a greedy dream (see `noise`).
        """
        self.samplings, self.noise_BSC = tuple(samplings), noise_BSC
        scale = [1.0 if how.greedy else max(how.temperature, _COLDEST) for how in samplings]
        self.temperature_B11 = torch.tensor(scale, device=noise_BSC.device)[:, None, None]

    def over(self, noise_BSC: Tensor, temperature_B11: Tensor) -> BatchSampler:
        """The same kind of draws from other tensors."""
        other = object.__new__(BatchSampler)
        other.samplings, other.noise_BSC, other.temperature_B11 = self.samplings, noise_BSC, temperature_B11
        return other

    @property
    def cuts(self) -> tuple[tuple[int | None, float | None], ...]:
        """Each dream's top-k and top-p; the only part that is not a tensor."""
        return tuple((None, None) if how.greedy else (how.top_k, how.top_p) for how in self.samplings)

    def pick(self, logits_BRC: Float[Tensor, "B R C"], slots_R: Int[Tensor, R]) -> Int[Tensor, "B R"]:
        """One token per row: an index into the C legal tokens of the slot, int64."""
        scaled_BRC = logits_BRC.float() / self.temperature_B11
        if any(cut != (None, None) for cut in self.cuts):
            rows = [_cut(row, *cut) for row, cut in zip(scaled_BRC, self.cuts, strict=True)]
            scaled_BRC = torch.stack(rows)
        return (scaled_BRC + self.noise_BSC[:, slots_R, : scaled_BRC.shape[-1]]).argmax(dim=-1)


def noise(sampling: Sampling, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gumbel noise, float32, from a dream's own generator and on its device; zeros for a greedy dream. Finite: a token
    that may be drawn can always be told from one that was cut."""
    if sampling.greedy:
        return torch.zeros(shape, device=generator.device)
    uniform = torch.rand(shape, generator=generator, device=generator.device).clamp_(min=_LEAST)
    return uniform.log_().neg_().log_().neg_()


def _cut(logits_RC: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    if top_k is not None and top_k < logits_RC.shape[-1]:
        least = logits_RC.topk(top_k, dim=-1).values[:, -1:]
        logits_RC = logits_RC.masked_fill(logits_RC < least, -torch.inf)
    return logits_RC if top_p is None or top_p >= 1 else _nucleus(logits_RC, top_p)


def _nucleus(logits_RC: Tensor, top_p: float) -> Tensor:
    ordered, index = logits_RC.sort(dim=-1, descending=True)
    likely = ordered.softmax(dim=-1)
    drop = likely.cumsum(dim=-1) - likely >= top_p
    return logits_RC.masked_fill(drop.scatter(-1, index, drop), -torch.inf)

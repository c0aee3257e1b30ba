"""Sampling of tokens from logits: temperature, risk, top-k, top-p, greedy.

A token is the arg-max of logits plus Gumbel noise (Maddison et al. 2014), without synchronisation with a device. The
noise of a whole step is drawn at once from the dream's own generator, whatever the batch and the passes. Here
with NumPy; `torch_sampling` is the same with torch.

The risk of an image code is its expected squared distance to the true code: the mean over all codes, weighted by the
model's probabilities at temperature 1 (minimum Bayes risk, Kumar & Byrne 2004, here as a weight). Distances are those
of the tokenizer's codebook, whose entries have length 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError

LEAST = 2.0**-126  # replaces a uniform draw of exactly 0, which comes once in sixteen million
Floats = NDArray[np.float32]


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
    risk_weight: float = 0.0
    """Weight of an image code's risk, subtracted from its scaled logit; 0: none. Frames are nearer to the expected one
    at the same sharpness. Actions and greedy sampling have no risk."""

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("action_temperature", self.action_temperature)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadInputError(f"{name} is {value}; expected 0 (greedy) or more")
        if not (math.isfinite(self.risk_weight) and self.risk_weight >= 0):
            raise BadInputError(f"risk_weight is {self.risk_weight}; expected 0 (none) or more")
        if self.top_k is not None and not (isinstance(self.top_k, int | np.integer) and self.top_k >= 1):
            raise BadInputError(f"top_k is {self.top_k}; expected a whole number, 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInputError(f"top_p is {self.top_p}; expected more than 0 and at most 1")

    @classmethod
    def from_card(cls, card: Mapping[str, Any], **requested: float | int | None) -> Sampling:
        """Return the requested fields, completed by a model's card; a requested temperature holds for actions too."""
        given = {name: value for name, value in requested.items() if value is not None}
        recommended = {name: value for name, value in (card.get("sampling") or {}).items() if value is not None}
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
        """Return the fields for a manifest; `action_temperature` and `risk_weight` only if they are set."""
        unset = {"action_temperature": None, "risk_weight": 0.0}
        return {key: x for key, x in asdict(self).items() if key not in unset or x != unset[key]}

    @property
    def greedy(self) -> bool:
        """True if the most likely token is taken."""
        return self.temperature == 0

    @property
    def scales(self) -> tuple[float, float]:
        """Divisor of the logits and weight of the risk; a colder divisor would overflow and make logits equal."""
        return (1.0, 0.0) if self.greedy else (max(self.temperature, 1e-6), self.risk_weight)

    @property
    def filters(self) -> tuple[int | None, float | None]:
        """Top-k and top-p, as far as they matter."""
        return (None, None) if self.greedy else (self.top_k, self.top_p)


class ArraySampler:
    """The draws of one step for a batch of dreams, each with its own sampling, on NumPy arrays; see `BatchSampler`."""

    def __init__(
        self,
        samplings: Sequence[Sampling],
        sources: Sequence[np.random.Generator],
        slots: int,
        choices: int,
        *,
        entropy: bool = False,
        risk: Callable[[Floats], Floats] | None = None,
    ) -> None:
        """Draw the noise of all slots at once, on the first use, each dream's from its own generator.

        `risk` computes the risks from logits, both [B, R, C]; None: these slots have none.
        """
        self.samplings, self._sources, self._shape = samplings, sources, (slots, choices)
        scales_B2 = np.array([how.scales for how in samplings], np.float32)
        self._temperature_B11, self._weight_B11 = scales_B2[:, :1, None], scales_B2[:, 1:, None]
        self._risk = risk if self._weight_B11.any() else None
        self.entropy_BS = np.zeros((len(samplings), slots), np.float32) if entropy else None

    @cached_property
    def _noise_BSC(self) -> Floats:
        pairs = zip(self.samplings, self._sources, strict=True)
        return np.stack([_noise(how, self._shape, source) for how, source in pairs])

    def part(self, rows: slice) -> ArraySampler:
        """Return the draws of some of the dreams; the entropies that they measure are this one's too."""
        part = ArraySampler(self.samplings[rows], self._sources[rows], *self._shape, risk=self._risk)
        part.entropy_BS = None if self.entropy_BS is None else self.entropy_BS[rows]
        return part

    def sample(self, logits_BRC: Floats, slots_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one token per row: an index into the C legal tokens of the slot, [B, R]."""
        if self.entropy_BS is not None:  # in nats, at temperature 1, unfiltered
            share_BRC = _softmax(logits_BRC)
            terms_BRC = share_BRC * np.log(np.maximum(share_BRC, LEAST))
            self.entropy_BS[:, slots_R] = -terms_BRC.sum(axis=-1)
        scaled_BRC = logits_BRC / self._temperature_B11
        if self._risk is not None:
            scaled_BRC -= self._weight_B11 * self._risk(logits_BRC)
        if any(how.filters != (None, None) for how in self.samplings):
            rows = zip(scaled_BRC, self.samplings, strict=True)
            scaled_BRC = np.stack([_filter(logits_RC, *how.filters) for logits_RC, how in rows])
        scaled_BRC += self._noise_BSC.take(slots_R, axis=1)[..., : scaled_BRC.shape[-1]]
        return scaled_BRC.argmax(axis=-1)


def _noise(sampling: Sampling, shape: tuple[int, int], source: np.random.Generator) -> Floats:
    """Gumbel noise: the negative logarithm of exponential noise."""
    if sampling.greedy:
        return np.zeros(shape, np.float32)
    drawn = source.standard_exponential(shape, dtype=np.float32)
    return -np.log(np.maximum(drawn, np.float32(LEAST)))


def _softmax(logits: Floats) -> Floats:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _filter(logits_RC: Floats, top_k: int | None, top_p: float | None) -> Floats:
    size = logits_RC.shape[-1]
    if top_k is not None and top_k < size:
        least = np.partition(logits_RC, size - top_k, axis=-1)[:, size - top_k, None]
        logits_RC = np.where(logits_RC < least, -np.inf, logits_RC)
    if top_p is None or top_p >= 1:
        return logits_RC
    index = np.argsort(-logits_RC, axis=-1, kind="stable")
    likely = _softmax(np.take_along_axis(logits_RC, index, axis=-1))
    drop = np.empty_like(index, dtype=bool)
    np.put_along_axis(drop, index, likely.cumsum(axis=-1) - likely >= top_p, axis=-1)
    return np.where(drop, -np.inf, logits_RC)

"""Sampling of tokens from logits: temperature, top-k, top-p, greedy.

A token is the arg-max of logits plus Gumbel noise (Maddison et al. 2014), without synchronisation with a device. The
noise of a whole step is drawn at once from the dream's own generator, whatever the batch and the passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

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

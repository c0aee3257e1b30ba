"""Predicted consequences of a step: reward, termination and named state scalars. B batch, O outputs of the heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.errors import ConfigError, check_whole


@dataclass(frozen=True, kw_only=True)
class StateConfig:
    """A predicted scalar of the state: `mean` + `scale` times the head's output."""

    name: str
    """Column of the dataset."""
    mean: float = 0.0
    """Mean in the training data."""
    scale: float = 1.0
    """Standard deviation in the training data."""


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Predicted quantities and size of the heads; `ConfigError` when nothing is predicted or a scale is not above 0."""

    reward: Literal["none", "scalar", "sign"] = "none"
    """`scalar`: the mean reward. `sign`: the reward clipped to -1, 0 or 1 (Mnih et al. 2015), by the probabilities of
    the three; the predicted reward is their mean."""
    reward_scale: float = 1.0
    """With `scalar`: the reward is this times the head's output."""
    termination: bool = False
    """Predict the probability that the step ended the episode."""
    states: tuple[StateConfig, ...] = ()
    """Predicted state scalars."""
    width: int = 256
    """Hidden width of the network."""

    def __post_init__(self) -> None:
        check_whole("the heads' width", self.width, 1, 65_536)
        if not self.outputs:
            raise ConfigError("heads predict nothing: expected a reward, termination or a state")
        for name, scale in [("reward_scale", self.reward_scale), *((s.name, s.scale) for s in self.states)]:
            if not (math.isfinite(scale) and scale > 0):
                raise ConfigError(f"the scale of the head {name} is {scale}: expected more than 0")

    @property
    def reward_outputs(self) -> int:
        """Outputs of the reward head."""
        return {"none": 0, "scalar": 1, "sign": 3}[self.reward]

    @property
    def outputs(self) -> int:
        """Outputs of all heads: O."""
        return self.reward_outputs + self.termination + len(self.states)


class StepPrediction(NamedTuple):
    """Predicted consequences of one step."""

    reward: float | None
    """Expected reward; None without such a head."""
    termination: float | None
    """Probability that the episode ended; None without such a head."""
    states: Mapping[str, float]
    """State scalars when the frame after the step is seen, by name."""


def unknown_prediction(config: HeadsConfig) -> StepPrediction:
    """Return a prediction of NaN."""
    return predictions(config, np.full((1, config.outputs), np.nan))[0]


def predictions(config: HeadsConfig, outputs_BO: NDArray[np.float64]) -> list[StepPrediction]:
    """Return the predictions of the heads' outputs in the units of the data."""
    found = []
    for outputs_O in outputs_BO:
        reward_R, termination_1, states_S = np.split(outputs_O, np.cumsum([config.reward_outputs, config.termination]))
        reward = None
        if config.reward == "sign":
            shares_3 = np.exp(reward_R - reward_R.max())
            reward = float(shares_3 @ [-1.0, 0.0, 1.0] / shares_3.sum())
        elif config.reward == "scalar":
            reward = float(reward_R[0]) * config.reward_scale
        termination = float(1 / (1 + np.exp(-termination_1[0]))) if config.termination else None
        states = {one.name: one.mean + one.scale * float(x) for one, x in zip(config.states, states_S, strict=True)}
        found.append(StepPrediction(reward, termination, states))
    return found

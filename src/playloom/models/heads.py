"""Heads on the world model: reward, termination and named state scalars of a step.

They read the transformer's final hidden states of the frame after the step, which decoding computes anyway: no further
pass is needed. Each position knows the action before the frame and the codes before its own; the last one knows all
codes but, in a chain, its own. B batch, Q positions of a frame, D width, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.errors import ConfigError, check_whole


@dataclass(frozen=True, kw_only=True)
class StateConfig:
    """A predicted scalar of the state: `mean` + `scale` times the head's output."""

    name: str
    """Column of the data set."""
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


class Outputs(NamedTuple):
    """Outputs [B, ...] by head; a width of 0 without that head."""

    reward: Tensor
    """Standardised reward [B, 1], or logits of negative, no and positive reward [B, 3]."""
    termination: Tensor
    """Logit [B, 1]."""
    states: Tensor
    """Standardised scalars [B, S]."""


def pool(hidden_BQD: Tensor) -> Tensor:
    """Return the heads' input, float32 [B, 2 D]: mean and last of a frame's hidden states, in decoding order."""
    return torch.cat([hidden_BQD.mean(dim=-2), hidden_BQD[..., -1, :]], dim=-1).float()


class PredictionHeads(nn.Module):
    """One MLP with a hidden layer, shared by all heads."""

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, config: HeadsConfig, width: int) -> None:
        """Make the heads of a transformer of this width: random hidden layer, all outputs 0."""
        super().__init__()
        self.config = config
        self.register_buffer("mean_F", torch.zeros(2 * width))
        self.register_buffer("scale_F", torch.ones(2 * width))
        self.hidden = nn.Linear(2 * width, config.width)
        self.out = nn.Linear(config.width, config.outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the outputs [B, O] of features from `pool`; see `split`."""
        normed = (features_BF - self.mean_F) / self.scale_F
        out: Tensor = self.out(nn.functional.gelu(self.hidden(normed)))
        return out

    def split(self, outputs_BO: Tensor) -> Outputs:
        """Return the outputs by head."""
        c = self.config
        return Outputs(*torch.split(outputs_BO, [c.reward_outputs, int(c.termination), len(c.states)], dim=-1))

    @property
    def unknown(self) -> StepPrediction:
        """A prediction of NaN."""
        c, nan = self.config, math.nan
        reward = None if c.reward == "none" else nan
        return StepPrediction(reward, nan if c.termination else None, {state.name: nan for state in c.states})

    @torch.no_grad()
    def predict(self, features_BF: Tensor) -> list[StepPrediction]:
        """Return the predictions in the units of the data."""
        return predictions(self.config, self(features_BF).double().cpu().numpy())


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


def build_heads(config: HeadsConfig, width: int, *, seed: int = 0) -> PredictionHeads:
    """Build heads with weights from `seed`, without the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PredictionHeads(config, width)

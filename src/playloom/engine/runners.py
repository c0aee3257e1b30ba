"""Two ways to get the hidden states of some positions: recompute everything (the judge), or extend a cache.

Both answer the same question over the same tokens; the cached one must agree with the naive one (equal greedy tokens,
logits within 1e-5 in float32), which the tests hold it to.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from playloom.model import KeyValueCache, Transformer
from playloom.sequence import NO_TOKEN, Schedule, StepLayout


@runtime_checkable
class Runner(Protocol):
    """Runs positions of the newest step of a window of steps."""

    def run(self, step: int, previous_BK: Tensor, current_BK: Tensor, positions_Q: Tensor) -> Tensor:
        """Hidden states [B, Q, D] of positions of one step.

        Steps come in order: all positions of a step are run, pass by pass, before the next step begins.

        Args:
            step: the step's index in the window, from 0.
            previous_BK: the step before; all `NO_TOKEN` at step 0.
            current_BK: this step, negative where a token is not known yet.
            positions_Q: which positions to run.
        """

    def restart(self) -> None:
        """Forget everything: the next step is step 0 of a new window."""


class NaiveRunner:
    """No cache: the whole window through `Transformer.forward`, every time. Slow, short and the judge."""

    def __init__(self, model: Transformer, layout: StepLayout, schedule: Schedule) -> None:
        self.model, self.layout = model, layout
        self.own_PP = schedule.visible_PP(model.token.weight.device)
        self.steps: list[Tensor] = []

    def run(self, step: int, previous_BK: Tensor, current_BK: Tensor, positions_Q: Tensor) -> Tensor:
        """See `Runner.run`."""
        self.steps[step:] = [current_BK]
        tokens_BTK = torch.stack(self.steps, dim=1)
        actions_BTA = tokens_BTK[..., self.layout.image_slots :]
        none_B1A = torch.full_like(actions_BTA[:, :1], NO_TOKEN)
        previous_BTA = torch.cat([none_B1A, actions_BTA[:, :-1]], dim=1)
        hidden_BTPD = self.model(self.layout.inputs(tokens_BTK), self.own_PP, previous_BTA)
        return hidden_BTPD[:, -1, positions_Q]

    def restart(self) -> None:
        """See `Runner.restart`."""
        self.steps = []


class CachedRunner:
    """Runs only what is new, against keys and values of what was run before."""

    def __init__(self, model: Transformer, layout: StepLayout, schedule: Schedule, batch: int = 1) -> None:
        self.model, self.layout = model, layout
        weight = model.token.weight
        self.own_PP = schedule.visible_PP(weight.device)
        self.cache = KeyValueCache.empty(model.config, layout.positions, batch, weight.device, weight.dtype)

    def run(self, step: int, previous_BK: Tensor, current_BK: Tensor, positions_Q: Tensor) -> Tensor:
        """See `Runner.run`."""
        inputs_BP = self.layout.inputs(torch.stack([previous_BK, current_BK], dim=1))[:, -1]
        previous_BA = previous_BK[:, self.layout.image_slots :]
        own_QP = self.own_PP[positions_Q]
        return self.model.extend(inputs_BP[:, positions_Q], positions_Q, step, own_QP, self.cache, previous_BA)

    def restart(self) -> None:
        """Nothing to do: entries of steps after the present one are never looked at."""

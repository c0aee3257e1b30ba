"""The steps a dream has seen: appends given or dreamed frames and actions, and rolls the window on.

The last step is **open** while it has a frame and no action. With rolling positions nothing is ever run twice. With
absolute positions every position changes when the window slides, so a cached past would be a lie: the window is cut to
its last steps and run again, here and nowhere else.
"""

from __future__ import annotations

from collections import deque

import torch
from jaxtyping import Int
from torch import Tensor

from playloom.engine.runners import Runner
from playloom.engine.sampling import Sampling, noise_like, sample
from playloom.model import Transformer
from playloom.sequence import NO_TOKEN, Schedule, StepLayout, TokenGroup


class Context:
    """A batch of B dreams that advance together; each has its own sampling and generator."""

    def __init__(
        self,
        model: Transformer,
        layout: StepLayout,
        schedule: Schedule,
        runner: Runner,
        samplings: list[Sampling],
        generators: list[torch.Generator],
    ) -> None:
        self.model, self.layout, self.schedule, self.runner = model, layout, schedule, runner
        self.samplings, self.generators = samplings, generators
        self.device = model.token.weight.device
        self.step = -1
        self.window: deque[Tensor] = deque(maxlen=model.config.context_steps)
        self._nothing_BK = torch.full((len(samplings), layout.slots), NO_TOKEN, device=self.device)
        self._passes = self._plan()
        first_action, end = schedule.image_passes, schedule.passes
        self._image = self._positions(0, first_action)
        self._actions = self._positions(first_action, end)
        self._whole = self._positions(0, end)

    @property
    def tokens_BK(self) -> Tensor:
        """The newest step's tokens, negative where they are not known yet."""
        return self.window[-1]

    def give_frame(self, codes_BN: Int[Tensor, "B N"]) -> None:
        """A frame that was seen: opens a new step."""
        self._open_step()
        self.tokens_BK[:, : self.layout.image_slots] = codes_BN.to(self.device)
        self._run(self._image)

    def dream_frame(self) -> Int[Tensor, "B N"]:
        """The frame that follows, pass by pass; opens a new step."""
        self._open_step()
        for index in range(self.schedule.image_passes):
            self._run_and_draw(index, self.layout.image_group)
        return self.tokens_BK[:, : self.layout.image_slots].clone()

    def give_action(self, values_BA: Int[Tensor, "B A"]) -> None:
        """An action that was taken: closes the open step."""
        offsets_A = torch.tensor(self.layout.vocab.action_offsets, device=self.device)
        self.tokens_BK[:, self.layout.image_slots :] = values_BA.to(self.device) + offsets_A
        self._run(self._actions)

    def dream_action(self) -> Int[Tensor, "B A"]:
        """The action the player takes next, slot by slot; closes the open step."""
        first = self.schedule.image_passes
        for slot, group in enumerate(self.layout.action_groups):
            self._run_and_draw(first + slot, group)
        for index in range(first + self.layout.action_slots, self.schedule.passes):
            self._run(self._passes[index][0])
        return self.layout.unweave(self.tokens_BK[:, None])[1][:, 0]

    def _plan(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per pass: its positions, which of them predict a slot, and the slots they predict."""
        target_P = torch.as_tensor(self.layout.target_P, device=self.device)
        plan = []
        for index in range(self.schedule.passes):
            positions_Q = self._positions(index, index + 1)
            predicts = target_P[positions_Q] >= 0
            plan.append((positions_Q, predicts.nonzero()[:, 0], target_P[positions_Q][predicts]))
        return plan

    def _positions(self, first: int, last: int) -> Tensor:
        return torch.as_tensor(self.schedule.positions_of(first, last), device=self.device)

    def _run(self, positions_Q: Tensor) -> Tensor:
        previous_BK = self.window[-2] if self.step else self._nothing_BK
        return self.runner.run(self.step, previous_BK, self.tokens_BK, positions_Q)

    def _run_and_draw(self, index: int, group: TokenGroup) -> None:
        positions_Q, rows, slots = self._passes[index]
        logits_BQC = self.model.logits(self._run(positions_Q)[:, rows], group.first_id, group.last_id)
        for row, (logits_QC, how, source) in enumerate(zip(logits_BQC, self.samplings, self.generators, strict=True)):
            noise_QC = None if how.greedy else noise_like(logits_QC, source)
            self.tokens_BK[row, slots] = sample(logits_QC, how, noise_QC) + group.first_id

    def _open_step(self) -> None:
        if self.model.config.positions == "absolute" and self.step + 1 >= self.model.config.context_steps:
            self._prefill_again()
        self.step += 1
        self.window.append(self._nothing_BK.clone())

    def _prefill_again(self) -> None:
        """Make room for one step: run all but the oldest step of the window again, at their new positions."""
        kept = list(self.window)[1:]
        self.runner.restart()
        self.window.clear()
        for self.step, tokens_BK in enumerate(kept):
            self.window.append(tokens_BK)
            self._run(self._whole)
        self.step = len(kept) - 1

"""The steps a dream has seen: appends given or dreamed frames and actions, and rolls the window on.

The last step is **open** while it has a frame and no action. With rolling positions nothing is ever run twice. With
absolute positions every position changes when the window slides, so a cached past would be a lie: the window is cut to
its last steps and run again, here and nowhere else.
"""

from __future__ import annotations

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
        self.tokens_BTK = torch.empty(len(samplings), 0, layout.slots, dtype=torch.int64, device=self.device)
        self._passes = self._plan()

    def give_frame(self, codes_BN: Int[Tensor, "B N"]) -> None:
        """A frame that was seen: opens a new step."""
        self._open_step()
        self.tokens_BTK[:, -1, : self.layout.image_slots] = codes_BN.to(self.device)
        self._run(0, self.schedule.image_passes)

    def dream_frame(self) -> Int[Tensor, "B N"]:
        """The frame that follows, pass by pass; opens a new step."""
        self._open_step()
        group = self.layout.image_group
        for index in range(self.schedule.image_passes):
            self._run_and_draw(index, group)
        return self.tokens_BTK[:, -1, : self.layout.image_slots].clone()

    def give_action(self, values_BA: Int[Tensor, "B A"]) -> None:
        """An action that was taken: closes the open step."""
        offsets_A = torch.tensor(self.layout.vocab.action_offsets, device=self.device)
        self.tokens_BTK[:, -1, self.layout.image_slots :] = values_BA.to(self.device) + offsets_A
        self._run(self.schedule.image_passes, self.schedule.passes)

    def dream_action(self) -> Int[Tensor, "B A"]:
        """The action the player takes next, slot by slot; closes the open step."""
        first = self.schedule.image_passes
        for slot, group in enumerate(self.layout.action_groups):
            self._run_and_draw(first + slot, group)
        self._run(first + self.layout.action_slots, self.schedule.passes)
        return self.layout.unweave(self.tokens_BTK[:, -1:])[1][:, 0]

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

    def _run(self, first: int, last: int) -> None:
        positions_Q = self._positions(first, last)
        if len(positions_Q):
            self.runner.run(self.tokens_BTK, positions_Q)

    def _run_and_draw(self, index: int, group: TokenGroup) -> None:
        positions_Q, rows, slots = self._passes[index]
        hidden_BQD = self.runner.run(self.tokens_BTK, positions_Q)
        logits_BQC = self.model.logits(hidden_BQD[:, rows], group.first_id, group.last_id)
        for row, (logits_QC, how, source) in enumerate(zip(logits_BQC, self.samplings, self.generators, strict=True)):
            noise_QC = None if how.greedy else noise_like(logits_QC, source)
            self.tokens_BTK[row, -1, slots] = sample(logits_QC, how, noise_QC) + group.first_id

    def _open_step(self) -> None:
        if self.model.config.positions == "absolute" and self.tokens_BTK.shape[1] >= self.model.config.context_steps:
            self._prefill_last(self.model.config.context_steps - 1)
        new_B1K = torch.full_like(self.tokens_BTK[:, :1], NO_TOKEN)
        if not new_B1K.numel():
            new_B1K = self.tokens_BTK.new_full((len(self.samplings), 1, self.layout.slots), NO_TOKEN)
        self.tokens_BTK = torch.cat([self.tokens_BTK, new_B1K], dim=1)

    def _prefill_last(self, steps: int) -> None:
        kept_BTK = self.tokens_BTK[:, self.tokens_BTK.shape[1] - steps :]
        self.runner.restart()
        self.tokens_BTK = kept_BTK[:, :0]
        every = self._positions(0, self.schedule.passes)
        for step in range(steps):
            self.tokens_BTK = kept_BTK[:, : step + 1]
            self.runner.run(self.tokens_BTK, every)

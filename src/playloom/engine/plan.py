"""Everything about decoding a step that can be known before a dream begins, as tensors on the device.

A chunk is one run of the network: the places of one pass (decoding), or of many passes at once where all their tokens
are given (prefill). Knows no network, no cache and no dream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from playloom.sequence import Schedule, StepLayout


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive passes of one step that are run together."""

    first: int
    """First place, in the order of the passes."""
    last: int
    """One past the last place."""
    column_Q: Int[Tensor, Q]
    """Column of the token row that each place reads."""
    row_R: Int[Tensor, R]
    """Which of the places predict a slot."""
    slot_R: Int[Tensor, R]
    """The slots they predict."""
    draw_R: Int[Tensor, R]
    """The same slots, counted from the first of their kind (image or action)."""
    own_QL: Bool[Tensor, "Q L"] | None
    """What each place may attend to of the step's places before `last`; None: all of them."""


class DecodingPlan:
    """The chunks of one step, for one layout and one decoding order."""

    def __init__(self, layout: StepLayout, schedule: Schedule, device: torch.device) -> None:
        self.layout, self.schedule, self.device = layout, schedule, device
        self.order_P = torch.as_tensor(schedule.order_P, device=device)
        self._pass_P = torch.as_tensor(schedule.pass_P[schedule.order_P])
        actions, end = schedule.image_passes, schedule.passes
        self.frame_passes = [self._chunk(index, index + 1) for index in range(actions)]
        self.action_passes = [self._chunk(index, index + 1) for index in range(actions, end)]
        self.frame, self.action, self.whole = self._chunk(0, actions), self._chunk(actions, end), self._chunk(0, end)

    def _chunk(self, first: int, last: int) -> Chunk:
        start, stop = self.schedule.span(first, last)
        positions_Q = self.schedule.order_P[start:stop]
        target_Q = self.layout.target_P[positions_Q]
        slot_R = target_Q[target_Q >= 0]
        several = last - first > 1
        own_QL = self._pass_P[None, :stop] <= self._pass_P[start:stop, None]
        return Chunk(
            first=start,
            last=stop,
            column_Q=self._tensor(self.layout.column_P[positions_Q]),
            row_R=self._tensor((target_Q >= 0).nonzero()[0]),
            slot_R=self._tensor(slot_R),
            draw_R=self._tensor(np.where(slot_R < self.layout.image_slots, slot_R, slot_R - self.layout.image_slots)),
            own_QL=own_QL.to(self.device) if several else None,
        )

    def _tensor(self, values: object) -> Tensor:
        return torch.as_tensor(values, device=self.device)

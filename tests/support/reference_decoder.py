"""Reference decoding without a cache: the network sees the whole past in every pass. Slow; tests compare with it.

Answers to the same calls as `CachedDecoder`, which must agree with it: equal greedy tokens, logits within 1e-5 in
float32; the tests hold it to that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from playloom.inference.decoder import CacheSlot
from playloom.inference.engine import Engine
from playloom.inference.torch_sampling import BatchSampler
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import Schedule
from playloom.models.heads_network import pool
from playloom.models.sequence import NO_TOKEN, StepLayout, TokenGroup
from playloom.models.transformer.transformer import Transformer, position_inputs


def torch_engine(model: WorldModel, row_delay: int | None, *, naive: bool) -> Engine:
    """An engine with torch's cached decoder, or with the decoder of this file."""
    engine = Engine(model, row_delay=row_delay, backend="torch")
    if naive:
        decoder = ReferenceDecoder(
            model.transformer, engine.layout, engine.schedule, with_features=model.heads is not None
        )
        engine.decoder = engine.backend.decoder = decoder
    return engine


class ReferenceDecoder:
    """Steps for any number of dreams, one after the other."""

    def __init__(
        self, model: Transformer, layout: StepLayout, schedule: Schedule, *, with_features: bool = False
    ) -> None:
        self.model, self.layout, self.schedule = model, layout, schedule
        self.device = model.token.weight.device
        self.own_PP = torch.as_tensor(schedule.visible_PP, device=self.device)
        self._offsets_A = torch.tensor(layout.vocab.action_offsets, device=self.device)

    def begin(self) -> CacheSlot:
        """A dream that has seen nothing; `window` holds the tokens [K] of all its steps."""
        return CacheSlot()

    def arrange(self, states: Sequence[CacheSlot]) -> list[int]:
        """Nothing to arrange."""
        return list(range(len(states)))

    def fork(self, state: CacheSlot) -> CacheSlot:
        """A dream that goes on from the same place."""
        return CacheSlot(window=deque(tokens_K.clone() for tokens_K in state.window))

    def close(self, state: CacheSlot) -> None:
        """Forget the dream."""
        state.window.clear()

    def give_frame(self, states: Sequence[CacheSlot], codes_BN: Int[Tensor, "B N"]) -> None:
        """See `CachedDecoder.give_frame`."""
        for state, codes_N in zip(states, codes_BN, strict=True):
            self._open(state)[: self.layout.image_slots] = torch.as_tensor(codes_N, device=self.device)

    def dream_frame(self, states: Sequence[CacheSlot], draws: BatchSampler) -> Int[Tensor, "B N"]:
        """See `CachedDecoder.dream_frame`."""
        for row, state in enumerate(states):
            self._open(state)
            for index in range(self.schedule.image_passes):
                self._draw(state, index, self.layout.image_group, draws, row)
        return torch.stack([state.window[-1][: self.layout.image_slots] for state in states])

    def features(self, states: Sequence[CacheSlot]) -> Float[Tensor, "B F"]:
        """See `CachedDecoder.features`."""
        frame_Q = self.schedule.positions_of(0, self.schedule.image_passes)
        return torch.stack([pool(self._hidden(state)[frame_Q]) for state in states])

    def give_action(self, states: Sequence[CacheSlot], values_BA: Int[Tensor, "B A"]) -> None:
        """See `CachedDecoder.give_action`."""
        for state, values_A in zip(states, torch.as_tensor(values_BA, device=self.device), strict=True):
            state.window[-1][self.layout.image_slots :] = values_A + self._offsets_A

    def dream_action(self, states: Sequence[CacheSlot], draws: BatchSampler) -> Int[Tensor, "B A"]:
        """See `CachedDecoder.dream_action`."""
        for row, state in enumerate(states):
            for slot, group in enumerate(self.layout.action_groups):
                self._draw(state, self.schedule.image_passes + slot, group, draws, row)
        return torch.stack([state.window[-1][self.layout.image_slots :] - self._offsets_A for state in states])

    def logits(self, state: CacheSlot, index: int, group: TokenGroup) -> tuple[Tensor, Tensor]:
        """Logits [R, C] of the slots [R] that pass `index` of the newest step predicts."""
        positions_Q = self.schedule.positions_of(index, index + 1)
        target_Q = torch.as_tensor(self.layout.target_P[positions_Q], device=self.device)
        where_Q = torch.as_tensor(positions_Q, device=self.device)[target_Q >= 0]
        logits_RC = self.model.logits(self._hidden(state)[where_Q], group.first_id, group.last_id)
        return logits_RC, target_Q[target_Q >= 0]

    def _draw(self, state: CacheSlot, index: int, group: TokenGroup, draws: BatchSampler, row: int) -> None:
        logits_RC, slot_R = self.logits(state, index, group)
        first = 0 if index < self.schedule.image_passes else self.layout.image_slots
        entropy_1S = None if draws.entropy_BS is None else draws.entropy_BS[row : row + 1]
        alone = BatchSampler([draws.samplings[row]], draws.noise_BSC[row : row + 1], entropy_BS=entropy_1S)
        state.window[-1][slot_R] = alone.sample(logits_RC[None], slot_R - first)[0] + group.first_id

    def _hidden(self, state: CacheSlot) -> Tensor:
        """Hidden states [P, D] of the newest step. With absolute positions the window is all there ever was."""
        absolute = self.model.config.positions == "absolute"
        steps = list(state.window)[-self.model.config.context_steps :] if absolute else list(state.window)
        tokens_BTK = torch.stack(steps)[None]
        actions_BTA = tokens_BTK[..., self.layout.image_slots :]
        none_B1A = torch.full_like(actions_BTA[:, :1], NO_TOKEN)
        previous_BTA = torch.cat([none_B1A, actions_BTA[:, :-1]], dim=1)
        hidden: Tensor = self.model(position_inputs(self.layout, tokens_BTK), self.own_PP, previous_BTA)
        return hidden[0, -1]

    def _open(self, state: CacheSlot) -> Tensor:
        state.window.append(torch.full((self.layout.slots,), NO_TOKEN, device=self.device))
        return state.window[-1]

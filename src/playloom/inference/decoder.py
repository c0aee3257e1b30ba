"""Decoding with a KV cache: every token is run once.

All dreams of a call advance as one batch, whatever the length of their contexts. With absolute positions every position
changes when the window slides, so its last steps are run again, here and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from playloom.inference.batch_cache import BatchCache, CacheSlot
from playloom.inference.cuda_graphs import CaptureKey, FrameGraphs, Work, cuda_capture
from playloom.inference.sampling import BatchSampler
from playloom.models.decode_order import Schedule
from playloom.models.heads import pool
from playloom.models.sequence import NO_TOKEN, StepLayout, TokenGroup
from playloom.models.transformer.config import Window
from playloom.models.transformer.kv_cache import AttentionSpan, KeyValueCache
from playloom.models.transformer.packed_cpu import pack, pack_head
from playloom.models.transformer.transformer import StepEmbeddings, Transformer


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive passes of one step in one run of the network: one (decoding), or many given ones (prefill)."""

    first: int
    last: int  # one past the last position
    column_Q: Int[Tensor, Q]  # column of the token row that each position reads
    row_R: Int[Tensor, R]  # positions of the chunk that predict a slot
    slot_R: Int[Tensor, R]  # the slots they predict
    draw_R: Int[Tensor, R]  # the same slots, counted from the first of their kind (image or action)
    own_QL: Bool[Tensor, "Q L"] | None  # attention mask over the step's positions before `last`; None: all of them


class DecodingPlan:
    """The chunks of one step, as tensors on the device."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    states: Sequence[CacheSlot]
    first: int
    tokens_BC: Tensor
    actions_BA: Tensor
    previous_BA: Tensor
    features_BF: Tensor
    cache: KeyValueCache

    def advance_step(self) -> None:
        self.previous_BA.copy_(self.actions_BA)
        self.tokens_BC[:, -1] = self.tokens_BC[:, -3]


class CachedDecoder:
    """Steps of any number of dreams. The states of a call must be in the order of `arrange`."""

    def __init__(
        self, model: Transformer, layout: StepLayout, schedule: Schedule, *, with_features: bool = False
    ) -> None:
        """Make a decoder; `with_features`: keep the heads' input of each generated frame, see `features`."""
        weight = model.token.weight
        self._with_features = with_features
        self.model, self.layout, self.schedule = pack(model), layout, schedule
        groups = (layout.image_group, *layout.action_groups)
        self.heads = {group.span: pack_head(model, *group.span) for group in groups}
        self.plan = DecodingPlan(layout, schedule, weight.device)
        self.rows = BatchCache(model.config, layout, weight.device, weight.dtype)
        self.graphs = FrameGraphs(cuda_capture(weight.device))
        # The cost on a GPU is the number of kernels, on a CPU that of products (docs/speed.md).
        self.as_matrices = weight.device.type == "cuda"
        self.slides = model.config.positions == "absolute"
        self._offsets_A = torch.tensor(layout.vocab.action_offsets, device=weight.device)

    @property
    def bytes_each(self) -> int:
        """Memory of one dream's cache."""
        return self.rows.bytes_each

    def begin(self) -> CacheSlot:
        """Return the state of an empty dream."""
        keep = self.model.config.context_steps - 1 if self.slides else 0
        return CacheSlot(window=deque(maxlen=keep))

    def arrange(self, states: Sequence[CacheSlot]) -> list[int]:
        """See `BatchCache.arrange`."""
        return self.rows.arrange(states)

    def fork(self, state: CacheSlot) -> CacheSlot:
        """Return a copy of the state. Its memory is shared until the first step of one of the two."""
        self.rows.save(state)
        window = deque(state.window, maxlen=state.window.maxlen)
        return CacheSlot(past=state.past, saved=state.saved, window=window)

    def close(self, state: CacheSlot) -> None:
        """Free the dream's memory."""
        self.rows.release(state)
        state.saved = None

    def give_frame(self, states: Sequence[CacheSlot], codes_BN: Int[Tensor, "B N"]) -> None:
        """Open a step in every dream with a given frame."""
        batch = self._open_step(states)
        batch.tokens_BC[:, : self.layout.image_slots] = codes_BN.to(self.plan.device)
        self._run(batch, self._tables(batch, self._steps(batch)), self.plan.frame)

    def dream_frame(self, states: Sequence[CacheSlot], draws: BatchSampler) -> Int[Tensor, "B N"]:
        """Open a step in every dream with a generated frame; returns its codes."""
        batch = self._open_step(states)
        self._run_captured(batch, "frame", partial(self._frame_passes, batch), draws)
        return batch.tokens_BC[:, : self.layout.image_slots].clone()

    def features(self, states: Sequence[CacheSlot]) -> Float[Tensor, "B F"]:
        """Return the heads' input after the frames that `dream_frame` has just generated."""
        return self._batch(states).features_BF.clone()

    def give_action(self, states: Sequence[CacheSlot], values_BA: Int[Tensor, "B A"]) -> None:
        """Complete the open steps with given actions."""
        batch = self._batch(states)
        batch.actions_BA[:] = values_BA.to(self.plan.device) + self._offsets_A
        self._run_captured(batch, "action", partial(self._action_pass, batch))
        self._commit_step(batch)

    def dream_action(self, states: Sequence[CacheSlot], draws: BatchSampler) -> Int[Tensor, "B A"]:
        """Complete the open steps with sampled actions, slot by slot; returns their values."""
        batch = self._batch(states)
        tables = self._tables(batch, self._steps(batch))
        for chunk, group in zip(self.plan.action_passes, self.layout.action_groups, strict=False):
            self._run_and_draw(batch, tables, chunk, group, draws)
        for chunk in self.plan.action_passes[self.layout.action_slots :]:
            self._run(batch, tables, chunk)
        values_BA = batch.actions_BA - self._offsets_A
        self._commit_step(batch)
        return values_BA

    def _run_captured(self, batch: _Batch, name: str, work: Work, draws: BatchSampler | None = None) -> None:
        """Run `work`, as a CUDA graph once all contexts are full and every step is the same work."""
        steps_B = self._steps(batch)
        full = max(window.full_from for window in batch.cache.windows)
        if any(state.past < full for state in batch.states):
            work(steps_B, draws)
            return
        key = CaptureKey(self.rows.generation, self.rows.cache.batch, batch.first, len(batch.states))
        self.graphs.run(key, name, work, steps_B, draws)

    def _action_pass(self, batch: _Batch, steps_B: Tensor, draws: BatchSampler | None) -> None:
        self._run(batch, self._tables(batch, steps_B), self.plan.action)

    def _frame_passes(self, batch: _Batch, steps_B: Tensor, draws: BatchSampler | None) -> None:
        assert draws is not None
        tables = self._tables(batch, steps_B)
        hidden = [
            self._run_and_draw(batch, tables, chunk, self.layout.image_group, draws) for chunk in self.plan.frame_passes
        ]
        if self._with_features:
            batch.features_BF.copy_(pool(torch.cat(hidden, dim=1)))

    def _run_and_draw(
        self, batch: _Batch, tables: StepEmbeddings, chunk: Chunk, group: TokenGroup, draws: BatchSampler
    ) -> Tensor:
        hidden_BQD = self._run(batch, tables, chunk)
        hidden_BRD = hidden_BQD.index_select(1, chunk.row_R)
        logits_BRC = self.heads[group.span](hidden_BRD)
        ids_BR = draws.sample(logits_BRC, chunk.draw_R) + group.first_id
        batch.tokens_BC.index_copy_(1, chunk.slot_R, ids_BR)
        return hidden_BQD

    def _run(self, batch: _Batch, tables: StepEmbeddings, chunk: Chunk) -> Tensor:
        inputs_BQ = batch.tokens_BC.index_select(1, chunk.column_Q)
        return self.model.extend(inputs_BQ, tables, batch.cache, self._span(batch, chunk))

    def _span(self, batch: _Batch, chunk: Chunk) -> AttentionSpan:
        """Build masks only where needed: for many passes in one run, or contexts of different length."""
        steps = [state.past for state in batch.states]
        masks: dict[Window, Tensor] = {}
        for window in {*batch.cache.windows}:
            seen = [window.past_count(step) for step in steps]
            if min(seen) != max(seen):
                masks[window] = self._mask_each(seen, chunk)
            elif chunk.own_QL is not None:
                masks[window] = self._mask_own(seen[0], chunk.own_QL)[None, None]
        return AttentionSpan(step=max(steps), first=chunk.first, last=chunk.last, masks=masks)

    def _mask_own(self, seen: int, own_QL: Tensor) -> Tensor:
        return torch.nn.functional.pad(own_QL, (seen * self.layout.positions, 0), value=True)

    def _mask_each(self, seen: list[int], chunk: Chunk) -> Tensor:
        """Bool [B, 1, Q or 1, R] over the past of the longest context and the step's own positions."""
        positions, most = self.layout.positions, max(seen)
        seen_B = torch.tensor(seen, device=self.plan.device)
        position_R = torch.arange(most * positions + chunk.last, device=self.plan.device)
        past_B1R = (position_R >= (most - seen_B[:, None]) * positions)[:, None]
        if chunk.own_QL is None:
            return past_B1R[:, None]
        return (past_B1R & self._mask_own(most, chunk.own_QL))[:, None]

    def _open_step(self, states: Sequence[CacheSlot]) -> _Batch:
        for state in states:
            if self.slides and state.past >= self.model.config.context_steps:
                self._prefill_again(state)
        batch = self._batch(states)
        batch.advance_step()
        return batch

    def _commit_step(self, batch: _Batch) -> None:
        """Commit the step; until here a failed step can be repeated."""
        batch.cache.commit([state.past for state in batch.states])
        for state, tokens_C in zip(batch.states, batch.tokens_BC, strict=True):
            state.past += 1
            if self.slides:
                state.window.append(tokens_C.clone())

    def _prefill_again(self, state: CacheSlot) -> None:
        again = CacheSlot(row=state.row)
        batch = self._batch([again])
        batch.tokens_BC.fill_(NO_TOKEN)
        for kept_C in state.window:
            batch.advance_step()
            batch.tokens_BC[0, : self.layout.slots] = kept_C[: self.layout.slots]
            self._run(batch, self._tables(batch, self._steps(batch)), self.plan.whole)
            batch.cache.commit([again.past])
            again.past += 1
        state.past = again.past

    def _steps(self, batch: _Batch) -> Tensor:
        return torch.tensor([state.past for state in batch.states], device=self.plan.device)

    def _tables(self, batch: _Batch, steps_B: Tensor) -> StepEmbeddings:
        return self.model.begin(steps_B, self.plan.order_P, batch.previous_BA, as_matrices=self.as_matrices)

    def _batch(self, states: Sequence[CacheSlot]) -> _Batch:
        first = states[0].row
        assert first is not None and all(s.row == first + i for i, s in enumerate(states)), "not arranged"
        rows = slice(first, first + len(states))
        return _Batch(
            states=states,
            first=first,
            tokens_BC=self.rows.tokens_BC[rows],
            actions_BA=self.rows.tokens_BC[rows, self.layout.image_slots : self.layout.slots],
            previous_BA=self.rows.previous_BA[rows],
            features_BF=self.rows.features_BF[rows],
            cache=self.rows.cache.rows(rows.start, rows.stop),
        )

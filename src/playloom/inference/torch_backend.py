"""Decoding with torch, on any device: every token is run once, with a KV cache. See `StepDecoder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from playloom.device import check_seed
from playloom.inference.backend import ChosenBackend, GeneratedFrames, memory_errors
from playloom.inference.cuda_graphs import CaptureKey, FrameGraphs, Work, cuda_capture
from playloom.inference.decoder import Batch, CacheSlot, Chunk, Memory, StepDecoder
from playloom.inference.sampling import Sampling
from playloom.inference.torch_sampling import BatchSampler, noise
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import Schedule
from playloom.models.heads_network import pool
from playloom.models.sequence import NO_TOKEN, StepLayout
from playloom.models.transformer.config import Window
from playloom.models.transformer.kv_cache import AttentionSpan
from playloom.models.transformer.transformer import StepEmbeddings, Transformer


@dataclass(frozen=True)
class _DeviceMemory(Memory):
    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def tokens(self, rows: int, columns: int) -> Tensor:
        return torch.full((rows, columns), NO_TOKEN, device=self.device)

    def copy(self, array: Tensor) -> Tensor:
        return array.clone()

    def array(self, values: Any) -> Tensor:
        return torch.as_tensor(values, device=self.device)


class CachedDecoder(StepDecoder):
    """Steps of any number of dreams with torch."""

    def __init__(
        self, model: Transformer, layout: StepLayout, schedule: Schedule, *, with_features: bool = False
    ) -> None:
        """Make a decoder; `with_features`: keep the heads' input of each generated frame, see `features`."""
        weight = model.token.weight
        super().__init__(model.config, layout, schedule, _DeviceMemory(weight.device, weight.dtype))
        self.model, self.device = model, weight.device
        self.graphs = FrameGraphs(cuda_capture(weight.device))
        # The cost on a GPU is the number of kernels, on a CPU that of products (docs/speed.md).
        self.as_matrices = weight.device.type == "cuda"
        self._order_P = self.rows.memory.array(schedule.order_P)
        self._with_features = with_features
        self._features_BF = torch.empty(0, device=weight.device)

    def dream_frame(self, states: Sequence[CacheSlot], draws: BatchSampler) -> Int[Tensor, "B N"]:
        """Open a step in every dream with a generated frame; returns its codes."""
        batch = self.open_step(states)
        self._run_captured(batch, "frame", partial(self._frame_passes, batch), draws)
        return batch.tokens_BC[:, : self.layout.image_slots].clone()

    def features(self, states: Sequence[CacheSlot]) -> Float[Tensor, "B F"]:
        """Return the heads' input after the frames that `dream_frame` has just generated."""
        return self._features(self.batch(states)).clone()

    def run_given(self, batch: Batch, chunk: Chunk) -> None:
        """See `StepDecoder.run_given`."""
        if chunk is self.plan.action:
            self._run_captured(batch, "action", lambda s_B, _: self._run(batch, self._tables(batch, s_B), chunk))
        else:
            self._run(batch, self._tables(batch, self._steps(batch)), chunk)

    def run_passes(self, batch: Batch, passes: Sequence[Chunk], draws: BatchSampler) -> None:
        """See `StepDecoder.run_passes`."""
        self._run_and_draw(batch, self._tables(batch, self._steps(batch)), passes, draws)

    def _run_captured(self, batch: Batch, name: str, work: Work, draws: BatchSampler | None = None) -> None:
        """Run `work`, as a CUDA graph once all contexts are full and every step is the same work."""
        steps_B = self._steps(batch)
        full = max(window.full_from for window in batch.cache.windows)
        if any(state.past < full for state in batch.states):
            work(steps_B, draws)
            return
        key = CaptureKey(self.rows.generation, self.rows.cache.batch, batch.first, len(batch.states))
        self.graphs.run(key, name, work, steps_B, draws)

    def _frame_passes(self, batch: Batch, steps_B: Tensor, draws: BatchSampler | None) -> None:
        assert draws is not None
        hidden = self._run_and_draw(batch, self._tables(batch, steps_B), self.plan.frame_passes, draws)
        if self._with_features:
            self._features(batch).copy_(pool(torch.cat(hidden, dim=1)))

    def _run_and_draw(
        self, batch: Batch, tables: StepEmbeddings, passes: Sequence[Chunk], draws: BatchSampler
    ) -> list[Tensor]:
        """Run passes one after the other, write the tokens that each draws, and return their hidden states."""
        hidden = []
        for chunk in passes:
            hidden_BQD = self._run(batch, tables, chunk)
            hidden.append(hidden_BQD)
            if (group := chunk.group) is not None:
                hidden_BRD = hidden_BQD.index_select(1, chunk.row_R)
                logits_BRC = self.model.logits(hidden_BRD, group.first_id, group.last_id)
                ids_BR = draws.sample(logits_BRC, chunk.draw_R) + group.first_id
                batch.tokens_BC.index_copy_(1, chunk.slot_R, ids_BR)
        return hidden

    def _run(self, batch: Batch, tables: StepEmbeddings, chunk: Chunk) -> Tensor:
        inputs_BQ = batch.tokens_BC.index_select(1, chunk.column_Q)
        return self.model.extend(inputs_BQ, tables, batch.cache, self._span(batch, chunk))

    def _span(self, batch: Batch, chunk: Chunk) -> AttentionSpan:
        """Build masks only where needed: for many passes in one run, or contexts of different length."""
        steps = [state.past for state in batch.states]
        masks: dict[Window, Tensor] = {}
        for window in {*batch.cache.windows}:
            seen = [window.past_count(step) for step in steps]
            if min(seen) != max(seen):  # bool [B, 1, Q or 1, R] over the longest past and the step's own positions
                positions, most = self.layout.positions, max(seen)
                seen_B1 = torch.tensor(seen, device=self.device)[:, None]
                position_R = torch.arange(most * positions + chunk.last, device=self.device)
                past_B1R = (position_R >= (most - seen_B1) * positions)[:, None]
                both = past_B1R if chunk.own_QL is None else past_B1R & self._mask_own(most, chunk.own_QL)
                masks[window] = both[:, None]
            elif chunk.own_QL is not None:
                masks[window] = self._mask_own(seen[0], chunk.own_QL)[None, None]
        return AttentionSpan(step=max(steps), first=chunk.first, last=chunk.last, masks=masks)

    def _mask_own(self, seen: int, own_QL: Tensor) -> Tensor:
        return torch.nn.functional.pad(own_QL, (seen * self.layout.positions, 0), value=True)

    def _features(self, batch: Batch) -> Tensor:
        """Heads' input, read at once after the frame that wrote it: not part of a dream's state."""
        if len(self._features_BF) != self.rows.cache.batch:
            self._features_BF = torch.zeros(self.rows.cache.batch, 2 * self.config.width, device=self.device)
        return self._features_BF[batch.first : batch.first + len(batch.states)]

    def _steps(self, batch: Batch) -> Tensor:
        return torch.tensor([state.past for state in batch.states], device=self.device)

    def _tables(self, batch: Batch, steps_B: Tensor) -> StepEmbeddings:
        return self.model.begin(steps_B, self._order_P, batch.previous_BA, as_matrices=self.as_matrices)


class TorchBackend:
    """Networks of one model, run by torch. States of a call are in the order of the decoder's `arrange`."""

    name: ChosenBackend = "torch"

    def __init__(self, model: WorldModel, schedule: Schedule) -> None:
        self.model, self.layout, self.device = model, model.config.layout, str(model.device)
        with_features = model.heads is not None
        self.decoder = CachedDecoder(model.transformer, self.layout, schedule, with_features=with_features)
        self._codebook_KC = model.tokenizer.quantizer.entries()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Return the context of one engine call; it raises ResourceError when the device is out of memory."""
        with torch.inference_mode(), memory_errors(self.device):
            yield

    def source(self, seed: int) -> torch.Generator:
        """Return a random generator for one dream; a seed gives other numbers on another kind of device."""
        return torch.Generator(self.model.device).manual_seed(check_seed(seed))

    def copy_source(self, source: torch.Generator) -> torch.Generator:
        """Return a generator that draws the same from here on."""
        copy = self.source(0)
        copy.set_state(source.get_state())
        return copy

    def encode(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the frames' codes, [T, N]."""
        return self.model.tokenizer.encode(torch.tensor(np.ascontiguousarray(frames_THWC))).cpu().numpy()

    def decode(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the frames of codes, [T, H, W, 3]."""
        return self.model.tokenizer.decode(torch.from_numpy(codes_TN), checked=False).cpu().numpy()

    def dream_frame(
        self,
        states: Sequence[CacheSlot],
        samplings: Sequence[Sampling],
        sources: Sequence[torch.Generator],
        *,
        entropy: bool,
    ) -> GeneratedFrames:
        """Open a step in every dream with a generated frame; `entropy`: measure it."""
        noise_BSC = _noise(samplings, sources, self.layout.image_slots, self.layout.vocab.codebook_size)
        nats_BS = noise_BSC.new_zeros(noise_BSC.shape[:2]) if entropy else None
        draws = BatchSampler(samplings, noise_BSC, entropy_BS=nats_BS, codebook_KC=self._codebook_KC)
        codes_BN = self.decoder.dream_frame(states, draws)
        none_B, heads = [None] * len(states), self.model.heads
        predictions = none_B if heads is None else heads.predict(self.decoder.features(states))
        nats_B = none_B if draws.entropy_BS is None else draws.entropy_BS.mean(dim=1).tolist()
        return GeneratedFrames(codes_BN.cpu().numpy(), nats_B, predictions)

    def dream_action(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[torch.Generator]
    ) -> NDArray[np.int64]:
        """Complete the open steps with sampled actions; returns their values, [B, A]."""
        sizes = self.layout.vocab.slot_sizes
        draws = BatchSampler(samplings, _noise(samplings, sources, len(sizes), max(sizes)))
        return self.decoder.dream_action(states, draws).cpu().numpy()


def _noise(samplings: Sequence[Sampling], sources: Sequence[torch.Generator], slots: int, choices: int) -> Tensor:
    """All noise of one step, each dream's from its own generator."""
    return torch.stack([noise(how, (slots, choices), at) for how, at in zip(samplings, sources, strict=True)])

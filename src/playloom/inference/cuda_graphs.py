"""CUDA graphs of whole runs: thousands of small kernels launched as one. Where nothing captures, it only calls through.

Dreams with a full context do the same work at the same addresses every step (see
`playloom.models.transformer.kv_cache`), so a run is captured once per batch and replayed. What changes from step to
step is copied into tensors that stay: one set for all captures, a part of it for every row of the dreams' memory.
Knows neither network nor tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from playloom.inference.sampling import BatchSampler

Inputs = tuple[Tensor, BatchSampler | None]
"""What changes from step to step: each dream's step [B], and the draws where anything is drawn."""
Work = Callable[[Tensor, BatchSampler | None], None]
"""A run: asks the device for the same every time, but for what is in the tensors of its inputs."""
Replay = Callable[[], None]
"""Does what was captured once more."""
Capture = Callable[[Callable[[], None]], Replay]
"""Calls a function, notes what it asks of the device instead of doing it, and returns what does it."""
_KEPT = 16
"""Captures that are kept; the least recently used one makes room. As many runs are remembered as seen once."""


class CaptureKey(NamedTuple):
    """The memory a run works in."""

    generation: int
    """Changes when the dreams' memory is another one than before."""
    room: int
    """Rows there are."""
    first: int
    """First row of the batch."""
    rows: int
    """Rows of the batch."""


def cuda_capture(device: torch.device) -> Capture | None:
    """How runs are captured on a device; None where they cannot be."""
    if device.type != "cuda":
        return None

    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own one belongs to whichever device captured first

    def capture(work: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: what they do is not ours to forbid.
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    return capture


class FrameGraphs:
    """Captures of runs, by what makes them the same."""

    def __init__(self, capture: Capture | None) -> None:
        self._capture = capture
        self._generation = -1
        self._seen: dict[Hashable, None] = {}
        self._replays: dict[Hashable, Replay] = {}
        self._inputs: dict[Hashable, Tensor] = {}
        self._exhausted = False

    def run(
        self, place: CaptureKey, name: Hashable, work: Work, steps_B: Tensor, draws: BatchSampler | None = None
    ) -> None:
        """Do the work; the second time it comes with the same name and place it is captured, from then on replayed.

        Args:
            place: where its dreams lie.
            name: tells works apart that differ in more than their tensors.
            work: what is to be done.
            steps_B: each dream's step, on the device.
            draws: of the step, where anything is drawn.
        """
        if self._capture is None:
            work(steps_B, draws)
            return
        if place.generation != self._generation:
            self._forget(place.generation)
        key = (place, name, None if draws is None else draws.filters)
        if key not in self._replays and (self._exhausted or not self._was_seen(key)):
            work(steps_B, draws)  # warms up libraries, as a capture must not
            return
        self._replay(key, place, work, (steps_B, draws))

    def _replay(self, key: Hashable, place: CaptureKey, work: Work, inputs: Inputs) -> None:
        try:
            kept = self._kept(place, inputs)
            replay = self._replays.pop(key, None) or self._captured(work, kept)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            # A capture takes memory of its own; the work itself may still find enough.
            self._forget(place.generation)
            self._exhausted = True
            work(*inputs)
            return
        self._replays[key] = replay
        for to, source in zip(_tensors(kept), _tensors(inputs), strict=True):
            to.copy_(source)
        replay()

    def _captured(self, work: Work, kept: Inputs) -> Replay:
        assert self._capture is not None
        while len(self._replays) >= _KEPT:
            del self._replays[next(iter(self._replays))]
        return self._capture(lambda: work(*kept))

    def _was_seen(self, key: Hashable) -> bool:
        """Whether this key came before and was not forgotten; it counts as seen from now on."""
        if key in self._seen:
            del self._seen[key]
            return True
        while len(self._seen) >= _KEPT:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        return False

    def _kept(self, place: CaptureKey, inputs: Inputs) -> Inputs:
        """Tensors that stay, for the rows of this batch."""
        kept = []
        for index, tensor in enumerate(_tensors(inputs)):
            key = (index, tensor.shape[1:], tensor.dtype)
            if key not in self._inputs:
                self._inputs[key] = tensor.new_zeros(place.room, *tensor.shape[1:])
            kept.append(self._inputs[key][place.first : place.first + place.rows])
        draws = inputs[1]
        return kept[0], None if draws is None else draws.with_buffers(*kept[1:])

    def _forget(self, generation: int) -> None:
        """Nothing that was captured is of use any more: it works in memory that was given back."""
        self._seen.clear()
        self._replays.clear()
        self._inputs.clear()
        self._generation, self._exhausted = generation, False


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this is what began it; a capture that is broken off complains of that as well."""
    return error is not None and (isinstance(error, torch.OutOfMemoryError) or _is_out_of_memory(error.__context__))


def _tensors(inputs: Inputs) -> list[Tensor]:
    steps_B, draws = inputs
    return [steps_B] if draws is None else [steps_B, draws.noise_BSC, draws.temperature_B11]

"""CUDA graphs of whole runs: thousands of small kernels launched as one. Other devices run plainly.

Dreams with a full context do the same work at the same addresses every step, so a run is captured once per batch and
replayed on fixed input tensors, which all captures share.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from playloom.inference.torch_sampling import BatchSampler

Inputs = tuple[Tensor, BatchSampler | None]
"""Inputs of a run: each dream's step [B], and the draws if tokens are sampled."""
Work = Callable[[Tensor, BatchSampler | None], object]
"""A run. It launches the same kernels every time; only the values in its input tensors change."""
Replay = Callable[[], None]
Capture = Callable[[Callable[[], object]], Replay]
"""Captures the kernels that a function launches, and returns their replay."""
_KEPT = 16  # most captures, and most runs seen once; the least recently used is dropped


class CaptureKey(NamedTuple):
    """The rows a run works in."""

    generation: int
    room: int  # rows of the batch cache
    first: int
    rows: int


def cuda_capture(device: torch.device) -> Capture | None:
    """Return the capture function of a device; None if it has no graphs."""
    if device.type != "cuda":
        return None

    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own one belongs to whichever device captured first

    def capture(work: Callable[[], object]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may use the device meanwhile.
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    return capture


class FrameGraphs:
    """Captures of runs by their rows, name and kind of draws."""

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
        """Run the work on its inputs: plainly the first time, captured the second, then replayed."""
        if self._capture is None:
            work(steps_B, draws)
            return
        if place.generation != self._generation:
            self._forget(place.generation)
        key = (place, name, None if draws is None else draws.kind)
        if key not in self._replays and (self._exhausted or not self._was_seen(key)):
            work(steps_B, draws)  # also warms up libraries, which a capture cannot
            return
        self._replay(self._capture, key, place, work, (steps_B, draws))

    def _replay(self, capture: Capture, key: Hashable, place: CaptureKey, work: Work, inputs: Inputs) -> None:
        try:
            kept = self._kept(place, inputs)
            replay = self._replays.pop(key, None) or capture(lambda: work(*kept))
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            # A capture needs memory of its own; the run itself may still fit.
            self._forget(place.generation)
            self._exhausted = True
            work(*inputs)
            return
        self._replays[key] = replay
        while len(self._replays) > _KEPT:
            del self._replays[next(iter(self._replays))]
        for to, source in zip(_tensors(kept), _tensors(inputs), strict=True):
            to.copy_(source)
        replay()
        if inputs[1] is not None and inputs[1].entropy_BS is not None:
            inputs[1].entropy_BS.copy_(_tensors(kept)[-1])

    def _was_seen(self, key: Hashable) -> bool:
        """True if this key was seen; it counts as seen from now on."""
        if key in self._seen:
            del self._seen[key]
            return True
        while len(self._seen) >= _KEPT:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        return False

    def _kept(self, place: CaptureKey, inputs: Inputs) -> Inputs:
        kept = []
        for index, tensor in enumerate(_tensors(inputs)):
            key = (index, tensor.shape[1:], tensor.dtype)
            if key not in self._inputs:
                self._inputs[key] = tensor.new_zeros(place.room, *tensor.shape[1:])
            kept.append(self._inputs[key][place.first : place.first + place.rows])
        if (draws := inputs[1]) is None:
            return kept[0], None
        return kept[0], BatchSampler(draws.samplings, *kept[1:], codebook_KC=draws.codebook_KC)

    def _forget(self, generation: int) -> None:
        """Drop all captures: they work in memory that was freed."""
        self._seen.clear()
        self._replays.clear()
        self._inputs.clear()
        self._generation, self._exhausted = generation, False


def _is_out_of_memory(error: BaseException | None) -> bool:
    """True if this is the root cause; an aborted capture raises an error of its own on top."""
    return error is not None and (isinstance(error, torch.OutOfMemoryError) or _is_out_of_memory(error.__context__))


def _tensors(inputs: Inputs) -> list[Tensor]:
    steps_B, draws = inputs
    found = [steps_B] if draws is None else [steps_B, draws.noise_BSC, draws.scales_B2, draws.entropy_BS]
    return [tensor for tensor in found if tensor is not None]

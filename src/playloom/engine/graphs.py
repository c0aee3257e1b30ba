"""CUDA graphs of whole frames: thousands of small kernels launched as one. On other devices it only calls through.

A frame of a full context does the same work at the same addresses every step (see `playloom.model.cache`), so it is
captured once per batch and replayed. What changes from step to step is copied into tensors that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from playloom.engine.sampling import Draws
from playloom.model import StepTables

Frame = Callable[[StepTables, Draws], None]
"""Runs all passes of a frame."""
_KEPT = 8
"""Captured frames that are kept; the least recently used one makes room."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Captured:
    graph: torch.cuda.CUDAGraph
    tables: StepTables
    draws: Draws


class FrameGraphs:
    """Captures of frames, by what makes them the same."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seen: set[Hashable] = set()
        self._captured: dict[Hashable, _Captured] = {}

    def run(self, key: Hashable, frame: Frame, tables: StepTables, draws: Draws) -> None:
        """Run a frame; the second time with the same key it is captured, from then on it is replayed."""
        if self.device.type != "cuda":
            frame(tables, draws)
        elif key in self._captured:
            self._replay(key, tables, draws)
        elif key in self._seen:
            self._capture(key, frame, tables, draws)
            self._replay(key, tables, draws)
        else:
            frame(tables, draws)  # warms up libraries, as a capture must not
            self._seen.add(key)

    def _capture(self, key: Hashable, frame: Frame, tables: StepTables, draws: Draws) -> None:
        turn = None if tables.turn is None else (tables.turn[0].clone(), tables.turn[1].clone())
        kept = _Captured(
            graph=torch.cuda.CUDAGraph(),
            tables=StepTables(tables.x_BPD.clone(), turn),
            draws=Draws(draws.samplings, draws.noise_BSC.clone()),
        )
        with torch.cuda.graph(kept.graph):
            frame(kept.tables, kept.draws)
        if len(self._captured) == _KEPT:
            oldest = next(iter(self._captured))
            del self._captured[oldest]
        self._captured[key] = kept

    def _replay(self, key: Hashable, tables: StepTables, draws: Draws) -> None:
        kept = self._captured[key] = self._captured.pop(key)
        for to, source in zip(_tensors(kept.tables, kept.draws), _tensors(tables, draws), strict=True):
            to.copy_(source)
        kept.graph.replay()


def _tensors(tables: StepTables, draws: Draws) -> list[Tensor]:
    return [tables.x_BPD, *(tables.turn or ()), draws.noise_BSC, draws.temperature_B11]

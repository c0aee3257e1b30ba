"""A small true dream for the tests of live play: a picture that counts what was pressed, at a known cost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError
from playloom.inference.realtime.clock import VirtualTime
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, StepInput, StepResult

TURN = REST_VALUES.copy()
TURN[14] = 10
WALK = REST_VALUES.copy()
WALK[13] = 10


def prompt(brightness: int = 0) -> Prompt:
    return Prompt(frames_THWC=np.full((1, 4, 6, 3), brightness, np.uint8), actions_TA=np.zeros((0, 16), np.uint8))


def spend(time: VirtualTime, seconds: float) -> None:
    time._now += seconds


class ToyDream:
    """Every frame is a function of the seed, the prompt and all actions so far; its own input is to walk."""

    def __init__(self, toys: ToyDreams, prompt: Prompt, sampling: Sampling, seed: int) -> None:
        self.toys, self.closed, self.index = toys, False, 0
        self.sampling = sampling
        self.sum = seed + int(prompt.frames_THWC.sum())

    def step(self, action_A: NDArray[np.uint8] | None = None) -> StepResult:
        assert not self.closed
        self.toys.before_step(self.index)
        played = WALK if action_A is None else action_A
        weights = np.arange(1, 17)
        self.sum = (31 * self.sum + int((weights * played).sum())) % 65521
        frame = np.random.default_rng(self.sum).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        self.index += 1
        return StepResult(
            index=self.index - 1, action_A=played, action_given=action_A is not None, frame_HWC=frame, codes_N=None
        )

    def close(self) -> None:
        self.closed = True


class ToyDreams:
    """Opens toy dreams; `cost(index)` virtual seconds pass while a frame is dreamed."""

    def __init__(self, time: VirtualTime, cost=lambda index: 0.0) -> None:
        self.time, self.cost = time, cost
        self.opened: list[ToyDream] = []

    def open(self, prompt: Prompt, *, sampling: Sampling | None = None, seed: int = 0) -> ToyDream:
        if seed < 0:
            raise BadInputError(f"seed is {seed}; expected 0 or more")
        self.opened.append(ToyDream(self, prompt, sampling or Sampling(), seed))
        return self.opened[-1]

    def step_async(self, inputs: Sequence[StepInput]) -> Future[list[StepResult]]:
        done: Future[list[StepResult]] = Future()
        done.set_result([item.session.step(item.action_A) for item in inputs])
        return done

    def executor(self) -> Executor:
        return ThreadPoolExecutor(1)

    def before_step(self, index: int) -> None:
        spend(self.time, self.cost(index))

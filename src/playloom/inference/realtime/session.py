"""Live play: one session stepped by a clock, each frame with the newest input; see `docs/play.md`.

The server steps the sessions of all players in its scheduler, with the same `LiveState`.

`play_live` plays without a screen: from a job to statistics, and to a folder if one is given. Its scripted player sends
inputs from its own thread at random moments between the ticks: inputs exactly at the ticks would hide the wait for the
next one from key-to-frame.
"""

from __future__ import annotations

import itertools
import math
import threading
import time as machine_time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import check_values
from playloom.atomic_io import ensure_writable
from playloom.data.recording import Render
from playloom.device import machine
from playloom.errors import ActionError, BadInputError, PlayloomError
from playloom.inference.engine import Engine
from playloom.inference.generate import GenerationConfig, Progress, build_manifest
from playloom.inference.realtime.clock import Clock, RealTime
from playloom.inference.realtime.recorder import write_play
from playloom.inference.realtime.state import HISTORY, Controller, LiveFrame, LiveState, LiveStep, check_controller
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, StepInput, StepResult
from playloom.media.output_folder import seen_tiles

_POLL = 0.005  # seconds between looks at a paused session
_LEAD = 0.02  # seconds between starting the script's thread and the first tick
_Decoding = tuple[LiveStep, Future[list[StepResult]]]


class LiveSession(LiveState):
    """A live session of one engine. One thread calls `step` or `run`; the rest may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        controller: Controller = "person",
        fps: float = 10.0,
        time: RealTime | None = None,
    ) -> None:
        """Open the session; the same seed and actions give the same frames. For the rest see `LiveState`."""
        super().__init__(controller=controller, fps=fps, time=time)
        self.prompt, self.seed = prompt, seed
        self.closed = False
        self._engine, self._session = engine, engine.open(prompt, sampling=sampling, seed=seed)
        self._queue, self._moving = threading.Lock(), threading.Lock()

    def step(self, action_A: ArrayLike | None = None) -> LiveFrame:
        """Wait for the tick and return its frame; None keeps the input. While paused: return a single step at once."""
        if action_A is not None:
            self.set_input(action_A)
        due = None if self.paused else self.next_due()
        if due is not None:
            self.time.sleep_until(due)
        with self._turn():
            self._check_open()
            step = self.begin(stepped=True)
            assert step is not None, "there is no limit, and a pause is no obstacle"
            return self._finished((step, self._advance(step)))

    def run(
        self,
        on_frame: Callable[[LiveFrame], None],
        stop: Callable[[], bool] = lambda: False,
        *,
        ticks: int | None = None,
        first_tick: float | None = None,
    ) -> None:
        """Make a frame at every tick, until closed, `stop()` is true or so many `ticks` have passed.

        `on_frame` runs in this thread, and the next tick waits for it, or runs beside it where the frame is late.
        `first_tick` is in seconds of `time`; None: now.
        """
        self._check_open()
        limit = None if ticks is None else self._clock.passed + ticks

        def advance() -> _Decoding | None:
            with self._turn():
                step = None if self.closed else self.begin(limit)
                return None if step is None else (step, self._advance(step))

        self.start_clock(first_tick)
        decoding: _Decoding | None = None
        with self._engine.executor() as thread:
            while not (stop() or self.closed) and (limit is None or self._clock.passed < limit):
                due = self.next_due()
                if due is None:
                    machine_time.sleep(_POLL)
                    continue
                self.time.sleep_until(due)
                advancing = thread.submit(advance)
                if decoding is not None:
                    on_frame(self._finished(decoding))
                decoding = advancing.result()
                due = self.next_due()
                if decoding is not None:
                    wait([decoding[1]], None if due is None else max(0.0, due - self.time.now()))
                    if decoding[1].done():
                        on_frame(self._finished(decoding))
                        decoding = None
            if decoding is not None:
                on_frame(self._finished(decoding))

    def restart(self, *, prompt: Prompt | None = None, seed: int | None = None) -> None:
        """Restart at the prompt (None: the same again) and wait until the new session is open; the input stays set.

        Ticks that pass meanwhile are skipped and counted. If the new session cannot be opened, nothing changes.
        """
        with self._turn():
            self._check_open()
            prompt = self.prompt if prompt is None else prompt
            seed = self.seed if seed is None else seed
            session = self._engine.open(prompt, sampling=self._session.sampling, seed=seed)
            old, self._session = self._session, session
            self.prompt, self.seed = prompt, seed
            self.restarts += 1
            old.close()

    def close(self) -> None:
        """End the session and free its memory; `run` returns after the current frame."""
        with self._turn():
            if not self.closed:
                self.closed = True
                self._session.close()

    @property
    def sampling(self) -> Sampling:
        """Sampling parameters from the next frame on."""
        return self._session.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        with self._turn():  # a restart takes over the sampling of the session before
            self._session.sampling = sampling

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _advance(self, step: LiveStep) -> Future[list[StepResult]]:
        return self._engine.step_async([StepInput(self._session, step.action_A)])

    def _finished(self, decoding: _Decoding) -> LiveFrame:
        step, done = decoding
        return self.finish(step, done.result()[0])

    def _check_open(self) -> None:
        if self.closed:
            raise BadInputError("this live session is closed; open another one")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the session, first come, first served: a loop that is always late would keep a plain lock."""
        with self._queue:
            self._moving.acquire()
        try:
            yield
        finally:
            self._moving.release()


def input_times(fps: float, seed: int) -> Iterator[float]:
    """Yield the times of the inputs for ticks 1, 2, 3, …, in seconds after tick 0: evenly spread between two ticks."""
    source = np.random.default_rng(seed)
    for before in itertools.count():
        yield (before + float(source.random())) / fps


@contextmanager
def scripted_input(
    set_input: Callable[[NDArray[np.uint8], float], None],
    actions_SA: NDArray[np.uint8],
    *,
    first_tick: float,
    fps: float,
    seed: int,
    time: RealTime,
) -> Iterator[None]:
    """Repeat a script, action values [S, 16], from its own thread: its first action at once, then by `input_times`.

    Each action comes with the time it was meant for, so that a late thread counts as latency. `time` must pass by
    itself.
    """
    ended = threading.Event()

    def play() -> None:
        for number, after in enumerate(input_times(fps, seed), 1):
            at = first_tick + after
            if ended.wait(max(0.0, at - time.now())):
                return
            set_input(actions_SA[number % len(actions_SA)], at)

    set_input(actions_SA[0], time.now())
    thread = threading.Thread(target=play, name="script", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveJob(GenerationConfig):
    """Configuration of a run of live play."""

    script_SA: NDArray[np.uint8] | None = None
    """Inputs of the scripted player, action values [S, 16], repeated until the end; None: no input."""
    seconds: float = 60.0
    """Length of the run."""
    fps: float = 10.0
    """Frames per second."""
    controller: Controller = "person"
    """Source of the actions."""
    out: Path | None = None
    """Folder for the newest ten minutes, numbered if it exists; None: statistics only."""

    def __post_init__(self) -> None:
        check_controller(self.controller)
        Clock(self.fps)
        if not (self.seconds > 0 and math.isfinite(self.seconds * self.fps)):
            raise BadInputError(f"seconds is {self.seconds:g}; expected more than 0, for example 60")
        if self.script_SA is not None and not len(check_values(self.script_SA)):
            raise ActionError("the script has no actions; write for example: forward for 2s; turn_left for 1s")

    @property
    def ticks(self) -> int:
        """Number of ticks, at least one."""
        return max(1, round(self.seconds * self.fps))


class LiveResult(NamedTuple):
    """Result of a run of live play, and the folder that was written."""

    report: Mapping[str, Any]
    """Model, seed, controller, rate, machine, statistics and `failure`, the text of the error that ended it early; JSON
    values."""
    notes: tuple[str, ...]
    folder: Path | None


def play_live(
    job: LiveJob,
    *,
    render: Render | None = None,
    on_start: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> LiveResult:
    """Play against the real clock; an error of the model ends the run, and the report tells it.

    `on_start` receives the model's name before the clock starts. `progress` receives the ticks so far and their total
    after every frame. `stop` is called before every tick; True ends the run.
    """
    if job.out is not None:
        ensure_writable(job.out, numbered=True)
    engine = job.load_engine()
    model, sampling = engine.model, job.sampling(engine.model)
    prompt, data = job.read_prompt(engine, horizon=0, render=render)
    frames: deque[LiveFrame] = deque(maxlen=HISTORY if job.out is not None else 0)
    failure: str | None = None
    with LiveSession(engine, prompt, sampling=sampling, seed=job.seed, controller=job.controller, fps=job.fps) as live:

        def on_frame(frame: LiveFrame) -> None:
            frames.append(frame)
            progress(frame.sequence + 1 + live.skipped, job.ticks)

        on_start(model.config.name)
        try:
            start = live.time.now() + _LEAD
            player: AbstractContextManager[None] = nullcontext()
            if job.script_SA is not None:
                player = scripted_input(
                    live.set_input, job.script_SA, first_tick=start, fps=job.fps, seed=job.seed, time=live.time
                )
            with player:
                live.run(on_frame, stop, ticks=job.ticks, first_tick=start)
        except Exception as error:  # the statistics so far are worth keeping
            failure = str(error) if isinstance(error, PlayloomError) else f"{type(error).__name__}: {error}"
    report = {
        "model": model.config.name,
        "weights": model.fingerprint,
        "backend": engine.backend.name,
        "controller": job.controller,
        "seed": job.seed,
        "fps": job.fps,
        "ticks_wanted": job.ticks,
        "machine": machine(engine.device),
        **live.report(),
        "failure": failure,
    }
    if job.out is None or not frames:
        lost = [] if job.out is None else [f"no frame was made, so nothing was written to {job.out}"]
        return LiveResult(report, (*data.notes, *lost), None)
    mode = "world" if job.controller == "person" else "full"
    manifest = build_manifest(
        engine, data.frames_THWC, mode=mode, sampling=sampling, seed=job.seed, timestamp=job.timestamp, prompt=data
    )
    tiles = seen_tiles(data.frames_THWC, data.actions_TA, data.dreamed_T, data.kind)
    written = write_play(job.out, tuple(frames), seen=tiles, manifest=manifest, report=report, fps=job.fps)
    return LiveResult(report, data.notes, written)

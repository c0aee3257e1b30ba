"""Live play without a screen: from a job to statistics, and to a folder if one is given.

    result = play_live(LiveJob(script_SA=actions, seconds=60))

The scripted player sends inputs from its own thread at random moments between the ticks: inputs exactly at the ticks
would hide the wait for the next one from key-to-frame.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.atomic_io import ensure_writable
from playloom.data.prompt_data import PromptData
from playloom.errors import ActionError, BadInputError, PlayloomError
from playloom.inference.generate import GenerationConfig, Render, build_manifest
from playloom.inference.realtime.clock import Clock, TimeSource
from playloom.inference.realtime.metrics import HISTORY, LiveReport
from playloom.inference.realtime.recorder import write_play
from playloom.inference.realtime.session import LiveSession
from playloom.inference.realtime.types import Controller, LiveFrame, check_controller
from playloom.media.output_folder import seen_tiles
from playloom.provenance import Manifest

SetInput = Callable[[NDArray[np.uint8], float], None]
"""Receives an action [16] and its time, as `LiveSession.set_input` does."""


def input_times(fps: float, seed: int) -> Iterator[float]:
    """Yield the times of the inputs for ticks 1, 2, 3, …, in seconds after tick 0: evenly spread between two ticks."""
    source = np.random.default_rng(seed)
    for before in itertools.count():
        yield (before + float(source.random())) / fps


class ScriptedInput:
    """Player that repeats a script, independent of the clock's ticks.

    with ScriptedInput(session.set_input, actions_SA, first_tick=start, fps=10, seed=0, time=session.time):
        session.run(show, first_tick=start, ticks=600)
    """

    def __init__(
        self,
        set_input: SetInput,
        actions_SA: NDArray[np.uint8],
        *,
        first_tick: float,
        fps: float,
        seed: int,
        time: TimeSource,
    ) -> None:
        """Create a player; it starts with the `with` block: the first action at once, the others by `input_times`.

        Args:
            set_input: Receives each action and the time it was meant for, so that a late thread counts as latency.
            actions_SA: Script, action values [S, 16].
            first_tick: When tick 0 is due, in seconds of `time`.
            fps: Ticks per second.
            seed: Seed of `input_times`.
            time: Time source of the ticks; it must pass by itself.
        """
        _check_script(actions_SA)
        self._set_input, self._actions_SA, self._time = set_input, actions_SA, time
        self._times = (first_tick + after for after in input_times(fps, seed))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play, name="script", daemon=True)

    def __enter__(self) -> ScriptedInput:
        self._set_input(self._actions_SA[0], self._time.now())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _play(self) -> None:
        for number, at in enumerate(self._times, 1):
            if self._ended.wait(max(0.0, at - self._time.now())):
                return
            self._set_input(self._actions_SA[number % len(self._actions_SA)], at)


def _check_script(actions_SA: NDArray[np.uint8]) -> None:
    if not len(check_values(actions_SA)):
        raise ActionError("the script has no actions; write for example: forward for 2s; turn_left for 1s")


_LEAD = 0.02  # seconds between starting the script's thread and the first tick


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveJob(GenerationConfig):
    """Configuration of a run of live play.

    Raises:
        BadInputError: If a value is out of range, or a script is missing.
    """

    script_SA: NDArray[np.uint8] | None = None
    """Inputs of the scripted player, action values [S, 16], repeated until the end; may be None for `model`."""
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
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise BadInputError(f"seconds is {self.seconds:g}; expected more than 0")
        if self.script_SA is not None:
            _check_script(self.script_SA)
        elif self.controller != "model":
            raise ActionError("a script is required unless the controller is 'model'")

    @property
    def ticks(self) -> int:
        """Number of ticks, at least one."""
        return max(1, round(self.seconds * self.fps))


@dataclass(frozen=True, kw_only=True)
class LiveResult:
    """Result of a run of live play."""

    report: LiveReport
    """Statistics up to the end."""
    facts: Mapping[str, Any]
    """Model, seed, controller, rate and machine; JSON values."""
    notes: tuple[str, ...]
    """Sentences about choices that were made."""
    folder: Path | None
    """The folder written, if any."""
    failure: Exception | None
    """The error that ended the run early, if any."""

    def to_dict(self) -> dict[str, Any]:
        """Return facts and statistics as one mapping, for JSON."""
        return {**self.facts, **self.report.to_dict(), "failure": self.reason}

    @property
    def reason(self) -> str | None:
        """Text of the error that ended the run early; None without one."""
        if self.failure is None or isinstance(self.failure, PlayloomError):
            return None if self.failure is None else str(self.failure)
        return f"{type(self.failure).__name__}: {self.failure}"


def play_live(
    job: LiveJob,
    *,
    render: Render | None = None,
    machine: Mapping[str, Any] | None = None,
    on_start: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> LiveResult:
    """Play against the real clock.

    Args:
        job: The configuration.
        render: Needed when the prompt is a recording.
        machine: Description of the machine, for `facts`.
        on_start: Called with the model's name before the clock starts.
        stop: Called before every tick; True ends the run.

    Returns:
        The statistics. An error of the model ends the run and is in `failure`.

    Raises:
        PlayloomError: If the job cannot be run or the folder cannot be written; before the first frame.
    """
    if job.out is not None:
        ensure_writable(job.out, numbered=True)
    engine = job.load_engine()
    model, sampling = engine.model, job.sampling(engine.model)
    prompt, data = job.read_prompt(model, horizon=0, render=render)
    frames: deque[LiveFrame] = deque(maxlen=HISTORY if job.out is not None else 0)
    failure = None
    with LiveSession(engine, prompt, sampling=sampling, seed=job.seed, controller=job.controller, fps=job.fps) as live:
        if on_start is not None:
            on_start(model.config.name)
        try:
            _drive(live, job, frames.append, stop)
        except Exception as error:  # the statistics so far are worth keeping
            failure = error
        report = live.report()
    facts = {
        "model": model.config.name,
        "weights": model.fingerprint,
        "controller": job.controller,
        "seed": job.seed,
        "fps": job.fps,
        "ticks_wanted": job.ticks,
        "machine": dict(machine or {}),
    }
    result = LiveResult(report=report, facts=facts, notes=data.notes, folder=None, failure=failure)
    if job.out is None:
        return result
    mode = "world" if job.controller == "person" else "full"
    manifest = build_manifest(
        engine, data.frames_THWC, mode=mode, sampling=sampling, seed=job.seed, timestamp=job.timestamp, prompt=data
    )
    return _write(result, job, job.out, tuple(frames), manifest, data)


def _drive(session: LiveSession, job: LiveJob, keep: Callable[[LiveFrame], None], stop: Callable[[], bool]) -> None:
    start = session.time.now() + _LEAD
    if job.script_SA is None:
        session.run(keep, stop, ticks=job.ticks, first_tick=start)
        return
    player = ScriptedInput(
        session.set_input, job.script_SA, first_tick=start, fps=job.fps, seed=job.seed, time=session.time
    )
    with player:
        session.run(keep, stop, ticks=job.ticks, first_tick=start)


def _write(
    result: LiveResult, job: LiveJob, out: Path, frames: Sequence[LiveFrame], manifest: Manifest, seen: PromptData
) -> LiveResult:
    if not frames:
        return replace(result, notes=(*result.notes, f"no frame was made, so nothing was written to {out}"))
    tiles = seen_tiles(seen.frames_THWC, seen.actions_TA, seen.dreamed_T, seen.kind)
    folder = write_play(out, frames, seen=tiles, manifest=manifest, report=result.to_dict(), fps=job.fps)
    return replace(result, folder=folder)

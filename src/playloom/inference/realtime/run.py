"""A whole run of live play without a screen: from what a user names to figures, and a folder if one is wanted.

result = play_live(LiveJob(script_SA=actions, seconds=60))

A scripted person: presses a list of actions at moments between the ticks, from a thread of its own.

Pressing exactly at the ticks would hide the wait for the next one from key-to-frame; so each press falls anywhere
between the tick before its own and its own, drawn from a seed.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.atomic_io import ensure_writable
from playloom.data.prompts import PromptData
from playloom.errors import ActionError, BadInputError, PlayloomError
from playloom.inference.generate import GenerationConfig, Render, build_manifest
from playloom.inference.realtime.clock import Clock, TimeSource
from playloom.inference.realtime.metrics import LiveReport
from playloom.inference.realtime.recorder import RecentFrames, write_play
from playloom.inference.realtime.session import LiveSession
from playloom.inference.realtime.types import Controller, check_controller
from playloom.media.output_folder import seen_tiles
from playloom.provenance import Manifest

Press = Callable[[NDArray[np.uint8], float], None]
"""Takes an action [16] and the moment it was pressed, as `LiveSession.press` does."""


def press_times(fps: float, seed: int) -> Iterator[float]:
    """When the presses for ticks 1, 2, 3, … come, in seconds after tick 0; endless.

    Args:
        fps: ticks a second.
        seed: where between two ticks each press falls, evenly spread.

    Yields:
        The press for tick n: at least (n - 1) / fps, less than n / fps.
    """
    source = np.random.default_rng(seed)
    for before in itertools.count():
        yield (before + float(source.random())) / fps


class ScriptedInput:
    """Presses a script over and over, as a person would: without looking at the clock's ticks.

    with ScriptPlayer(session.press, actions_SA, first_tick=start, fps=10, seed=0, time=session.time):
        session.run(show, first_tick=start, ticks=600)
    """

    def __init__(
        self,
        press: Press,
        actions_SA: NDArray[np.uint8],
        *,
        first_tick: float,
        fps: float,
        seed: int,
        time: TimeSource,
    ) -> None:
        """A player that begins with the `with` block: the first action at once, the others by `press_times`.

        Args:
            press: takes the action and when it was pressed. That is when it should have been: where the thread
                was woken late, waiting for it counts.
            actions_SA: the script, action values [S, 16]; after the last comes the first again.
            first_tick: when tick 0 is due, in seconds of `time`.
            fps: ticks a second.
            seed: of `press_times`.
            time: the time source of the ticks; it has to pass by itself.

        Raises:
            ActionError: when the script is empty.
        """
        if not len(actions_SA):
            raise ActionError("the script holds no actions; write for example: forward for 2s; turn_left for 1s")
        self._press, self._actions_SA, self._time = press, actions_SA, time
        self._times = (first_tick + after for after in press_times(fps, seed))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play, name="script", daemon=True)

    def __enter__(self) -> ScriptedInput:
        self._press(self._actions_SA[0], self._time.now())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _play(self) -> None:
        for number, at in enumerate(self._times, 1):
            while (left := at - self._time.now()) > 0:
                if self._ended.wait(left):
                    return
            if self._ended.is_set():
                return
            self._press(self._actions_SA[number % len(self._actions_SA)], at)


_LEAD = 0.02  # seconds between starting the script's thread and the first tick


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveJob(GenerationConfig):
    """What to play, and how.

    Raises:
        BadInputError: when a value is out of range, or a person is to play without a script.
    """

    script_SA: NDArray[np.uint8] | None = None
    """What the scripted person presses, action values [S, 16], repeated until the end; may be None for `model`."""
    seconds: float = 60.0
    """How long."""
    fps: float = 10.0
    """Frames a second."""
    controller: Controller = "person"
    """Source of the actions."""
    out: Path | None = None
    """A folder for the last ten minutes of it; numbered if taken. None: figures only."""

    def __post_init__(self) -> None:
        check_controller(self.controller)
        Clock(self.fps)
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise BadInputError(f"seconds is {self.seconds:g}; expected more than 0")
        if self.script_SA is None and self.controller != "model":
            raise ActionError("nobody plays without a script; say --script 'forward for 2s; turn_left for 1s'")
        if self.script_SA is not None and not len(check_values(self.script_SA)):
            raise ActionError("the script holds no actions; write for example: forward for 2s; turn_left for 1s")

    @property
    def ticks(self) -> int:
        """How many ticks the seconds hold, at least one."""
        return max(1, round(self.seconds * self.fps))


@dataclass(frozen=True, kw_only=True)
class LiveResult:
    """What came of it."""

    report: LiveReport
    """The figures, up to where it ended."""
    facts: Mapping[str, Any]
    """What the figures belong to: model, seed, controller, rate. JSON can hold it."""
    notes: tuple[str, ...]
    """What was chosen or changed on the way, as sentences."""
    folder: Path | None
    """What was written, if anything."""
    failure: Exception | None
    """What ended the dream before its time, if anything."""

    def to_dict(self) -> dict[str, Any]:
        """Facts and figures as one, for JSON."""
        return {**self.facts, **self.report.to_dict(), "failure": self.reason}

    @property
    def reason(self) -> str | None:
        """Why it ended before its time, in words; None when it did not."""
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
        job: what to play.
        render: needed where the prompt is a recording.
        machine: what the figures were measured on; goes beside them.
        on_start: told the model's name when the clock is about to start.
        stop: asked before every tick; True ends it, with the report so far.

    Returns:
        The figures. A dream that fails while it is played ends the run; the failure lies beside the figures.

    Raises:
        PlayloomError: when something the job names cannot be used, or the folder not be written; before anything is
            played.
    """
    if job.out is not None:
        ensure_writable(job.out, numbered=True)
    dreamer = job.load_engine()
    model, how = dreamer.model, job.sampling(dreamer.model)
    prompt, data = job.read_prompt(model, horizon=0, render=render)
    recent, failure = RecentFrames(), None
    with LiveSession(dreamer, prompt, sampling=how, seed=job.seed, controller=job.controller, fps=job.fps) as session:
        if on_start is not None:
            on_start(model.config.name)
        try:
            _drive(session, job, recent, stop)
        except Exception as error:  # the figures so far are worth keeping, whatever went wrong
            failure = error
        report = session.report()
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
        dreamer, data.frames_THWC, mode=mode, sampling=how, seed=job.seed, timestamp=job.timestamp, prompt=data
    )
    return _write(result, job, recent, manifest, data)


def _drive(session: LiveSession, job: LiveJob, recent: RecentFrames, stop: Callable[[], bool]) -> None:
    keep = recent.add if job.out is not None else lambda frame: None
    start = session.time.now() + _LEAD
    if job.script_SA is None:
        session.run(keep, stop, ticks=job.ticks, first_tick=start)
        return
    with ScriptedInput(session.press, job.script_SA, first_tick=start, fps=job.fps, seed=job.seed, time=session.time):
        session.run(keep, stop, ticks=job.ticks, first_tick=start)


def _write(result: LiveResult, job: LiveJob, recent: RecentFrames, manifest: Manifest, seen: PromptData) -> LiveResult:
    assert job.out is not None, "called only where a folder is wanted"
    frames = recent.frames()
    if not frames:
        return replace(result, notes=(*result.notes, f"no frame was made, so nothing was written to {job.out}"))
    report = result.to_dict()
    tiles = seen_tiles(seen.frames_THWC, seen.actions_TA, seen.dreamed_T, seen.kind)
    folder = write_play(job.out, frames, seen=tiles, manifest=manifest, report=report, fps=job.fps)
    return replace(result, folder=folder)

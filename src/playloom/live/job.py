"""A whole run of live play without a screen: from what a user names to figures, and a folder if one is wanted.

result = play_live(LiveJob(script_SA=actions, seconds=60))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.data.prompt_cut import PromptData
from playloom.engine.opening import Opening, Render, manifest_of
from playloom.errors import ActionError, BadInputError, PlayloomError
from playloom.files import check_place
from playloom.live.clock import Clock
from playloom.live.contract import Who, check_who
from playloom.live.recording import Recent, write_play
from playloom.live.script import ScriptPlayer
from playloom.live.session import LiveSession
from playloom.live.statistics import LiveReport
from playloom.media.dream_folder import seen_tiles
from playloom.provenance import Manifest

_LEAD = 0.02  # seconds between starting the script's thread and the first tick


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveJob(Opening):
    """What to play, and how.

    Raises:
        BadInputError: when a value is out of range, or a person is to play without a script.
    """

    script_SA: NDArray[np.uint8] | None = None
    """What the scripted person presses, action values [S, 16], repeated until the end; may be None for `model`."""
    seconds: float = 60.0
    """How long."""
    hertz: float = 10.0
    """Frames a second."""
    who: Who = "person"
    """Who plays."""
    out: Path | None = None
    """A folder for the last ten minutes of it; numbered if taken. None: figures only."""

    def __post_init__(self) -> None:
        check_who(self.who)
        Clock(self.hertz)
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise BadInputError(f"seconds is {self.seconds:g}; expected more than 0")
        if self.script_SA is None and self.who != "model":
            raise ActionError("nobody plays without a script; say --script 'forward for 2s; turn_left for 1s'")
        if self.script_SA is not None and not len(check_values(self.script_SA)):
            raise ActionError("the script holds no actions; write for example: forward for 2s; turn_left for 1s")

    @property
    def ticks(self) -> int:
        """How many ticks the seconds hold, at least one."""
        return max(1, round(self.seconds * self.hertz))


@dataclass(frozen=True, kw_only=True)
class LiveResult:
    """What came of it."""

    report: LiveReport
    """The figures, up to where it ended."""
    facts: Mapping[str, Any]
    """What the figures belong to: model, seed, who played, rate. JSON can hold it."""
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
        check_place(job.out, numbered=True)
    dreamer = job.dreamer()
    model, how = dreamer.model, job.sampling(dreamer.model)
    prompt, data = job.read_prompt(model, horizon=0, render=render)
    recent, failure = Recent(), None
    with LiveSession(dreamer, prompt, sampling=how, seed=job.seed, who=job.who, hertz=job.hertz) as session:
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
        "who": job.who,
        "seed": job.seed,
        "hertz": job.hertz,
        "ticks_wanted": job.ticks,
        "machine": dict(machine or {}),
    }
    result = LiveResult(report=report, facts=facts, notes=(*job.cut(model), *data.notes), folder=None, failure=failure)
    if job.out is None:
        return result
    mode = "world" if job.who == "person" else "full"
    manifest = manifest_of(
        dreamer, data.frames_THWC, mode=mode, sampling=how, seed=job.seed, timestamp=job.timestamp, prompt=data
    )
    return _write(result, job, recent, manifest, data)


def _drive(session: LiveSession, job: LiveJob, recent: Recent, stop: Callable[[], bool]) -> None:
    keep = recent.add if job.out is not None else lambda frame: None
    start = session.time.now() + _LEAD
    if job.script_SA is None:
        session.run(keep, stop, ticks=job.ticks, first_tick=start)
        return
    with ScriptPlayer(
        session.press, job.script_SA, first_tick=start, hertz=job.hertz, seed=job.seed, time=session.time
    ):
        session.run(keep, stop, ticks=job.ticks, first_tick=start)


def _write(result: LiveResult, job: LiveJob, recent: Recent, manifest: Manifest, seen: PromptData) -> LiveResult:
    assert job.out is not None, "called only where a folder is wanted"
    frames = recent.frames()
    if not frames:
        return replace(result, notes=(*result.notes, f"no frame was made, so nothing was written to {job.out}"))
    report = result.to_dict()
    tiles = seen_tiles(seen.frames_THWC, seen.actions_TA, seen.dreamed_T, seen.kind)
    folder = write_play(job.out, frames, seen=tiles, manifest=manifest, report=report, hertz=job.hertz)
    return replace(result, folder=folder)

"""A call's folder: what was received, step by step, so that it can be gone on from after anything.

Owns which files a step leaves and when a step counts as done. Knows nothing of connections or of enlarging.

==================  =======================================================================================
`start.json`        the first request (never the key)
`raw/01.png` …      the pictures as the endpoint sent them, byte for byte
`steps/01.json` …   the action that goes with each, where it comes from, and the picture's tokens
`actions.csv`       the actions, one row a step
==================  =======================================================================================

A step's file under `steps` is written last: where it is, the step is complete.

A call's pictures, enlarged and moving: made here, so marked here.

Owns what is made of the received pictures. Each one below carries the visible mark and a manifest.

====================  =====================================================================================
`sr/01_x4.png` …      the received pictures, four times as wide and high
`sr/dream_x4.gif`     a quarter of a second each, endless
`sr/dream_x4.mp4`     in real time, ten a second
`dream.gif`, `.mp4`   instead of all these when nothing is enlarged: the pictures in their own size
====================  =====================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import Schema, check_values
from playloom.atomic_io import atomic_write, next_free_path
from playloom.client.payload import Request, context_entry, context_limit, next_request
from playloom.client.response import ENDINGS
from playloom.errors import BadInputError, PlayloomError, did_you_mean
from playloom.media.action_table import write_actions
from playloom.media.images import Picture, enlarge, fit_picture, read_picture, write_generated
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, stamp

START_FILE, ACTIONS_FILE = "start.json", "actions.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class DoneStep:
    """One step that was received."""

    number: int
    """From 1."""
    ending: str
    """Of the picture's file."""
    values_A: NDArray[np.uint8]
    """Action values [16] in slot order."""
    schema: Schema | None
    """The schema the reply's action came in; None when it had none and a random one was taken."""
    tokens: tuple[int, ...]
    """The picture's tokens, where the endpoint sent them."""

    def to_json(self) -> str:
        """One object: the numbers are in slot order, whatever they came in."""
        known = {
            "ending": self.ending,
            "action": [int(value) for value in self.values_A],
            "source": "random" if self.schema is None else "reply",
            "schema": self.schema,
            "tokens": list(self.tokens),
        }
        return json.dumps(known) + "\n"

    @classmethod
    def from_json(cls, number: int, text: str) -> DoneStep:
        """The inverse; ValueError, KeyError or TypeError when the text is damaged."""
        known = json.loads(text)
        if known["ending"] not in ENDINGS or known["schema"] not in (None, "named", "binned"):
            raise ValueError(f"not a step: {text[:40]}")
        return cls(
            number=number,
            ending=known["ending"],
            values_A=check_values(known["action"]),
            schema=known["schema"],
            tokens=tuple(int(token) for token in known["tokens"]),
        )


class CallFolder:
    """The steps so far, in memory and on disk; nothing is written before the first one is there."""

    def __init__(self, place: Path, start: Request, steps: list[DoneStep]) -> None:
        self.place = place
        """The folder."""
        self.start = start
        """The first request."""
        self.steps = steps
        """What was received, in order."""

    @classmethod
    def begin(cls, out: Path | str, start: Request) -> CallFolder:
        """A new call, in the first free of `out`, `out-2`, …"""
        return cls(next_free_path(out, numbered=True), start, [])

    @classmethod
    def go_on(cls, out: Path | str, start: Request | None) -> CallFolder:
        """The call that lies in `out`; a new one when nothing does.

        Args:
            out: the folder.
            start: what the user says it began with; None to believe the folder.

        Raises:
            BadInputError: when it began with something else, or nothing is there and no start is given.
        """
        place = Path(out).absolute()
        known = _read_start(place / START_FILE)
        if known is None:
            if start is None:
                raise BadInputError(f"{out} holds no call to resume; begin one with --payload or --image")
            return cls(next_free_path(out), start, [])
        if start is not None and start != known:
            raise BadInputError(
                f"the call in {out} began with another request; leave out what it began with, or --resume"
            )
        return cls(place, known, list(_read_steps(place)))

    def next_request(self, *, with_tokens: bool = True) -> Request:
        """What to ask for next: the context moved on by the steps that are done.

        Args:
            with_tokens: send the endpoint's own tokens back with its pictures; else it encodes them again.
        """
        entries = [self._entry(step, with_tokens) for step in self.steps[-context_limit(self.start) :]]
        return next_request(self.start, entries)

    def add(self, step: DoneStep, data: bytes) -> None:
        """Keep the next step and its picture's file.

        Raises:
            PlayloomError: when the place cannot be written to or the disk is full.
        """
        if not self.steps:
            self._write(START_FILE, json.dumps(self.start).encode())
        self._write(self.raw_name(step), data)
        self._write(f"steps/{step.number:02}.json", step.to_json().encode())
        self.steps.append(step)
        self.write_actions()

    def write_actions(self) -> None:
        """Write the table of actions anew."""
        write_actions(self.place / ACTIONS_FILE, np.stack([step.values_A for step in self.steps]))

    def raw_name(self, step: DoneStep) -> str:
        """A received picture's name inside the folder."""
        return f"raw/{step.number:02}{step.ending}"

    def _entry(self, step: DoneStep, with_tokens: bool) -> dict[str, Any]:
        name = self.raw_name(step)
        try:
            data = (self.place / name).read_bytes()
        except OSError as error:
            raise BadInputError(f"{self.place / name} is gone ({error.strerror}); begin a new call") from error
        return context_entry(data, step.values_A, step.tokens if with_tokens else ())

    def _write(self, name: str, data: bytes) -> None:
        with atomic_write(self.place / name) as temporary:
            temporary.write_bytes(data)


def _read_start(path: Path) -> Request | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        _ = known["input_data"]["context"][0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInputError(f"{path} is damaged ({error}); begin a new call") from error
    return dict(known)


def _read_steps(place: Path) -> list[DoneStep]:
    """The complete steps from the first on; what lies behind a gap is taken again."""
    steps: list[DoneStep] = []
    while True:
        number = len(steps) + 1
        try:
            step = DoneStep.from_json(number, (place / f"steps/{number:02}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, PlayloomError):
            return steps
        if not (place / f"raw/{number:02}{step.ending}").is_file():
            return steps
        steps.append(step)


Upscale = Literal["lanczos", "realesrgan", "none"]
"""How pictures become four times as wide and high; `none` leaves that out."""
Enlarger = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""uint8 RGB [H, W, 3] to uint8 RGB [4 H, 4 W, 3]."""
GIF_SECONDS = 0.25
"""How long the GIF shows each picture."""
MAX_GIF_FRAMES = 240
"""A GIF is put together in memory: of a longer call it holds the last so many pictures."""


def pick_enlarger(name: Upscale) -> Enlarger | None:
    """The function of that name, ready to use; None for `none`.

    Raises:
        BadInputError: when there is no such name.
        MissingExtraError: when its package is not installed.
    """
    if name not in get_args(Upscale):
        raise BadInputError(f"unknown upscale {name!r}; {did_you_mean(name, get_args(Upscale))}")
    if name == "realesrgan":
        from playloom.media.upscale import RealESRGAN

        return RealESRGAN.bundled()
    return enlarge if name == "lanczos" else None


class Film:
    """The pictures of one call's folder, as far as they were received."""

    def __init__(self, folder: CallFolder, upscale: Upscale, seed: int) -> None:
        """Load what enlarges.

        Raises:
            BadInputError, MissingExtraError: as `pick_enlarger`.
        """
        self._folder, self._upscale, self._seed = folder, upscale, seed
        self._enlarge = pick_enlarger(upscale)

    def add(self, step: DoneStep, picture: Picture) -> None:
        """Enlarge the picture of a step that was just received."""
        if self._enlarge is None:
            return
        manifest = self._manifest(picture).at_step(step.number)
        write_generated(self._folder.place / _large_name(step), self._enlarge(picture.frame_HWC), manifest)

    def finish(self) -> tuple[str, ...]:
        """Write the moving pictures of all steps, and whatever single one is missing. The names of the two."""
        folder, steps = self._folder, self._folder.steps
        if not steps:
            return ()
        for step in steps:
            if self._enlarge is not None and not (folder.place / _large_name(step)).is_file():
                self.add(step, self._raw(step))
        name = "dream" if self._enlarge is None else "sr/dream_x4"
        manifest = replace(self._manifest(self._raw(steps[0])), step=None)
        write_gif(
            folder.place / f"{name}.gif",
            self._frames(steps[-MAX_GIF_FRAMES:]),
            seconds_per_frame=GIF_SECONDS,
            manifest=manifest,
        )
        write_mp4(folder.place / f"{name}.mp4", self._frames(steps), manifest=manifest)
        return f"{name}.gif", f"{name}.mp4"

    def _frames(self, steps: list[DoneStep]) -> Iterator[NDArray[np.uint8]]:
        """Marked frames, all of the first one's size, as both formats need."""
        size: tuple[int, int] | None = None
        for step in steps:
            if self._enlarge is None:
                frame_HWC = stamp(self._raw(step).frame_HWC)
            else:
                frame_HWC = read_picture(self._folder.place / _large_name(step)).frame_HWC
            size = size or (frame_HWC.shape[0], frame_HWC.shape[1])
            yield fit_picture(frame_HWC, size)[0]

    def _raw(self, step: DoneStep) -> Picture:
        return read_picture(self._folder.place / self._folder.raw_name(step))

    def _manifest(self, picture: Picture) -> Manifest:
        """The received picture's own when it has one; else what little is known."""
        done = "marked" if self._enlarge is None else f"enlarged 4x ({self._upscale})"
        if picture.manifest is not None:
            return replace(picture.manifest, note=f"{picture.manifest.note}; received and {done}")
        asked = self._folder.start["input_data"]
        sampling = {n: asked[n] for n in ("temperature", "top_k", "top_p") if isinstance(asked.get(n), int | float)}
        return Manifest(
            model="a remote endpoint's",
            weights="unknown",
            seed=self._seed,
            mode="full",
            sampling=sampling,
            note=f"generated by a remote endpoint; received and {done}",
        )


def _large_name(step: DoneStep) -> str:
    return f"sr/{step.number:02}_x4.png"

"""Output folder of a call, step by step, so that it can be resumed at any point; its pictures enlarged and animated.

====================  ===================================================================================
`start.json`          first request (never the key)
`raw/01.png` …        pictures as the endpoint sent them, byte for byte
`steps/01.json` …     action of each, its source, and the picture's tokens; written last: the step is complete
`actions.csv`         actions, one row per step
`sr/01_x4.png` …      received pictures, four times as wide and high
`sr/dream_x4.gif`     a quarter of a second each, endless
`sr/dream_x4.mp4`     real time, ten pictures a second
`dream.gif`, `.mp4`   in place of `sr`, in the pictures' own size, when nothing is enlarged
====================  ===================================================================================

Files made here carry the visible watermark and a manifest.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import Schema
from playloom.atomic_io import atomic_write, next_free_path
from playloom.client.payload import Request, context_entry, context_limit, next_request, read_request
from playloom.errors import BadInputError, PlayloomError, did_you_mean
from playloom.json_io import from_mapping, read_json
from playloom.media.action_table import write_actions
from playloom.media.images import Picture, enlarge, fit_picture, read_picture, write_generated
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, stamp

ACTIONS_FILE = "actions.csv"
_START_FILE = "start.json"


@dataclass(frozen=True, kw_only=True)
class CallStep:
    """One received step."""

    number: int
    """From 1."""
    ending: Literal[".png", ".jpg", ".webp"]
    """Ending of the picture's file."""
    action: tuple[int, ...]
    """Action values in slot order."""
    source: Literal["reply", "random"]
    """Origin of the action; `random` when the response had none."""
    schema: Schema | None
    """Schema of the response's action."""
    tokens: tuple[int, ...]
    """Tokens of the picture; may be empty."""

    @property
    def file(self) -> str:
        """Name of the received picture inside the folder."""
        return f"raw/{self.number:02}{self.ending}"

    @property
    def large_file(self) -> str:
        """Name of the enlarged picture inside the folder."""
        return f"sr/{self.number:02}_x4.png"

    @property
    def json_file(self) -> str:
        """Name of the step's own file inside the folder."""
        return f"steps/{self.number:02}.json"


class CallFolder:
    """Received steps, in memory and on disk; nothing is written before the first one."""

    def __init__(self, path: Path, start: Request, steps: Sequence[CallStep] = ()) -> None:
        self.path = path
        self.start = start
        """First request."""
        self.steps = list(steps)
        """Received steps, in order."""

    @classmethod
    def create(cls, out: Path | str, start: Request) -> CallFolder:
        """Begin a new call in the first free folder of `out`, `out-2`, …"""
        return cls(next_free_path(out, numbered=True), start)

    @classmethod
    def resume(cls, out: Path | str, start: Request | None) -> CallFolder:
        """Open the call in `out`, or begin a new one; `start` is its expected first request, None: the stored one."""
        path = Path(out).absolute()
        if not (path / _START_FILE).exists():
            if start is None:
                raise BadInputError(f"{out} holds no call to resume; begin one with --payload or --image")
            return cls(next_free_path(out), start)
        stored = read_request(path / _START_FILE, "begin a new call")
        if start is not None and start != stored:
            raise BadInputError(f"the call in {out} has another start; leave out --payload, --image or --resume")
        return cls(path, stored, list(_read_steps(path)))

    def next_request(self, *, with_tokens: bool = True) -> Request:
        """Return the request of the next step, with or without the endpoint's own tokens."""
        entries = [self._entry(step, with_tokens) for step in self.steps[-context_limit(self.start) :]]
        return next_request(self.start, entries)

    def add(self, step: CallStep, data: bytes) -> None:
        """Write the next step and its picture file."""
        if not self.steps:
            self._write(_START_FILE, json.dumps(self.start).encode())
        self._write(step.file, data)
        content = {name: value for name, value in asdict(step).items() if name != "number"}
        self._write(step.json_file, f"{json.dumps(content)}\n".encode())
        self.steps.append(step)
        write_actions(self.path / ACTIONS_FILE, [step.action for step in self.steps])

    def _entry(self, step: CallStep, with_tokens: bool) -> dict[str, Any]:
        try:
            data = (self.path / step.file).read_bytes()
        except OSError as error:
            raise BadInputError(f"{self.path / step.file} is gone ({error.strerror}); begin a new call") from error
        return context_entry(data, step.action, step.tokens if with_tokens else ())

    def _write(self, name: str, data: bytes) -> None:
        with atomic_write(self.path / name) as temporary:
            temporary.write_bytes(data)


def _read_steps(path: Path) -> Iterator[CallStep]:
    """The complete steps up to the first gap; later ones are requested again."""
    for number in itertools.count(1):
        try:
            content = read_json(path / f"steps/{number:02}.json", BadInputError, "")
            step = from_mapping(CallStep, {"number": number, **content})
        except PlayloomError:
            return
        if not (path / step.file).is_file():
            return
        yield step


Upscale = Literal["lanczos", "realesrgan", "none"]
"""Method of enlarging pictures to four times their width and height."""
GIF_SECONDS = 0.25
"""Duration of each picture in the GIF."""
MAX_GIF_FRAMES = 240
"""A GIF is encoded in memory: of a longer call it holds the last pictures."""


def pick_enlarger(name: Upscale) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None:
    """Return the function from RGB [H, W, 3] to RGB [4 H, 4 W, 3]; None for `none`."""
    if name not in get_args(Upscale):
        raise BadInputError(f"unknown upscale {name!r}; {did_you_mean(name, get_args(Upscale))}")
    if name == "realesrgan":
        from playloom.media.upscale import RealESRGAN

        return RealESRGAN.bundled()
    return enlarge if name == "lanczos" else None


class OutputVideo:
    """Enlarged pictures and animations of a call."""

    def __init__(self, folder: CallFolder, upscale: Upscale, seed: int) -> None:
        self._folder, self._upscale, self._seed = folder, upscale, seed
        self._enlarge = pick_enlarger(upscale)

    def add(self, step: CallStep, picture: Picture) -> None:
        """Enlarge the picture of a new step."""
        if self._enlarge is not None:
            manifest = self._manifest(picture).at_step(step.number)
            write_generated(self._folder.path / step.large_file, self._enlarge(picture.frame_HWC), manifest)

    def finish(self) -> tuple[str, ...]:
        """Write the animations of all steps and the missing enlarged pictures; return the animations' names."""
        path, steps = self._folder.path, self._folder.steps
        if not steps:
            return ()
        for step in steps:
            if self._enlarge is not None and not (path / step.large_file).is_file():
                self.add(step, self._read(step.file))
        name = "dream" if self._enlarge is None else "sr/dream_x4"
        manifest = replace(self._manifest(self._read(steps[0].file)), step=None)
        last = self._frames(steps[-MAX_GIF_FRAMES:])
        write_gif(path / f"{name}.gif", last, seconds_per_frame=GIF_SECONDS, manifest=manifest)
        write_mp4(path / f"{name}.mp4", self._frames(steps), manifest=manifest)
        return f"{name}.gif", f"{name}.mp4"

    def _frames(self, steps: list[CallStep]) -> Iterator[NDArray[np.uint8]]:
        """Marked frames, all of the first one's size, as both formats need."""
        size: tuple[int, int] | None = None
        for step in steps:
            if self._enlarge is None:
                frame_HWC = stamp(self._read(step.file).frame_HWC)
            else:
                frame_HWC = self._read(step.large_file).frame_HWC
            size = size or (frame_HWC.shape[0], frame_HWC.shape[1])
            yield fit_picture(frame_HWC, size)[0]

    def _read(self, name: str) -> Picture:
        return read_picture(self._folder.path / name)

    def _manifest(self, picture: Picture) -> Manifest:
        """The received picture's own manifest; without one, the known facts."""
        done = "marked" if self._enlarge is None else f"enlarged 4x ({self._upscale})"
        if picture.manifest is not None:
            return replace(picture.manifest, note=f"{picture.manifest.note}; received and {done}")
        values = self._folder.start["input_data"]
        names = ("temperature", "top_k", "top_p")
        return Manifest(
            model="a remote endpoint's",
            weights="unknown",
            seed=self._seed,
            mode="full",
            sampling={name: values[name] for name in names if isinstance(values.get(name), int | float)},
            note=f"generated by a remote endpoint; received and {done}",
        )

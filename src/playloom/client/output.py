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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import Schema
from playloom.atomic_io import atomic_write, next_free_path
from playloom.client.payload import Request, context_entry, read_request
from playloom.errors import BadInputError, PlayloomError, did_you_mean
from playloom.json_io import from_mapping, read_json
from playloom.media.action_table import write_actions
from playloom.media.images import Picture, enlarge, fit_picture, read_picture, write_picture
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, stamp

ACTIONS_FILE = "actions.csv"
CONTEXT_STEPS = 10
"""Context steps of an endpoint's model. A context grows to this many, or keeps its initial length if that is more."""
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


Upscale = Literal["lanczos", "realesrgan", "none"]
"""Method of enlarging pictures to four times their width and height."""
GIF_SECONDS = 0.25
"""Duration of each picture in the GIF."""
MAX_GIF_FRAMES = 240
"""A GIF is encoded in memory: of a longer call it holds the last pictures."""


class CallFolder:
    """Received steps, in memory and on disk; nothing is written before the first one."""

    def __init__(
        self,
        out: Path | str,
        start: Request | None,
        *,
        resume: bool = False,
        upscale: Upscale = "lanczos",
        seed: int = 0,
    ) -> None:
        """Begin a call in the first free folder of `out`, `out-2`, …, or with `resume` continue the one in `out`.

        With `resume` the start may be None, or must be the stored one; without a call in `out` one begins there.
        """
        if upscale not in get_args(Upscale):
            raise BadInputError(f"unknown upscale {upscale!r}; {did_you_mean(upscale, get_args(Upscale))}")
        self._upscale, self._seed = upscale, seed
        self._enlarge: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = enlarge
        if upscale == "realesrgan":
            from playloom.media.upscale import RealESRGAN

            self._enlarge = RealESRGAN.bundled()
        self.steps: list[CallStep] = []
        """Received steps, in order."""
        stored = Path(out).absolute() / _START_FILE
        if resume and stored.exists():
            self.path, known = stored.parent, read_request(stored, "begin a new call")
            if start not in (None, known):
                raise BadInputError(f"the call in {out} has another start; leave out --payload, --image or --resume")
            self.start, self.steps = known, list(_read_steps(self.path))
        elif start is None:
            raise BadInputError(f"{out} holds no call to resume; begin one with --payload or --image")
        else:
            self.path, self.start = next_free_path(out, numbered=not resume), start

    def next_request(self, *, with_tokens: bool = True) -> Request:
        """Return the start with all steps, or the last ones, in its context; with or without the endpoint's tokens."""
        inner = self.start["input_data"]
        most = max(CONTEXT_STEPS, len(inner["context"]))
        later = [
            context_entry((self.path / step.file).read_bytes(), step.action, step.tokens if with_tokens else ())
            for step in self.steps[-most:]
        ]
        return {**self.start, "input_data": {**inner, "context": [*inner["context"], *later][-most:]}}

    def add(self, step: CallStep, data: bytes, picture: Picture) -> None:
        """Write the next step, its picture file, and its enlarged picture."""
        if not self.steps:
            self._write(_START_FILE, json.dumps(self.start).encode())
        self._write(step.file, data)
        content = {name: value for name, value in asdict(step).items() if name != "number"}
        self._write(f"steps/{step.number:02}.json", f"{json.dumps(content)}\n".encode())
        self.steps.append(step)
        write_actions(self.path / ACTIONS_FILE, [step.action for step in self.steps])
        self._write_enlarged(step, picture)

    def finish(self) -> tuple[str, ...]:
        """Write the animations of all steps and the missing enlarged pictures; return the animations' names."""
        if not self.steps:
            return ()
        for step in self.steps:
            if not (self.path / step.large_file).is_file():
                self._write_enlarged(step, read_picture(self.path / step.file))
        name = "dream" if self._upscale == "none" else "sr/dream_x4"
        manifest = replace(self._manifest(read_picture(self.path / self.steps[0].file)), step=None)
        last = self._frames(self.steps[-MAX_GIF_FRAMES:])
        write_gif(self.path / f"{name}.gif", last, seconds_per_frame=GIF_SECONDS, manifest=manifest)
        write_mp4(self.path / f"{name}.mp4", self._frames(self.steps), manifest=manifest)
        return f"{name}.gif", f"{name}.mp4"

    def _write(self, name: str, data: bytes) -> None:
        with atomic_write(self.path / name) as temporary:
            temporary.write_bytes(data)

    def _write_enlarged(self, step: CallStep, picture: Picture) -> None:
        if self._upscale != "none":
            manifest = self._manifest(picture).at_step(step.number)
            write_picture(self.path / step.large_file, stamp(self._enlarge(picture.frame_HWC)), manifest)

    def _frames(self, steps: list[CallStep]) -> Iterator[NDArray[np.uint8]]:
        """Marked frames, all of the first one's size, as both formats need."""
        size: tuple[int, int] | None = None
        for step in steps:
            if self._upscale == "none":
                frame_HWC = stamp(read_picture(self.path / step.file).frame_HWC)
            else:
                frame_HWC = read_picture(self.path / step.large_file).frame_HWC
            size = size or (frame_HWC.shape[0], frame_HWC.shape[1])
            yield fit_picture(frame_HWC, size)[0]

    def _manifest(self, picture: Picture) -> Manifest:
        """The received picture's own manifest; without one, the known facts."""
        done = "marked" if self._upscale == "none" else f"enlarged 4x ({self._upscale})"
        if picture.manifest is not None:
            return replace(picture.manifest, note=f"{picture.manifest.note}; received and {done}")
        values = self.start["input_data"]
        names = ("temperature", "top_k", "top_p")
        return Manifest(
            model="a remote endpoint's",
            weights="unknown",
            seed=self._seed,
            mode="full",
            sampling={name: values[name] for name in names if isinstance(values.get(name), int | float)},
            note=f"generated by a remote endpoint; received and {done}",
        )


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

"""A call's pictures, enlarged and moving: made here, so marked here.

Owns what is made of the received pictures. Each one below carries the visible mark and a manifest.

====================  =====================================================================================
`sr/01_x4.png` …      the received pictures, four times as wide and high
`sr/dream_x4.gif`     a quarter of a second each, endless
`sr/dream_x4.mp4`     in real time, ten a second
`dream.gif`, `.mp4`   instead of all these when nothing is enlarged: the pictures in their own size
====================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.client.folder import CallFolder, DoneStep
from playloom.errors import BadInputError, nearest
from playloom.media.animation import write_gif, write_mp4
from playloom.media.pictures import Picture, enlarge, fit_picture, read_picture, write_generated
from playloom.provenance import Manifest, stamp

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
        raise BadInputError(f"unknown upscale {name!r}; {nearest(name, get_args(Upscale))}")
    if name == "realesrgan":
        from playloom.upscaling import RealESRGAN

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

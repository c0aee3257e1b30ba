"""GIF and MP4 files with the manifest in their comment.

Frames are uint8 RGB [H, W, 3], one step of 0.1 s each by default, and are written as they are, without a watermark.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.atomic_io import atomic_write
from playloom.errors import BadInputError
from playloom.provenance import Manifest

Frames = Iterable[NDArray[np.uint8]]
"""Frames of a video in order, uint8 RGB [H, W, 3] each."""
_STEADY = 6
"""Change of a pixel, of 255, below which its colour stays in a GIF."""
_PALETTE_FRAMES = 24
"""Number of frames that a GIF's colours are chosen from."""


def write_gif(
    path: Path | str, frames: Frames, *, seconds_per_frame: float = 0.1, manifest: Manifest | None = None
) -> None:
    """Write an endless GIF in 255 colours. Equal neighbours become one, shown longer.

    The format keeps hundredths of a second; 0.1 s is real time.
    """
    # With one palette Pillow leaves out unchanged pixels, which get the remaining colour. Without dithering flat walls
    # stay flat. Together they make the file a quarter as large.
    steady: list[NDArray[np.uint8]] = []
    for frame_HWC in frames:
        before_HWC = steady[-1] if steady else frame_HWC
        change_HW1 = np.abs(frame_HWC.astype(np.int16) - before_HWC).max(axis=-1, keepdims=True)
        steady.append(np.where(change_HW1 <= _STEADY, before_HWC, frame_HWC))
    if not steady:
        raise BadInputError(f"there are no pictures to write to {path}; expected at least one")
    spread = np.linspace(0, len(steady) - 1, min(len(steady), _PALETTE_FRAMES)).round().astype(int)
    sample = Image.fromarray(np.concatenate([steady[index] for index in spread]))
    palette = sample.quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    images = [Image.fromarray(frame_HWC).quantize(palette=palette, dither=Image.Dither.NONE) for frame_HWC in steady]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        timing = {"duration": round(1000 * seconds_per_frame), "loop": 0, "disposal": 1}
        comment = manifest.to_json().encode() if manifest else b""
        images[0].save(file, "GIF", save_all=True, append_images=images[1:], comment=comment, optimize=True, **timing)


def write_mp4(
    path: Path | str, frames: Frames, *, frames_per_second: int = 10, manifest: Manifest | None = None
) -> None:
    """Write an MP4 (H.264, yuv420p); frames are consumed one by one.

    All have one size; an odd row or column is doubled, as the format needs.
    """
    import av

    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise BadInputError(f"there are no pictures to write to {path}; expected at least one")
    # Equal frames give equal bytes with one thread, because the encoder's choices depend on the number, and without the
    # macroblock tree, because x264 (its AVX-512 code) then depends on memory it never wrote.
    options = {"crf": "18", "preset": "veryfast", "threads": "1", "mbtree": "0"}
    with atomic_write(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        if manifest is not None:
            container.metadata["comment"] = manifest.to_json()
        stream = container.add_stream("libx264", rate=frames_per_second, options=options)
        stream.height, stream.width = _even(first).shape[:2]
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(itertools.chain([first], iterator)):
            picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, frames_per_second)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _even(frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame_HWC.shape[:2]
    return np.pad(frame_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

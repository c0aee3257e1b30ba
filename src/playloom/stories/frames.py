"""The frames of a story as files: exact pixels, codes, and a small picture to look at. Owns their formats.

==============  ==========================================================================================
`7.frame.webp`  frame 7 exactly as it is, unmarked, lossless
`7.npz`         its codes, the weights they belong to, and its manifest (none: nobody dreamed it)
`7.webp`        the picture to show, marked where it was dreamed, its manifest in the XMP
==============  ==========================================================================================
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.errors import PlayloomError, RecordingError
from playloom.files import atomic_write
from playloom.media.npz import read_npz, write_npz
from playloom.media.pictures import encode_png
from playloom.provenance import Manifest, stamp

_QUALITY = 85
_ARRAYS = ("codes", "weights", "manifest")


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame and what is known of it."""

    frame_HWC: NDArray[np.uint8]
    """RGB, uint8 [H, W, 3], unmarked."""
    codes_N: NDArray[np.int64]
    """Its codes."""
    weights: str
    """Fingerprint of the weights that the codes belong to."""
    manifest: Manifest | None = None
    """What made it; None: it was brought along, or is an edit of one that was. Then it is shown without a mark."""

    @property
    def dreamed(self) -> bool:
        """Whether a model made it, or most of it."""
        return self.manifest is not None

    def shown_HWC(self) -> NDArray[np.uint8]:
        """Its pixels as they may leave: marked where it was dreamed."""
        return stamp(self.frame_HWC) if self.dreamed else self.frame_HWC

    def png(self) -> bytes:
        """The picture in full, with its manifest."""
        return encode_png(self.shown_HWC(), self.manifest)


def write_frame(folder: Path, node: int, frame: Frame) -> None:
    """Write a frame's files; each appears whole or not at all.

    Raises:
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    exact, text = io.BytesIO(), "" if frame.manifest is None else frame.manifest.to_json()
    Image.fromarray(frame.frame_HWC).save(exact, "WEBP", lossless=True, quality=0, method=0, exact=True)
    with atomic_write(exact_path(folder, node)) as temporary:
        temporary.write_bytes(exact.getvalue())
    write_npz(
        folder / f"{node}.npz",
        {"codes": frame.codes_N.astype(np.int32), "weights": np.array(frame.weights), "manifest": np.array(text)},
    )
    shown = io.BytesIO()
    Image.fromarray(frame.shown_HWC()).save(shown, "WEBP", quality=_QUALITY, method=0, xmp=text.encode())
    with atomic_write(shown_path(folder, node)) as temporary:
        temporary.write_bytes(shown.getvalue())


def read_frame(folder: Path, node: int) -> Frame:
    """A frame as it was written.

    Raises:
        RecordingError: when a file of it is missing or damaged.
    """
    try:
        with Image.open(exact_path(folder, node), formats=["WEBP"]) as image:
            frame_HWC = np.array(image.convert("RGB"))
        arrays = read_npz(folder / f"{node}.npz", _ARRAYS)
        text = str(arrays["manifest"])
        manifest = Manifest.from_json(text) if text else None
        codes_N = arrays["codes"]
        if codes_N.ndim != 1 or codes_N.dtype.kind not in "iu":
            raise RecordingError("its codes are none")
    except (PlayloomError, OSError, ValueError, SyntaxError) as error:
        raise RecordingError(f"frame {node} cannot be read: its files are missing or damaged") from error
    return Frame(
        frame_HWC=frame_HWC, codes_N=codes_N.astype(np.int64), weights=str(arrays["weights"]), manifest=manifest
    )


def remove_frame(folder: Path, node: int) -> None:
    """Remove a frame's files, as far as they are there and can be: where somebody reads one, some systems keep it."""
    for path in (exact_path(folder, node), folder / f"{node}.npz", shown_path(folder, node)):
        with suppress(OSError):
            path.unlink()


def exact_path(folder: Path, node: int) -> Path:
    """Where a frame's pixels lie."""
    return folder / f"{node}.frame.webp"


def shown_path(folder: Path, node: int) -> Path:
    """Where the picture to show lies."""
    return folder / f"{node}.webp"

"""Pictures of requests: PNG and JPEG in, judged before they are decoded; marked ones out, with their manifest.

Owns formats and limits of what travels. Decoding itself is `playloom.media.pictures`.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.errors import PictureError
from playloom.media.pictures import encode_png, fit_picture, read_picture
from playloom.provenance import Manifest, stamp

Live = Literal["jpeg", "webp"]
"""Formats of live frames."""
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
"""JPEG markers that carry the size."""
_QUALITY = 85


def from_base64(text: str, where: str) -> bytes:
    """The bytes of a base64 text; a `data:image/...;base64,` before it is skipped.

    Raises:
        PictureError: when it is none, or cut short.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise PictureError(f"{where} is not base64, or is cut short") from None


def read_frame(
    data: bytes, size: tuple[int, int], *, where: str, pixels: int, stretch: bool = False
) -> NDArray[np.uint8]:
    """A picture as a frame of the model's size.

    Args:
        data: the bytes of a PNG or JPEG.
        size: (H, W) to reach.
        where: what to call it in messages.
        pixels: most that may be decoded.
        stretch: resize to the size whatever the shape, as the hosted endpoint's clients do; else the middle is cut out.

    Returns:
        RGB uint8 [H, W, 3].

    Raises:
        PictureError: when it is neither PNG nor JPEG, too large or damaged.
    """
    width, height = picture_size(data, where)
    if not 0 < width * height <= pixels:
        raise PictureError(f"{where} is {width} x {height}; at most {pixels:,} pixels are decoded: scale it down first")
    frame_HWC = read_picture(data, name=where).frame_HWC
    if not stretch or frame_HWC.shape[:2] == size:
        return fit_picture(frame_HWC, size)[0]
    return np.array(Image.fromarray(frame_HWC).resize(size[::-1], Image.Resampling.LANCZOS))


def picture_size(data: bytes, where: str) -> tuple[int, int]:
    """(width, height) as a picture's head says, without decoding it.

    Raises:
        PictureError: when it is neither PNG nor JPEG.
    """
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    found = _jpeg_size(data) if data.startswith(_JPEG) else None
    if found is None:
        raise PictureError(f"{where} is neither a PNG nor a JPEG picture")
    return found


def marked_png(frame_HWC: NDArray[np.uint8], manifest: Manifest) -> tuple[bytes, NDArray[np.uint8]]:
    """A dreamed frame as PNG with mark and manifest, and the marked pixels it holds."""
    marked_HWC = stamp(frame_HWC)
    return encode_png(marked_HWC, manifest), marked_HWC


def live_picture(frame_HWC: NDArray[np.uint8], form: Live, manifest: str) -> bytes:
    """A dreamed frame as a small marked picture, the manifest's JSON in its comment (JPEG) or XMP (WebP)."""
    buffer, image = io.BytesIO(), Image.fromarray(stamp(frame_HWC))
    if form == "webp":
        image.save(buffer, "WEBP", quality=_QUALITY, method=0, xmp=manifest.encode())
    else:
        image.save(buffer, "JPEG", quality=_QUALITY, comment=manifest.encode())
    return buffer.getvalue()


def decoded(picture: bytes) -> NDArray[np.uint8]:
    """One of our own live pictures as pixels again."""
    with Image.open(io.BytesIO(picture)) as image:
        return np.array(image.convert("RGB"))


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walks a JPEG's segments up to the one that says its size."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        elif 0xD0 <= marker <= 0xD8 or marker == 0x01:  # no length follows
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None

"""The visible mark: a small badge on a copy of a picture that says it was generated.

Owns the badge's look. It is stamped where pictures leave the program, never inside the engine: after a marked
frame in the context the model would dream marks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MARK_TEXT = "AI generated"
"""What the badge says."""
_BACKGROUND, _INK = (20, 20, 20), (255, 214, 64)


def stamp(frame_HWC: NDArray[np.uint8], text: str = MARK_TEXT) -> NDArray[np.uint8]:
    """A copy of the picture with the badge in its lower right corner.

    Args:
        frame_HWC: uint8 RGB, any size. The badge is a sixteenth of the height tall, at least 11 pixels; on a
            picture smaller than the badge it is cut off at the top left.
        text: what the badge says.

    Returns:
        A new uint8 array of the same shape; the one given is not touched.
    """
    marked = frame_HWC.copy()
    badge = _badge(text, max(11, frame_HWC.shape[0] // 16))
    height, width = min(badge.shape[0], marked.shape[0]), min(badge.shape[1], marked.shape[1])
    marked[-height:, -width:] = badge[-height:, -width:]
    return marked


@lru_cache(maxsize=32)
def _badge(text: str, height: int) -> NDArray[np.uint8]:
    """The badge as pixels [height, width, 3]; drawn with Pillow's own font, so no font file is needed."""
    font = ImageFont.load_default(size=height * 0.8)
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), text, font=font)
    margin = max(2, height // 5)
    badge = Image.new("RGB", (round(right - left) + 2 * margin, height), _BACKGROUND)
    position = (margin - left, (height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(badge).text(position, text, font=font, fill=_INK)
    return np.asarray(badge)

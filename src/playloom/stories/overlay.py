"""A transparent picture laid over a frame: what an edit is."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from playloom.errors import PictureError


def read_overlay(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A PNG as an overlay of a frame's size; of another size it is stretched.

    Args:
        png: the bytes of the file.
        size: (H, W) of the frame.

    Returns:
        RGBA, uint8 [H, W, 4].

    Raises:
        PictureError: when it is no PNG, damaged, or transparent everywhere.
    """
    height, width = size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the pixels are what counts
            with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                layer = image.convert("RGBA")
    except Exception as error:  # damaged files make decoders raise anything
        said = "it is no PNG" if isinstance(error, UnidentifiedImageError) else error
        raise PictureError(f"the overlay cannot be read ({said}); send a PNG with transparency") from error
    if layer.size != (width, height):
        layer = layer.resize((width, height), Image.Resampling.LANCZOS)
    overlay_HW4 = np.array(layer)
    if not overlay_HW4[..., 3].any():
        raise PictureError("the overlay is transparent everywhere; there is nothing to lay over the frame")
    return overlay_HW4


def laid_over(frame_HWC: NDArray[np.uint8], overlay_HW4: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of the frame, uint8 [H, W, 3], with the overlay, RGBA uint8 [H, W, 4], on it."""
    alpha_HW1 = overlay_HW4[..., 3:].astype(np.float32) / 255
    mixed_HWC = overlay_HW4[..., :3] * alpha_HW1 + frame_HWC * (1 - alpha_HW1)
    return np.rint(mixed_HWC).astype(np.uint8)

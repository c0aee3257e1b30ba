"""Pictures of any size to the size a tokenizer takes. Owns resizing; knows nothing of codes or files."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from playloom.errors import PictureError

FitMode = Literal["crop", "fit"]
"""crop: cut the middle out, then resize. fit: resize the whole picture and fill the rest with black."""


def check_frames(frames_BHWC: Tensor) -> None:
    """Raises PictureError unless the tensor is uint8 [B, H, W, 3]."""
    if not isinstance(frames_BHWC, Tensor):
        raise PictureError(
            f"pictures must be a torch tensor; got {type(frames_BHWC).__name__}: torch.from_numpy makes one"
        )
    if frames_BHWC.dtype != torch.uint8 or frames_BHWC.ndim != 4 or frames_BHWC.shape[-1] != 3:
        raise PictureError(
            "pictures must be uint8 RGB of shape [batch, height, width, 3]; got "
            f"{str(frames_BHWC.dtype)[6:]} of shape {list(frames_BHWC.shape)}; drop the "
            "alpha channel and convert to 8 bits first"
        )


def fit_frames(frames_BHWC: Tensor, *, height: int, width: int, mode: FitMode = "crop") -> Tensor:
    """Resizes pictures to exactly `height` x `width` without changing their aspect.

    Args:
        frames_BHWC: uint8 [B, H, W, 3], range [0, 255].
        height: rows wanted.
        width: columns wanted.
        mode: "crop" cuts the largest centred part of the wanted aspect; "fit" keeps all, in a black border.

    Returns:
        uint8 [B, height, width, 3]; the input itself when it has that size.

    Raises:
        PictureError: when the tensor is not uint8 [B, H, W, 3], has no pixels, or the mode is unknown.
    """
    check_frames(frames_BHWC)
    rows, columns = frames_BHWC.shape[1:3]
    if not rows or not columns:
        raise PictureError(f"a picture of {columns} x {rows} pixels has nothing to see; give one with pixels")
    if mode not in ("crop", "fit"):
        raise PictureError(f"unknown way to fit a picture: {mode!r}; choose 'crop' or 'fit'")
    if (rows, columns) == (height, width):
        return frames_BHWC
    if mode == "crop":
        return _resize(_crop_to_aspect(frames_BHWC, height, width), height, width)
    scale = min(height / rows, width / columns)
    inner_height, inner_width = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    fitted_BHWC = frames_BHWC.new_zeros((len(frames_BHWC), height, width, 3))
    inner_BHWC = _resize(frames_BHWC, inner_height, inner_width)
    fitted_BHWC[:, top : top + inner_height, left : left + inner_width] = inner_BHWC
    return fitted_BHWC


def _crop_to_aspect(frames_BHWC: Tensor, height: int, width: int) -> Tensor:
    """The largest centred part with the aspect height : width."""
    rows, columns = frames_BHWC.shape[1:3]
    kept_rows = min(rows, max(1, round(columns * height / width)))
    kept_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    return frames_BHWC[:, top : top + kept_rows, left : left + kept_columns]


def _resize(frames_BHWC: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with anti-aliasing, rounded back to uint8."""
    x_BCHW = frames_BHWC.permute(0, 3, 1, 2).float()
    x_BCHW = F.interpolate(x_BCHW, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return x_BCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

"""Manifest of generated pictures as JSON, and the visible watermark.

Equal requests give equal bytes: only `created` differs between two runs, and only the server writes it by default.

The watermark is drawn where pictures leave the program, never inside the engine: after a marked frame in the context
the model would generate marks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import playloom
from playloom.errors import BadInputError
from playloom.json_io import from_mapping


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Origin of a picture. All but the first four fields may be unknown."""

    model: str
    """Name of the model."""
    weights: str
    """Fingerprint of the weights (hex)."""
    seed: int
    """Seed of the request."""
    mode: str
    """`world`, `policy` or `full`: frames, actions or both were generated."""
    sampling: Mapping[str, float | int | str | None] = field(default_factory=dict)
    """Temperature, top-k, top-p and others."""
    order: str | None = None
    """Decoding order of a frame's codes."""
    backend: str | None = None
    """What ran the networks, `torch`, `onnx` or `onnx-int8`: their frames of one seed differ."""
    prompt: str | None = None
    """Name of a bundled prompt, or of a file without its folders."""
    prompt_kind: str | None = None
    """`real` frames of a game, or `given` pictures of the user."""
    parent: str | None = None
    """`frames_hash` of the prompt."""
    step: int | None = None
    """Number of the generated step, from 1; None for a file of several."""
    created: str | None = None
    """ISO 8601 time in UTC; None keeps files of equal requests equal."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Request that makes it again, in a folder's `manifest.json` only, because it holds the user's paths."""
    note: str = "generated"
    """Description for readers of the metadata."""
    generator: str = "playloom"
    """Program."""
    version: str = playloom.__version__
    """Version of the program."""

    def at_step(self, step: int) -> Manifest:
        """Return the manifest of one generated step, counted from 1."""
        return replace(self, step=step)

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys, without unknown fields."""
        known = {name: value for name, value in asdict(self).items() if value is not None and value != {}}
        return json.dumps(known, sort_keys=True, ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the inverse of `to_json`."""
        try:
            return from_mapping(cls, json.loads(text), "the manifest")
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"this is no playloom manifest: {error}") from error


def created_at() -> str:
    """Return the time for `Manifest.created`, ISO 8601 in UTC to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def frames_hash(frames_THWC: NDArray[np.uint8]) -> str:
    """Return a hash (BLAKE2b, 32 hex digits) of pictures and their size, for `Manifest.parent`."""
    digest = hashlib.blake2b(repr(frames_THWC.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(frames_THWC).tobytes())
    return digest.hexdigest()


MARK_TEXT = "AI generated"
"""Text of the watermark."""
_BACKGROUND, _INK = (20, 20, 20), (255, 214, 64)


def stamp(frame_HWC: NDArray[np.uint8], text: str = MARK_TEXT) -> NDArray[np.uint8]:
    """Return a copy of the picture, uint8 [H, W, 3], with the watermark in its lower right corner.

    The badge is a sixteenth of the height, at least 11 pixels. On a smaller picture it is cut off at the top left.
    """
    marked = frame_HWC.copy()
    badge = _badge(text, max(11, frame_HWC.shape[0] // 16))
    height, width = min(badge.shape[0], marked.shape[0]), min(badge.shape[1], marked.shape[1])
    marked[-height:, -width:] = badge[-height:, -width:]
    return marked


@lru_cache(maxsize=32)
def _badge(text: str, height: int) -> NDArray[np.uint8]:
    """Pixels [height, width, 3], drawn with the font that Pillow has."""
    font = ImageFont.load_default(size=height * 0.8)
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), text, font=font)
    margin = max(2, height // 5)
    badge = Image.new("RGB", (round(right - left) + 2 * margin, height), _BACKGROUND)
    position = (margin - left, (height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(badge).text(position, text, font=font, fill=_INK)
    return np.asarray(badge)

"""The manifest: what every generated picture says about itself, as JSON.

Owns the fields and their JSON form. Knows nothing of files or models; `media` puts the text into pictures.

    >>> Manifest(model="tiny", weights="ab12", seed=7, mode="world").at_step(3).step
    3

Same request, same bytes: `created` is the one field that differs between two runs of the same dream. Files leave it
out unless it is asked for; `created_at(epoch)` pins it, as SOURCE_DATE_EPOCH does for builds. The server puts it in.

The visible mark: a small badge on a copy of a picture that says it was generated.

Owns the badge's look. It is stamped where pictures leave the program, never inside the engine: after a marked
frame in the context the model would dream marks.
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
from playloom.errors import BadInputError, ConfigError
from playloom.json_io import from_mapping


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What made a picture. Everything but the first four fields may be unknown."""

    model: str
    """The model's name, as a preset or a folder's model card gives it."""
    weights: str
    """Fingerprint of the weights that dreamed it (hex)."""
    seed: int
    """The seed of the request."""
    mode: str
    """`world`, `policy` or `full`: what was dreamed and what was given."""
    sampling: Mapping[str, float | int | str | None] = field(default_factory=dict)
    """Temperature, top-k, top-p: whatever the request sampled with."""
    order: str | None = None
    """The order in which a frame's codes were dreamed."""
    prompt: str | None = None
    """The prompt's name: a bundled prompt's name, or a file's name without its folders."""
    prompt_kind: str | None = None
    """`real` frames of a game, or pictures `given` by the user."""
    parent: str | None = None
    """`frames_hash` of the prompt it goes on from."""
    step: int | None = None
    """Which dreamed step it shows, from 1; None for a file that shows several."""
    created: str | None = None
    """ISO 8601 time in UTC, or None to keep files of equal requests equal."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """What makes the dream again, in a folder's `manifest.json` only: it holds the user's own paths."""
    note: str = "generated"
    """What it is, in a word, for whoever opens the metadata."""
    generator: str = "playloom"
    """The program."""
    version: str = playloom.__version__
    """The program's version."""

    def at_step(self, step: int) -> Manifest:
        """The same manifest for one dreamed step, counted from 1."""
        return replace(self, step=step)

    def to_json(self) -> str:
        """One line of JSON with sorted keys; what is unknown is left out."""
        known = {name: value for name, value in asdict(self).items() if value is not None and value != {}}
        return json.dumps(known, sort_keys=True, ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest a text holds.

        Raises:
            BadInputError: when it is no JSON object, has an unknown field or lacks one of the first four.
        """
        try:
            known = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"this is no playloom manifest: {error}") from error
        if not isinstance(known, dict):
            raise BadInputError(f"this is no playloom manifest: expected a JSON object, got {text[:40]!r}")
        try:
            return from_mapping(cls, known, "the manifest")
        except ConfigError as error:
            raise BadInputError(str(error)) from error


def created_at(epoch: float | None = None) -> str:
    """A time for `Manifest.created`: now, or a fixed one.

    Args:
        epoch: seconds since 1970 in UTC, as SOURCE_DATE_EPOCH counts them; None means now.

    Returns:
        ISO 8601 in UTC, to the second.
    """
    moment = datetime.now(timezone.utc) if epoch is None else datetime.fromtimestamp(epoch, timezone.utc)
    return moment.isoformat(timespec="seconds")


def frames_hash(frames_THWC: NDArray[np.uint8]) -> str:
    """A 32-digit hex name (BLAKE2b) for the pictures and their size; for `Manifest.parent`."""
    digest = hashlib.blake2b(repr(frames_THWC.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(frames_THWC).tobytes())
    return digest.hexdigest()


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

"""Where a call begins: a request body from a JSON file, or made around one picture.

Owns the request's shape and how it moves on: `next_request` appends a step and drops the oldest. Knows nothing of
replies or connections.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError, PictureError
from playloom.media.images import encode_png, fit_picture, read_picture

FRAME_SIZE = (180, 300)
"""(H, W) that endpoints of this schema work with; a picture is brought to it before it is sent."""
CONTEXT_STEPS = 10
"""Steps such a model sees. A context grows to this many, or to as many as it began with."""
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""Larger payload files are refused."""

Request = dict[str, Any]
"""A body in the endpoint's shape: `{"input_data": {"num_steps_to_predict", "context": [...], ...}}`."""


def start_from_file(path: Path | str) -> Request:
    """The request in a JSON file, with one step to predict whatever it says.

    Raises:
        BadInputError: when it is missing, too large, no JSON or of another shape.
        PictureError: when one of its pictures is none.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_PAYLOAD_BYTES:
            raise BadInputError(f"{path} has {size >> 20} MiB; expected at most {MAX_PAYLOAD_BYTES >> 20}")
        known = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise BadInputError(f"there is no payload {path}") from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not JSON ({error}); expected a payload in the endpoint's shape") from error
    _check(known, str(path))
    return {**known, "input_data": {**known["input_data"], "num_steps_to_predict": 1}}


def start_from_picture(path: Path | str) -> tuple[Request, tuple[str, ...]]:
    """A request whose context is one picture with the controller at rest, and notes on what was done to it.

    Raises:
        PictureError: when the picture cannot be used.
    """
    picture = read_picture(path)
    frame_HWC, note = fit_picture(picture.frame_HWC, FRAME_SIZE)
    entry = context_entry(encode_png(frame_HWC), REST_VALUES)
    notes = [f"{path}: {words}" for words in (*picture.notes, note) if words]
    return {"input_data": {"num_steps_to_predict": 1, "context": [entry]}}, tuple(notes)


def context_entry(data: bytes, values_A: NDArray[np.uint8], tokens: Sequence[int] = ()) -> dict[str, Any]:
    """One step of a context: a picture's file, an action in bins, and the picture's tokens (none: encode it)."""
    actions = [int(value) for value in values_A]
    image = base64.b64encode(data).decode("ascii")
    return {"image": image, "actions": actions, "actions_output": actions, "tokens": list(tokens)}


def next_request(start: Request, later: Sequence[dict[str, Any]]) -> Request:
    """The request after some steps: theirs behind the start's, the oldest dropped."""
    context = start["input_data"]["context"]
    kept = [*context, *later][-context_limit(start) :]
    return {**start, "input_data": {**start["input_data"], "context": kept}}


def context_limit(start: Request) -> int:
    """How many steps the requests of this call hold at most."""
    return max(CONTEXT_STEPS, len(start["input_data"]["context"]))


def _check(known: Any, name: str) -> None:
    inner = known.get("input_data") if isinstance(known, dict) else None
    context = inner.get("context") if isinstance(inner, dict) else None
    if not isinstance(context, list) or not context:
        raise BadInputError(f'{name} holds no context; expected {{"input_data": {{"context": [{{"image": ...}}]}}}}')
    for number, entry in enumerate(context, 1):
        image = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(image, str):
            raise BadInputError(f"{name}: step {number} of the context has no image; expected base64 of a PNG or JPEG")
        try:
            data = base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise PictureError(f"{name}: the image of step {number} is not base64 ({error})") from error
        read_picture(data, name=f"the image of step {number} in {name}")

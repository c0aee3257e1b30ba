"""Requests from a JSON file or a picture."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError
from playloom.json_io import read_json
from playloom.media.images import encode_png, fit_picture, from_base64, read_picture

FRAME_SIZE = (180, 300)
"""(H, W) of the frames of endpoints of this schema; a picture is resized to it."""

Request = dict[str, Any]
"""A body in the endpoint's format: `{"input_data": {"num_steps_to_predict", "context": [...], ...}}`."""


def start_from_file(path: Path | str) -> Request:
    """Read a request from a JSON file, with one step to predict."""
    request = read_request(Path(path), "give a payload in the endpoint's format")
    return {**request, "input_data": {**request["input_data"], "num_steps_to_predict": 1}}


def start_from_picture(path: Path | str) -> tuple[Request, tuple[str, ...]]:
    """Make a request whose context is one picture with the controller at rest; with notes on changes to the picture."""
    picture = read_picture(path)
    frame_HWC, note = fit_picture(picture.frame_HWC, FRAME_SIZE)
    entry = context_entry(encode_png(frame_HWC), REST_VALUES.tolist())
    notes = [f"{path}: {words}" for words in (*picture.notes, note) if words]
    return {"input_data": {"num_steps_to_predict": 1, "context": [entry]}}, tuple(notes)


def context_entry(data: bytes, action: Sequence[int], tokens: Sequence[int] = ()) -> dict[str, Any]:
    """Return one context step: picture file, action in bins, and the picture's tokens (none: it is encoded again)."""
    image = base64.b64encode(data).decode("ascii")
    return {"image": image, "actions": list(action), "actions_output": list(action), "tokens": list(tokens)}


def read_request(path: Path, advice: str) -> Request:
    """Read and check a request; errors end with `advice`, and are those of `start_from_file`."""
    request = read_json(path, BadInputError, advice)
    inner = request.get("input_data")
    context = inner.get("context") if isinstance(inner, dict) else None
    if not isinstance(context, list) or not context:
        raise BadInputError(f'{path} holds no context; expected {{"input_data": {{"context": [{{"image": ...}}]}}}}')
    for number, entry in enumerate(context, 1):
        image = entry.get("image") if isinstance(entry, dict) else None
        name = f"{path}: the image of step {number}"
        if not isinstance(image, str):
            raise BadInputError(f"{name} is missing; expected base64 of a PNG or JPEG")
        read_picture(from_base64(image, name), name=name)
    return request

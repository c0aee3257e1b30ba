"""Requests from a JSON file or a picture; and the content of a response: a picture, an action, the picture's tokens.

Endpoints of one schema differ in small ways (other names, one more level), so actions are found by their form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, REST_VALUES, Schema, detect_schema, encode_named, rows_to_values
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError, BadInputError, EndpointError, PictureError
from playloom.json_io import read_json
from playloom.media.images import Picture, encode_png, fit_picture, from_base64, read_picture

_FRAME_SIZE = (180, 300)  # (H, W) of the frames of endpoints of this schema; a picture is resized to it
Request = dict[str, Any]
"""A body in the endpoint's format: `{"input_data": {"num_steps_to_predict", "context": [...], ...}}`."""
_TRIGGER_PROBABILITY = 0.4  # of the right trigger in a random action
_MAX_PIXELS = 2_000_000  # enlarged four times, a larger picture would take a hundred megabytes and more
ENDINGS: dict[str, Literal[".png", ".jpg", ".webp"]] = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""File endings of received pictures by format."""
_ACTION_NAMES = ("actions", "actions_output")
_REQUEST_NAMES = ("context", "input_data")  # a request that is repeated in the response


def start_from_file(path: Path | str) -> Request:
    """Read a request from a JSON file, with one step to predict."""
    request = read_request(Path(path), "give a payload in the endpoint's format")
    return {**request, "input_data": {**request["input_data"], "num_steps_to_predict": 1}}


def start_from_picture(path: Path | str) -> tuple[Request, tuple[str, ...]]:
    """Make a request whose context is one picture with the controller at rest; with notes on changes to the picture."""
    picture = read_picture(path)
    frame_HWC, note = fit_picture(picture.frame_HWC, _FRAME_SIZE)
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


def random_action(seed: int, step: int) -> NDArray[np.uint8]:
    """Draw action values [16]: both sticks, one direction of the pad, sometimes the right trigger.

    They depend on seed and step only.
    """
    source = np.random.default_rng([seed, step])
    state = {c.name: source.uniform(-1, 1) for c in CONTROLS if c.kind == "axis"}
    state["trigger_RT"] = float(source.random() < _TRIGGER_PROBABILITY)
    state[str(source.choice([c.name for c in CONTROLS if c.name.startswith("dpad_")]))] = 1.0
    return encode_named([state.get(c.name, 0.0) for c in CONTROLS])


def iter_json(value: Any, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every (name, value) inside a JSON value in the order of its text, itself first.

    An item of a list has the list's name; numbers, booleans and nulls inside lists are not yielded.
    """
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        name, inner = waiting.pop()
        yield name, inner
        if isinstance(inner, dict):
            waiting += [(key, part) for key, part in reversed(inner.items()) if key not in leave_out]
        elif isinstance(inner, list):
            waiting += [(name, part) for part in reversed(inner) if isinstance(part, dict | list | str)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Response:
    """First predicted step of a response."""

    data: bytes
    """Picture file, as received."""
    picture: Picture
    """The same, decoded."""
    rows: tuple[tuple[float, ...], ...]
    """All lists of sixteen numbers in any schema, the likeliest action first."""
    tokens: tuple[int, ...]
    """Tokens of the picture; may be empty."""


def read_response(body: bytes) -> Response:
    """Find picture, actions and tokens of the first predicted step."""
    try:
        content = json.loads(body)
        content = json.loads(content) if isinstance(content, str) else content  # some hosts encode twice
    except (ValueError, RecursionError) as error:
        raise EndpointError("the response is not JSON; is this the address of a scoring endpoint?") from error
    lists = (v for name, v in iter_json(content, _REQUEST_NAMES) if name == "results" and isinstance(v, list))
    results = next(lists, [content])
    if not results:
        raise EndpointError("the response holds no results: got 0 steps, expected 1")
    result = results[0]
    texts = (v for name, v in iter_json(result, _REQUEST_NAMES) if name == "image" and isinstance(v, str))
    image = next(texts, None)
    if image is None:
        raise EndpointError("the response holds no picture; expected base64 under results[0].image")
    name = "the response's picture"
    try:
        data = from_base64(image, name)
        picture = read_picture(data, name=name)
    except PictureError as error:
        raise EndpointError(str(error)) from error
    height, width = picture.frame_HWC.shape[:2]
    if picture.format not in ENDINGS or height * width > _MAX_PIXELS:
        got = f"{picture.format} of {width} x {height}"
        raise EndpointError(
            f"{name} cannot be used: got {got}, expected {', '.join(ENDINGS)} of {_MAX_PIXELS:,} pixels"
        )
    rows = _rows(result) or _rows(content)
    lists = (v for name, v in iter_json(result, _REQUEST_NAMES) if name == "tokens" and isinstance(v, list))
    tokens = next(lists, [])
    valid = all(type(token) is int and token >= 0 for token in tokens)
    return Response(data=data, picture=picture, rows=rows, tokens=tuple(tokens) if valid else ())


def choose_action(
    rows: tuple[tuple[float, ...], ...], schema: Schema | Literal["auto"], last: Schema | None = None
) -> tuple[NDArray[np.uint8], Schema] | None:
    """Return the action values [16] of the first row that is an action, and its schema; None without one.

    With `auto` the schema of the previous response, `last`, is tried first, because zeros and ones may fit both.
    """
    tried: list[Schema | Literal["auto"]] = [last, "auto"] if schema == "auto" and last is not None else [schema]
    for row in rows:
        for name in tried:
            with suppress(ActionError):
                found: Schema = detect_schema(row)[0] if name == "auto" else name
                return rows_to_values(row, found), found
    return None


def _rows(value: Any) -> tuple[tuple[float, ...], ...]:
    found = [(name, v) for name, v in iter_json(value, _REQUEST_NAMES) if name != "tokens" and _is_row(v)]
    found.sort(key=lambda pair: [*_ACTION_NAMES, pair[0]].index(pair[0]))
    return tuple(tuple(float(number) for number in row) for _, row in found)


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == ACTION_SLOTS
        and all(type(number) in (int, float) and abs(number) < 1e9 for number in value)
    )

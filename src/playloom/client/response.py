"""Content of a response: a picture, lists of sixteen numbers, and the picture's tokens.

Endpoints of one schema differ in small ways (other names, one more level), so actions are found by their form.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, Schema, detect_schema, encode_named, rows_to_values
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError, EndpointError, PictureError
from playloom.media.images import Picture, from_base64, read_picture

TRIGGER_PROBABILITY = 0.4
"""Probability of the right trigger in a random action."""
MAX_PIXELS = 2_000_000
"""Larger pictures are an error: enlarged four times, one would take a hundred megabytes and more."""
ENDINGS: dict[str, Literal[".png", ".jpg", ".webp"]] = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""File endings of received pictures by format."""
_ACTION_NAMES = ("actions", "actions_output")
_REQUEST_NAMES = ("context", "input_data")  # a request that is repeated in the response


def random_action(seed: int, step: int) -> NDArray[np.uint8]:
    """Draw action values [16]: both sticks, one direction of the pad, sometimes the right trigger.

    They depend on seed and step only.
    """
    source = np.random.default_rng([seed, step])
    state = {c.name: source.uniform(-1, 1) for c in CONTROLS if c.kind == "axis"}
    state["trigger_RT"] = float(source.random() < TRIGGER_PROBABILITY)
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
    if picture.format not in ENDINGS or height * width > MAX_PIXELS:
        got = f"{picture.format} of {width} x {height}"
        raise EndpointError(f"{name} cannot be used: got {got}, expected {', '.join(ENDINGS)} of {MAX_PIXELS:,} pixels")
    rows = _rows(result) or _rows(content)
    return Response(data=data, picture=picture, rows=rows, tokens=_tokens(result))


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


def _tokens(result: Any) -> tuple[int, ...]:
    lists = (v for name, v in iter_json(result, _REQUEST_NAMES) if name == "tokens" and isinstance(v, list))
    tokens = next(lists, [])
    return tuple(tokens) if all(type(token) is int and token >= 0 for token in tokens) else ()

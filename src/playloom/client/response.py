"""What a reply holds: a picture, an action in some shape, and perhaps the picture's tokens.

Owns finding them. Endpoints of one schema differ in small ways (other names, one more level, JSON inside a string), so
what is looked for is found by its form: sixteen numbers are an action, base64 of a picture is a picture.

An action for when a reply has none: random, of the kind existing clients fall back to.

Owns its distribution: both sticks anywhere, the right trigger four times in ten, one key of the directional pad.

Walks through a JSON value in the order of its text, however deep it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, Schema, detect_schema, encode_named, rows_to_values
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError, EndpointError, PictureError
from playloom.media.images import Picture, read_picture

TRIGGER_SHARE = 0.4
"""How often the right trigger is pressed."""


def random_action(seed: int, step: int) -> NDArray[np.uint8]:
    """Action values [16] in slot order. The same seed and step give the same action, whatever happened before."""
    source = np.random.default_rng([seed, step])
    state = {c.name: source.uniform(-1, 1) for c in CONTROLS if c.kind == "axis"}
    state["trigger_RT"] = float(source.random() < TRIGGER_SHARE)
    state[str(source.choice([c.name for c in CONTROLS if c.name.startswith("dpad_")]))] = 1.0
    return encode_named([state.get(c.name, 0.0) for c in CONTROLS])


def walk(value: Any, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Every (name, value) inside, the whole one first; what lies in a list has the list's name.

    Numbers, booleans and nulls inside lists are left to whoever looks at the list.

    Args:
        value: what `json.loads` gave.
        leave_out: names whose values are not walked into and not given.
    """
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        name, inner = waiting.pop()
        yield name, inner
        if isinstance(inner, dict):
            waiting += [(key, part) for key, part in reversed(inner.items()) if key not in leave_out]
        elif isinstance(inner, list):
            waiting += [(name, part) for part in reversed(inner) if isinstance(part, dict | list | str)]


MAX_PIXELS = 2_000_000
"""Larger pictures are refused: enlarged four times, one would take a hundred megabytes and more."""
_MAGICS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
ENDINGS = tuple(_MAGICS.values())
"""What received pictures are called."""
_ACTION_NAMES = ("actions", "actions_output")
_NOT_OURS = {"context", "input_data"}  # a request that is sent back with the reply
_MAX_TOKENS = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """The first predicted step of a reply."""

    data: bytes
    """The picture's file, as it came."""
    ending: str
    """What such a file is called: `.png`, `.jpg` or `.webp`."""
    picture: Picture
    """The same, decoded."""
    rows: tuple[tuple[float, ...], ...]
    """Every list of exactly sixteen numbers, likeliest action first; raw, in whatever schema."""
    tokens: tuple[int, ...]
    """The picture's tokens; empty when the endpoint sends none."""


def read_reply(body: bytes) -> Reply:
    """Find picture, actions and tokens of the first predicted step.

    Raises:
        EndpointError: when it is no JSON, or holds no picture, or a damaged one.
    """
    whole = _parse(body)
    first = _first_result(whole)
    data = _picture(first)
    ending = next((ending for magic, ending in _MAGICS.items() if data.startswith(magic)), None)
    if ending is None:
        raise EndpointError("the reply's picture is neither PNG, JPEG nor WebP")
    try:
        picture = read_picture(data, name="the reply's picture")
    except PictureError as error:
        raise EndpointError(str(error)) from error
    height, width = picture.frame_HWC.shape[:2]
    if height * width > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise EndpointError(f"the reply's picture is {width} x {height}; expected at most {limit} million pixels")
    rows = list(_rows(first)) or list(_rows(whole))
    return Reply(data=data, ending=ending, picture=picture, rows=tuple(rows), tokens=_tokens(first))


def choose_action(
    rows: tuple[tuple[float, ...], ...], schema: Schema | Literal["auto"], last: Schema | None = None
) -> tuple[NDArray[np.uint8], Schema] | None:
    """The first row that is an action, as values [16] in slot order, and its schema; None when none is.

    Args:
        rows: see `Reply.rows`.
        schema: how to read them; `auto` decides by the numbers.
        last: with `auto`, the schema of the reply before: it is kept as long as it fits, because a single row of
            noughts and ones may fit both.
    """
    for row in rows:
        try:
            return _read_row(row, schema, last)
        except ActionError:
            continue
    return None


def _read_row(row: tuple[float, ...], schema: str, last: Schema | None) -> tuple[NDArray[np.uint8], Schema]:
    if schema == "auto" and last is not None:
        try:
            return rows_to_values(row, last), last
        except ActionError:
            pass
    chosen: Schema = detect_schema(row)[0] if schema == "auto" else schema  # type: ignore[assignment]
    return rows_to_values(row, chosen), chosen


def _parse(body: bytes) -> Any:
    try:
        known = json.loads(body)
        return json.loads(known) if isinstance(known, str) else known  # some hosts put JSON into a JSON string
    except (ValueError, RecursionError) as error:
        raise EndpointError("the reply is not JSON; is this the address of a scoring endpoint?") from error


def _first_result(whole: Any) -> Any:
    for name, value in walk(whole, _NOT_OURS):
        if name == "results" and isinstance(value, list):
            if not value:
                raise EndpointError("the reply holds no results; it predicted no step")
            return value[0]
    return whole


def _rows(value: Any) -> Iterator[tuple[float, ...]]:
    found = [(name, inner) for name, inner in walk(value, _NOT_OURS) if name != "tokens" and _is_row(inner)]
    found.sort(key=lambda pair: _ACTION_NAMES.index(pair[0]) if pair[0] in _ACTION_NAMES else len(_ACTION_NAMES))
    return (tuple(float(number) for number in row) for _, row in found)


def _is_row(value: Any) -> bool:
    return isinstance(value, list) and len(value) == ACTION_SLOTS and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e9 if isinstance(value, int) else math.isfinite(value)


def _tokens(first: Any) -> tuple[int, ...]:
    for name, value in walk(first, _NOT_OURS):
        if name == "tokens" and isinstance(value, list) and len(value) <= _MAX_TOKENS:
            whole = all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in value)
            return tuple(value) if whole else ()
    return ()


def _picture(first: Any) -> bytes:
    """The bytes under the name `image`; where there is none, of the first text that is a picture in base64."""
    texts = [(name, value) for name, value in walk(first, _NOT_OURS) if isinstance(value, str)]
    for name, text in texts:
        if name == "image":
            return _decode(text)
    for _, text in texts:
        try:
            data = _decode(text)
        except EndpointError:
            continue
        if data.startswith(tuple(_MAGICS)):
            return data
    raise EndpointError("the reply holds no picture; expected one in base64 under results[0].image")


def _decode(text: str) -> bytes:
    bare = "".join(text.partition(",")[2].split() if text.startswith("data:") else text.split())
    try:
        return base64.b64decode(bare, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EndpointError("the reply's picture is not base64, or was cut short") from error

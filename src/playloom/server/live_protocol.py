"""Messages of live play, `WS /v1/play`: what a player sends, and frames as bytes.

A frame is a header of 96 bytes, little-endian, then the picture:

    magic "PLF1" | sequence u32 | dream u32 | time f64 | key to frame f32 | cost f32 | action given u8 | format u8 |
    2 unused | the action used, 16 x f32, `named` schema

Owns the bytes. Knows nothing of sessions.
"""

from __future__ import annotations

import math
import struct
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from playloom.actions.codec import rows_to_values, values_to_rows
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError
from playloom.inference.realtime.types import Controller, LiveFrame
from playloom.media.images import Live
from playloom.server.service import RequestModel

HEADER = struct.Struct("<4sIIdffBBxx16f")
MAGIC = b"PLF1"
FORMATS: dict[Live, int] = {"jpeg": 1, "webp": 2}
ACTION_BYTES = 4 * len(CONTROLS)
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
PlaySeed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(max_length=255)]


class Hello(RequestModel):
    """The first message."""

    type: Literal["hello"]
    key: str | None = Field(default=None, max_length=4096)
    """The server's key, where it has one and the upgrade request did not carry it."""
    resume: Name | None = None
    """Token of a session to go on with; one that is not known any more begins anew, with another token."""
    prompt: Name | None = None
    """Where to begin: a bundled moment's name."""
    image: str | None = None
    """Or a PNG or JPEG, base64."""
    controller: Controller = "person"
    """Who plays."""
    seed: PlaySeed | None = None
    """Same seed, same actions at the same frames: same frames."""
    temperature: Temperature | None = None
    """How tokens are drawn; none: the model's own."""
    format: Live = "jpeg"
    """Of the pictures sent."""


class Pause(RequestModel):
    """Make no frame until resumed."""

    type: Literal["pause"]


class Resume(RequestModel):
    """Go on by the clock."""

    type: Literal["resume"]


class StepOnce(RequestModel):
    """One frame, then rest; pauses first where play goes on."""

    type: Literal["step"]


class Reset(RequestModel):
    """Start over, here or somewhere else."""

    type: Literal["reset"]
    seed: PlaySeed | None = None
    prompt: Name | None = None
    image: str | None = None


class SetController(RequestModel):
    """Who plays from now on."""

    type: Literal["controller"]
    value: Controller


class SetTemperature(RequestModel):
    """How tokens are drawn from now on."""

    type: Literal["temperature"]
    value: Temperature


Control = Pause | Resume | StepOnce | Reset | SetController | SetTemperature
HELLO: TypeAdapter[Hello] = TypeAdapter(Hello)
CONTROL_KINDS = get_args(Control)
CONTROL: TypeAdapter[Control] = TypeAdapter(Annotated[Control, Field(discriminator="type")])


class OpeningProgress:
    """How far a session's opening is: set from any thread, told to the player."""

    def __init__(self) -> None:
        self._counts: tuple[int | None, int | None] = (None, None)

    def saw(self, seen: int, steps: int) -> None:
        """So many steps of the prompt were seen, of so many."""
        self._counts = (seen, steps)

    def message(self) -> dict[str, Any]:
        """As it is told; null before the prompt is known."""
        seen, steps = self._counts
        return {"type": "opening", "seen": seen, "steps": steps}


def read_action(data: bytes) -> NDArray[np.uint8]:
    """A binary message as action values uint8 [16].

    Raises:
        ActionError: when it is not sixteen finite float32 in the ranges of the `named` schema.
    """
    if len(data) != ACTION_BYTES:
        raise ActionError(f"an action is {ACTION_BYTES} bytes, 16 float32; got {len(data)}")
    return rows_to_values(np.frombuffer(data, "<f4"), "named")


def pack_frame(frame: LiveFrame, picture: bytes, form: Live) -> bytes:
    """A frame as one message."""
    header = HEADER.pack(
        MAGIC,
        frame.sequence % 2**32,
        frame.dream % 2**32,
        frame.time,
        math.nan if frame.key_to_frame is None else frame.key_to_frame,
        frame.cost,
        frame.action_given,
        FORMATS[form],
        *values_to_rows(frame.action_A, "named").tolist(),
    )
    return header + picture

"""Messages of live play, `WS /v1/play`.

A frame is a header of 96 bytes, little-endian, then the picture:

    magic "PLF1" | sequence u32 | dream u32 | time f64 | key to frame f32 | cost f32 | action given u8 | format u8 |
    2 unused | the action used, 16 x f32, `named` schema
"""

from __future__ import annotations

import math
import struct
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from playloom.actions.codec import rows_to_values, values_to_rows
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError
from playloom.inference.realtime.types import Controller, LiveFrame
from playloom.media.images import Live
from playloom.server.schemas import RequestModel, SeedValue, TemperatureValue

HEADER = struct.Struct("<4sIIdffBBxx16f")
MAGIC = b"PLF1"
FORMATS: dict[Live, int] = {"jpeg": 1, "webp": 2}
ACTION_BYTES = 4 * len(CONTROLS)
Name = Annotated[str, Field(max_length=255)]


class Hello(RequestModel):
    """First message of a connection."""

    type: Literal["hello"]
    key: str | None = Field(default=None, max_length=4096)
    """API key; needed unless the upgrade request carried it."""
    resume: Name | None = None
    """Token of a session to resume; an unknown token opens a new session."""
    prompt: Name | None = None
    """Name of a bundled prompt; none: the first one."""
    image: str | None = None
    """Start image instead of a prompt: PNG or JPEG, base64."""
    controller: Controller = "person"
    """Source of the actions."""
    seed: SeedValue | None = None
    """Random seed; the same seed and actions give the same frames. None: a random one."""
    temperature: TemperatureValue | None = None
    """Divides the logits; none: the model's default."""
    format: Live = "jpeg"
    """Image format of the frames."""


class Command(RequestModel):
    """Pause the session, resume its clock, or generate one frame, which pauses first."""

    type: Literal["pause", "resume", "step"]


class Reset(RequestModel):
    """Restart, at the same prompt or at another one."""

    type: Literal["reset"]
    seed: SeedValue | None = None
    prompt: Name | None = None
    image: str | None = None


class SetController(RequestModel):
    """Set the source of the actions."""

    type: Literal["controller"]
    value: Controller


class SetTemperature(RequestModel):
    """Set the temperature."""

    type: Literal["temperature"]
    value: TemperatureValue


Control = Command | Reset | SetController | SetTemperature
HELLO: TypeAdapter[Hello] = TypeAdapter(Hello)
CONTROL: TypeAdapter[Control] = TypeAdapter(Annotated[Control, Field(discriminator="type")])


def read_action(data: bytes) -> NDArray[np.uint8]:
    """Parse a binary message, sixteen float32 in the `named` schema, into action values, uint8 [16]."""
    if len(data) != ACTION_BYTES:
        raise ActionError(f"an action is {ACTION_BYTES} bytes, 16 float32; got {len(data)}")
    return rows_to_values(np.frombuffer(data, "<f4"), "named")


def pack_frame(frame: LiveFrame, picture: bytes, form: Live) -> bytes:
    """Pack a frame into one message."""
    header = HEADER.pack(
        MAGIC,
        frame.sequence % 2**32,
        frame.restarts % 2**32,
        frame.time,
        math.nan if frame.key_to_frame is None else frame.key_to_frame,
        frame.latency,
        frame.action_given,
        FORMATS[form],
        *values_to_rows(frame.action_A, "named").tolist(),
    )
    return header + picture

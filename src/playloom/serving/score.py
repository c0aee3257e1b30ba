"""`POST /score`: the hosted endpoint's format, in and out. Knows only the format; `steps` knows what it means."""

from __future__ import annotations

import base64
import json
from contextlib import aclosing
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from playloom.errors import BadInputError
from playloom.serving.parsing import body_of, takes
from playloom.serving.pictures import from_base64
from playloom.serving.steps import predict
from playloom.serving.studio import Seen, Studio, pick_seed
from playloom.serving.vectors import Form, bins_of, read_vector

_USED = 10
SEED_END = 2**63


def _blank_is_none(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("", "none", "null") else value


Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[list[Number], Field(max_length=64)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=65536)]
Temperature = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None, BeforeValidator(_blank_is_none)
]
TopK = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_blank_is_none)]
TopP = Annotated[Annotated[float, Field(gt=0, le=1)] | None, BeforeValidator(_blank_is_none)]
Seed = Annotated[Annotated[int, Field(ge=0, lt=SEED_END)] | None, BeforeValidator(_blank_is_none)]


class ScoreEntry(BaseModel):
    """One step of the context: a picture and what was done after seeing it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image: str
    """PNG or JPEG of any size, base64; resized to the model's size."""
    actions: Vector | None = None
    """Sixteen numbers: bins, or floats of either order; see `schema`. Missing or empty: `actions_output`."""
    actions_output: Vector | None = None
    """As an earlier reply gave them; used where `actions` is missing or empty."""
    tokens: Tokens | None = None
    """As an earlier reply gave them; used in place of encoding the picture. Missing or empty: it is encoded."""


class ScoreInput(BaseModel):
    """What to predict, and from what."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    context: list[ScoreEntry] = Field(min_length=1, max_length=100)
    """Steps, oldest first; the last 10 are used."""
    num_steps_to_predict: int = Field(default=1, ge=1)
    """How many steps to predict."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's own."""
    top_p: TopP = None
    """Only the likeliest tokens that reach p together."""
    top_k: TopK = None
    """Only the k likeliest tokens."""
    seed: Seed = None
    """Same request, same seed: same reply; none: any. (Not in the original format.)"""
    schema_: Form = Field(default="auto", alias="schema")
    """What the vectors of `actions` are; `auto` decides for each. (Not in the original format.)"""


class ScoreRequest(BaseModel):
    """The hosted endpoint's request."""

    input_data: ScoreInput


class ScoreResult(BaseModel):
    """One predicted step."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image: str
    """PNG, base64: visibly marked, its manifest in the text chunk `playloom`."""
    actions: list[int]
    """What the model would do after seeing it, sixteen bins."""
    actions_output: list[int]
    """The same."""
    tokens: list[int]
    """The picture's tokens; sent back with it, the dream goes on without drift and without the mark."""


class ScoreReply(BaseModel):
    """The hosted endpoint's reply."""

    results: list[ScoreResult]


def add_score(app: FastAPI, studio: Studio) -> None:
    """Add the route."""

    @app.post("/score", response_model=ScoreReply, openapi_extra=takes(ScoreRequest), tags=["hosted endpoint"])
    async def score(request: Request) -> Response:
        """Predict the steps that follow a context: each a picture and the action taken after seeing it.

        The last entry's action closes its step: the first picture predicted is the one that follows it.
        """
        studio.gate.check_open()
        asked = (await body_of(request, ScoreRequest)).input_data
        studio.check_steps(asked.num_steps_to_predict)
        return await studio.in_time(_answer(studio, asked, request))


async def _answer(studio: Studio, asked: ScoreInput, request: Request) -> Response:
    async with studio.gate.turn():
        seen, actions = await studio.side(lambda: _context(asked))
        between = [action_A for action_A in actions[:-1] if action_A is not None]
        prompt = await studio.prompt(seen, between, stretch=True, steps=_USED)
        how, seed = studio.sampling(asked.temperature, asked.top_k, asked.top_p), pick_seed(asked.seed)
        manifest = studio.manifest(prompt, how, seed, "full")
        results = []
        count = asked.num_steps_to_predict
        async with aclosing(
            predict(studio, prompt, closing_A=actions[-1], count=count, sampling=how, seed=seed)
        ) as steps:
            async for number, step, action_A in steps:
                png = await studio.png(step, manifest, number)
                results.append(_result(png, action_A, step.codes_N))
                if await request.is_disconnected():
                    return Response(status_code=499)  # nobody reads it; do not dream on
        content = await studio.side(lambda: json.dumps({"results": results}))
    return Response(content, media_type="application/json")


def _context(asked: ScoreInput) -> tuple[list[Seen], list[NDArray[np.uint8] | None]]:
    """The entries used, and their actions; only the last may have none."""
    seen, actions = [], []
    first = max(0, len(asked.context) - _USED)
    for number, entry in enumerate(asked.context[first:], first):
        where = f"context entry {number}"
        vector = entry.actions or entry.actions_output
        if not vector and number < len(asked.context) - 1:
            raise BadInputError(f"{where} has no actions; only the last entry may leave them to the model")
        actions.append(read_vector(vector, asked.schema_, f"actions of {where}") if vector else None)
        codes_N = np.array(entry.tokens, np.int64) if entry.tokens else None
        picture = from_base64(entry.image, f"the image of {where}")
        seen.append(Seen(picture=picture, where=f"the image of {where}", codes_N=codes_N))
    return seen, actions


def _result(png: bytes, action_A: NDArray[np.uint8], codes_N: NDArray[np.int64] | None) -> dict[str, Any]:
    assert codes_N is not None, "a predicted step has a frame"
    bins = bins_of(action_A)
    return {
        "image": base64.b64encode(png).decode(),
        "actions": bins,
        "actions_output": bins,
        "tokens": [int(code) for code in codes_N],
    }

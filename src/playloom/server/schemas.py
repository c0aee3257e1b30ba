"""`POST /score`, `/v1/dream` and `/v1/policy`: request and response types, and their routes.

A context's last action closes its last step, so the engine first generates the frame after it. A result is complete
when the action that answers its frame is known, one engine step later; the last engine step generates no frame.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from playloom.actions.codec import REST_VALUES, Form, bins_of, read_vector, values_to_rows
from playloom.errors import BadInputError
from playloom.inference.sampling import Sampling
from playloom.inference.types import GenerationRequest, Prompt, StepResult
from playloom.media.images import from_base64, read_frame
from playloom.provenance import Manifest
from playloom.server.errors import ApiError
from playloom.server.scheduler import Frame
from playloom.server.service import (
    ContextStep,
    InferenceService,
    RequestModel,
    parse_body,
    request_schema,
    resolve_prompt,
    resolve_seed,
)


class Predicted(NamedTuple):
    """One predicted step."""

    number: int
    """Step number, from 1."""
    step: StepResult
    """Frame and tokens of the step."""
    action_A: NDArray[np.uint8]
    """Action taken after seeing that frame, uint8 [16]."""


async def predict(
    service: InferenceService,
    prompt: Prompt,
    *,
    closing_A: NDArray[np.uint8] | None,
    count: int,
    forced: Sequence[NDArray[np.uint8] | None] = (),
    sampling: Sampling,
    seed: int,
) -> AsyncGenerator[Predicted, None]:
    """Predict steps one by one.

    Args:
        service: dreams.
        prompt: the context; its last frame is open.
        closing_A: the action that closes it; None: dreamed.
        count: how many steps.
        forced: the actions of the first predicted steps where they are given; None or beyond: dreamed.
        sampling: how tokens are drawn.
        seed: same context, same seed: same steps.
    """
    actions = [closing_A, *(forced[i] if i < len(forced) else None for i in range(count))]
    turns: list[tuple[NDArray[np.uint8] | None, Frame]] = [(action_A, "dream") for action_A in actions[:-1]]
    turns.append((actions[-1], None))
    before: StepResult | None = None
    number = 0
    async with aclosing(service.dream(prompt, turns, sampling, seed)) as steps:
        async for step in steps:
            if before is not None:
                number += 1
                yield Predicted(number, before, step.action_A)
            before = step


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
    """One context step: an image and the action taken after seeing it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image: str
    """PNG or JPEG of any size, base64; resized to the model's size."""
    actions: Vector | None = None
    """Sixteen numbers: bins, or floats of either order; see `schema`. Missing or empty: `actions_output`."""
    actions_output: Vector | None = None
    """From an earlier reply; used where `actions` is missing or empty."""
    tokens: Tokens | None = None
    """From an earlier reply; used in place of encoding the image. Missing or empty: it is encoded."""


class ScoreInput(BaseModel):
    """Context and sampling parameters."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    context: list[ScoreEntry] = Field(min_length=1, max_length=100)
    """Steps, oldest first; the last 10 are used."""
    num_steps_to_predict: int = Field(default=1, ge=1)
    """Steps to predict."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's default."""
    top_p: TopP = None
    """Sample from the likeliest tokens that reach p together."""
    top_k: TopK = None
    """Sample from the k likeliest tokens only."""
    seed: Seed = None
    """Random seed; none: a random one. (Not in the original format.)"""
    schema_: Form = Field(default="auto", alias="schema")
    """Schema of `actions`; `auto` decides for each vector. (Not in the original format.)"""


class ScoreRequest(BaseModel):
    """Request of the hosted endpoint."""

    input_data: ScoreInput


class ScoreResult(BaseModel):
    """One predicted step."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image: str
    """PNG, base64: visibly watermarked, its manifest in the text chunk `playloom`."""
    actions: list[int]
    """Action that the model takes after seeing it, sixteen bins."""
    actions_output: list[int]
    """Same as `actions`."""
    tokens: list[int]
    """Tokens of the image; send them back with it to continue without drift and without the watermark."""


class ScoreReply(BaseModel):
    """Reply of the hosted endpoint."""

    results: list[ScoreResult]


def register_score_routes(app: FastAPI, service: InferenceService) -> None:
    """Add the route."""

    @app.post("/score", response_model=ScoreReply, openapi_extra=request_schema(ScoreRequest), tags=["hosted endpoint"])
    async def score(request: Request) -> Response:
        """Predict the steps after a context: an image each, and the action taken after seeing it.

        The last entry's action closes its step: the first picture predicted is the one that follows it.
        """
        service.limiter.check_open()
        params = (await parse_body(request, ScoreRequest)).input_data
        service.check_steps(params.num_steps_to_predict)
        return await service.in_time(_answer(service, params, request))


async def _answer(service: InferenceService, params: ScoreInput, request: Request) -> Response:
    async with service.limiter.slot():
        seen, actions = await service.run_in_io_pool(lambda: _context(params))
        between = [action_A for action_A in actions[:-1] if action_A is not None]
        prompt = await service.prompt(seen, between, stretch=True, steps=_USED)
        sampling, seed = service.sampling(params.temperature, params.top_k, params.top_p), resolve_seed(params.seed)
        manifest = service.manifest(prompt, sampling, seed, "full")
        results = []
        count = params.num_steps_to_predict
        async with aclosing(
            predict(service, prompt, closing_A=actions[-1], count=count, sampling=sampling, seed=seed)
        ) as steps:
            async for number, step, action_A in steps:
                png = await service.png(step, manifest, number)
                results.append(_result(png, action_A, step.codes_N))
                if await request.is_disconnected():
                    return Response(status_code=499)  # the client is gone
        content = await service.run_in_io_pool(lambda: json.dumps({"results": results}))
    return Response(content, media_type="application/json")


def _context(params: ScoreInput) -> tuple[list[ContextStep], list[NDArray[np.uint8] | None]]:
    """Read the entries used and their actions; only the last action may be missing."""
    seen, actions = [], []
    first = max(0, len(params.context) - _USED)
    for number, entry in enumerate(params.context[first:], first):
        where = f"context entry {number}"
        vector = entry.actions or entry.actions_output
        if not vector and number < len(params.context) - 1:
            raise BadInputError(f"{where} has no actions; only the last entry may leave them to the model")
        actions.append(read_vector(vector, params.schema_, f"actions of {where}") if vector else None)
        codes_N = np.array(entry.tokens, np.int64) if entry.tokens else None
        picture = from_base64(entry.image, f"the image of {where}")
        seen.append(ContextStep(picture=picture, where=f"the image of {where}", codes_N=codes_N))
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


_MOST = 100
Picture = Annotated[str, Field(description="PNG or JPEG, base64; the middle is cut out where the shape differs.")]


class PromptParams(RequestModel):
    """Prompt and sampling parameters."""

    prompt: str | None = Field(default=None, max_length=255)
    """Name of a bundled prompt, see `/v1/prompts`; none, and no images: the first one."""
    images: Annotated[list[Picture], Field(min_length=1, max_length=_MOST)] | None = None
    """Images instead of a prompt, oldest first; the last ones that fit the context are used."""
    context_actions: Annotated[list[Vector], Field(max_length=_MOST)] | None = None
    """Actions between the images, one less than images; none: at rest."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """Schema of every action in this request."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's default."""
    top_k: TopK = None
    """Sample from the k likeliest tokens only."""
    top_p: TopP = None
    """Sample from the likeliest tokens that reach p together."""
    seed: Seed = None
    """Random seed; the same request and seed give the same reply. None: a random one."""


class DreamRequest(PromptParams):
    """Request of `/v1/dream`."""

    mode: Literal["world", "policy", "full"] = "world"
    """`world`: actions in, frames out. `policy`: frames in, actions out. `full`: both generated."""
    steps: int = Field(default=10, ge=1)
    """Steps to generate."""
    actions: Annotated[list[Vector], Field(max_length=10_000)] | None = None
    """`world`: the action of every step; none, with a bundled prompt: the recorded ones. `full`: of the first steps."""
    frames: Annotated[list[Picture], Field(max_length=_MOST)] | None = None
    """`policy`: the true frames that follow, steps - 1 of them; none, with a bundled prompt: the recorded ones."""


class Step(BaseModel):
    """One step: the action, and the frame after it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    index: int
    """Step number, from 0."""
    action: list[float]
    """Sixteen numbers in the request's schema."""
    action_given: bool
    """True when the request gave the action; false when the model sampled it."""
    image: str | None
    """PNG, base64, watermarked; null in policy mode."""
    tokens: list[int] | None
    """Tokens of the frame."""


class DreamResponse(BaseModel):
    """Reply of `/v1/dream`."""

    model: str
    """Name of the model."""
    seed: int
    """Seed used."""
    steps: list[Step]
    """Steps in order."""


class PolicyResponse(BaseModel):
    """Reply of `/v1/policy`."""

    model: str
    """Name of the model."""
    seed: int
    """Seed used."""
    action: list[float]
    """Sixteen numbers in the request's schema."""


def register_dream_routes(app: FastAPI, service: InferenceService) -> None:
    """Add the routes."""

    @app.post("/v1/dream", response_model=DreamResponse, openapi_extra=request_schema(DreamRequest), tags=["playloom"])
    async def dream(request: Request) -> Response:
        """Generate frames, actions or both from a prompt or images."""
        service.limiter.check_open()
        order = await parse_body(request, DreamRequest)
        service.check_steps(order.steps)
        return await service.in_time(_dream(service, order, request))

    @app.post(
        "/v1/policy", response_model=PolicyResponse, openapi_extra=request_schema(PromptParams), tags=["playloom"]
    )
    async def policy(request: Request) -> Response:
        """Return the model's next action."""
        service.limiter.check_open()
        return await service.in_time(_policy(service, await parse_body(request, PromptParams)))


async def build_prompt(service: InferenceService, params: PromptParams) -> Prompt:
    """Build the prompt of a request.

    Raises:
        PlayloomError: when it cannot be used.
    """
    if params.images is None:
        name = resolve_prompt(params.prompt)
        return (await service.run_in_io_pool(lambda: service.bundled_prompt(name)))[0]
    if params.prompt is not None:
        raise BadInputError("a dream begins at a moment or at images; send one of the two")
    images, where = params.images, "image {}"
    given = params.context_actions
    if given is not None and len(given) != len(images) - 1:
        raise BadInputError(f"{len(images)} images need {len(images) - 1} context_actions between; got {len(given)}")
    actions = read_actions(given, params.schema_, "context action") if given else [REST_VALUES] * (len(images) - 1)
    seen = await service.run_in_io_pool(
        lambda: [
            ContextStep(picture=from_base64(b, where.format(i)), where=where.format(i)) for i, b in enumerate(images)
        ]
    )
    return await service.prompt(seen, actions, steps=service.context)


def read_actions(rows: list[list[float]], schema: Literal["named", "binned"], what: str) -> list[NDArray[np.uint8]]:
    """Convert the action vectors of a request to action values."""
    return [read_vector(row, schema, f"{what} {index}") for index, row in enumerate(rows)]


async def serialize_step(
    service: InferenceService, step: StepResult, manifest: Manifest, schema: Literal["named", "binned"]
) -> tuple[dict[str, object], bytes | None]:
    """Serialize a step; return it with its PNG."""
    dreamed = step.frame_HWC is not None and manifest.mode != "policy"
    png = await service.png(step, manifest, step.index + 1) if dreamed else None
    return {
        "index": step.index,
        "action": [round(float(number), 4) for number in values_to_rows(step.action_A, schema)],
        "action_given": step.action_given,
        "image": None if png is None else base64.b64encode(png).decode(),
        "tokens": None if step.codes_N is None else step.codes_N.tolist(),
    }, png


async def _dream(service: InferenceService, order: DreamRequest, request: Request) -> Response:
    async with service.limiter.slot():
        params = await _request(service, order)
        manifest = service.manifest(params.prompt, params.sampling, params.seed, params.mode)
        turns = [(params.action(i), params.frame(i)) for i in range(params.steps)]
        steps = []
        async with aclosing(service.dream(params.prompt, turns, params.sampling, params.seed)) as dreamed:
            async for step in dreamed:
                steps.append((await serialize_step(service, step, manifest, order.schema_))[0])
                if await request.is_disconnected():
                    return Response(status_code=499)  # the client is gone
        content = {"model": service.model.config.name, "seed": params.seed, "steps": steps}
        return await service.run_in_io_pool(lambda: JSONResponse(content))


async def _request(service: InferenceService, order: DreamRequest) -> GenerationRequest:
    prompt = await build_prompt(service, order)
    true_frames, true_actions = None, None
    if order.images is None:
        name = resolve_prompt(order.prompt)
        _, true_frames, true_actions = await service.run_in_io_pool(lambda: service.bundled_prompt(name))
    actions = true_actions if order.mode == "world" else None
    if order.actions is not None and order.mode != "policy":
        rows = read_actions(order.actions, order.schema_, "action")
        actions = np.stack(rows) if rows else None
    if order.frames is not None:
        true_frames = await _frames(service, order.frames)
    return GenerationRequest(
        prompt=prompt,
        mode=order.mode,
        steps=order.steps,
        actions_SA=actions,
        frames_SHWC=true_frames if order.mode == "policy" else None,
        sampling=service.sampling(order.temperature, order.top_k, order.top_p),
        seed=resolve_seed(order.seed),
    )


async def _frames(service: InferenceService, pictures: list[str]) -> NDArray[np.uint8]:
    size, pixels = service.size, service.settings.picture_pixels

    def decode() -> list[NDArray[np.uint8]]:
        named = [(text, f"frame {index}") for index, text in enumerate(pictures)]
        return [read_frame(from_base64(text, where), size, where=where, pixels=pixels) for text, where in named]

    frames = await service.run_in_io_pool(decode)
    return np.stack(frames) if frames else np.zeros((0, *size, 3), np.uint8)


async def _policy(service: InferenceService, order: PromptParams) -> Response:
    async with service.limiter.slot():
        prompt, seed = await build_prompt(service, order), resolve_seed(order.seed)
        sampling = service.sampling(order.temperature, order.top_k, order.top_p)
        async with aclosing(service.dream(prompt, [(None, None)], sampling, seed)) as steps:
            async for step in steps:
                action = [round(float(number), 4) for number in values_to_rows(step.action_A, order.schema_)]
                return JSONResponse({"model": service.model.config.name, "seed": seed, "action": action})
    raise ApiError(500, "the model gave no answer")

"""`/v1/dream` and `/v1/policy`: our own API for one dream in any of the three modes. Knows only the format."""

from __future__ import annotations

import base64
from contextlib import aclosing
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from playloom.actions import REST_VALUES, values_to_rows
from playloom.engine import DreamRequest, DreamStep, Prompt
from playloom.errors import BadInputError
from playloom.provenance import Manifest
from playloom.serving.parsing import RequestModel, body_of, takes
from playloom.serving.pictures import from_base64, read_frame
from playloom.serving.refusals import Refusal
from playloom.serving.score import Seed, Temperature, TopK, TopP, Vector
from playloom.serving.studio import Seen, Studio, pick_moment, pick_seed
from playloom.serving.vectors import read_vector

_MOST = 100
Picture = Annotated[str, Field(description="PNG or JPEG, base64; the middle is cut out where the shape differs.")]


class Begin(RequestModel):
    """Where a dream begins, and how it is drawn."""

    moment: str | None = Field(default=None, max_length=255)
    """A bundled moment's name; see `/v1/moments`. None, and no images: the first one."""
    images: Annotated[list[Picture], Field(min_length=1, max_length=_MOST)] | None = None
    """Or pictures, oldest first; as many of the last as the model sees are used."""
    context_actions: Annotated[list[Vector], Field(max_length=_MOST)] | None = None
    """The actions between the images, one less than images; none: at rest."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """What the sixteen numbers of every action in this request are."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's own."""
    top_k: TopK = None
    """Only the k likeliest tokens."""
    top_p: TopP = None
    """Only the likeliest tokens that reach p together."""
    seed: Seed = None
    """Same request, same seed: same dream; none: any."""


class DreamOrder(Begin):
    """One dream."""

    mode: Literal["world", "policy", "full"] = "world"
    """`world`: actions given, pictures dreamed. `policy`: pictures given, actions dreamed. `full`: both dreamed."""
    steps: int = Field(default=10, ge=1)
    """How many steps."""
    actions: Annotated[list[Vector], Field(max_length=10_000)] | None = None
    """`world`: the action of every step; none, from a moment: what was really done. `full`: of the first steps."""
    frames: Annotated[list[Picture], Field(max_length=_MOST)] | None = None
    """`policy`: the true pictures that follow, steps - 1 of them; none, from a moment: those of the recording."""


class Step(BaseModel):
    """One step: the action taken, and the picture that followed."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    index: int
    """From 0."""
    action: list[float]
    """Sixteen numbers in the request's schema."""
    action_given: bool
    """Whether the request gave it; else it was dreamed."""
    image: str | None
    """PNG, base64, marked; null where the step dreamed none (policy mode)."""
    tokens: list[int] | None
    """Its tokens."""


class Dreamed(BaseModel):
    """A whole dream."""

    model: str
    """What dreamed it."""
    seed: int
    """Asked for again, the same comes."""
    steps: list[Step]
    """In order."""


class Policy(BaseModel):
    """What the model would press."""

    model: str
    """What says so."""
    seed: int
    """Asked for again, the same comes."""
    action: list[float]
    """Sixteen numbers in the request's schema."""


def add_dreaming(app: FastAPI, studio: Studio) -> None:
    """Add the routes."""

    @app.post("/v1/dream", response_model=Dreamed, openapi_extra=takes(DreamOrder), tags=["playloom"])
    async def dream(request: Request) -> Response:
        """Dream on from a moment or pictures."""
        studio.gate.check_open()
        order = await body_of(request, DreamOrder)
        studio.check_steps(order.steps)
        return await studio.in_time(_dream(studio, order, request))

    @app.post("/v1/policy", response_model=Policy, openapi_extra=takes(Begin), tags=["playloom"])
    async def policy(request: Request) -> Response:
        """What would the model press now?"""
        studio.gate.check_open()
        return await studio.in_time(_policy(studio, await body_of(request, Begin)))


async def begin(studio: Studio, asked: Begin) -> Prompt:
    """The prompt of what was asked for.

    Raises:
        PlayloomError: when it cannot be used.
    """
    if asked.images is None:
        name = pick_moment(asked.moment)
        return (await studio.side(lambda: studio.moment(name)))[0]
    if asked.moment is not None:
        raise BadInputError("a dream begins at a moment or at images; send one of the two")
    images, where = asked.images, "image {}"
    given = asked.context_actions
    if given is not None and len(given) != len(images) - 1:
        raise BadInputError(f"{len(images)} images need {len(images) - 1} context_actions between; got {len(given)}")
    actions = read_actions(given, asked.schema_, "context action") if given else [REST_VALUES] * (len(images) - 1)
    seen = await studio.side(
        lambda: [Seen(picture=from_base64(b, where.format(i)), where=where.format(i)) for i, b in enumerate(images)]
    )
    return await studio.prompt(seen, actions, steps=studio.context)


def read_actions(rows: list[list[float]], schema: Literal["named", "binned"], what: str) -> list[NDArray[np.uint8]]:
    """Vectors of a request as action values."""
    return [read_vector(row, schema, f"{what} {index}") for index, row in enumerate(rows)]


async def shown(
    studio: Studio, step: DreamStep, manifest: Manifest, schema: Literal["named", "binned"]
) -> tuple[dict[str, object], bytes | None]:
    """A step as it is answered, and its picture."""
    dreamed = step.frame_HWC is not None and manifest.mode != "policy"
    png = await studio.png(step, manifest, step.index + 1) if dreamed else None
    return {
        "index": step.index,
        "action": [round(float(number), 4) for number in values_to_rows(step.action_A, schema)],
        "action_given": step.action_given,
        "image": None if png is None else base64.b64encode(png).decode(),
        "tokens": None if step.codes_N is None else step.codes_N.tolist(),
    }, png


async def _dream(studio: Studio, order: DreamOrder, request: Request) -> Response:
    async with studio.gate.turn():
        asked = await _request(studio, order)
        manifest = studio.manifest(asked.prompt, asked.sampling, asked.seed, asked.mode)
        turns = [(asked.action(i), asked.frame(i) if asked.mode == "policy" else "dream") for i in range(asked.steps)]
        steps = []
        async with aclosing(studio.dream(asked.prompt, turns, asked.sampling, asked.seed)) as dreamed:  # type: ignore[arg-type]
            async for step in dreamed:
                steps.append((await shown(studio, step, manifest, order.schema_))[0])
                if await request.is_disconnected():
                    return Response(status_code=499)  # nobody reads it; do not dream on
        content = {"model": studio.model.config.name, "seed": asked.seed, "steps": steps}
        return await studio.side(lambda: JSONResponse(content))


async def _request(studio: Studio, order: DreamOrder) -> DreamRequest:
    prompt = await begin(studio, order)
    true_frames, true_actions = None, None
    if order.images is None:
        name = pick_moment(order.moment)
        _, true_frames, true_actions = await studio.side(lambda: studio.moment(name))
    actions = true_actions if order.mode == "world" else None
    if order.actions is not None and order.mode != "policy":
        rows = read_actions(order.actions, order.schema_, "action")
        actions = np.stack(rows) if rows else None
    if order.frames is not None:
        true_frames = await _frames(studio, order.frames)
    return DreamRequest(
        prompt=prompt,
        mode=order.mode,
        steps=order.steps,
        actions_SA=actions,
        frames_SHWC=true_frames if order.mode == "policy" else None,
        sampling=studio.sampling(order.temperature, order.top_k, order.top_p),
        seed=pick_seed(order.seed),
    )


async def _frames(studio: Studio, pictures: list[str]) -> NDArray[np.uint8]:
    frames, pixels = [], studio.settings.picture_pixels
    for index, text in enumerate(pictures):
        where = f"frame {index}"
        frames.append(
            await studio.side(
                lambda text=text, where=where: read_frame(  # type: ignore[misc]
                    from_base64(text, where), studio.size, where=where, pixels=pixels
                )
            )
        )
    return np.stack(frames) if frames else np.zeros((0, *studio.size, 3), np.uint8)


async def _policy(studio: Studio, order: Begin) -> Response:
    async with studio.gate.turn():
        prompt, seed = await begin(studio, order), pick_seed(order.seed)
        how = studio.sampling(order.temperature, order.top_k, order.top_p)
        async with aclosing(studio.dream(prompt, [(None, None)], how, seed)) as steps:
            async for step in steps:
                action = [round(float(number), 4) for number in values_to_rows(step.action_A, order.schema_)]
                return JSONResponse({"model": studio.model.config.name, "seed": seed, "action": action})
    raise Refusal(500, "the model gave no answer")

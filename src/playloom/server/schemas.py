"""`POST /score`, `/v1/dream` and `/v1/policy`: request and response types, and their routes.

A context's last action closes its last step, so the engine first generates the frame after it. A result is complete
when the action that answers its frame is known, one engine step later; the last engine step generates no frame.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.responses import Response

from playloom.actions.codec import REST_VALUES, Form, read_vector, values_to_rows
from playloom.errors import BadInputError, did_you_mean
from playloom.inference.sampling import Sampling
from playloom.inference.session import GenerationRequest, Prompt, StepResult
from playloom.provenance import Manifest
from playloom.server.scheduler import Frame
from playloom.server.service import SEED_END, ContextStep, InferenceService, resolve_seed, run_in

_USED = 10
_MOST = 100

Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[list[Number], Field(max_length=64)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=65536)]
TemperatureValue = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
SeedValue = Annotated[int, Field(ge=0, lt=SEED_END)]
Picture = Annotated[str, Field(description="PNG or JPEG, base64; the middle is cut out where the shape differs.")]
Schema = Literal["named", "binned"]


def file_response(*media_types: str, empty: str | None = None) -> dict[str, Any]:
    """Return the arguments that declare a route's response as one of these media types, or as `empty` (204)."""
    responses: dict[int, Any] = {200: {"content": {name: {} for name in media_types}}}
    if empty is not None:
        responses[204] = {"description": empty}
    return {"response_class": Response, "responses": responses}


def download(data: bytes, name: str, media_type: str) -> Response:
    """Build the response that a browser saves under a name."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(data, media_type=media_type, headers=headers)


class ApiModel(BaseModel):
    """Request or reply."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestModel(ApiModel):
    """Request of our own API; an unknown field is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for name in data if isinstance(data, dict) else ():
            if name not in known:
                raise ValueError(f"there is no field {str(name)[:60]!r} here; {did_you_mean(str(name)[:60], known)}")
        return data


class SamplingFields(ApiModel):
    """Sampling parameters of a request."""

    temperature: TemperatureValue | None = None
    """Divides the logits; 0 is greedy; none: the model's default."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Sample from the k likeliest tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the likeliest tokens that reach p together."""
    seed: SeedValue | None = None
    """Random seed; the same request and seed give the same reply. None: a random one."""

    @field_validator("temperature", "top_k", "top_p", "seed", mode="before")
    @classmethod
    def _blank_is_none(cls, value: Any) -> Any:
        return None if isinstance(value, str) and value.strip().lower() in ("", "none", "null") else value

    def resolve(self, service: InferenceService) -> tuple[Sampling, int]:
        """Return the sampling parameters and the seed, with the model's defaults."""
        given = self.model_dump(include={"temperature", "top_k", "top_p"})
        return service.sampling(**given), resolve_seed(self.seed)


class ScoreEntry(ApiModel):
    """One context step: an image and the action taken after seeing it."""

    image: str = Field(description="PNG or JPEG of any size, base64; resized to the model's size.")
    actions: Vector | None = None
    """Sixteen numbers: bins, or floats of either order; see `schema`. Missing or empty: `actions_output`."""
    actions_output: Vector | None = None
    """From an earlier reply; used where `actions` is missing or empty."""
    tokens: Tokens | None = None
    """From an earlier reply; used in place of encoding the image. Missing or empty: it is encoded."""


class ScoreInput(SamplingFields):
    """Context and sampling parameters. (`seed` and `schema` are not in the original format.)"""

    context: list[ScoreEntry] = Field(min_length=1, max_length=100)
    """Steps, oldest first; the last 10 are used."""
    num_steps_to_predict: int = Field(default=1, ge=1, description="Steps to predict.")
    schema_: Form = Field(default="auto", alias="schema")
    """Schema of `actions`; `auto` decides for each vector."""


class ScoreRequest(ApiModel):
    """Request of the hosted endpoint."""

    input_data: ScoreInput


class ScoreResult(ApiModel):
    """One predicted step."""

    image: str = Field(description="PNG, base64: visibly watermarked, its manifest in the text chunk `playloom`.")
    actions: list[int] = Field(description="Action that the model takes after seeing it, sixteen bins.")
    actions_output: list[int] = Field(description="Same as `actions`.")
    tokens: list[int]
    """Tokens of the image; send them back with it to continue without drift and without the watermark."""


class ScoreReply(ApiModel):
    """Reply of the hosted endpoint."""

    results: list[ScoreResult]


class PromptFields(RequestModel):
    """Prompt of a request."""

    prompt: str | None = Field(default=None, max_length=255)
    """Name of a bundled prompt, see `/v1/prompts`; none, and no images: the first one."""
    images: Annotated[list[Picture], Field(min_length=1, max_length=_MOST)] | None = None
    """Images instead of a prompt, oldest first; the last ones that fit the context are used."""
    context_actions: Annotated[list[Vector], Field(max_length=_MOST)] | None = None
    """Actions between the images, one less than images; none: at rest."""
    schema_: Schema = Field(default="named", alias="schema", description="Schema of every action in this request.")


class PromptParams(SamplingFields, PromptFields):
    """Prompt and sampling parameters."""


class DreamRequest(PromptParams):
    """Request of `/v1/dream`."""

    mode: Literal["world", "policy", "full"] = "world"
    """`world`: actions in, frames out. `policy`: frames in, actions out. `full`: both generated."""
    steps: int = Field(default=10, ge=1, description="Steps to generate.")
    actions: Annotated[list[Vector], Field(max_length=10_000)] | None = None
    """`world`: the action of every step; none, with a bundled prompt: the recorded ones. `full`: of the first steps."""
    frames: Annotated[list[Picture], Field(max_length=_MOST)] | None = None
    """`policy`: the true frames that follow, steps - 1 of them; none, with a bundled prompt: the recorded ones."""


class Step(ApiModel):
    """One step: the action, and the frame after it."""

    index: int = Field(description="Step number, from 0.")
    action: list[float] = Field(description="Sixteen numbers in the request's schema.")
    action_given: bool = Field(description="True when the request gave the action; false when the model sampled it.")
    image: str | None = Field(description="PNG, base64, watermarked; null in policy mode.")
    tokens: list[int] | None = Field(description="Tokens of the frame.")


class GenerationResponse(ApiModel):
    """Reply that names what it was generated with."""

    model: str
    seed: int


class DreamResponse(GenerationResponse):
    """Reply of `/v1/dream`."""

    steps: list[Step]


class PolicyResponse(GenerationResponse):
    """Reply of `/v1/policy`."""

    action: list[float] = Field(description="Sixteen numbers in the request's schema.")


def register_generation_routes(app: FastAPI, service: InferenceService) -> None:
    """Add the routes."""

    @app.post("/score", tags=["hosted endpoint"])
    async def score(body: ScoreRequest, request: Request) -> ScoreReply:
        """Predict the steps after a context: an image each, and the action taken after seeing it.

        The last entry's action closes its step: the first picture predicted is the one that follows it.
        """
        params = body.input_data
        service.check_steps(params.num_steps_to_predict)
        async with service.limiter.in_time(request), service.limiter.slot():
            context = _context(params)
            prompt = await service.prompt(context, stretch=True)
            sampling, seed = params.resolve(service)
            following = [context[-1].action_A, *[None] * params.num_steps_to_predict]
            results = []
            async with aclosing(predict(service, prompt, following, sampling, seed)) as predictions:
                async for _, png, tokens, action_A in predictions:
                    image, bins = base64.b64encode(png).decode(), action_A.tolist()
                    results.append(ScoreResult(image=image, actions=bins, actions_output=bins, tokens=tokens))
            return ScoreReply(results=results)

    @app.post("/v1/dream", tags=["playloom"])
    async def dream(body: DreamRequest, request: Request) -> DreamResponse:
        """Generate frames, actions or both from a prompt or images."""
        service.check_steps(body.steps)
        async with service.limiter.in_time(request), service.limiter.slot():
            asked = await _generation_request(service, body)
            manifest = service.manifest(asked.prompt, asked.sampling, asked.seed, asked.mode)
            inputs = [asked.step(index) for index in range(asked.steps)]
            async with aclosing(service.dream(asked.prompt, inputs, asked.sampling, asked.seed)) as results:
                steps = [await serialize_step(service, step, manifest, body.schema_) async for step in results]
            return DreamResponse(model=service.model.config.name, seed=asked.seed, steps=steps)

    @app.post("/v1/policy", tags=["playloom"])
    async def policy(body: PromptParams, request: Request) -> PolicyResponse:
        """Return the model's next action."""
        async with service.limiter.in_time(request), service.limiter.slot():
            prompt, (sampling, seed) = await build_prompt(service, body), body.resolve(service)
            async with aclosing(service.dream(prompt, [(None, None)], sampling, seed)) as steps:
                action = _row((await anext(steps)).action_A, body.schema_)
            return PolicyResponse(model=service.model.config.name, seed=seed, action=action)


class Prediction(NamedTuple):
    """One predicted step: its number, the watermarked frame, its tokens, and the action taken after seeing it."""

    step: int
    png: bytes
    tokens: list[int]
    action_A: NDArray[np.uint8]


async def predict(
    service: InferenceService,
    prompt: Prompt,
    actions: Sequence[NDArray[np.uint8] | None],
    sampling: Sampling,
    seed: int,
) -> AsyncGenerator[Prediction, None]:
    """Predict the steps after a prompt.

    `actions` are that after the context's last frame, then that after each predicted frame (None: sampled), one more
    than steps.
    """
    manifest = service.manifest(prompt, sampling, seed, "full")
    inputs: list[tuple[NDArray[np.uint8] | None, Frame]] = [(action_A, "dream") for action_A in actions[:-1]]
    before: StepResult | None = None
    async with aclosing(service.dream(prompt, [*inputs, (actions[-1], None)], sampling, seed)) as steps:
        async for step in steps:
            if before is not None and before.codes_N is not None:
                png = await service.png(before, manifest)
                yield Prediction(before.index, png, before.codes_N.tolist(), step.action_A)
            before = step


def _context(params: ScoreInput) -> list[ContextStep]:
    """Read the entries that are used; the others may hold anything."""
    context = []
    first = max(0, len(params.context) - _USED)
    for number, entry in enumerate(params.context[first:], first):
        vector = entry.actions or entry.actions_output
        action_A = read_vector(vector, params.schema_, f"actions of context entry {number}") if vector else None
        context.append(ContextStep(entry.image, f"the image of context entry {number}", action_A, entry.tokens))
    return context


async def build_prompt(service: InferenceService, params: PromptFields) -> Prompt:
    """Build the prompt of a request."""
    if params.images is None:
        if params.context_actions:
            raise BadInputError("context_actions were sent without images; send the images that they lead between")
        name = service.resolve_prompt(params.prompt)
        return (await run_in(service.io_pool, service.named_prompt, name))[0]
    if params.prompt is not None:
        raise BadInputError("prompt and images were both sent; send one of the two")
    images, given = params.images, params.context_actions
    if given is not None and len(given) != len(images) - 1:
        raise BadInputError(f"{len(images)} images need {len(images) - 1} context_actions between; got {len(given)}")
    actions = read_actions(given, params.schema_, "context action") if given else [REST_VALUES] * (len(images) - 1)
    named = enumerate(zip(images, [*actions, None], strict=True))
    context = [ContextStep(image, f"image {index}", action_A) for index, (image, action_A) in named]
    return await service.prompt(context)


def read_actions(rows: list[list[float]], schema: Schema, name: str) -> list[NDArray[np.uint8]]:
    """Convert the action vectors of a request to action values."""
    return [read_vector(row, schema, f"{name} {index}") for index, row in enumerate(rows)]


async def serialize_step(service: InferenceService, step: StepResult, manifest: Manifest, schema: Schema) -> Step:
    """Serialize a step, with its frame as PNG unless the frame was given."""
    image = None
    if step.frame_HWC is not None and manifest.mode != "policy":
        image = base64.b64encode(await service.png(step, manifest)).decode()
    return Step(
        index=step.index,
        action=_row(step.action_A, schema),
        action_given=step.action_given,
        image=image,
        tokens=None if step.codes_N is None else step.codes_N.tolist(),
    )


def _row(action_A: NDArray[np.uint8], schema: Schema) -> list[float]:
    return [round(float(number), 4) for number in values_to_rows(action_A, schema)]


async def _generation_request(service: InferenceService, body: DreamRequest) -> GenerationRequest:
    unused = "actions" if body.mode == "policy" else "frames"
    if getattr(body, unused):
        raise BadInputError(f"{unused} were sent, and mode {body.mode} does not use them; leave them out")
    prompt = await build_prompt(service, body)
    true_frames, true_actions = None, None
    if body.images is None:
        name = service.resolve_prompt(body.prompt)
        _, true_frames, true_actions = await run_in(service.io_pool, service.named_prompt, name)
    actions = true_actions if body.mode == "world" else None
    if body.actions is not None:
        rows = read_actions(body.actions, body.schema_, "action")
        actions = np.stack(rows) if rows else None
    if body.frames is not None:
        following = [ContextStep(image, f"frame {index}") for index, image in enumerate(body.frames)]
        true_frames = (await service.decode(following))[0] if following else None
    sampling, seed = body.resolve(service)
    return GenerationRequest(
        prompt=prompt,
        mode=body.mode,
        steps=body.steps,
        actions_SA=actions,
        frames_SHWC=true_frames if body.mode == "policy" else None,
        sampling=sampling,
        seed=seed,
    )

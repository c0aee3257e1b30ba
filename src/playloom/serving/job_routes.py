"""The job server's API: `/new_job`, `/get_job_results`, `/cancel_job`. Knows only the format; `jobs` does the rest."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.responses import Response

from playloom.errors import BadInputError
from playloom.serving.jobs import JobOrder, JobResult, Jobs
from playloom.serving.names import LONGEST
from playloom.serving.parsing import parse
from playloom.serving.refusals import Refusal
from playloom.serving.score import Seed, Temperature, Tokens, TopK, TopP, Vector
from playloom.serving.studio import Seen, Studio, pick_seed
from playloom.serving.vectors import read_vector, sticks_of

_FORM_BYTES = 4 * 2**20
_MOST_STEPS = 100
JobIds = Annotated[list[Annotated[str, Field(max_length=LONGEST)]], Query(min_length=1, max_length=100)]


class JobStep(BaseModel):
    """One step of the context."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image_name: str = Field(min_length=1, max_length=255)
    """Name of the form's part that holds the picture, PNG or JPEG. A key, never a path."""
    action: Vector | None = None
    """Twelve buttons 0 or 1, then four sticks -1 to 1 (+y forward); the last step may leave it to the model."""
    tokens: Tokens | None = None
    """Used in place of encoding the picture."""


class FutureAction(BaseModel):
    """The action of one predicted step."""

    action: Vector | None = None
    """As in `JobStep`; none: dreamed."""


class NewJob(BaseModel):
    """The form field `json`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    steps: list[JobStep] = Field(min_length=1, max_length=_MOST_STEPS)
    """The context, oldest first."""
    num_steps_to_predict: int = Field(ge=1)
    """How many steps; as many results come."""
    num_parallel_predictions: int = Field(default=1, ge=1)
    """How many jobs to begin from the same context, each with a seed of its own."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's own."""
    top_k: TopK = None
    """Only the k likeliest tokens."""
    top_p: TopP = None
    """Only the likeliest tokens that reach p together."""
    max_context_length: int = Field(default=10, ge=1)
    """Only so many of the last steps are used, at most 10."""
    future_actions: Annotated[list[FutureAction], Field(max_length=10_000)] = []
    """Actions of the first predicted steps."""
    seed: Seed = None
    """Of the first job; the others count up from it. (Not in the original format.)"""


class NewJobReply(BaseModel):
    """What `/new_job` answers."""

    job_ids: list[str]
    """One for each parallel prediction."""
    current_jobs_in_queue: int
    """Unfinished jobs, these included."""


_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["json"],
                    "properties": {"json": {"type": "string", "description": "A `NewJob`, as JSON."}},
                    "additionalProperties": {"type": "string", "format": "binary"},
                }
            }
        },
    }
}


def add_jobs(app: FastAPI, studio: Studio, jobs: Jobs) -> None:
    """Add the routes."""

    @app.post("/new_job", response_model=NewJobReply, openapi_extra=_FORM, tags=["job server"])
    async def new_job(request: Request) -> NewJobReply:
        """Begin a dream for each parallel prediction; their results are fetched as they come."""
        studio.gate.check_open()
        async with request.form(max_files=_MOST_STEPS, max_fields=10, max_part_size=_FORM_BYTES) as form:
            text = form.get("json")
            files = {name: await part.read() for name, part in form.multi_items() if isinstance(part, UploadFile)}
        if not isinstance(text, str):
            raise Refusal(400, "the form has no field json; it says what to dream")
        asked = await studio.side(lambda: parse(text.encode("utf-8", "replace"), NewJob))
        studio.check_steps(asked.num_steps_to_predict)
        names = jobs.start(await _orders(studio, asked, files))
        return NewJobReply(job_ids=names, current_jobs_in_queue=jobs.running)

    @app.get(
        "/get_job_results",
        response_class=Response,
        responses={200: {"content": {"application/zip": {}}}, 204: {"description": "Nothing new yet."}},
        tags=["job server"],
    )
    async def get_job_results(job_ids: JobIds) -> Response:
        """What is new, once: a zip of `predictions.json` and its pictures; 204 while there is nothing."""
        results, failures, known = jobs.read(job_ids)
        if not known:
            raise Refusal(404, "there is no such job; it was cancelled, or is past its lifespan")
        if results:
            return Response(await studio.side(lambda: _zip(results)), media_type="application/zip")
        if failures:
            raise Refusal(500, failures[0])
        return Response(status_code=204)

    @app.get("/cancel_job", tags=["job server"])
    async def cancel_job(job_id: Annotated[str, Query(max_length=LONGEST)]) -> dict[str, Any]:
        """End a job and drop what it has ready."""
        if not jobs.cancel(job_id):
            raise Refusal(404, "there is no such job; it was cancelled before, or is past its lifespan")
        return {"cancelled": True, "current_jobs_in_queue": jobs.running}


def about(studio: Studio) -> dict[str, Any]:
    """What `GET /` tells clients of the job server."""
    return {
        "model_file": studio.model.config.name,
        "max_concurrent_jobs": studio.settings.jobs,
        "max_dream_steps_per_job": studio.settings.steps,
        "max_job_lifespan": studio.settings.job_seconds,
    }


async def _orders(studio: Studio, asked: NewJob, files: Mapping[str, bytes]) -> list[JobOrder]:
    seen, actions = [], []
    used = min(asked.max_context_length, studio.context)
    first = max(0, len(asked.steps) - used)
    for number, step in enumerate(asked.steps[first:], first):
        if step.image_name not in files:
            raise BadInputError(f"step {number} names a picture that the form does not hold; send it as a file part")
        if step.action is None and number < len(asked.steps) - 1:
            raise BadInputError(f"step {number} has no action; only the last step may leave it to the model")
        codes_N = np.array(step.tokens, np.int64) if step.tokens else None
        seen.append(Seen(picture=files[step.image_name], where=f"the picture of step {number}", codes_N=codes_N))
        actions.append(_action(step.action, f"action of step {number}"))
    forced = [_action(future.action, f"future action {i}") for i, future in enumerate(asked.future_actions)]
    between = [action_A for action_A in actions[:-1] if action_A is not None]
    prompt = await studio.prompt(seen, between, stretch=True, steps=used)
    seed, count = pick_seed(asked.seed), asked.num_parallel_predictions
    if count > studio.settings.jobs:
        raise BadInputError(f"{count:,} parallel predictions were asked for; at most {studio.settings.jobs} jobs")
    return [
        JobOrder(
            prompt=prompt,
            closing_A=actions[-1],
            forced=forced,
            steps=asked.num_steps_to_predict,
            sampling=studio.sampling(asked.temperature, asked.top_k, asked.top_p),
            seed=(seed + index) % 2**63,
        )
        for index in range(count)
    ]


def _action(vector: Sequence[float] | None, where: str) -> Any:
    return None if vector is None else read_vector(vector, "sticks", where)


def _zip(results: Sequence[JobResult]) -> bytes:
    """An archive whose names are ours: nothing a client sent is in them."""
    buffer = io.BytesIO()
    predictions = []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for result in results:
            name = f"{result.job_id}_{result.step:03d}.png"
            archive.writestr(name, result.png)
            predictions.append(
                {
                    "job_id": result.job_id,
                    "dream_step_index": result.step,
                    "action": sticks_of(result.action_A),
                    "tokens": result.tokens,
                    "image_filename": name,
                }
            )
        archive.writestr("predictions.json", json.dumps(predictions))
    return buffer.getvalue()

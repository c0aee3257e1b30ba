"""The job API: `/new_job`, `/get_job_results`, `/cancel_job`. Jobs run in the background; results are fetched."""

from __future__ import annotations

import asyncio
import io
import json
import time
import zipfile
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from numpy.typing import NDArray
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.responses import Response

from playloom.actions.codec import read_vector, sticks_of
from playloom.errors import BadInputError
from playloom.server.errors import parse_json, to_http_error
from playloom.server.schemas import ApiModel, Prediction, SamplingFields, Tokens, Vector, file_response, predict
from playloom.server.service import SEED_END, ContextStep, InferenceService, run_in
from playloom.server.settings import MAX_TOKEN_LENGTH, new_token

JobSteps = AsyncGenerator[Prediction, None]


class Job:
    """A job and its unread results; its id is secret, because it gives access to read and cancel."""

    def __init__(self, steps: JobSteps) -> None:
        self.created = time.monotonic()
        self.ready: list[Prediction] = []
        self.failure: str | None = None  # until it is read
        self.task = asyncio.ensure_future(self._run(steps))

    async def _run(self, all_steps: JobSteps) -> None:
        try:
            async with aclosing(all_steps) as steps:
                async for result in steps:
                    self.ready.append(result)
        except Exception as error:
            self.failure = to_http_error(error).detail


class Jobs:
    """All jobs of a server. Used from one event loop."""

    def __init__(self, service: InferenceService) -> None:
        self.service, self.by_id = service, dict[str, Job]()

    @property
    def running(self) -> int:
        """Number of running jobs."""
        return sum(not job.task.done() for job in self.by_id.values())

    @property
    def unread(self) -> int:
        """Number of jobs with unread results."""
        return sum(bool(job.ready) for job in self.by_id.values())

    def start(self, count: int, predictions: Iterable[JobSteps]) -> list[str]:
        """Start so many jobs and return their ids; raise a `BadInputError` when there would be too many."""
        limit = self.service.settings.max_jobs
        if self.running + count > limit:
            raise BadInputError(
                f"the queue is full: {self.running} jobs are unfinished and {count:,} more were requested, "
                f"at most {limit} are allowed; request fewer, or try again in a while"
            )
        started = {new_token(self.service.settings.replica): Job(steps) for steps in predictions}
        self.by_id.update(started)
        return list(started)

    def read(self, names: Sequence[str]) -> list[tuple[str, Prediction]]:
        """Return and remove the unread results of jobs; without any, raise their next error, or a 404."""
        self.expire()
        known = {name: self.by_id[name] for name in names if name in self.by_id}
        if not known:
            raise _unknown_job()
        results = [(name, result) for name, job in known.items() for result in job.ready]
        for job in known.values():
            job.ready = []
            if job.failure is not None and not results:
                failure, job.failure = job.failure, None
                raise HTTPException(500, failure)
        return results

    def cancel(self, name: str) -> None:
        """Cancel a job and drop its results, or raise a 404."""
        if name not in self.by_id:
            raise _unknown_job()
        self.by_id.pop(name).task.cancel()

    def expire(self) -> None:
        """Cancel jobs past their lifetime and drop their results."""
        oldest = time.monotonic() - self.service.settings.job_seconds
        for name in [name for name, job in self.by_id.items() if job.created < oldest]:
            self.cancel(name)


def _unknown_job() -> HTTPException:
    return HTTPException(404, "there is no such job; it was cancelled or has expired")


_FORM_BYTES = 4 * 2**20
_MAX_CONTEXT = 100
JobIds = Annotated[list[Annotated[str, Field(max_length=MAX_TOKEN_LENGTH)]], Query(min_length=1, max_length=100)]


class JobStep(ApiModel):
    """One step of the context."""

    image_name: str = Field(min_length=1, max_length=255)
    """Name of the form part with the image, PNG or JPEG; a key, never a path."""
    action: Vector | None = None
    """Twelve buttons 0 or 1, then four sticks -1 to 1 (+y forward); optional in the last step."""
    tokens: Tokens | None = Field(default=None, description="Tokens of the image; used in place of encoding it.")


class FutureAction(ApiModel):
    """The action of one predicted step."""

    action: Vector | None = Field(default=None, description="As in `JobStep`; none: sampled.")


class NewJob(SamplingFields):
    """The form field `json`. (`seed` is not in the original format.)"""

    steps: list[JobStep] = Field(min_length=1, max_length=_MAX_CONTEXT, description="Context, oldest first.")
    num_steps_to_predict: int = Field(ge=1, description="Steps to predict, one result each.")
    num_parallel_predictions: int = Field(default=1, ge=1)
    """Jobs to start from the same context; their seeds count up."""
    max_context_length: int = Field(default=10, ge=1)
    """Use only so many of the last steps, at most the model's context."""
    future_actions: list[FutureAction | None] | None = Field(default=None, max_length=10_000)
    """Actions of the first predicted steps; null: sampled."""


class NewJobReply(ApiModel):
    """Reply of `/new_job`."""

    job_ids: list[str] = Field(description="One id per parallel prediction.")
    current_jobs_in_queue: int = Field(description="Unfinished jobs, these included.")


_FORM_SCHEMA = {
    "type": "object",
    "required": ["json"],
    "properties": {"json": {"type": "string", "description": "A `NewJob`, as JSON."}},
    "additionalProperties": {"type": "string", "format": "binary"},
}
_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM_SCHEMA}}}}


def register_job_routes(app: FastAPI, jobs: Jobs) -> None:
    """Add the routes."""
    service = jobs.service

    @app.post("/new_job", openapi_extra=_FORM, tags=["job server"])
    async def new_job(request: Request) -> NewJobReply:
        """Start a job for each parallel prediction."""
        service.limiter.check_open()
        try:
            async with request.form(max_files=_MAX_CONTEXT, max_fields=10, max_part_size=_FORM_BYTES) as form:
                text = form.get("json")
                files = {name: await part.read() for name, part in form.multi_items() if isinstance(part, UploadFile)}
        except UnicodeError as error:
            raise BadInputError(f"the form's charset cannot be decoded: {error}; send utf-8") from None
        if not isinstance(text, str):
            raise HTTPException(400, "the form has no field json; send the job's parameters in it")
        params = parse_json(text, NewJob.model_validate_json)
        service.check_steps(params.num_steps_to_predict)
        context = _context(params, files, min(params.max_context_length, service.context))
        given = enumerate(params.future_actions or ())
        future = [_action(future.action if future else None, f"future action {index}") for index, future in given]
        following = [context[-1].action_A, *future, *[None] * params.num_steps_to_predict]
        following = following[: params.num_steps_to_predict + 1]
        prompt = await service.prompt(context, stretch=True)
        (sampling, seed), count = params.resolve(service), params.num_parallel_predictions
        seeds = ((seed + index) % SEED_END for index in range(count))
        predictions = (predict(service, prompt, following, sampling, each) for each in seeds)
        return NewJobReply(job_ids=jobs.start(count, predictions), current_jobs_in_queue=jobs.running)

    @app.get("/get_job_results", tags=["job server"], **file_response("application/zip", empty="Nothing new yet."))
    async def get_job_results(job_ids: JobIds) -> Response:
        """Return new results once, as a zip of `predictions.json` and images; 204 while there are none."""
        if not (results := jobs.read(job_ids)):
            return Response(status_code=204)
        return Response(await run_in(service.io_pool, _zip, results), media_type="application/zip")

    @app.get("/cancel_job", tags=["job server"])
    async def cancel_job(job_id: Annotated[str, Query(max_length=MAX_TOKEN_LENGTH)]) -> dict[str, Any]:
        """Cancel a job and drop its results."""
        jobs.cancel(job_id)
        return {"cancelled": True, "current_jobs_in_queue": jobs.running}


def _context(params: NewJob, files: Mapping[str, bytes], most: int) -> list[ContextStep]:
    context = []
    first = max(0, len(params.steps) - most)
    for number, step in enumerate(params.steps[first:], first):
        if step.image_name not in files:
            raise BadInputError(f"the form does not hold the image of step {number}; send it as a file part")
        action_A = _action(step.action, f"action of step {number}")
        context.append(ContextStep(files[step.image_name], f"the image of step {number}", action_A, step.tokens))
    return context


def _action(vector: Sequence[float] | None, where: str) -> NDArray[np.uint8] | None:
    return None if vector is None else read_vector(vector, "sticks", where)


def _zip(results: Sequence[tuple[str, Prediction]]) -> bytes:
    """Pack results; file names hold nothing that a client sent."""
    buffer = io.BytesIO()
    predictions = []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for job_id, result in results:
            name = f"{job_id}_{result.step:03d}.png"
            archive.writestr(name, result.png)
            prediction = {"job_id": job_id, "dream_step_index": result.step, "action": sticks_of(result.action_A)}
            predictions.append({**prediction, "tokens": result.tokens, "image_filename": name})
        archive.writestr("predictions.json", json.dumps(predictions))
    return buffer.getvalue()

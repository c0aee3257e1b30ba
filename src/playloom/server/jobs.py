"""The job API: `/new_job`, `/get_job_results`, `/cancel_job`. Jobs run in the background; results are fetched."""

from __future__ import annotations

import asyncio
import io
import json
import time
import zipfile
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import FastAPI, Query, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.datastructures import UploadFile
from starlette.responses import Response

from playloom.actions.codec import read_vector, sticks_of
from playloom.errors import BadInputError
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.server.errors import ApiError, parse_json, to_api_error
from playloom.server.schemas import SamplingFields, Tokens, Vector, predict
from playloom.server.service import ContextStep, InferenceService, resolve_seed
from playloom.server.settings import MAX_TOKEN_LENGTH, new_token


@dataclass(frozen=True, kw_only=True, eq=False)
class JobOrder:
    """Parameters of one job."""

    prompt: Prompt
    """Context; its last frame has no action yet."""
    actions: Sequence[NDArray[np.uint8] | None]
    """See `playloom.server.schemas.predict`."""
    sampling: Sampling
    """Sampling parameters."""
    seed: int
    """Random seed of this job."""


class JobResult(NamedTuple):
    """One predicted step of a job."""

    job_id: str
    """Id of the job."""
    step: int
    """Step number, from 0."""
    action_A: NDArray[np.uint8]
    """Action taken after seeing the frame, uint8 [16]."""
    tokens: list[int]
    """Tokens of the frame."""
    png: bytes
    """The frame as watermarked PNG."""


@dataclass(kw_only=True, eq=False)
class Job:
    """One job and its unread results."""

    name: str
    """Id of the job; secret, because it gives access to read and cancel."""
    born: float
    """Creation time on the monotonic clock."""
    task: asyncio.Task[None] | None = None
    """Task that runs the job."""
    ready: deque[JobResult] = field(default_factory=deque)
    """Unread results."""
    failure: str | None = None
    """Error message until it is read."""

    @property
    def running(self) -> bool:
        """True while more results will come."""
        return self.task is not None and not self.task.done()


class Jobs:
    """All jobs of a server. Used from one event loop."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._jobs: dict[str, Job] = {}

    @property
    def running(self) -> int:
        """Number of running jobs."""
        return sum(job.running for job in self._jobs.values())

    @property
    def unread(self) -> int:
        """Number of jobs with unread results."""
        return sum(bool(job.ready) for job in self._jobs.values())

    def start(self, orders: Sequence[JobOrder]) -> list[str]:
        """Start these jobs, all or none.

        Returns:
            Their ids, in order.

        Raises:
            BadInputError: when there would be more unfinished jobs than may be.
        """
        self.forget_old()
        limit = self._service.settings.max_jobs
        if self.running + len(orders) > limit:
            raise BadInputError(
                f"the queue is full: {self.running} of at most {limit} jobs are unfinished and {len(orders)} more "
                "were asked for; try again in a while"
            )
        return [self._begin(order) for order in orders]

    def read(self, names: Sequence[str]) -> tuple[list[JobResult], list[str], int]:
        """Take unread results and remove them.

        Returns:
            Results in order of jobs and steps; why jobs failed, said once; and how many of the ids are known.
        """
        self.forget_old()
        known = [self._jobs[name] for name in dict.fromkeys(names) if name in self._jobs]
        results: list[JobResult] = []
        failures: list[str] = []
        for job in known:
            results += job.ready
            job.ready.clear()
            if job.failure is not None:
                failures.append(job.failure)
                job.failure = None
        return results, failures, len(known)

    def cancel(self, name: str) -> bool:
        """Cancel a job and drop its results; False for an unknown id."""
        job = self._jobs.pop(name, None)
        if job is None:
            return False
        if job.task is not None:
            job.task.cancel()
        return True

    def cancel_all(self) -> None:
        """Cancel every job."""
        for name in list(self._jobs):
            self.cancel(name)

    def forget_old(self) -> None:
        """Cancel jobs past their lifetime and drop their results."""
        oldest = time.monotonic() - self._service.settings.job_seconds
        for job in [job for job in self._jobs.values() if job.born < oldest]:
            self.cancel(job.name)

    def _begin(self, order: JobOrder) -> str:
        job = Job(name=new_token(self._service.settings.replica), born=time.monotonic())
        self._jobs[job.name] = job
        job.task = asyncio.get_running_loop().create_task(self._run(job, order))
        return job.name

    async def _run(self, job: Job, order: JobOrder) -> None:
        service = self._service
        manifest = service.manifest(order.prompt, order.sampling, order.seed, "full")
        try:
            async with aclosing(predict(service, order.prompt, order.actions, order.sampling, order.seed)) as steps:
                async for step, action_A in steps:
                    png = await service.png(step, manifest)
                    assert step.codes_N is not None, "a predicted step has a frame"
                    job.ready.append(JobResult(job.name, step.index, action_A, step.codes_N.tolist(), png))
        except Exception as error:
            job.failure = to_api_error(error).message


_FORM_BYTES = 4 * 2**20
_MOST_STEPS = 100
JobIds = Annotated[list[Annotated[str, Field(max_length=MAX_TOKEN_LENGTH)]], Query(min_length=1, max_length=100)]


class JobStep(BaseModel):
    """One step of the context."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image_name: str = Field(min_length=1, max_length=255)
    """Name of the form part with the image, PNG or JPEG; a key, never a path."""
    action: Vector | None = None
    """Twelve buttons 0 or 1, then four sticks -1 to 1 (+y forward); optional in the last step."""
    tokens: Tokens | None = None
    """Tokens of the image; used in place of encoding it."""


class FutureAction(BaseModel):
    """The action of one predicted step."""

    action: Vector | None = None
    """As in `JobStep`; none: sampled."""


class NewJob(SamplingFields):
    """The form field `json`. (`seed` is not in the original format.)"""

    steps: list[JobStep] = Field(min_length=1, max_length=_MOST_STEPS)
    """Context, oldest first."""
    num_steps_to_predict: int = Field(ge=1)
    """Steps to predict, one result each."""
    num_parallel_predictions: int = Field(default=1, ge=1)
    """Jobs to start from the same context; their seeds count up."""
    max_context_length: int = Field(default=10, ge=1)
    """Use only so many of the last steps, at most 10."""
    future_actions: list[FutureAction] = Field(default=[], max_length=10_000)
    """Actions of the first predicted steps."""


class NewJobReply(BaseModel):
    """Reply of `/new_job`."""

    job_ids: list[str]
    """One id per parallel prediction."""
    current_jobs_in_queue: int
    """Unfinished jobs, these included."""


_NEW_JOB = TypeAdapter(NewJob)
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


def register_job_routes(app: FastAPI, service: InferenceService, jobs: Jobs) -> None:
    """Add the routes."""

    @app.post("/new_job", openapi_extra=_FORM, tags=["job server"])
    async def new_job(request: Request) -> NewJobReply:
        """Start a job for each parallel prediction."""
        service.limiter.check_open()
        async with request.form(max_files=_MOST_STEPS, max_fields=10, max_part_size=_FORM_BYTES) as form:
            text = form.get("json")
            files = {name: await part.read() for name, part in form.multi_items() if isinstance(part, UploadFile)}
        if not isinstance(text, str):
            raise ApiError(400, "the form has no field json; it says what to dream")
        params = parse_json(text, _NEW_JOB)
        service.check_steps(params.num_steps_to_predict)
        names = jobs.start(await _orders(service, params, files))
        return NewJobReply(job_ids=names, current_jobs_in_queue=jobs.running)

    @app.get(
        "/get_job_results",
        response_class=Response,
        responses={200: {"content": {"application/zip": {}}}, 204: {"description": "Nothing new yet."}},
        tags=["job server"],
    )
    async def get_job_results(job_ids: JobIds) -> Response:
        """Return new results once, as a zip of `predictions.json` and images; 204 while there are none."""
        results, failures, known = jobs.read(job_ids)
        if not known:
            raise ApiError(404, "there is no such job; it was cancelled, or is past its lifespan")
        if results:
            return Response(await service.run_in_io_pool(lambda: _zip(results)), media_type="application/zip")
        if failures:
            raise ApiError(500, failures[0])
        return Response(status_code=204)

    @app.get("/cancel_job", tags=["job server"])
    async def cancel_job(job_id: Annotated[str, Query(max_length=MAX_TOKEN_LENGTH)]) -> dict[str, Any]:
        """Cancel a job and drop its results."""
        if not jobs.cancel(job_id):
            raise ApiError(404, "there is no such job; it was cancelled before, or is past its lifespan")
        return {"cancelled": True, "current_jobs_in_queue": jobs.running}


def job_info(service: InferenceService) -> dict[str, Any]:
    """Describe the job server, for `GET /`."""
    return {
        "model_file": service.model.config.name,
        "max_concurrent_jobs": service.settings.max_jobs,
        "max_dream_steps_per_job": service.settings.max_steps,
        "max_job_lifespan": service.settings.job_seconds,
    }


async def _orders(service: InferenceService, params: NewJob, files: Mapping[str, bytes]) -> list[JobOrder]:
    seen, actions = [], []
    used = min(params.max_context_length, service.context)
    first = max(0, len(params.steps) - used)
    for number, step in enumerate(params.steps[first:], first):
        if step.image_name not in files:
            raise BadInputError(f"step {number} names a picture that the form does not hold; send it as a file part")
        if step.action is None and number < len(params.steps) - 1:
            raise BadInputError(f"step {number} has no action; only the last step may leave it to the model")
        codes_N = np.array(step.tokens, np.int64) if step.tokens else None
        seen.append(ContextStep(picture=files[step.image_name], where=f"the picture of step {number}", codes_N=codes_N))
        actions.append(_action(step.action, f"action of step {number}"))
    future = [_action(future.action, f"future action {i}") for i, future in enumerate(params.future_actions)]
    between = [action_A for action_A in actions[:-1] if action_A is not None]
    prompt = await service.prompt(seen, between, stretch=True, steps=used)
    seed, count = resolve_seed(params.seed), params.num_parallel_predictions
    if count > service.settings.max_jobs:
        raise BadInputError(f"{count:,} parallel predictions were asked for; at most {service.settings.max_jobs} jobs")
    steps = params.num_steps_to_predict
    following = [actions[-1], *future, *[None] * steps][: steps + 1]
    return [
        JobOrder(
            prompt=prompt,
            actions=following,
            sampling=service.sampling(params.temperature, params.top_k, params.top_p),
            seed=(seed + index) % 2**63,
        )
        for index in range(count)
    ]


def _action(vector: Sequence[float] | None, where: str) -> Any:
    return None if vector is None else read_vector(vector, "sticks", where)


def _zip(results: Sequence[JobResult]) -> bytes:
    """Pack results; file names hold nothing that a client sent."""
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

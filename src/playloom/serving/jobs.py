"""Jobs: dreams that go on by themselves while their results are fetched, one by one, as they come.

Owns the life of a job. Knows nothing of forms and archives.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.engine import Prompt, Sampling
from playloom.errors import BadInputError
from playloom.serving.names import mint
from playloom.serving.refusals import refusal_of
from playloom.serving.steps import predict
from playloom.serving.studio import Studio


@dataclass(frozen=True, kw_only=True, eq=False)
class JobOrder:
    """What one job is to dream."""

    prompt: Prompt
    """Where it begins."""
    closing_A: NDArray[np.uint8] | None
    """The action that closes the prompt's last step; None: dreamed."""
    forced: Sequence[NDArray[np.uint8] | None]
    """Actions of the first predicted steps, where given."""
    steps: int
    """How many steps: as many results come."""
    sampling: Sampling
    """How tokens are drawn."""
    seed: int
    """Of this job alone: parallel predictions differ by it."""


class JobResult(NamedTuple):
    """One predicted step of a job."""

    job_id: str
    """Whose."""
    step: int
    """From 0."""
    action_A: NDArray[np.uint8]
    """The action taken after seeing the picture."""
    tokens: list[int]
    """The picture's tokens."""
    png: bytes
    """The picture, marked."""


@dataclass(kw_only=True, eq=False)
class Job:
    """One job and what it has ready."""

    name: str
    """Its id; secret, since whoever knows it may read and cancel."""
    born: float
    """When it was made, on the monotonic clock."""
    task: asyncio.Task[None] | None = None
    """What dreams it."""
    ready: deque[JobResult] = field(default_factory=deque)
    """Results nobody has read yet."""
    failure: str | None = None
    """Why it ended before its time, until somebody has read it."""

    @property
    def running(self) -> bool:
        """Whether more results will come."""
        return self.task is not None and not self.task.done()


class Jobs:
    """All jobs of a server. Used from one event loop."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._jobs: dict[str, Job] = {}

    @property
    def running(self) -> int:
        """Jobs that still dream."""
        return sum(job.running for job in self._jobs.values())

    @property
    def unread(self) -> int:
        """Jobs with results nobody has read yet."""
        return sum(bool(job.ready) for job in self._jobs.values())

    def start(self, orders: Sequence[JobOrder]) -> list[str]:
        """Begin these jobs, all or none.

        Returns:
            Their ids, in order.

        Raises:
            BadInputError: when there would be more unfinished jobs than may be.
        """
        self.forget_old()
        limit = self._studio.settings.jobs
        if self.running + len(orders) > limit:
            raise BadInputError(
                f"the queue is full: {self.running} of at most {limit} jobs are unfinished and {len(orders)} more "
                "were asked for; try again in a while"
            )
        return [self._begin(order) for order in orders]

    def read(self, names: Sequence[str]) -> tuple[list[JobResult], list[str], int]:
        """Take what is ready; it is removed by that.

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
        """End a job and drop its results; False when there is none of that id."""
        job = self._jobs.pop(name, None)
        if job is None:
            return False
        if job.task is not None:
            job.task.cancel()
        return True

    def cancel_all(self) -> None:
        """End every job."""
        for name in list(self._jobs):
            self.cancel(name)

    def forget_old(self) -> None:
        """Cancel jobs past their lifespan, and drop what they left."""
        oldest = time.monotonic() - self._studio.settings.job_seconds
        for job in [job for job in self._jobs.values() if job.born < oldest]:
            self.cancel(job.name)

    def _begin(self, order: JobOrder) -> str:
        job = Job(name=mint(self._studio.settings.replica), born=time.monotonic())
        self._jobs[job.name] = job
        job.task = asyncio.get_running_loop().create_task(self._run(job, order))
        return job.name

    async def _run(self, job: Job, order: JobOrder) -> None:
        studio = self._studio
        manifest = studio.manifest(order.prompt, order.sampling, order.seed, "full")
        try:
            async with aclosing(
                predict(
                    studio,
                    order.prompt,
                    closing_A=order.closing_A,
                    count=order.steps,
                    forced=order.forced,
                    sampling=order.sampling,
                    seed=order.seed,
                )
            ) as steps:
                async for number, step, action_A in steps:
                    png = await studio.png(step, manifest, number)
                    assert step.codes_N is not None, "a predicted step has a frame"
                    job.ready.append(JobResult(job.name, number - 1, action_A, step.codes_N.tolist(), png))
        except Exception as error:
            job.failure = refusal_of(error).sentence

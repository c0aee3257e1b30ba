"""Scheduler: one thread owns the engine and batches the steps of all sessions.

    scheduler = Scheduler(Engine(model, row_delay=1))
    handle = scheduler.open(prompt, seed=7)                  # from any thread
    step = handle.step(action_A)                          # waits; or handle.submit(action_A) for a future

Every request that waits when a frame begins takes part in it. New sessions prefill one prompt step between frames.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.errors import ResourceError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Session, StepInput
from playloom.inference.types import Prompt, StepResult
from playloom.server.errors import CapacityError, ShuttingDownError

Work = Callable[[], None]
"""Task for the owning thread."""
OnError = Callable[[Exception], None]
"""Callback for the exception that a task raised."""


class TaskQueue:
    """A queue of tasks that one thread empties."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Work, OnError] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, work: Work, on_error: OnError) -> bool:
        """Add a task; returns False when the queue is closed."""
        with self._lock:
            if self._closed:
                return False
            self._items.put((work, on_error))
            return True

    def close(self) -> None:
        """Accept no more tasks; queued ones still run."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._items.put(None)

    def take(self, *, wait: bool) -> bool:
        """Run all queued tasks in the calling thread; returns False once the queue is closed and empty.

        Args:
            wait: for something to come, when nothing lies here.
        """
        while True:
            try:
                item = self._items.get(block=wait)
            except queue.Empty:
                return True
            if not self._do(item):
                return False
            wait = False

    def take_until(self, enough: Callable[[], bool], seconds: float) -> None:
        """Run tasks in the calling thread until `enough()`, a timeout, or the close of the queue."""
        end = time.monotonic() + seconds
        while not enough():
            try:
                item = self._items.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            if not self._do(item):
                return

    def reject_all(self, error: Exception) -> None:
        """Close the queue and fail all queued tasks."""
        self.close()
        while (item := self._items.get()) is not None:
            item[1](error)

    def _do(self, item: tuple[Work, OnError] | None) -> bool:
        """Run one item; returns False at the end of the queue."""
        if item is None:
            self._items.put(None)  # for the next call
            return False
        work, on_error = item
        try:
            work()
        except Exception as error:  # the asker's trouble, not the owner's
            on_error(error)
        return True


log = logging.getLogger("playloom.server")

_T = TypeVar("_T")
Frame = NDArray[np.uint8] | Literal["dream"] | None
"""Frame after an action; see `playloom.inference.session.StepInput`."""
Progress = Callable[[int, int], None]
"""Called in the scheduler's thread with the number of prefilled prompt steps and their total."""


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """Limits of a scheduler."""

    sessions: int = 64
    """Most sessions, those still prefilling included."""
    batch: int = 16
    """Most sessions in one batch; others wait, longest waiting first."""
    gather: float = 0.004
    """Seconds that a batch waits for sessions of the last batch that have no new request yet."""


@dataclass(kw_only=True)
class SchedulerStats:
    """Counters of a scheduler."""

    sessions: int = 0
    """Open sessions."""
    waiting: int = 0
    """Queued step requests."""
    frames: int = 0
    """Finished steps."""
    batches: Counter[int] = field(default_factory=Counter)
    """Number of batches by size."""


@dataclass(kw_only=True, eq=False)
class _StepRequest:
    """One queued step."""

    handle: Handle
    action_A: NDArray[np.uint8] | None
    frame: Frame
    done: Future[StepResult]


@dataclass(kw_only=True, eq=False)
class _PrefillRequest:
    """A session whose prompt is being prefilled."""

    session: Session
    done: Future[Handle]
    progress: Progress
    steps: int


class Handle:
    """One user's session; any thread may use it, one step at a time."""

    def __init__(self, scheduler: Scheduler, session: Session) -> None:
        self._scheduler, self._session = scheduler, session
        self.closed = False

    @property
    def sampling(self) -> Sampling:
        """Sampling parameters; may be set between steps."""
        return self._session.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        self._session.sampling = sampling

    def submit(self, action_A: NDArray[np.uint8] | None = None, frame: Frame = "dream") -> Future[StepResult]:
        """Return a future of the next step; see `playloom.inference.session.StepInput` for the arguments."""
        return self._scheduler.submit(self, action_A, frame)

    def step(self, action_A: NDArray[np.uint8] | None = None, frame: Frame = "dream") -> StepResult:
        """Run the next step and wait for it.

        Raises:
            PlayloomError: what the engine raised for this turn, or `ShuttingDownError`.
        """
        return self.submit(action_A, frame).result()

    def close(self) -> None:
        """Free the session's memory; queued steps fail with a `ShuttingDownError`."""
        self._scheduler.close_session(self)


class Scheduler:
    """Owns an engine and the thread that runs it."""

    def __init__(self, engine: Engine, limits: SchedulerLimits | None = None) -> None:
        self.engine, self.limits = engine, limits or SchedulerLimits()
        self.stats = SchedulerStats()
        self._tasks = TaskQueue()
        self._prefilling: list[_PrefillRequest] = []
        self._requests: deque[_StepRequest] = deque()
        self._last_batch: list[Handle] = []
        self._capacity = threading.BoundedSemaphore(self.limits.sessions)
        self._thread = threading.Thread(target=self._run, name="playloom-scheduler", daemon=True)
        self._thread.start()

    def open(self, prompt: Prompt, *, sampling: Sampling | None = None, seed: int = 0) -> Handle:
        """Open a session and wait until its prompt is prefilled.

        Raises:
            CapacityError: when `limits.sessions` are open.
            ShuttingDownError: after `close`.
        """
        return self.open_async(prompt, sampling=sampling, seed=seed).result()

    def open_async(
        self,
        prompt: Prompt,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        progress: Progress = lambda seen, steps: None,
    ) -> Future[Handle]:
        """Return a future of `open`; raises `CapacityError` at once. A cancelled future frees its session."""
        if not self._capacity.acquire(blocking=False):
            raise CapacityError(f"all {self.limits.sessions} sessions are taken; try again in a while")
        future: Future[Handle] = Future()

        def enqueue() -> None:
            session = self.engine.open(prompt, sampling=sampling, seed=seed, prefill=False)
            newcomer = _PrefillRequest(session=session, done=future, progress=progress, steps=len(session.pending))
            self._prefilling.append(newcomer)

        def on_error(error: Exception) -> None:
            self._capacity.release()
            _fail(future, error)

        self._post(enqueue, on_error)
        return future

    def submit(self, handle: Handle, action_A: NDArray[np.uint8] | None, frame: Frame) -> Future[StepResult]:
        """See `Handle.submit`."""
        request = _StepRequest(handle=handle, action_A=action_A, frame=frame, done=Future())

        def enqueue() -> None:
            if handle.closed:
                raise ShuttingDownError("this session was closed; open another one")
            self.engine.check(self._step_input(request))  # a bad turn is its asker's alone
            self._requests.append(request)

        self._post(enqueue, lambda error: _fail(request.done, error))
        return request.done

    @property
    def alive(self) -> bool:
        """True while the scheduler's thread runs."""
        return self._thread.is_alive()

    def run(self, work: Callable[[], _T]) -> Future[_T]:
        """Run a short function between two frames in the scheduler's thread; return a future of its result.

        Two threads that compute at once hinder each other far more than they share, see `runtime.in_passing`.
        """
        future: Future[_T] = Future()

        def do() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(work())

        self._post(do, lambda error: _fail(future, error))
        return future

    def close_session(self, handle: Handle) -> None:
        """See `Handle.close`."""

        def remove() -> None:
            if handle.closed:
                return
            handle.closed = True
            for request in [w for w in self._requests if w.handle is handle]:
                self._requests.remove(request)
                _fail(request.done, ShuttingDownError("this session was closed; open another one"))
            self.engine.close(handle._session)
            self.stats.sessions -= 1
            self._capacity.release()

        self._post(remove, lambda _: None)

    def close(self, timeout: float = 10.0) -> bool:
        """Finish queued work, accept nothing new and stop; returns True when `timeout` seconds sufficed."""
        self._tasks.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _post(self, work: Callable[[], None], on_error: Callable[[Exception], None]) -> None:
        if not self._tasks.put(work, on_error):
            on_error(ShuttingDownError("the server is stopping and takes no more work"))

    def _run(self) -> None:
        try:
            self._work()
        except Exception:  # a bug: fail every waiting future
            log.exception("the thread that dreams failed")
            gone = ShuttingDownError("the thread that dreams failed; start the server again")
            for request in self._requests:
                _fail(request.done, gone)
            for newcomer in self._prefilling:
                _fail(newcomer.done, gone)
            self._tasks.reject_all(gone)

    def _work(self) -> None:
        while True:
            more = self._tasks.take(wait=not (self._requests or self._prefilling))
            if not more and not self._requests and not self._prefilling:
                return
            self._prefill_step()
            self._gather()
            self._advance()

    def _prefill_step(self) -> None:
        """Prefill one prompt step of every new session."""
        for newcomer in [newcomer for newcomer in self._prefilling if newcomer.done.cancelled()]:
            self._drop(newcomer)
        if not self._prefilling:
            return
        try:
            self.engine.prefill([newcomer.session for newcomer in self._prefilling])
        except Exception as error:  # one of many users' prompts: say it to those it concerns, and go on
            for newcomer in list(self._prefilling):
                self._drop(newcomer)
                _fail(newcomer.done, error)
            return
        for newcomer in list(self._prefilling):
            newcomer.progress(newcomer.steps - len(newcomer.session.pending), newcomer.steps)
            if newcomer.session.ready:
                self._prefilling.remove(newcomer)
                self.stats.sessions += 1
                handle = Handle(self, newcomer.session)
                if not _resolve(newcomer.done, handle):
                    self.close_session(handle)  # cancelled

    def _drop(self, newcomer: _PrefillRequest) -> None:
        self._prefilling.remove(newcomer)
        self.engine.close(newcomer.session)
        self._capacity.release()

    def _gather(self) -> None:
        """Wait briefly for the sessions of the last batch: one batch of two costs less than two of one."""

        def all_here() -> bool:
            here = {id(request.handle) for request in self._requests}
            return len(here) >= self.limits.batch or all(h.closed or id(h) in here for h in self._last_batch)

        if self._requests:
            self._tasks.take_until(all_here, self.limits.gather)

    def _advance(self) -> None:
        batch = self._next_batch()
        if not batch:
            return
        self._last_batch = [request.handle for request in batch]
        self.stats.batches[len(batch)] += 1
        try:
            self._answer(batch, self.engine.step([self._step_input(request) for request in batch]))
        except Exception as error:
            for request in batch:
                _fail(request.done, error)
                if not isinstance(error, ResourceError):  # that turn can be asked for again; after all else none can
                    request.handle.close()

    def _answer(self, batch: Sequence[_StepRequest], steps: Sequence[StepResult]) -> None:
        self.stats.frames += len(batch)
        for request, step in zip(batch, steps, strict=True):
            _resolve(request.done, step)

    def _next_batch(self) -> list[_StepRequest]:
        """Take the longest waiting requests, one per session."""
        batch: list[_StepRequest] = []
        for request in list(self._requests):
            if len(batch) == self.limits.batch:
                break
            if any(request.handle is other.handle for other in batch):
                continue
            self._requests.remove(request)
            if request.done.set_running_or_notify_cancel():
                batch.append(request)
        self.stats.waiting = len(self._requests)
        return batch

    def _step_input(self, request: _StepRequest) -> StepInput:
        return StepInput(request.handle._session, request.action_A, request.frame)


def _resolve(future: Future[_T], value: _T) -> bool:
    """Set a result; returns False when the future is cancelled."""
    try:
        future.set_result(value)
    except InvalidStateError:  # cancelled, perhaps at this very moment
        return False
    return True


def _fail(future: Future[_T], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)

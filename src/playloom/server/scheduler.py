"""The one thread that owns the engine: gathers what many users want next and lets it happen as one batch a frame.

    scheduler = Scheduler(Engine(model, row_delay=1))
    handle = scheduler.open(prompt, seed=7)                  # from any thread
    step = handle.step(action_A)                          # waits; or handle.submit(action_A) for a future

Nobody starves: whatever waits when a frame begins takes part in it. A newcomer's prompt is seen a step at a time
between the frames of the others. Knows nothing of HTTP.

Work that other threads leave for one thread; closing it lets in no more and loses none.
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
from playloom.inference.engine import Engine, Session, StepInput
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt, StepResult
from playloom.server.errors import CapacityError, ShuttingDownError

Work = Callable[[], None]
"""Something to do in the owning thread."""
OnError = Callable[[Exception], None]
"""Told what the work raised."""


class TaskQueue:
    """A queue that one thread empties."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Work, OnError] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, work: Work, on_error: OnError) -> bool:
        """Leave work; False when the inbox is closed and it was not taken."""
        with self._lock:
            if self._closed:
                return False
            self._items.put((work, on_error))
            return True

    def close(self) -> None:
        """Take no more; what is in it is still done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._items.put(None)

    def take(self, *, wait: bool) -> bool:
        """Do everything that lies here, in the thread that calls; False once it is closed and empty.

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
        """Do what comes, in the thread that calls, until it is enough or the time is over or the inbox closed."""
        end = time.monotonic() + seconds
        while not enough():
            try:
                item = self._items.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            if not self._do(item):
                return

    def reject_all(self, error: Exception) -> None:
        """Take no more, and do nothing of what lies here: who left it is told why."""
        self.close()
        while (item := self._items.get()) is not None:
            item[1](error)

    def _do(self, item: tuple[Work, OnError] | None) -> bool:
        """One thing that lay here; False where it is the end."""
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
"""What follows an action; see `playloom.inference.engine.StepInput`."""
Progress = Callable[[int, int], None]
"""Is told, in the scheduler's thread, how many steps of a prompt were seen, and of how many."""


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """How much is taken on at once."""

    sessions: int = 64
    """Sessions open or waiting for their prompt."""
    batch: int = 16
    """Sessions that advance together; more take turns, longest waiting first."""
    gather: float = 0.004
    """Seconds that a frame waits for sessions that took part in the last one and have not asked again yet."""


@dataclass(kw_only=True)
class SchedulerStats:
    """What a scheduler has done, and what it has before it."""

    sessions: int = 0
    """Sessions open."""
    waiting: int = 0
    """Turns asked for and not begun."""
    frames: int = 0
    """Turns done."""
    batches: Counter[int] = field(default_factory=Counter)
    """How often a batch of each size was run."""


@dataclass(kw_only=True, eq=False)
class _StepRequest:
    """A turn somebody waits for."""

    handle: Handle
    action_A: NDArray[np.uint8] | None
    frame: Frame
    done: Future[StepResult]


@dataclass(kw_only=True, eq=False)
class _PrefillRequest:
    """A session whose prompt is still being seen."""

    session: Session
    done: Future[Handle]
    progress: Progress
    steps: int


class Handle:
    """A session of the scheduler's engine, for one user; any thread may use it, one turn at a time."""

    def __init__(self, scheduler: Scheduler, session: Session) -> None:
        self._scheduler, self._session = scheduler, session
        self.closed = False

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; may be set between turns."""
        return self._session.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        self._session.sampling = sampling

    def submit(self, action_A: NDArray[np.uint8] | None = None, frame: Frame = "dream") -> Future[StepResult]:
        """A future of the next step; see `playloom.inference.engine.StepInput` for the arguments."""
        return self._scheduler.submit(self, action_A, frame)

    def step(self, action_A: NDArray[np.uint8] | None = None, frame: Frame = "dream") -> StepResult:
        """The next step, waited for.

        Raises:
            PlayloomError: what the engine raised for this turn, or `ShuttingDownError`.
        """
        return self.submit(action_A, frame).result()

    def close(self) -> None:
        """Give the session's memory back; what was asked for before fails with a `ShuttingDownError`."""
        self._scheduler.close_session(self)


class Scheduler:
    """Owns a engine and the thread that moves it."""

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
        """A session that has seen its prompt; waits for it.

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
        """A future of `open`; `CapacityError` is raised at once. Cancelled, it gives the session's place back."""
        if not self._capacity.acquire(blocking=False):
            raise CapacityError(f"all {self.limits.sessions} sessions are taken; try again in a while")
        future: Future[Handle] = Future()

        def enqueue() -> None:
            session = self.engine.open(prompt, sampling=sampling, seed=seed, warm=False)
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
        """Whether the thread that does the work still runs."""
        return self._thread.is_alive()

    def run(self, work: Callable[[], _T]) -> Future[_T]:
        """A future of what `work` gives, done between two frames in the one thread that computes: keep it short.

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
        """Finish what was asked for, take nothing new, and end; returns whether `timeout` seconds sufficed."""
        self._tasks.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _post(self, work: Callable[[], None], on_error: Callable[[Exception], None]) -> None:
        if not self._tasks.put(work, on_error):
            on_error(ShuttingDownError("the server is stopping and takes no more work"))

    def _run(self) -> None:
        try:
            self._work()
        except Exception:  # a fault of this file; nobody must wait for ever for a thread that has ended
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
        """Every newcomer sees one more step of its prompt, or is ready."""
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
                    self.close_session(handle)  # nobody waits for it any more

    def _drop(self, newcomer: _PrefillRequest) -> None:
        self._prefilling.remove(newcomer)
        self.engine.close(newcomer.session)
        self._capacity.release()

    def _gather(self) -> None:
        """Wait a moment for those who were in the last batch: one batch of two costs less than two of one."""

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
            self._answer(batch, self.engine.advance([self._step_input(request) for request in batch]))
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
        """The longest waiting turns, one of each session."""
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
    """Answer; False where the asker has gone."""
    try:
        future.set_result(value)
    except InvalidStateError:  # cancelled, perhaps at this very moment
        return False
    return True


def _fail(future: Future[_T], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)

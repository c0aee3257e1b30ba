"""Scheduler: one thread owns the engine, batches the steps of all sessions and drives live sessions at their ticks.

Requests that wait and live sessions that are due when a frame begins share its batch. New sessions prefill one prompt
step between frames.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.errors import ResourceError
from playloom.inference.engine import Engine
from playloom.inference.realtime.state import LiveFrame, LiveState, LiveStep
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, Session, StepInput, StepResult
from playloom.server.errors import log

_T = TypeVar("_T")
Frame = NDArray[np.uint8] | Literal["dream"] | None
"""Frame after an action; see `playloom.inference.session.StepInput`."""
_OnError = Callable[[BaseException], None]
Progress = Callable[[int, int], None]
"""Receives the number of prefilled prompt steps and their total."""
_CLOSED = "this session was closed; open another one"
_MAX_UNSENT = 3  # frames of a live session that are being generated, decoded or encoded; more would queue


class ShuttingDownError(ResourceError):
    """Raised when the scheduler is closed, or closes before a step is done."""


def _fail(future: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):  # it is cancelled or done
        future.set_exception(error)


def _on_failure(task: Future[Any], report: _OnError) -> None:
    task.add_done_callback(lambda done: report(error) if (error := done.exception()) is not None else None)


@dataclass(kw_only=True)
class SchedulerStats:
    """Counters of a scheduler."""

    sessions: int = 0
    waiting: int = 0
    frames: int = 0
    batches: Counter[int] = field(default_factory=Counter)  # by size


@dataclass(kw_only=True, eq=False)
class _StepRequest:
    """One step that waits for its batch; a due live session has one only while a batch is chosen."""

    handle: Handle
    action_A: NDArray[np.uint8] | None = None
    frame: Frame = "dream"
    done: Future[StepResult] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)
    live: LiveHandle | None = None

    @property
    def input(self) -> StepInput:
        return StepInput(self.handle.session, self.action_A, self.frame)


@dataclass(kw_only=True, eq=False)
class _PrefillRequest:
    session: Session
    done: Future[Handle]
    progress: Progress
    steps: int


class Handle:
    """One user's session; any thread may use it, one step at a time."""

    def __init__(self, scheduler: Scheduler, session: Session) -> None:
        self._scheduler, self.session = scheduler, session

    def submit(self, action_A: NDArray[np.uint8] | None = None, frame: Frame = "dream") -> Future[StepResult]:
        """Return a future of the next step; see `playloom.inference.session.StepInput` for the arguments."""
        request = _StepRequest(handle=self, action_A=action_A, frame=frame)

        def enqueue() -> None:
            if self.session.closed:
                raise ShuttingDownError(_CLOSED)
            self._scheduler.engine.check(request.input)  # a bad step fails its own request only
            self._scheduler._requests.append(request)

        _on_failure(self._scheduler.run(enqueue), partial(_fail, request.done))
        return request.done

    def close(self) -> None:
        """Free the session's memory; queued steps fail with a `ShuttingDownError`."""
        self._scheduler.run(lambda: self._scheduler._remove(self))


@dataclass(kw_only=True, eq=False)
class LiveHandle:
    """A live session that the scheduler drives; it calls both functions in its own thread or one of the engine.

    `on_frame` returns a future of the sent frame, so that frames never queue. `on_error` receives the error that ended
    the session.
    """

    handle: Handle  # another one after a restart
    state: LiveState
    on_frame: Callable[[LiveFrame], Future[Any]]
    on_error: _OnError
    unsent: int = 0


class Scheduler:
    """Owns an engine and the thread that runs it."""

    def __init__(self, engine: Engine, *, sessions: int = 64, batch: int = 16, gather: float = 0.004) -> None:
        """Start the thread; nothing else may use the engine.

        There are at most so many `sessions`, and `batch` of them in one batch; others wait, longest waiting first. A
        batch waits `gather` seconds for sessions of the last batch that have no new request yet.
        """
        self.engine, self.sessions, self.batch, self.gather = engine, sessions, batch, gather
        self.stats = SchedulerStats()
        self.on_batch: Callable[[int], None] = lambda size: None  # receives the size of every batch done
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closed, self._lock = False, threading.Lock()  # the lock: no task follows the None of the end
        self._prefilling: list[_PrefillRequest] = []
        self._requests: deque[_StepRequest] = deque()
        self._live: list[LiveHandle] = []
        self._last_batch: list[Handle] = []
        self._delivered: Future[None] | None = None  # done when all steps so far are delivered
        self._thread = threading.Thread(target=self._run, name="playloom-scheduler", daemon=True)
        self._thread.start()

    def open(
        self,
        prompt: Prompt,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        progress: Progress = lambda seen, steps: None,
    ) -> Future[Handle]:
        """Return a future of a session, ready when its prompt is prefilled; cancelling it frees the session."""
        future: Future[Handle] = Future()

        def enqueue() -> None:
            if self.stats.sessions + len(self._prefilling) >= self.sessions:
                raise ResourceError(f"all {self.sessions} sessions are taken; try again in a while")
            session = self.engine.open(prompt, sampling=sampling, seed=seed, prefill=False)
            newcomer = _PrefillRequest(session=session, done=future, progress=progress, steps=len(session.pending))
            self._prefilling.append(newcomer)

        _on_failure(self.run(enqueue), partial(_fail, future))
        return future

    def play(self, live: LiveHandle) -> None:
        """Make a frame of a live session at every tick, until its handle is closed."""
        _on_failure(self.run(lambda: self._live.append(live)), live.on_error)

    def stop(self, live: LiveHandle) -> None:
        """Close the session that a live handle has by then, also when a restart is about to switch it."""
        self.run(lambda: self._remove(live.handle))

    def wake(self) -> None:
        """Look at the live sessions again, after one was resumed or stepped."""
        self.run(lambda: None)

    def wait_for_frames(self) -> None:
        """Wait until all steps so far are delivered; call it in the scheduler's thread."""
        if self._delivered is not None:
            wait([self._delivered])

    @property
    def alive(self) -> bool:
        """True while the scheduler's thread runs."""
        return self._thread.is_alive()

    def run(self, work: Callable[[], _T]) -> Future[_T]:
        """Run a short function between two frames in the scheduler's thread; return a future of its result.

        Two threads that compute at once slow each other down, see `playloom.device.run_in_temporary_thread`.
        """
        future: Future[_T] = Future()
        with self._lock:
            if not self._closed:
                self._tasks.put((work, future))
                return future
        future.set_exception(ShuttingDownError("the server is stopping and accepts no new work"))
        return future

    def close(self, timeout: float = 10.0) -> bool:
        """Finish queued work, accept nothing new and stop; returns True when `timeout` seconds sufficed."""
        self._accept_nothing()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _accept_nothing(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._tasks.put(None)

    def _run_tasks(self, timeout: float | None) -> bool:
        """Run all queued tasks, after at most `timeout` seconds (None: any) for the first; False after the last one."""
        with suppress(queue.Empty):
            while (item := self._tasks.get(timeout=timeout)) is not None:
                timeout, (work, future) = 0.0, item
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(work())
                    except Exception as error:  # report to the caller
                        future.set_exception(error)
            self._tasks.put(None)  # for the next call
            return False
        return True

    def _remove(self, handle: Handle) -> None:
        if handle.session.closed:
            return
        self._live = [live for live in self._live if live.handle is not handle]
        for request in [waiting for waiting in self._requests if waiting.handle is handle]:
            self._requests.remove(request)
            _fail(request.done, ShuttingDownError(_CLOSED))
        self.engine.close(handle.session)
        self.stats.sessions -= 1

    def _run(self) -> None:
        try:
            while self._run_tasks(self._idle_time()) or self._requests or self._prefilling:
                self._prefill_step()
                self._gather()
                self._advance()
            self.wait_for_frames()
        except Exception:  # a bug: fail every waiting future
            log.exception("the scheduler's thread failed")
            gone = ShuttingDownError("the scheduler's thread failed; restart the server")
            for request in self._requests:
                _fail(request.done, gone)
            for newcomer in self._prefilling:
                _fail(newcomer.done, gone)
            for live in self._live:
                live.on_error(gone)
            self._accept_nothing()
            while (item := self._tasks.get()) is not None:
                _fail(item[1], gone)

    def _idle_time(self) -> float | None:
        """Return the seconds until there is work other than tasks; None: there is none."""
        if self._requests or self._prefilling:
            return 0.0
        due = min((due for due, _ in self._due_times()), default=None)
        return None if due is None else max(0.0, due - time.perf_counter())

    def _due_times(self) -> list[tuple[float, LiveHandle]]:
        ready = [live for live in self._live if live.unsent < _MAX_UNSENT]
        return [(due, live) for live in ready if (due := live.state.next_due()) is not None]

    def _prefill_step(self) -> None:
        for newcomer in [newcomer for newcomer in self._prefilling if newcomer.done.cancelled()]:
            self._drop(newcomer)
        if not self._prefilling:
            return
        try:
            self.engine.prefill([newcomer.session for newcomer in self._prefilling])
        except Exception as error:
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
                if newcomer.done.set_running_or_notify_cancel():
                    newcomer.done.set_result(handle)
                else:
                    self._remove(handle)

    def _drop(self, newcomer: _PrefillRequest) -> None:
        self._prefilling.remove(newcomer)
        self.engine.close(newcomer.session)

    def _gather(self) -> None:
        """Wait briefly for the sessions of the last batch: one batch of two costs less than two of one."""
        if self._requests and self._last_batch:
            self.wait_for_frames()
        end = time.perf_counter() + self.gather
        while self._requests:
            here = {id(request.handle) for request in self._requests}
            missing = any(not handle.session.closed and id(handle) not in here for handle in self._last_batch)
            left = end - time.perf_counter()
            if not missing or len(here) >= self.batch or left <= 0 or not self._run_tasks(left):
                return

    def _advance(self) -> None:
        batch = self._next_batch()
        self.stats.waiting = len(self._requests)
        if not batch:
            return
        self._last_batch = [request.handle for request in batch if request.live is None]
        self.stats.batches[len(batch)] += 1
        try:
            decoding = self.engine.step_async([request.input for request in batch])
        except Exception as error:
            self._fail_batch(batch, error)
            return
        self.stats.frames += len(batch)
        self.on_batch(len(batch))
        self.wait_for_frames()  # of the batch before
        self._delivered = Future()
        decoding.add_done_callback(partial(self._deliver, batch, self._delivered))

    def _deliver(self, batch: Sequence[_StepRequest], delivered: Future[None], done: Future[list[StepResult]]) -> None:
        """Give the steps to their requests, in the thread that decoded their frames."""
        try:
            for request, step in zip(batch, done.result(), strict=True):
                request.done.set_result(step)
        except Exception as error:
            self._fail_batch(batch, error)
        finally:
            delivered.set_result(None)

    def _fail_batch(self, batch: Sequence[_StepRequest], error: BaseException) -> None:
        for request in batch:
            _fail(request.done, error)
            if not isinstance(error, ResourceError):  # only after that one can the session go on
                request.handle.close()

    def _next_batch(self) -> list[_StepRequest]:
        due_times, now = self._due_times(), time.perf_counter()
        due = [_StepRequest(handle=live.handle, since=at, live=live) for at, live in due_times if at <= now]
        batch: list[_StepRequest] = []
        for request in sorted([*self._requests, *due], key=lambda request: request.since):
            if len(batch) == self.batch:
                break
            if any(request.handle is other.handle for other in batch):
                continue
            if request.live is None:
                self._requests.remove(request)
                if request.done.set_running_or_notify_cancel():
                    batch.append(request)
            elif (step := request.live.state.begin()) is not None:  # it was not paused meanwhile
                request.action_A = step.action_A
                request.live.unsent += 1
                request.done.add_done_callback(partial(self._finish_live, request.live, step))
                batch.append(request)
        return batch

    def _finish_live(self, live: LiveHandle, step: LiveStep, done: Future[StepResult]) -> None:
        if (error := done.exception()) is not None:
            self._end_live(live, error)
            return

        def sent(done: Future[Any]) -> None:
            live.unsent -= 1
            done.result()

        future = live.on_frame(live.state.finish(step, done.result()))
        future.add_done_callback(lambda done: _on_failure(self.run(partial(sent, done)), partial(self._end_live, live)))

    def _end_live(self, live: LiveHandle, error: BaseException) -> None:
        self._live = [other for other in self._live if other is not live]
        live.on_error(error)

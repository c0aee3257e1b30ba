"""Scheduler: sessions of many users equal the engine's, batched, in order, and errors stay with their session."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from engine_toys import ThreadedEngine, prompt_of
from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError, PictureError, ResourceError
from playloom.inference.engine import Engine
from playloom.inference.realtime.state import LiveState
from playloom.inference.sampling import Sampling
from playloom.server.scheduler import LiveHandle, Scheduler, ShuttingDownError

GREEDY = Sampling(temperature=0.0)


def opened(scheduler, *prompt, **how):
    return scheduler.open(*prompt, **how).result(20)


@pytest.fixture(params=[Engine, ThreadedEngine])
def scheduler(tiny_model, request):
    scheduler = Scheduler(request.param(tiny_model, row_delay=1), sessions=6, batch=3)
    yield scheduler
    assert scheduler.close(10)


def test_sessions_of_many_threads_equal_the_engine_s(tiny_model, scheduler):
    found: dict[int, list[np.ndarray]] = {}

    def play(seed: int) -> None:
        handle = opened(scheduler, prompt_of(1 + seed % 4, seed), seed=seed)
        found[seed] = [handle.submit(REST_VALUES).result(20).codes_N for _ in range(4)]
        handle.close()

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(6):
        session = Engine(tiny_model, row_delay=1).open(prompt_of(1 + seed % 4, seed), seed=seed)
        assert all((session.step(REST_VALUES).codes_N == codes).all() for codes in found[seed])
    assert scheduler.stats.frames == 24 and max(scheduler.stats.batches) <= 3


def test_waiting_requests_share_batches(scheduler):
    handles = [opened(scheduler, prompt_of(1, seed)) for seed in range(5)]
    for future in [handle.submit(REST_VALUES) for _ in range(3) for handle in handles]:
        assert future.result(timeout=20).frame_HWC is not None
    assert sum(size * count for size, count in scheduler.stats.batches.items()) == 15
    assert any(size > 1 for size in scheduler.stats.batches)


def test_a_batch_waits_for_the_sessions_of_the_last_one(tiny_model):
    scheduler = Scheduler(Engine(tiny_model, row_delay=1), sessions=2, batch=2, gather=20.0)
    handles = [opened(scheduler, prompt_of(1, seed)) for seed in range(2)]
    both_asked = threading.Event()
    scheduler.run(both_asked.wait)
    futures = [handle.submit(REST_VALUES) for handle in handles]
    both_asked.set()
    assert all(future.result(20).frame_HWC is not None for future in futures)

    def play(handle) -> None:
        for _ in range(5):
            handle.submit(REST_VALUES).result(20)
        handle.close()

    threads = [threading.Thread(target=play, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scheduler.stats.batches == {2: 6}
    assert scheduler.close(10)


def test_other_work_runs_in_the_scheduler_s_thread(scheduler):
    assert scheduler.run(lambda: threading.current_thread().name).result(10) == "playloom-scheduler"
    with pytest.raises(ZeroDivisionError):
        scheduler.run(lambda: 1 // 0).result(10)


def test_sessions_are_limited(scheduler):
    handles = [opened(scheduler, prompt_of(1)) for _ in range(6)]
    with pytest.raises(ResourceError, match="6 sessions"):
        opened(scheduler, prompt_of(1))
    handles[0].close()
    for _ in range(100):
        try:
            opened(scheduler, prompt_of(1)).close()
            break
        except ResourceError:
            threading.Event().wait(0.02)
    else:
        pytest.fail("the closed session's place never came free")


def test_a_bad_step_fails_alone(tiny_model, scheduler):
    good, bad, wrong_size = (opened(scheduler, prompt_of(1, seed), seed=seed) for seed in range(3))
    gate = threading.Event()
    scheduler.run(gate.wait)  # so that all three lie there when the next batch is made
    futures = [
        good.submit(REST_VALUES),
        bad.submit(np.full(16, 99, np.uint8)),
        wrong_size.submit(REST_VALUES, np.zeros((3, 3, 3), np.uint8)),
    ]
    gate.set()
    alone = Engine(tiny_model, row_delay=1).open(prompt_of(1, 0), seed=0)
    assert (futures[0].result(20).codes_N == alone.step(REST_VALUES).codes_N).all()
    with pytest.raises(BadInputError):
        futures[1].result(20)
    with pytest.raises(PictureError):
        futures[2].result(20)
    assert (good.submit(REST_VALUES).result(20).codes_N == alone.step(REST_VALUES).codes_N).all()
    assert wrong_size.submit(REST_VALUES).result(20).index == 0


def test_a_failed_batch_closes_its_sessions_only(scheduler, monkeypatch):
    hit, other = opened(scheduler, prompt_of(1, 1)), opened(scheduler, prompt_of(1, 2))
    monkeypatch.setattr(scheduler.engine.decoder, "give_action", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hit.submit(REST_VALUES).result(20)
    monkeypatch.undo()
    with pytest.raises(ShuttingDownError, match="was closed"):
        hit.submit(REST_VALUES).result(20)
    assert other.submit(REST_VALUES).result(20).index == 0


def test_a_failed_thread_fails_every_future(tiny_model, monkeypatch):
    scheduler = Scheduler(Engine(tiny_model))
    handle = opened(scheduler, prompt_of(1))
    monkeypatch.setattr(scheduler, "_gather", lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ShuttingDownError, match=r"failed|stopping"):
            handle.submit(REST_VALUES).result(20)
    with pytest.raises(ShuttingDownError, match=r"failed|stopping"):
        scheduler.open(prompt_of(1)).result(20)
    assert scheduler.close(10) and not scheduler.alive


def test_out_of_memory_fails_the_step_and_keeps_the_session(tiny_model, scheduler, monkeypatch):
    handle = opened(scheduler, prompt_of(1, 1), seed=3)
    monkeypatch.setattr(scheduler.engine.decoder, "dream_frame", _no_memory)
    with pytest.raises(ResourceError, match="memory"):
        handle.submit(REST_VALUES).result(20)
    monkeypatch.undo()
    assert handle.submit(REST_VALUES).result(20).frame_HWC is not None


def _no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("no room")


def test_closed_sessions_and_a_closed_scheduler_raise(tiny_model):
    scheduler = Scheduler(Engine(tiny_model))
    handle = opened(scheduler, prompt_of(2), sampling=GREEDY)
    last = handle.submit(REST_VALUES)
    handle.close()
    with pytest.raises(ShuttingDownError, match="was closed"):
        handle.submit(REST_VALUES).result(20)
    assert scheduler.close(10)
    assert last.done()
    with pytest.raises(ShuttingDownError, match="stopping"):
        opened(scheduler, prompt_of(1))


@pytest.mark.parametrize("kind", [Engine, ThreadedEngine])
def test_close_finishes_queued_steps(tiny_model, kind):
    scheduler = Scheduler(kind(tiny_model, row_delay=1))
    handle = opened(scheduler, prompt_of(1))
    futures = [handle.submit(REST_VALUES) for _ in range(5)]
    assert scheduler.close(20)
    assert [future.result(0).index for future in futures] == [0, 1, 2, 3, 4]


def test_a_cancelled_step_is_skipped(scheduler):
    handle = opened(scheduler, prompt_of(1))
    gate = threading.Event()
    scheduler.run(gate.wait)
    futures = [handle.submit(REST_VALUES) for _ in range(3)]
    assert futures[1].cancel()
    gate.set()
    assert [futures[0].result(20).index, futures[2].result(20).index] == [0, 1]


def test_opening_reports_progress_and_can_be_cancelled(tiny_model):
    scheduler = Scheduler(Engine(tiny_model, row_delay=1), sessions=1)
    told: list[tuple[int, int]] = []
    scheduler.open(prompt_of(3), progress=lambda *counts: told.append(counts)).result(20).close()
    scheduler.run(lambda: None).result(20)  # closing happens between two frames
    assert told == [(1, 3), (2, 3), (3, 3)]
    scheduler.run(lambda: None).result(20)  # the close is done
    seen, go_on = threading.Event(), threading.Event()

    def see(*counts: int) -> None:
        seen.set()
        go_on.wait(20)

    left = scheduler.open(prompt_of(3), progress=see)
    assert seen.wait(20)
    refused = scheduler.open(prompt_of(1))
    assert left.cancel()
    go_on.set()
    with pytest.raises(ResourceError, match="1 sessions"):
        refused.result(20)
    scheduler.run(lambda: None).result(20)
    scheduler.run(lambda: None).result(20)
    assert opened(scheduler, prompt_of(1)).submit(REST_VALUES).result(20).index == 0
    assert scheduler.close(20)


class Player:
    """A live session whose frames are sent at once, or when `go_on` is set."""

    def __init__(self, scheduler, handle, **state):
        self.frames, self.errors, self.go_on = [], [], None
        self.state = LiveState(controller="model", **state)
        self.live = LiveHandle(handle=handle, state=self.state, on_frame=self.take, on_error=self.errors.append)
        scheduler.play(self.live)

    def take(self, frame):
        self.frames.append(frame)
        sent: Future[None] = Future()
        if self.go_on is None:
            sent.set_result(None)
        else:
            threading.Thread(target=lambda: (self.go_on.wait(20), sent.set_result(None))).start()
        return sent


def until(happened, seconds=20.0):
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.005)
    assert happened()


def test_live_sessions_share_batches_and_equal_the_engine_s(tiny_model, scheduler):
    players = [
        Player(scheduler, opened(scheduler, prompt_of(2, seed), seed=seed), fps=20, aligned=True) for seed in range(3)
    ]
    until(lambda: all(len(player.frames) >= 6 for player in players))
    for player in players:
        player.live.handle.close()
    assert scheduler.stats.batches[3] >= 4
    for seed, player in enumerate(players):
        alone = Engine(tiny_model, row_delay=1).open(prompt_of(2, seed), seed=seed)
        assert all((alone.step().codes_N == frame.codes_N).all() for frame in player.frames)
        report = player.state.report()
        assert report["frames"] == len(player.frames) and not player.errors


def test_the_next_step_runs_while_a_frame_is_decoded(tiny_model):
    engine = ThreadedEngine(tiny_model, row_delay=1)
    scheduler = Scheduler(engine)
    permits = engine.permits = threading.Semaphore(0)
    player = Player(scheduler, opened(scheduler, prompt_of(1)), fps=1000)
    until(lambda: scheduler.stats.frames == 2)
    assert not player.frames
    engine.permits = None
    permits.release()
    until(lambda: len(player.frames) > 3)
    counts = scheduler.run(lambda: (scheduler.wait_for_frames(), len(player.frames), scheduler.stats.frames)).result(20)
    assert counts[1] == counts[2], "all steps are delivered"
    assert [frame.sequence for frame in player.frames[:4]] == [0, 1, 2, 3]
    assert scheduler.close(10)


def test_a_frame_that_cannot_be_decoded_ends_its_session(tiny_model, monkeypatch):
    engine = ThreadedEngine(tiny_model, row_delay=1)
    scheduler = Scheduler(engine)
    monkeypatch.setattr(engine.backend, "decode", lambda _: 1 / 0)
    player = Player(scheduler, opened(scheduler, prompt_of(1)), fps=200)
    with pytest.raises(ZeroDivisionError):
        opened(scheduler, prompt_of(1)).submit(REST_VALUES).result(20)
    until(lambda: player.errors)
    assert isinstance(player.errors[0], ZeroDivisionError)
    until(lambda: scheduler.stats.sessions == 0)
    assert scheduler.close(10)


def test_a_live_session_pauses_steps_and_ends_with_its_handle(scheduler):
    player = Player(scheduler, opened(scheduler, prompt_of(1)), fps=100)
    until(lambda: len(player.frames) >= 3)
    player.state.pause()
    scheduler.run(scheduler.wait_for_frames).result(20)
    made = len(player.frames)
    time.sleep(0.05)
    assert len(player.frames) == made
    player.state.single_step()
    scheduler.wake()
    until(lambda: len(player.frames) == made + 1)
    player.state.resume()
    scheduler.wake()
    until(lambda: len(player.frames) > made + 3)
    player.live.handle.close()
    scheduler.run(scheduler.wait_for_frames).result(20)
    made = len(player.frames)
    time.sleep(0.05)
    assert len(player.frames) == made and scheduler.stats.sessions == 0


def test_live_sessions_that_are_always_late_starve_no_request(scheduler):
    players = [Player(scheduler, opened(scheduler, prompt_of(1, seed)), fps=1000) for seed in range(4)]
    handle = opened(scheduler, prompt_of(1, 9))
    before = [len(player.frames) for player in players]  # the first one had begun alone
    for index in range(10):
        assert handle.submit(REST_VALUES).result(20).index == index
    assert all(player.state.report()["skipped"] > 0 for player in players)
    assert max(scheduler.stats.batches) == 3
    counts = [len(player.frames) - made for player, made in zip(players, before, strict=True)]
    assert min(counts) > max(counts) / 2, "the longest waiting comes first"


def test_frames_that_cannot_be_sent_never_queue(scheduler):
    player = Player(scheduler, opened(scheduler, prompt_of(1)), fps=1000)
    until(lambda: player.frames)
    player.go_on = threading.Event()
    made = len(player.frames)
    time.sleep(0.2)
    assert len(player.frames) <= made + 3
    player.go_on.set()
    until(lambda: len(player.frames) > made + 10)


def test_a_failure_ends_the_live_sessions_it_hit(scheduler, monkeypatch):
    player = Player(scheduler, opened(scheduler, prompt_of(1)), fps=200)
    until(lambda: player.frames)
    monkeypatch.setattr(scheduler.engine, "step_async", lambda _: 1 / 0)
    until(lambda: player.errors)
    assert isinstance(player.errors[0], ZeroDivisionError)
    scheduler.run(lambda: None).result(20)
    scheduler.run(lambda: None).result(20)
    assert scheduler.stats.sessions == 0

"""The broker: the engine's own dreams for every user, batched, in order, and nobody pays for another's mistake."""

import threading

import numpy as np
import pytest
import torch

from engine_toys import prompt_of
from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError, PictureError, ResourceError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.server.errors import CapacityError, ShuttingDownError
from playloom.server.scheduler import Scheduler, SchedulerLimits

GREEDY = Sampling(temperature=0.0)


@pytest.fixture
def broker(tiny_model):
    broker = Scheduler(Engine(tiny_model, row_delay=1), SchedulerLimits(sessions=6, batch=3))
    yield broker
    assert broker.close(10)


def test_many_threads_get_what_each_would_get_alone(tiny_model, broker):
    found: dict[int, list[np.ndarray]] = {}

    def play(seed: int) -> None:
        handle = broker.open(prompt_of(1 + seed % 4, seed), seed=seed)
        found[seed] = [handle.step(REST_VALUES).codes_N for _ in range(4)]
        handle.close()

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(6):
        session = Engine(tiny_model, row_delay=1).open(prompt_of(1 + seed % 4, seed), seed=seed)
        assert all((session.step(REST_VALUES).codes_N == codes).all() for codes in found[seed])
    assert broker.stats.frames == 24 and max(broker.stats.batches) <= 3


def test_waiting_turns_share_a_batch_and_none_waits_for_ever(broker):
    handles = [broker.open(prompt_of(1, seed)) for seed in range(5)]
    for future in [handle.submit(REST_VALUES) for _ in range(3) for handle in handles]:
        assert future.result(timeout=20).frame_HWC is not None
    assert sum(size * count for size, count in broker.stats.batches.items()) == 15
    assert any(size > 1 for size in broker.stats.batches)


def test_those_who_were_dreamed_together_are_waited_for(tiny_model):
    broker = Scheduler(Engine(tiny_model, row_delay=1), SchedulerLimits(sessions=2, batch=2, gather=20.0))
    handles = [broker.open(prompt_of(1, seed)) for seed in range(2)]
    both_asked = threading.Event()
    broker.run(both_asked.wait)
    futures = [handle.submit(REST_VALUES) for handle in handles]
    both_asked.set()
    assert all(future.result(20).frame_HWC is not None for future in futures)

    def play(handle) -> None:
        for _ in range(5):
            handle.step(REST_VALUES)
        handle.close()

    threads = [threading.Thread(target=play, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broker.stats.batches == {2: 6}
    assert broker.close(10)


def test_other_work_of_the_model_is_done_in_the_one_thread(broker):
    assert broker.run(lambda: threading.current_thread().name).result(10) == "playloom-scheduler"
    with pytest.raises(ZeroDivisionError):
        broker.run(lambda: 1 // 0).result(10)


def test_a_session_too_many_is_refused_at_once_and_there_is_room_again(broker):
    handles = [broker.open(prompt_of(1)) for _ in range(6)]
    with pytest.raises(CapacityError, match="6 sessions"):
        broker.open(prompt_of(1))
    handles[0].close()
    for _ in range(100):
        try:
            broker.open(prompt_of(1)).close()
            break
        except CapacityError:
            threading.Event().wait(0.02)
    else:
        pytest.fail("the closed session's place never came free")


def test_one_bad_turn_spoils_no_other(tiny_model, broker):
    good, bad, wrong_size = (broker.open(prompt_of(1, seed), seed=seed) for seed in range(3))
    gate = threading.Event()
    broker._tasks.put(gate.wait, lambda _: None)  # so that all three lie there when the next batch is made
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
    assert (good.step(REST_VALUES).codes_N == alone.step(REST_VALUES).codes_N).all()
    assert wrong_size.step(REST_VALUES).index == 0


def test_a_failure_of_the_machine_ends_the_sessions_it_hit_and_no_other(broker, monkeypatch):
    hit, other = broker.open(prompt_of(1, 1)), broker.open(prompt_of(1, 2))
    monkeypatch.setattr(broker.engine.decoder, "give_action", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hit.step(REST_VALUES)
    monkeypatch.undo()
    with pytest.raises(ShuttingDownError, match="was closed"):
        hit.step(REST_VALUES)
    assert other.step(REST_VALUES).index == 0


def test_nobody_waits_for_a_thread_that_failed(tiny_model, monkeypatch):
    broker = Scheduler(Engine(tiny_model))
    handle = broker.open(prompt_of(1))
    monkeypatch.setattr(broker, "_gather", lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ShuttingDownError, match=r"failed|stopping"):
            handle.submit(REST_VALUES).result(20)
    with pytest.raises(ShuttingDownError, match=r"failed|stopping"):
        broker.open_async(prompt_of(1)).result(20)
    assert broker.close(10) and not broker.alive


def test_want_of_memory_fails_the_turn_and_keeps_the_session(tiny_model, broker, monkeypatch):
    handle = broker.open(prompt_of(1, 1), seed=3)
    monkeypatch.setattr(broker.engine.decoder, "dream_frame", _no_memory)
    with pytest.raises(ResourceError, match="memory"):
        handle.step(REST_VALUES)
    monkeypatch.undo()
    assert handle.step(REST_VALUES).frame_HWC is not None


def _no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("no room")


def test_a_closed_session_and_a_stopped_broker_are_sentences(tiny_model):
    broker = Scheduler(Engine(tiny_model))
    handle = broker.open(prompt_of(2), sampling=GREEDY)
    last = handle.submit(REST_VALUES)
    handle.close()
    with pytest.raises(ShuttingDownError, match="was closed"):
        handle.step(REST_VALUES)
    assert broker.close(10)
    assert last.done()
    with pytest.raises(ShuttingDownError, match="stopping"):
        broker.open(prompt_of(1))


def test_what_was_asked_for_is_finished_before_the_end(tiny_model):
    broker = Scheduler(Engine(tiny_model, row_delay=1))
    handle = broker.open(prompt_of(1))
    futures = [handle.submit(REST_VALUES) for _ in range(5)]
    assert broker.close(20)
    assert [future.result(0).index for future in futures] == [0, 1, 2, 3, 4]


def test_nobody_waits_for_a_cancelled_turn(broker):
    handle = broker.open(prompt_of(1))
    gate = threading.Event()
    broker._tasks.put(gate.wait, lambda _: None)
    futures = [handle.submit(REST_VALUES) for _ in range(3)]
    assert futures[1].cancel()
    gate.set()
    assert [futures[0].result(20).index, futures[2].result(20).index] == [0, 1]


def test_an_opening_says_how_far_it_is_and_can_be_cancelled(tiny_model):
    broker = Scheduler(Engine(tiny_model, row_delay=1), SchedulerLimits(sessions=1))
    told: list[tuple[int, int]] = []
    broker.open_async(prompt_of(3), progress=lambda *counts: told.append(counts)).result(20).close()
    broker.run(lambda: None).result(20)  # closing happens between two frames
    assert told == [(1, 3), (2, 3), (3, 3)]
    broker.run(lambda: None).result(20)  # the close is done
    seen, go_on = threading.Event(), threading.Event()

    def see(*counts: int) -> None:
        seen.set()
        go_on.wait(20)

    left = broker.open_async(prompt_of(3), progress=see)
    assert seen.wait(20)
    with pytest.raises(CapacityError):
        broker.open(prompt_of(1))
    assert left.cancel()
    go_on.set()
    broker.run(lambda: None).result(20)
    broker.run(lambda: None).result(20)
    assert broker.open(prompt_of(1)).step(REST_VALUES).index == 0
    assert broker.close(20)

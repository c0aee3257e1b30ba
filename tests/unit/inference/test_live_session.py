"""Live sessions on virtual time: controller, late frames, pause, restart."""

import threading
import time as machine_time

import numpy as np
import pytest

from live_toys import TURN, WALK, ToyDreams, prompt, spend
from playloom.actions.codec import REST_VALUES
from playloom.errors import ActionError, BadInputError
from playloom.inference.realtime.clock import RealTime, VirtualTime
from playloom.inference.realtime.session import LiveSession
from playloom.inference.realtime.state import LiveFrame, LiveState, percentiles
from playloom.inference.sampling import Sampling


def session(cost=lambda index: 0.05, **settings) -> LiveSession:
    virtual = VirtualTime(50.0)
    return LiveSession(ToyDreams(virtual, cost), prompt(), time=virtual, **settings)


def played(live: LiveSession, ticks: int, at_frame=lambda frame: None, **how) -> list[LiveFrame]:
    frames: list[LiveFrame] = []

    def take(frame: LiveFrame) -> None:
        frames.append(frame)
        at_frame(frame)

    live.run(take, ticks=ticks, **how)
    return frames


def pictures(frames: list[LiveFrame]) -> list[list[int]]:
    return [frame.frame_HWC.ravel().tolist() for frame in frames]


def test_a_step_waits_for_the_tick_and_says_what_was_played():
    live = session()
    first, second = live.step(TURN), live.step()
    assert (first.sequence, second.sequence) == (0, 1)
    assert (first.action_A == TURN).all() and (second.action_A == TURN).all() and first.action_given
    assert first.time == pytest.approx(0.05) and second.time == pytest.approx(0.15)
    assert not first.late and first.latency == pytest.approx(0.05)
    assert live.time.now() == pytest.approx(50.15)


def test_frames_keep_to_the_clock():
    live = session(cost=lambda index: 0.02 + 0.07 * (index % 3) / 3)
    frames = played(live, 3000)
    began = np.array([frame.time - frame.latency for frame in frames])
    assert np.abs(began - np.arange(3000) / 10).max() < 1e-9
    report = live.report()
    assert (report["frames"], report["late"], report["skipped"]) == (3000, 0, 0)
    assert report["seconds"] == 300.0 and report["frames_per_second"] == 10.0
    assert report["jitter_ms"]["p99"] == 0.0 and report["frame_latency_ms"]["count"] == 3000


def test_late_frames_and_missed_ticks_are_counted():
    live = session(cost=lambda index: 0.35 if index == 4 else 0.12 if index == 7 else 0.05)
    frames = played(live, 20)
    report = live.report()
    assert [frame.sequence for frame in frames if frame.late] == [4, 7]
    assert frames[4].late_by == pytest.approx(0.25) and frames[7].late_by == pytest.approx(0.02)
    assert [(f.sequence, f.skipped) for f in frames if f.skipped] == [(5, 2)]
    assert (report["late"], report["skipped"], report["frames"]) == (2, 2, 18)
    assert report["frames"] + report["skipped"] == 20
    assert report["seconds"] == 2.0 and report["frames_per_second"] == 9.0
    assert report["jitter_ms"]["count"] == 18 and report["jitter_ms"]["p99"] > 40


def test_a_model_that_is_too_slow_is_never_behind_by_more_than_a_frame():
    live = session(cost=lambda index: 0.25)
    frames = played(live, 100)
    report = live.report()
    assert report["late"] == report["frames"] == len(frames) and report["frames"] + report["skipped"] == 100
    assert report["frames_per_second"] == pytest.approx(4.0, abs=0.1)
    assert max(frame.late_by for frame in frames) < 0.25
    live = session(cost=lambda index: 0.101)
    played(live, 10_000)
    assert live.report()["skipped"] in (99, 100), (
        "a frame that is 1 % too slow costs a tick in a hundred, not every other"
    )


def test_inputs_never_queue():
    live = session()
    bursts = {0: [TURN, WALK], 1: [WALK, TURN, REST_VALUES, TURN], 3: [REST_VALUES, WALK]}
    frames = played(live, 6, lambda frame: [live.set_input(action) for action in bursts.get(frame.sequence, [])])
    wanted = [REST_VALUES, WALK, TURN, TURN, WALK, WALK]
    assert [f.action_A.tolist() for f in frames] == [action.tolist() for action in wanted]
    report = live.report()
    assert (report["inputs"], report["dropped_inputs"], report["key_to_frame_ms"]["count"]) == (8, 5, 3)


def test_key_to_frame_counts_the_wait_for_the_tick():
    live = session()
    live.run(lambda frame: None, ticks=1)
    live = session()

    def at_frame(frame: LiveFrame) -> None:
        if frame.sequence == 2:
            live.set_input(TURN)  # in hand at 0.25; the next tick is at 0.3, its frame at 0.35

    frames = played(live, 6, at_frame)
    waits = [frame.key_to_frame for frame in frames]
    assert waits[3] == pytest.approx(0.1) and waits.count(None) == 5
    spread = live.report()["key_to_frame_ms"]
    assert (spread["count"], spread["p50"]) == (1, pytest.approx(100))


def test_the_time_of_an_input_is_never_in_the_future():
    live = session()
    live.step()
    live.time.sleep_until(50.09)
    live.set_input(TURN, at=50.06)
    assert live.step().key_to_frame == pytest.approx(0.09)
    live.set_input(WALK, at=99.0)
    assert live.step().key_to_frame == pytest.approx(0.1)


def test_the_controller_model():
    live = session(controller="model")
    frames = played(live, 3, lambda frame: live.set_input(TURN))
    assert not any(frame.action_given for frame in frames)
    assert all((frame.action_A == WALK).all() for frame in frames)
    assert live.report()["key_to_frame_ms"]["count"] == 0


def test_the_controller_both():
    live = session(controller="both")
    actions = {1: TURN, 3: REST_VALUES, 5: TURN}
    frames = played(
        live, 8, lambda frame: live.set_input(actions[frame.sequence]) if frame.sequence in actions else None
    )
    assert [frame.action_given for frame in frames] == [False, False, True, True, False, False, True, True]
    assert all((frame.action_A == (TURN if frame.action_given else WALK)).all() for frame in frames)
    assert live.report()["key_to_frame_ms"]["count"] == 2, "letting go is not answered by a frame of the person's"


def test_the_controller_can_change():
    live = session()
    assert live.step().action_given
    live.set_input(TURN)
    live.controller = "model"
    assert live.controller == "model" and not live.step().action_given
    live.controller = "person"
    after = live.step()
    assert (after.action_A == TURN).all() and after.key_to_frame is None
    with pytest.raises(BadInputError, match="'modle'"):
        live.controller = "modle"


def test_a_pause_misses_nothing_and_steps_by_hand():
    live = session()
    before = live.step(TURN)
    live.pause()
    assert live.paused
    live.time.sleep_until(80)
    live.set_input(WALK)
    stepped = live.step()
    assert (stepped.action_A == WALK).all() and stepped.key_to_frame is None and not stepped.late
    assert live.time.now() == pytest.approx(80.05), "a step by hand waits for nothing"
    live.time.sleep_until(90)
    live.set_input(TURN)
    live.resume()
    after = live.step()
    assert (before.sequence, stepped.sequence, after.sequence) == (0, 1, 2)
    assert after.key_to_frame is None, "the pause is no part of a press's wait"
    report = live.report()
    assert (report["frames"], report["stepped"], report["skipped"], report["late"]) == (3, 1, 0, 0)
    assert report["seconds"] == pytest.approx(0.2) and report["frames_per_second"] == 10.0


def test_pausing_while_a_tick_is_waited_for_costs_no_tick():
    """Ten ticks were asked for; each pause took one of them, neither made nor counted as missed."""
    live = session()
    waits, sleep_until = [], live.time.sleep_until

    def sleep_and_pause(when):
        sleep_until(when)
        waits.append(when)
        if len(waits) in (3, 6):
            live.pause()
            live.single_step()  # the loop makes it, and the frame below resumes

    live.time.sleep_until = sleep_and_pause
    frames = []

    def take(frame):
        frames.append(frame)
        if live.paused:
            live.resume()

    live.run(take, ticks=10)
    report = live.report()
    assert (report["frames"] - report["stepped"], report["stepped"], report["skipped"]) == (10, 2, 0)


def test_stepping_needs_a_pause():
    with pytest.raises(BadInputError, match="pause"):
        session().single_step()


def test_a_restart_repeats_the_session_and_a_seed_changes_it():
    live = session(seed=3)
    first = [live.step(TURN) for _ in range(4)]
    live.restart()
    again = [live.step() for _ in range(4)]
    assert pictures(first) == pictures(again)
    assert [f.restarts for f in first + again] == [0] * 4 + [1] * 4
    assert [f.sequence for f in first + again] == list(range(8))
    live.restart(seed=4)
    assert live.seed == 4 and pictures([live.step() for _ in range(4)]) != pictures(first)
    live.restart(prompt=prompt(9))
    other = pictures([live.step() for _ in range(4)])
    assert live.prompt.frames_THWC.max() == 9
    live.restart()
    assert pictures([live.step() for _ in range(4)]) == other, "reset goes to the newest prompt and seed"


def test_a_failed_restart_keeps_the_session():
    live = session()
    toys = live._engine
    live.restart()
    live.sampling = Sampling(temperature=0)
    live.restart()
    assert [dream.closed for dream in toys.opened] == [True, True, False]
    assert [dream.sampling.temperature for dream in toys.opened] == [0.9, 0, 0] and live.sampling.greedy
    with pytest.raises(BadInputError, match="seed"):
        live.restart(seed=-1)
    assert live.seed == 0 and live.step().restarts == 2


def test_sampling_set_during_a_restart_holds_after_it():
    live = session()
    opened = live._engine.open
    setter = threading.Thread(target=setattr, args=(live, "sampling", Sampling(temperature=0)))

    def open_slowly(*args, **how):
        new = opened(*args, **how)
        setter.start()
        setter.join(0.05)
        return new

    live._engine.open = open_slowly
    live.restart()
    setter.join()
    assert live.sampling.greedy


@pytest.mark.parametrize("played_before", [False, True])
def test_a_step_that_waits_while_play_resumes_skips_no_tick(played_before):
    live = session()
    if played_before:
        live.step()
    live.pause()
    spend(live.time, 10.0)
    frames: list[LiveFrame] = []
    step = threading.Thread(target=lambda: frames.append(live.step()))
    with live._moving:  # a restart, for example
        step.start()
        while not live._queue.locked():
            machine_time.sleep(0.001)
        live.resume()
    step.join()
    assert [frame.skipped for frame in frames] == [0] and live.report()["skipped"] == 0


def test_the_same_presses_at_the_same_ticks_give_the_same_frames():
    def one() -> list[list[int]]:
        live = session(seed=5)
        actions = {0: TURN, 2: WALK, 6: REST_VALUES}
        return pictures(
            played(live, 9, lambda f: live.set_input(actions[f.sequence]) if f.sequence in actions else None)
        )

    assert one() == one()


def test_sessions_can_share_a_phase():
    live = session()
    frames = played(live, 3, first_tick=50.25)
    assert [round(frame.time - frame.latency, 9) for frame in frames] == [0.25, 0.35, 0.45]


def test_aligned_ticks_are_whole_multiples_after_a_pause_too():
    state = LiveState(time=VirtualTime(50.03), aligned=True)
    assert state.next_due() == pytest.approx(50.1)
    state.pause()
    assert state.next_due() is None
    state.time.sleep_until(60.06)
    state.resume()
    assert state.next_due() == pytest.approx(60.1) and state.skipped == 0


def test_stop_ends_it_before_the_next_tick():
    live = session()
    seen: list[LiveFrame] = []
    live.run(seen.append, lambda: len(seen) == 3)
    assert len(seen) == 3 and live.report()["frames"] == 3
    live.run(seen.append, lambda: len(seen) == 5)
    assert [frame.sequence for frame in seen] == [0, 1, 2, 3, 4] and live.report()["skipped"] == 0


def test_a_closed_session_says_so():
    live = session()
    with live:
        live.step()
    live.close()
    assert live.closed and live._engine.opened[0].closed and live.report()["frames"] == 1
    for call in (live.step, lambda: live.run(print), live.restart):
        with pytest.raises(BadInputError, match="closed"):
            call()


def test_closing_from_inside_the_loop_ends_it():
    live = session()
    frames: list[LiveFrame] = []

    def take(frame: LiveFrame) -> None:
        frames.append(frame)
        if len(frames) == 2:
            live.close()

    live.run(take)
    assert len(frames) == 2


def test_an_engine_error_keeps_the_report():
    def cost(index: int) -> float:
        if index == 3:
            raise RuntimeError("out of memory")
        return 0.05

    live = session(cost=cost)
    with pytest.raises(RuntimeError, match="memory"):
        live.run(lambda frame: None)
    assert live.report()["frames"] == 3
    live.restart()
    assert live.step().restarts == 1, "a new dream goes on"


def test_invalid_arguments():
    with pytest.raises(BadInputError, match="0 Hz"):
        session(fps=0)
    with pytest.raises(BadInputError, match="'nobody'"):
        session(controller="nobody")
    live = session()
    with pytest.raises(ActionError, match="whole number"):
        live.set_input([77] * 16)


def test_history_is_bounded_and_counts_are_not(monkeypatch):
    monkeypatch.setattr("playloom.inference.realtime.state.HISTORY", 10)
    live = session(cost=lambda index: 0.09 if index < 40 else 0.01)
    played(live, 50)
    report = live.report()
    assert report["frames"] == 50 and report["frame_latency_ms"]["count"] == 10
    assert report["frame_latency_ms"]["p99"] == pytest.approx(10)


def test_spreads():
    spread = percentiles([0.001 * n for n in range(101)])
    assert tuple(spread.values()) == (101, 50.0, 95.0, 99.0)
    assert tuple(percentiles([]).values()) == (0, None, None, None)


def test_other_threads_steer_a_running_session():
    """The real clock, fast: everything at once; nothing may be lost, doubled or stuck."""
    real = RealTime()
    toys = ToyDreams(VirtualTime())
    live = LiveSession(toys, prompt(), time=real, fps=500)
    frames: list[LiveFrame] = []
    ended, errors = threading.Event(), []

    def pressing(action: np.ndarray) -> None:
        while not ended.is_set():
            live.set_input(action)

    def steering() -> None:
        try:
            for round_ in range(20):
                live.pause()
                live.single_step()
                live.resume()
                live.controller = ("person", "model", "both")[round_ % 3]
                live.restart(seed=round_)
                live.report()
        except Exception as error:
            errors.append(error)

    others = [threading.Thread(target=pressing, args=(a,)) for a in (TURN, WALK)] + [threading.Thread(target=steering)]
    driver = threading.Thread(target=live.run, args=(frames.append, ended.is_set))
    for thread in (driver, *others):
        thread.start()
    others[-1].join(20)
    until = len(frames) + 20
    while len(frames) < until and driver.is_alive():
        real.sleep_until(real.now() + 0.005)
    ended.set()
    for thread in (driver, *others):
        thread.join(20)
        assert not thread.is_alive()
    live.close()
    report = live.report()
    assert not errors and len(frames) == report["frames"] >= 20
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    assert frames[-1].restarts == 20 and len(toys.opened) == 21 and all(dream.closed for dream in toys.opened)
    assert report["key_to_frame_ms"]["count"] <= report["inputs"] - report["dropped_inputs"]


def test_a_paused_run_makes_single_steps_and_nothing_else():
    live = LiveSession(ToyDreams(VirtualTime()), prompt(), time=RealTime(), fps=200)
    frames: list[LiveFrame] = []
    made, ended = threading.Semaphore(0), threading.Event()

    def take(frame: LiveFrame) -> None:
        frames.append(frame)
        made.release()

    live.pause()
    driver = threading.Thread(target=live.run, args=(take, ended.is_set))
    driver.start()
    assert not made.acquire(timeout=0.1), "a paused session made a frame"
    for count in (1, 2):
        live.single_step()
        assert made.acquire(timeout=10) and len(frames) == count
    assert not made.acquire(timeout=0.1)
    live.resume()
    assert made.acquire(timeout=10)
    ended.set()
    driver.join(10)
    assert live.report()["stepped"] == 2

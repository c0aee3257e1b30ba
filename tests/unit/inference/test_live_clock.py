"""Clock and input of live play: exact ticks, no queue, and the newest input wins."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_toys import TURN, WALK, spend
from playloom.actions.codec import REST_VALUES
from playloom.errors import ActionError, BadInputError
from playloom.inference.realtime.clock import Clock, RealTime, Tick, VirtualTime
from playloom.inference.realtime.session import input_times, scripted_input
from playloom.inference.realtime.state import LiveState


def wait(clock: Clock, limit: int | None = None) -> Tick | None:
    if clock._start is None:
        clock.restart()
    if limit is None or clock.passed < limit:
        clock.time.sleep_until(clock.due(clock.passed))
    return clock.tick(limit)


def test_ten_thousand_ticks_do_not_drift():
    virtual = VirtualTime(123.456)
    clock = Clock(10, virtual)
    for number in range(10_000):
        tick = wait(clock)
        assert tick is not None and (tick.number, tick.skipped) == (number, 0)
        assert virtual.now() == tick.due == 123.456 + number / 10
        spend(virtual, 0.03 + 0.069 * (number % 7) / 7)
    assert clock.skipped == 0


def test_a_late_tick_does_not_move_later_ones():
    virtual = VirtualTime()
    clock = Clock(10, virtual)
    wait(clock)
    spend(virtual, 0.13)
    late = wait(clock)
    assert late is not None and (late.number, late.due, virtual.now()) == (1, 0.1, 0.13)
    after = wait(clock)
    assert after is not None and (after.number, virtual.now()) == (2, 0.2)
    assert clock.skipped == 0


def test_missed_ticks_are_skipped_and_counted():
    virtual = VirtualTime()
    clock = Clock(10, virtual)
    wait(clock)
    spend(virtual, 0.57)
    tick = wait(clock)
    assert tick is not None and (tick.number, tick.skipped, tick.due) == (5, 4, 0.5)
    assert (virtual.now(), clock.skipped, clock.passed) == (0.57, 4, 6)


@given(st.lists(st.floats(0, 0.6), max_size=40), st.sampled_from([3.0, 10.0, 12.5, 60.0]), st.floats(0, 1e6))
def test_every_tick_is_made_or_skipped_whatever_the_work_costs(costs, fps, start):
    virtual = VirtualTime(start)
    clock = Clock(fps, virtual)
    made = 0
    for cost in costs:
        tick = wait(clock)
        assert tick is not None
        made += 1
        assert virtual.now() >= tick.due, "a tick came early"
        assert virtual.now() < tick.next_due, "the newest tick that is due comes"
        spend(virtual, cost)
    assert made + clock.skipped == clock.passed


def test_a_limit_counts_what_was_missed_at_the_end():
    virtual = VirtualTime()
    clock = Clock(10, virtual)
    wait(clock, 5)
    spend(virtual, 2.0)
    assert wait(clock, 5) is None
    assert (clock.passed, clock.skipped) == (5, 4)
    assert wait(clock, 5) is None and clock.skipped == 4


def test_a_restart_misses_nothing():
    virtual = VirtualTime()
    clock = Clock(10, virtual)
    wait(clock)
    spend(virtual, 60)
    clock.restart()
    tick = wait(clock)
    assert tick is not None and (tick.number, tick.due, tick.skipped, clock.skipped) == (1, 60.0, 0, 0)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_an_invalid_rate(fps):
    with pytest.raises(BadInputError, match="Hz"):
        Clock(fps)


def test_real_time_never_returns_early():
    real = RealTime()
    for wait in (0.0, 0.001, 0.02):
        until = real.now() + wait
        real.sleep_until(until)
        assert real.now() >= until
    assert abs(real.now() - time.perf_counter()) < 60


def test_virtual_time_does_not_go_back():
    virtual = VirtualTime(5)
    virtual.sleep_until(3)
    assert virtual.now() == 5


def begun() -> LiveState:
    """A live state at 9 seconds whose clock runs."""
    state = LiveState(time=VirtualTime(9.0))
    assert (state.begin().action_A == REST_VALUES).all()
    return state


def counts(state: LiveState) -> tuple[int, int]:
    return state.report()["inputs"], state.report()["dropped_inputs"]


def test_the_newest_input_wins():
    state = begun()
    state.set_input(TURN, 1.0)
    state.set_input(WALK, 1.2)
    taken = state.begin()
    assert (taken.action_A == WALK).all() and taken.input_at == 1.2 and counts(state) == (2, 1)
    held = state.begin()
    assert (held.action_A == WALK).all() and held.input_at is None, "it is held, but waits no more"
    state.set_input(REST_VALUES, 2.0)
    assert (state.begin().action_A == REST_VALUES).all() and counts(state) == (3, 1)


def test_a_repeated_input_keeps_its_time():
    state = begun()
    state.set_input(TURN, 1.0)
    state.set_input(TURN, 1.09)
    assert state.begin().input_at == 1.0 and counts(state) == (1, 0)
    state.set_input(TURN, 2.0)
    assert state.begin().input_at == 2.0, "once shown, it is a press like any other"


def test_the_input_is_copied():
    state, action = begun(), TURN.copy()
    state.set_input(action)
    action[:] = 0
    assert (state.begin().action_A == TURN).all()


@pytest.mark.parametrize("wrong", [[0] * 15, np.full(16, 99), np.zeros((2, 16)), [float("nan")] * 16])
def test_an_invalid_input(wrong):
    with pytest.raises(ActionError):
        LiveState().set_input(wrong)


def test_scripted_inputs_fall_between_the_ticks():
    times = input_times(10, seed=3)
    found = np.array([next(times) for _ in range(2000)]) * 10
    assert (np.floor(found) == np.arange(2000)).all()
    within = found % 1
    assert within.min() < 0.01 and within.max() > 0.99 and abs(within.mean() - 0.5) < 0.02
    again = input_times(10, seed=3)
    assert [next(again) * 10 for _ in range(3)] == found[:3].tolist()


def test_the_script_repeats():
    real, seen = RealTime(), []
    start = real.now()
    with scripted_input(
        lambda action, at: seen.append((action, at)),
        np.stack([TURN, WALK, REST_VALUES]),
        first_tick=start,
        fps=200,
        seed=0,
        time=real,
    ):
        real.sleep_until(start + 0.1)
    wanted = [TURN, WALK, REST_VALUES]
    assert len(seen) > 3
    assert all((action == wanted[number % 3]).all() for number, (action, _) in enumerate(seen))
    assert [at for _, at in seen[1:]] == [start + t for t, _ in zip(input_times(200, 0), seen[1:], strict=False)]

"""What the controls do, and the scripted player's hands: smooth, complete, level again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from playloom.actions.codec import BIN_VALUES
from playloom.actions.controller import CONTROLS
from playloom.data.recording import Episode, EpisodeMeta
from playloom.evaluation.online.metrics import play_statistics
from playloom.games.arena.engine import BUTTONS, engine_buttons, look_per_step, turn_per_step
from playloom.games.bots.behaviors import (
    FULL,
    TURN_RATES,
    ControllerBuilder,
    LookController,
    StickController,
    bearing,
    wrap,
)
from playloom.media.contact_sheet import draw_gamepad


def held(**positions: float) -> list[float]:
    return engine_buttons(ControllerBuilder(positions).next_state().tolist())


def values_of(**positions: float) -> np.ndarray:
    from playloom.actions.codec import encode_named

    return encode_named(ControllerBuilder(positions).next_state())


def test_every_control_reaches_the_engine() -> None:
    for control in CONTROLS:
        # B changes what the left stick does, so the stick is held all the while.
        with_it = held(**{"left_stick_y": 1.0, control.name: 0.375})
        if control.kind != "axis":
            with_it = held(**{"left_stick_y": 1.0, control.name: 1.0})
        assert with_it != held(left_stick_y=1.0), control.name


def test_full_stick_turns_nine_degrees_clockwise() -> None:
    assert turn_per_step(1.0) == 9.0 and turn_per_step(-1.0) == -9.0 and turn_per_step(0.0) == 0.0
    assert held(right_stick_x=1.0)[BUTTONS.index("TURN_LEFT_RIGHT_DELTA")] == 3.0
    assert held(right_stick_y=1.0)[BUTTONS.index("LOOK_UP_DOWN_DELTA")] == 1.5
    rates = [turn_per_step(float(value)) for value in BIN_VALUES]
    assert all(a < b for a, b in pairwise(rates))


@pytest.mark.parametrize("error", [14.0, -30.0, 75.0, -179.0])
@pytest.mark.parametrize("patience", [1.6, 2.6])
def test_a_sweep_ends_at_its_aim_without_turning_back(error: float, patience: float) -> None:
    thumb, heading, positions = StickController(TURN_RATES), 0.0, []
    for _ in range(80):
        positions.append(thumb.follow(error - heading, 12.0, FULL, patience))
        heading += turn_per_step(positions[-1])
    assert abs(error - heading) < 8.0
    assert set(np.sign(positions)) <= {0.0, np.sign(error)}
    assert positions[-1] == 0.0 and all(abs(p) in BIN_VALUES for p in positions)
    levels = [int(np.argmin(np.abs(BIN_VALUES - abs(p)))) for p in positions]
    assert np.abs(np.diff(levels)).max() <= 3


def test_small_errors_are_left_alone() -> None:
    thumb = StickController(TURN_RATES)
    assert [thumb.follow(error, 12.0, FULL) for error in (5.0, -11.0, 0.0)] == [0.0, 0.0, 0.0]


def test_a_held_stick_changes_sides_through_rest() -> None:
    thumb = StickController(TURN_RATES)
    positions = [thumb.hold(1, FULL) for _ in range(6)] + [thumb.hold(-1, FULL) for _ in range(8)]
    assert positions[5] == 1.0 and positions[-1] == -1.0 and 0.0 in positions[6:]


@pytest.mark.parametrize("pitch", [-17.0, 6.0, 20.0])
def test_a_glance_comes_back_to_level(pitch: float) -> None:
    gaze, now, seen = LookController(goal=pitch, left=10), 0.0, []
    for _ in range(60):
        now += look_per_step(gaze.step(now))
        seen.append(now)
    assert max(np.abs(seen)) > abs(pitch) * 0.6
    assert abs(now) < 1.0


def test_fingers_hold_as_long_as_asked() -> None:
    pad, button = ControllerBuilder(), [control.name for control in CONTROLS].index("button_A")
    pad.press("button_A", 3)
    assert [pad.next_state()[button] for _ in range(5)] == [1, 1, 1, 0, 0]


def test_angles_are_clockwise() -> None:
    assert wrap(190) == -170 and wrap(-190) == 170
    assert bearing((0, 0), (1, 0)) == 0 and bearing((0, 0), (0, -1)) == 90


def episode_of(rows: list[np.ndarray]) -> Episode:
    meta = EpisodeMeta(
        game="arena", variant="plaza", mode="ffa", style="x", seed=0, split="train", steps=len(rows), frame_hash=""
    )
    return Episode(meta, np.stack(rows), np.zeros((len(rows), 9), np.float32))


def test_statistics_count_what_was_done() -> None:
    right, left, rest = values_of(right_stick_x=1.0), values_of(right_stick_x=-1.0), values_of()
    walk = values_of(left_stick_y=1.0, button_A=1.0)
    figures = play_statistics([episode_of([right] * 6 + [rest] * 2 + [left] * 4 + [walk] * 8)])
    assert figures["reversals a second"] == pytest.approx(0.5)
    assert figures["full turns"] == pytest.approx(6 / 20)
    assert figures["turning standing"] == pytest.approx(10 / 20) and figures["walking straight"] == pytest.approx(
        8 / 20
    )
    assert figures["at rest"] == pytest.approx(2 / 20) and figures["button_A"] == pytest.approx(8 / 20)
    assert figures["button_B"] == 0


def test_statistics_do_not_join_episodes() -> None:
    right, left = values_of(right_stick_x=1.0), values_of(right_stick_x=-1.0)
    assert play_statistics([episode_of([right] * 4), episode_of([left] * 4)])["reversals a second"] == 0


def test_every_control_shows_on_the_drawn_controller() -> None:
    rest = draw_gamepad(values_of())
    pictures = [rest]
    for control in CONTROLS:
        pictures.append(draw_gamepad(values_of(**{control.name: 1.0})))
    for i, a in enumerate(pictures):
        assert a.shape == (180, 120, 3) and a.dtype == np.uint8
        assert all((a != b).any() for b in pictures[:i])


def test_the_stick_is_drawn_where_it_points() -> None:
    moved = np.abs(draw_gamepad(values_of(left_stick_y=1.0)).astype(int) - draw_gamepad(values_of()))
    rows, columns = np.nonzero(moved.sum(2) > 30)
    assert rows.mean() < 70 and columns.mean() < 60  # up, on the left stick


def test_the_controller_is_scaled_to_the_frame() -> None:
    assert draw_gamepad(values_of(), height=90).shape == (90, 60, 3)

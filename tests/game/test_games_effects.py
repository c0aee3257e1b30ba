"""Every control has an effect one can see: the same game with and without it shows other pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("vizdoom")

from playloom.actions.controller import CONTROLS
from playloom.games.arena.engine import GameProcess, GameSpec
from playloom.games.arena.maps import variant_of
from playloom.games.bots.behaviors import bearing, wrap
from playloom.games.bots.navigation import Navigation, cell_centre

NAMES = [control.name for control in CONTROLS]
SPEC = GameSpec(variant="plaza", seed=5)
AROUND = {
    # What is held besides, so that the control has something to act on: weapons show when they fire.
    "button_B": {"left_stick_y": 1.0},
    "button_Y": {"trigger_RT": 1.0},
    "dpad_up": {"trigger_RT": 1.0},
    "dpad_down": {"trigger_RT": 1.0},
    "dpad_left": {"trigger_RT": 1.0},
}


def hold(**positions: float) -> np.ndarray:
    state = np.zeros(16, np.float32)
    for name, value in positions.items():
        state[NAMES.index(name)] = value
    return state


def play(states: list[np.ndarray]) -> np.ndarray:
    with GameProcess(SPEC) as game:
        return np.stack([game.step(state)[0] for state in states])


def script(control: str | None, besides: dict[str, float]) -> list[np.ndarray]:
    """Hold a control for a second, then go on with the rest for two."""
    pressed = {**besides, **({control: 1.0} if control else {})}
    return [hold(**pressed)] * 4 + [hold(**besides)] * 16


def test_every_control_but_two_changes_the_picture() -> None:
    # The d-pad's right is the weapon in hand at the start; X needs a gate (below).
    names = [control.name for control in CONTROLS if control.name not in ("dpad_right", "button_X")]
    settings = [dict(items) for items in {tuple(AROUND.get(name, {}).items()) for name in names}]
    with ThreadPoolExecutor(2) as pool:
        plain = list(pool.map(lambda besides: play(script(None, besides)), settings))
        shown = list(pool.map(lambda name: play(script(name, AROUND.get(name, {}))), names))
    for name, frames in zip(names, shown, strict=True):
        without = plain[settings.index(AROUND.get(name, {}))]
        changed = (np.abs(frames.astype(int) - without) > 24).any(-1).mean((1, 2))
        assert changed.max() > 0.002, f"{name} changes at most {changed.max():.4%} of a picture"


def test_dpad_right_takes_the_plasma_rifle_back() -> None:
    with GameProcess(SPEC) as game:
        weapons = [game.row[7]]
        for name in ("dpad_up", "dpad_right"):
            for state in [hold(**{name: 1.0})] * 2 + [hold()] * 12:
                game.step(state)
            weapons.append(game.row[7])
    assert weapons[0] == weapons[2] != weapons[1]


def test_x_sinks_a_gate() -> None:
    variant = variant_of("plaza")
    navigation = Navigation(variant)
    gate, front = cell_centre(8, 9), cell_centre(7, 9)
    with GameProcess(SPEC) as game:
        for _ in range(200):
            here = float(game.row[0]), float(game.row[1])
            near = np.hypot(here[0] - front[0], here[1] - front[1]) < 60
            target = gate if near else navigation.next_waypoint(here, front) or gate
            error = wrap(bearing(here, target) - float(game.row[3]))
            touching = np.hypot(here[0] - gate[0], here[1] - gate[1]) < 100
            if touching and abs(error) < 8:
                break
            turn = float(np.clip(error / 9, -1, 1))
            game.step(hold(right_stick_x=turn, left_stick_y=float(abs(error) < 20 and not touching)))
        for _ in range(4):
            game.step(hold())
        before = game.frame_HWC
        game.step(hold(button_X=1.0))
        for _ in range(8):
            game.step(hold())
        purple = [_purple(before), _purple(game.frame_HWC)]
    assert purple[0] > 0.03 and purple[1] < purple[0] / 2, purple


def _purple(frame: np.ndarray) -> float:
    red, green, blue = (frame[..., i].astype(int) for i in range(3))
    return float(((red > 120) & (blue > 120) & (green < 140) & (red - green > 60) & (blue - green > 60)).mean())

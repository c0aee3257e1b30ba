"""Behaviours of scripted players: travel, turn, fight, idle, respawn, by human-like movement of the controller.

Movement is in steady sweeps, small errors are ignored, and buttons are held. A behaviour is an activity of a few
seconds: a generator that sets the controls of one step between two `yield`s, and returns in its last step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import BIN_VALUES
from playloom.actions.controller import CONTROLS
from playloom.games.arena.engine import VisibleEnemy, look_per_step, turn_per_step
from playloom.games.bots.navigation import Navigation, Point

_LEVELS = tuple(float(v) for v in BIN_VALUES if v >= 0)  # stick positions from rest to full, in steps of the bins
FULL = len(_LEVELS) - 1
# Degrees a step at each level of the right stick's x and y.
TURN_RATES, LOOK_RATES = tuple(map(turn_per_step, _LEVELS)), tuple(map(look_per_step, _LEVELS))
_PATIENCE = 2.6  # steps a turn may take before a faster one is chosen


def wrap(degrees: float) -> float:
    """Wrap an angle to [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0


def bearing(start: Point, end: Point) -> float:
    """Return the heading from one place to another in degrees, positive clockwise (north is -90)."""
    return -math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))


@dataclass
class ControllerBuilder:
    """Controls of the current step, and buttons that are held for some steps each."""

    positions: dict[str, float] = field(default_factory=dict)  # in this step; other controls are at rest
    held: dict[str, int] = field(default_factory=dict)  # steps for which a button or trigger is still held

    def walk(self, forward: float, right: float) -> None:
        """Set the left stick, each axis clipped to [-1, 1]."""
        self.positions["left_stick_y"] = float(np.clip(forward, -1, 1))
        self.positions["left_stick_x"] = float(np.clip(right, -1, 1))

    def press(self, name: str, steps: int = 1) -> None:
        """Hold a button or trigger for at least `steps` more steps."""
        self.held[name] = max(self.held.get(name, 0), steps)

    def next_state(self) -> NDArray[np.float32]:
        """Return the state of this step, float32 [16] in the order of `CONTROLS`, and begin the next one."""
        state = {**self.positions, **dict.fromkeys(self.held, 1.0)}
        self.positions, self.held = {}, {name: left - 1 for name, left in self.held.items() if left > 1}
        return np.array([state.get(control.name, 0.0) for control in CONTROLS], np.float32)


@dataclass
class StickController:
    """One stick axis that moves through neighbouring positions and rests before it changes sides."""

    rate: tuple[float, ...]  # degrees a step at each level
    level: int = 0
    sign: int = 1
    cruise: int = 0  # level of the current sweep

    @property
    def position(self) -> float:
        """The stick's position in [-1, 1]."""
        return self.sign * _LEVELS[self.level]

    def hold(self, sign: int, level: int) -> float:
        """Move towards a held position, two levels a step; through rest when it is on the other side."""
        if sign != self.sign and self.level > 0:
            self.level = max(0, self.level - 2)
        else:
            self.sign = sign
            self.level += int(np.clip(level - self.level, -2, 2))
        return self.position

    def rest(self) -> float:
        """Release the stick."""
        self.level = max(0, self.level - 3)
        return self.position

    def follow(self, error: float, dead_band: float, top: int, patience: float = 1.6) -> float:
        """Sweep an error in degrees away at a level up to `top`; a resting stick ignores one within `dead_band`."""
        size, sign = abs(error), 1 if error > 0 else -1
        if self.level == 0:
            self.cruise = 0
            if size < dead_band:
                return 0.0
        elif size < max(1.0, dead_band * 0.15) or sign != self.sign:
            return self.rest()
        self.cruise = max(self.cruise, self._highest(size / patience, top))
        return self.hold(sign, self._highest(size / 1.2, self.cruise))

    def _highest(self, rate: float, top: int) -> int:
        return max((n for n in range(3, top + 1) if self.rate[n] <= rate), default=min(2, top))


@dataclass
class LookController:
    """Look up or down for a while and back to level."""

    stick: StickController = field(default_factory=lambda: StickController(LOOK_RATES))
    goal: float = 0.0  # pitch in degrees, positive up
    left: int = 0  # steps until it goes back to level

    def step(self, pitch: float) -> float:
        """Return the next position of the right stick's y, from the pitch in degrees."""
        self.left -= 1
        if self.left <= 0:
            self.goal = 0.0
        if self.goal == 0.0 and abs(pitch) < 0.8:
            self.stick.level = 0
        error = self.goal - pitch
        # The last degrees back to level go at the slow positions, so that level really is level.
        if self.goal == 0.0 and 0.8 <= abs(error) < self.stick.rate[3]:
            level = max(n for n in (1, 2) if n == 1 or self.stick.rate[n] <= abs(error) + 0.5)
            self.stick.level, self.stick.sign = level, 1 if error > 0 else -1
            return self.stick.position
        return self.stick.follow(error, 2.0, FULL)


@dataclass
class Bot:
    """Map, random source, controls and last observation (see `observe`) of a player."""

    navigation: Navigation
    rng: np.random.Generator
    pad: ControllerBuilder = field(default_factory=ControllerBuilder)
    turn: StickController = field(default_factory=lambda: StickController(TURN_RATES))
    look: LookController = field(default_factory=LookController)
    position: Point = (0.0, 0.0)  # x, y in map units
    yaw: float = 0.0  # heading in degrees, clockwise
    pitch: float = 0.0  # degrees above level
    dead: bool = False  # true after a death, until the respawn
    enemies: Sequence[VisibleEnemy] = ()

    def observe(self, row: NDArray[np.float32], enemies: Sequence[VisibleEnemy]) -> None:
        """Take what is known at this step from a state row, see `STATE_COLUMNS`."""
        x, y, _, self.yaw, self.pitch, _, dead, *_ = row.tolist()
        self.position, self.dead, self.enemies = (x, y), dead > 0, enemies

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def steps(self, low: int, high: int) -> int:
        """Draw a number of steps, low to high - 1."""
        return int(self.rng.integers(low, high))

    def side(self) -> int:
        """Draw -1 or 1."""
        return 1 if self.chance(0.5) else -1

    def error(self, place: Point) -> float:
        """Return the turn to face a place, in degrees clockwise from -180 to 180."""
        return wrap(bearing(self.position, place) - self.yaw)

    def distance(self, place: Point) -> float:
        """Return the distance to a place in map units."""
        return math.dist(self.position, place)

    def steer(self, error: float, dead_band: float, top: int, patience: float) -> None:
        """Turn by an error in degrees clockwise, see `StickController.follow`."""
        self.pad.positions["right_stick_x"] = self.turn.follow(error, dead_band, top, patience)

    def stop_turning(self) -> None:
        """Release the turn stick."""
        self.pad.positions["right_stick_x"] = self.turn.rest()


Behaviour = Iterator[None]


def idle(bot: Bot, left: int) -> Behaviour:
    """Release the sticks for a number of steps."""
    for step in range(left):
        if step:
            yield
        bot.stop_turning()


def turn(bot: Bot, sign: int, level: int, left: int, forward: float) -> Behaviour:
    """Turn at one held stick position, in place or while walking."""
    for step in range(left):
        if step:
            yield
        bot.pad.positions["right_stick_x"] = bot.turn.hold(sign, level)
        bot.pad.walk(forward, 0.0)


def walk(bot: Bot, forward: float, right: float, left: int) -> Behaviour:
    """Walk straight in a fixed direction relative to the heading; mostly ends early at a wall."""
    last: Point | None = None
    for step in range(left):
        if step:
            yield
        bot.stop_turning()
        bot.pad.walk(forward, right)
        blocked = last is not None and bot.distance(last) < 1.0
        last = bot.position
        if blocked and step + 1 < left and bot.chance(0.4):
            return


def travel(bot: Bot, goal: Point, speed: float, left: int, top: int, dead_band: float = 12.0) -> Behaviour:
    """Walk the shortest path to a place, and turn along it in sweeps."""
    stuck, last, waypoint = 0, bot.position, None
    for step in range(left):
        here = bot.position
        # A corner is replaced only when reached or hidden, so that runs are straight.
        if waypoint is None or bot.distance(waypoint) < 60 or not bot.navigation.visible(here, waypoint):
            waypoint = bot.navigation.next_waypoint(here, goal)
        stuck = stuck + 1 if step and math.dist(last, here) < 2.0 else max(0, stuck - 2)
        last = here
        if waypoint is None or bot.distance(goal) < 56 or step + 1 == left or stuck > 9:
            bot.stop_turning()
            return
        error = bot.error(waypoint)
        bot.steer(error, dead_band, FULL if abs(error) > 140 else top, _PATIENCE)
        if abs(error) < 24:
            bot.pad.walk(speed, 0.0)
        elif abs(error) < 75:
            # Keep heading for the target while the camera turns.
            angle = math.radians(error)
            bot.pad.walk(speed * math.cos(angle), speed * math.sin(angle))
        elif abs(error) < 110:
            bot.pad.walk(0.375, 0.0)
        yield


def use_gate(bot: Bot, front: Point, gate: Point, speed: float, top: int) -> Behaviour:
    """Walk up to the place in front of a gate, face it, use it, and watch it sink."""
    yield from travel(bot, front, speed, 120, top)
    left, used = 40, False
    while left > 0:
        yield
        left -= 1
        error, close = bot.error(gate), bot.distance(gate) < 112
        bot.steer(error, 8.0, 4, _PATIENCE)
        if not used and not close and abs(error) < 40:
            bot.pad.walk(0.625, 0.0)
        if not used and close and abs(error) < 14:
            bot.pad.press("button_X", 2)
            used, left = True, bot.steps(8, 24)


def fight(bot: Bot, aim: float, strafe: float, distance: float, left: int) -> Behaviour:
    """Keep an enemy in front, move around it, fire in bursts, until it is out of sight for a second.

    `aim` is the standard deviation of the aim in degrees, `distance` the preferred one in map units.
    """
    side, side_left, burst, pause, lost, noise = 1, 0, 0, 2, 0, 0.0
    target: VisibleEnemy | None = None
    for step in range(left):
        enemies, wanted = bot.enemies, target.id if target else None
        seen = [enemy for enemy in enemies if enemy.id == wanted] or sorted(enemies, key=lambda enemy: -enemy.area)
        lost = 0 if seen else lost + 1
        target = seen[0] if seen else target
        if target is None or lost > 8 or step + 1 == left:
            bot.stop_turning()
            return
        noise = 0.85 * noise + bot.rng.normal() * aim * 0.5
        error = bot.error((target.x, target.y)) + noise
        bot.steer(error, 5.0 + aim, FULL if abs(error) > 120 else 4, 3.0)
        side_left -= 1
        if side_left <= 0:
            side = bot.side() if bot.chance(0.7) else 0
            side_left = bot.steps(7, 16)
        forward = float(np.clip((bot.distance((target.x, target.y)) - distance) / 160, -1, 1))
        bot.pad.walk(forward if forward > 0.3 else -0.375 if forward < -0.8 else 0.0, side * strafe)
        pause -= 1
        if burst > 0:
            burst -= 1
            bot.pad.press("trigger_RT")
            if burst == 0:
                pause = bot.steps(3, 10)
        elif pause <= 0 and abs(error) < 16:
            burst = bot.steps(2, 8)
        yield


def respawn(bot: Bot, wait: int) -> Behaviour:
    """Wait after a death, then press X from time to time until alive."""
    while True:
        bot.stop_turning()
        wait -= 1
        if not bot.dead:
            return
        if wait <= 0 and wait % 3 == 0:
            bot.pad.press("button_X", 1)
        yield

"""Behaviours of scripted players: travel, turn, fight, idle, respawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from playloom.games.arena.engine import Observation, VisibleEnemy
from playloom.games.bots.motor import (
    FULL,
    ButtonController,
    ControllerBuilder,
    LookController,
    StickController,
    bearing,
    wrap,
)
from playloom.games.bots.navigation import Navigation, Point


@dataclass
class BotContext:
    """Controls, map and random source of a bot."""

    navigation: Navigation
    rng: np.random.Generator
    turn: StickController = field(default_factory=StickController.turning)
    gaze: LookController = field(default_factory=LookController)
    fingers: ButtonController = field(default_factory=ButtonController)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def steps(self, low: int, high: int) -> int:
        """Draw a number of steps, low to high - 1."""
        return int(self.rng.integers(low, high))

    def side(self) -> int:
        """Draw -1 or 1."""
        return 1 if self.chance(0.5) else -1

    def expire(
        self, pad: ControllerBuilder, error: float, dead_band: float, top: int = FULL, patience: float = 1.6
    ) -> None:
        """Turn an error (degrees clockwise) away, see `StickController.follow`."""
        pad.set("right_stick_x", self.turn.follow(error, dead_band, top, patience))

    def keep_turning(self, pad: ControllerBuilder, sign: int, level: int) -> None:
        """Hold the turn stick."""
        pad.set("right_stick_x", self.turn.hold(sign, level))

    def stop_turning(self, pad: ControllerBuilder) -> None:
        """Release the turn stick."""
        pad.set("right_stick_x", self.turn.rest())


class Behaviour(Protocol):
    """An activity of a few seconds."""

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Set the sticks for this step; return True when done."""
        ...


@dataclass
class Idle:
    """Everything at rest."""

    left: int

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Release the sticks."""
        body.stop_turning(pad)
        self.left -= 1
        return self.left <= 0


@dataclass
class Turn:
    """Turn in place, or while walking, at one held stick position."""

    sign: int
    level: int
    left: int
    forward: float = 0.0
    right: float = 0.0

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Hold both sticks."""
        body.keep_turning(pad, self.sign, self.level)
        pad.walk(self.forward, self.right)
        self.left -= 1
        return self.left <= 0


@dataclass
class Walk:
    """Walk straight in a fixed direction relative to the heading: forward, sideways or back."""

    forward: float
    right: float
    left: int
    last: Point | None = None

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Hold the left stick; ends early at a wall."""
        body.stop_turning(pad)
        pad.walk(self.forward, self.right)
        blocked = self.last is not None and math.dist(self.last, view.position) < 1.0
        self.last = view.position
        self.left -= 1
        return self.left <= 0 or (blocked and body.chance(0.4))


@dataclass
class Travel:
    """Walk the shortest path to a place."""

    goal: Point
    speed: float
    left: int
    top: int = FULL
    dead_band: float = 12.0
    patience: float = 2.6
    """Steps a turn may take before a faster one is chosen."""
    stuck: int = 0
    last: Point | None = None
    waypoint: Point | None = None

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Turn along the path in sweeps, and walk."""
        target = self._target(body, view)
        near = math.dist(view.position, self.goal) < 56
        self.left -= 1
        if target is None or near or self.left <= 0 or self._is_stuck(view):
            body.stop_turning(pad)
            return True
        error = wrap(bearing(view.position, target) - view.yaw)
        top = FULL if abs(error) > 140 else self.top
        body.expire(pad, error, self.dead_band, top, self.patience)
        self._walk(pad, error)
        return False

    def _target(self, body: BotContext, view: Observation) -> Point | None:
        """Corner walked to; replaced only when reached or hidden, so that runs are straight."""
        here = view.position
        reached = self.waypoint is None or math.dist(here, self.waypoint) < 60
        if self.waypoint is None or reached or not body.navigation.visible(here, self.waypoint):
            self.waypoint = body.navigation.next_waypoint(here, self.goal)
        return self.waypoint

    def _walk(self, pad: ControllerBuilder, error: float) -> None:
        if abs(error) < 24:
            pad.walk(self.speed, 0.0)
        elif abs(error) < 75:
            # The body still heads for the target while the camera comes round.
            angle = math.radians(error)
            pad.walk(self.speed * math.cos(angle), self.speed * math.sin(angle))
        elif abs(error) < 110:
            pad.walk(0.375, 0.0)

    def _is_stuck(self, view: Observation) -> bool:
        moved = 99.0 if self.last is None else math.dist(self.last, view.position)
        self.last = view.position
        self.stuck = self.stuck + 1 if moved < 2.0 else max(0, self.stuck - 2)
        return self.stuck > 9


@dataclass
class UseGate:
    """Walk up to a gate, face it, use it, and watch it sink."""

    approach: Travel
    """The way to the free cell in front of the gate."""
    gate: Point
    """The gate's middle."""
    left: int = 40
    """Steps left for the approach, then for watching."""
    used: bool = False

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Take one step of the approach, or turn to the gate."""
        if self.approach.left > 0:
            if self.approach.act(body, view, pad):
                self.approach.left = 0
            return False
        self.left -= 1
        error = wrap(bearing(view.position, self.gate) - view.yaw)
        body.expire(pad, error, 8.0, 4, 2.6)
        close = math.dist(view.position, self.gate) < 112
        if not self.used and not close and abs(error) < 40:
            pad.walk(0.625, 0.0)
        if not self.used and close and abs(error) < 14:
            body.fingers.press("button_X", 2)
            self.used, self.left = True, body.steps(8, 24)
        return self.left <= 0


@dataclass
class Fight:
    """Keep an enemy in front, move around it, fire in bursts."""

    aim: float
    """Standard deviation of the aim in degrees."""
    strafe: float
    """Left stick used sideways, [0, 1]."""
    distance: float
    """Preferred distance in map units."""
    left: int
    side: int = 1
    side_left: int = 0
    burst: int = 0
    pause: int = 2
    lost: int = 0
    target: VisibleEnemy | None = None
    noise: float = 0.0

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Take one step of the fight; done when the enemy has been out of sight for a second."""
        self._look_for(view)
        self.left -= 1
        if self.target is None or self.lost > 8 or self.left <= 0:
            body.stop_turning(pad)
            return True
        self.noise = 0.85 * self.noise + body.rng.normal() * self.aim * 0.5
        where = (self.target.x, self.target.y)
        error = wrap(bearing(view.position, where) - view.yaw) + self.noise
        body.expire(pad, error, 5.0 + self.aim, FULL if abs(error) > 120 else 4, 3.0)
        self._move(body, view, pad, math.dist(view.position, where))
        self._fire(body, error)
        return False

    def _look_for(self, view: Observation) -> None:
        wanted = self.target.id if self.target else None
        seen = [s for s in view.enemies if s.id == wanted] or sorted(view.enemies, key=lambda s: -s.area)
        self.lost = 0 if seen else self.lost + 1
        if seen:
            self.target = seen[0]

    def _move(self, body: BotContext, view: Observation, pad: ControllerBuilder, distance: float) -> None:
        self.side_left -= 1
        if self.side_left <= 0:
            self.side = body.side() if body.chance(0.7) else 0
            self.side_left = body.steps(7, 16)
        forward = float(np.clip((distance - self.distance) / 160, -1, 1))
        forward = forward if forward > 0.3 else -0.375 if forward < -0.8 else 0.0
        pad.walk(forward, self.side * self.strafe)

    def _fire(self, body: BotContext, error: float) -> None:
        self.pause -= 1
        if self.burst > 0:
            self.burst -= 1
            body.fingers.press("trigger_RT")
            if self.burst == 0:
                self.pause = body.steps(3, 10)
        elif self.pause <= 0 and abs(error) < 16:
            self.burst = body.steps(2, 8)


@dataclass
class Respawn:
    """Wait after a death, then respawn."""

    wait: int
    fighting_spirit: float = 0.0

    def act(self, body: BotContext, view: Observation, pad: ControllerBuilder) -> bool:
        """Press X from time to time until alive."""
        body.stop_turning(pad)
        self.wait -= 1
        if not view.dead:
            return True
        if self.wait <= 0 and self.wait % 3 == 0:
            body.fingers.press("button_X", 1)
        return False

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
    look: LookController = field(default_factory=LookController)
    buttons: ButtonController = field(default_factory=ButtonController)
    builder: ControllerBuilder = field(default_factory=ControllerBuilder)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def steps(self, low: int, high: int) -> int:
        """Draw a number of steps, low to high - 1."""
        return int(self.rng.integers(low, high))

    def side(self) -> int:
        """Draw -1 or 1."""
        return 1 if self.chance(0.5) else -1

    def steer(self, error: float, dead_band: float, top: int = FULL, patience: float = 1.6) -> None:
        """Turn by an error in degrees clockwise, see `StickController.follow`."""
        self.builder.set("right_stick_x", self.turn.follow(error, dead_band, top, patience))

    def stop_turning(self) -> None:
        """Release the turn stick."""
        self.builder.set("right_stick_x", self.turn.rest())


class Behaviour(Protocol):
    """An activity of a few seconds."""

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Set the controls for this step; return True when done."""
        ...


@dataclass
class Idle:
    """Everything at rest."""

    left: int

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Release the sticks."""
        context.stop_turning()
        self.left -= 1
        return self.left <= 0


@dataclass
class Turn:
    """Turn in place, or while walking, at one held stick position."""

    sign: int
    level: int
    left: int
    forward: float = 0.0

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Hold both sticks."""
        context.builder.set("right_stick_x", context.turn.hold(self.sign, self.level))
        context.builder.walk(self.forward, 0.0)
        self.left -= 1
        return self.left <= 0


@dataclass
class Walk:
    """Walk straight in a fixed direction relative to the heading: forward, sideways or back."""

    forward: float
    right: float
    left: int
    last: Point | None = None

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Hold the left stick; ends early at a wall."""
        context.stop_turning()
        context.builder.walk(self.forward, self.right)
        blocked = self.last is not None and math.dist(self.last, observation.position) < 1.0
        self.last = observation.position
        self.left -= 1
        return self.left <= 0 or (blocked and context.chance(0.4))


@dataclass
class Travel:
    """Walk the shortest path to a place."""

    goal: Point
    speed: float
    left: int
    top: int = FULL
    dead_band: float = 12.0
    patience: float = 2.6  # steps a turn may take before a faster one is chosen
    stuck: int = 0
    last: Point | None = None
    waypoint: Point | None = None

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Turn along the path in sweeps, and walk."""
        target = self._target(context, observation)
        near = math.dist(observation.position, self.goal) < 56
        self.left -= 1
        if target is None or near or self.left <= 0 or self._is_stuck(observation):
            context.stop_turning()
            return True
        error = wrap(bearing(observation.position, target) - observation.yaw)
        top = FULL if abs(error) > 140 else self.top
        context.steer(error, self.dead_band, top, self.patience)
        self._walk(context, error)
        return False

    def _target(self, context: BotContext, observation: Observation) -> Point | None:
        """Corner walked to; replaced only when reached or hidden, so that runs are straight."""
        here = observation.position
        reached = self.waypoint is None or math.dist(here, self.waypoint) < 60
        if self.waypoint is None or reached or not context.navigation.visible(here, self.waypoint):
            self.waypoint = context.navigation.next_waypoint(here, self.goal)
        return self.waypoint

    def _walk(self, context: BotContext, error: float) -> None:
        if abs(error) < 24:
            context.builder.walk(self.speed, 0.0)
        elif abs(error) < 75:
            # Keep heading for the target while the camera turns.
            angle = math.radians(error)
            context.builder.walk(self.speed * math.cos(angle), self.speed * math.sin(angle))
        elif abs(error) < 110:
            context.builder.walk(0.375, 0.0)

    def _is_stuck(self, observation: Observation) -> bool:
        moved = 99.0 if self.last is None else math.dist(self.last, observation.position)
        self.last = observation.position
        self.stuck = self.stuck + 1 if moved < 2.0 else max(0, self.stuck - 2)
        return self.stuck > 9


@dataclass
class UseGate:
    """Walk up to a gate, face it, use it, and watch it sink."""

    approach: Travel
    gate: Point
    left: int = 40  # steps left for the approach, then for watching
    used: bool = False

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Take one step of the approach, or turn to the gate."""
        if self.approach.left > 0:
            if self.approach.act(context, observation):
                self.approach.left = 0
            return False
        self.left -= 1
        error = wrap(bearing(observation.position, self.gate) - observation.yaw)
        context.steer(error, 8.0, 4, 2.6)
        close = math.dist(observation.position, self.gate) < 112
        if not self.used and not close and abs(error) < 40:
            context.builder.walk(0.625, 0.0)
        if not self.used and close and abs(error) < 14:
            context.buttons.press("button_X", 2)
            self.used, self.left = True, context.steps(8, 24)
        return self.left <= 0


@dataclass
class Fight:
    """Keep an enemy in front, move around it, fire in bursts, until it is out of sight for a second."""

    aim: float  # standard deviation of the aim in degrees
    strafe: float
    distance: float
    left: int
    side: int = 1
    side_left: int = 0
    burst: int = 0
    pause: int = 2
    lost: int = 0
    target: VisibleEnemy | None = None
    noise: float = 0.0

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Aim, move and fire."""
        self._pick_target(observation)
        self.left -= 1
        if self.target is None or self.lost > 8 or self.left <= 0:
            context.stop_turning()
            return True
        self.noise = 0.85 * self.noise + context.rng.normal() * self.aim * 0.5
        where = (self.target.x, self.target.y)
        error = wrap(bearing(observation.position, where) - observation.yaw) + self.noise
        context.steer(error, 5.0 + self.aim, FULL if abs(error) > 120 else 4, 3.0)
        self._move(context, math.dist(observation.position, where))
        self._fire(context, error)
        return False

    def _pick_target(self, observation: Observation) -> None:
        wanted = self.target.id if self.target else None
        seen = [s for s in observation.enemies if s.id == wanted] or sorted(observation.enemies, key=lambda s: -s.area)
        self.lost = 0 if seen else self.lost + 1
        if seen:
            self.target = seen[0]

    def _move(self, context: BotContext, distance: float) -> None:
        self.side_left -= 1
        if self.side_left <= 0:
            self.side = context.side() if context.chance(0.7) else 0
            self.side_left = context.steps(7, 16)
        forward = float(np.clip((distance - self.distance) / 160, -1, 1))
        forward = forward if forward > 0.3 else -0.375 if forward < -0.8 else 0.0
        context.builder.walk(forward, self.side * self.strafe)

    def _fire(self, context: BotContext, error: float) -> None:
        self.pause -= 1
        if self.burst > 0:
            self.burst -= 1
            context.buttons.press("trigger_RT")
            if self.burst == 0:
                self.pause = context.steps(3, 10)
        elif self.pause <= 0 and abs(error) < 16:
            self.burst = context.steps(2, 8)


@dataclass
class Respawn:
    """Wait after a death, then respawn."""

    wait: int

    def act(self, context: BotContext, observation: Observation) -> bool:
        """Press X from time to time until alive."""
        context.stop_turning()
        self.wait -= 1
        if not observation.dead:
            return True
        if self.wait <= 0 and self.wait % 3 == 0:
            context.buttons.press("button_X", 1)
        return False

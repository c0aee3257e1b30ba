"""Styles of scripted players, and the player."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.games.arena.engine import Observation
from playloom.games.arena.maps import Variant
from playloom.games.bots.behaviors import Behaviour, BotContext, Fight, Idle, Respawn, Travel, Turn, UseGate, Walk
from playloom.games.bots.motor import ControllerBuilder, bearing, wrap
from playloom.games.bots.navigation import Navigation, Point, cell_centre


@dataclass(frozen=True, kw_only=True)
class Style:
    """Parameters of a player. Weights are the relative frequencies of the next behaviour."""

    travel: float = 1.0  # weight of walking somewhere
    scan: float = 0.3  # weight of standing and turning
    circle: float = 0.2  # weight of walking while turning
    sidestep: float = 0.15  # weight of walking sideways
    back: float = 0.1  # weight of walking backward
    straight: float = 0.3  # weight of walking straight ahead
    idle: float = 0.2  # weight of doing nothing
    greed: float = 0.3  # share of travels that go for an item
    gates: float = 0.06  # share of travels that go for a gate
    aggression: float = 0.5  # chance per second to attack a visible enemy
    aim: float = 4.0  # standard deviation of the aim in degrees
    strafe: float = 0.6  # sideways stick in a fight
    distance: float = 250.0  # preferred distance in a fight, map units
    speed: float = 1.0  # forward stick when travelling
    top: int = 4  # highest turn level (0 to 5) when travelling
    jump: float = 0.01  # chance per step to jump
    crouch: float = 0.004  # chance per step to crouch for a while
    sprint: float = 0.005  # chance per step to sprint for a while
    tinker: float = 0.02  # chance per step to use a bumper or change weapons
    glance: float = 0.01  # chance per step to look up or down


# fmt: off
STYLES: dict[str, Style] = {
    "rusher": Style(
        travel=1.4, scan=0.15, circle=0.1, straight=0.4, idle=0.08, greed=0.2, aggression=0.5, aim=4, strafe=0.625,
        distance=150, sprint=0.012, jump=0.012,
    ),
    "sniper": Style(
        travel=0.7, scan=0.45, circle=0.05, sidestep=0.2, back=0.12, idle=0.35, aggression=0.45, aim=2, strafe=0.375,
        distance=480, speed=0.625, top=3, crouch=0.012,
    ),
    "collector": Style(
        travel=1.6, scan=0.2, greed=0.85, gates=0.1, aggression=0.18, aim=5, distance=300, idle=0.1,
    ),
    "explorer": Style(
        travel=0.9, scan=0.4, circle=0.3, sidestep=0.2, back=0.15, straight=0.6, idle=0.15, greed=0.15, gates=0.12,
        aggression=0.12, aim=6, distance=350, speed=0.85, glance=0.015, jump=0.015,
    ),
    "novice": Style(
        travel=0.5, scan=0.6, circle=0.4, sidestep=0.4, back=0.4, straight=0.5, idle=0.4, aggression=0.25, aim=9,
        strafe=0.15, speed=0.625, top=3, tinker=0.04, crouch=0.008, jump=0.015, glance=0.015,
    ),
    "dancer": Style(
        travel=0.6, scan=0.3, circle=0.9, sidestep=0.8, back=0.3, straight=0.3, idle=0.05, aggression=0.4, aim=3,
        strafe=1.0, distance=220, jump=0.06, sprint=0.01, tinker=0.03,
    ),
}
# fmt: on
HELDOUT_STYLE = "dancer"

_GADGETS = ("skill_1", "skill_2", "button_Y", "dpad_up", "dpad_down", "dpad_left", "dpad_right")


class ScriptedPlayer:
    """A player of one arena and style; the same seed and views give the same play."""

    def __init__(self, variant: Variant, style: str, seed: int) -> None:
        self._style = STYLES[style]
        self._variant = variant
        self._context = BotContext(Navigation(variant), np.random.default_rng((seed, 1)))
        self._busy: Behaviour | None = None

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the controller state after an observation: float32 [16], order of `CONTROLS`, +y forward / up."""
        context = self._context
        context.builder = ControllerBuilder()
        style = self._style
        if observation.dead:
            if not isinstance(self._busy, Respawn):
                context.buttons.release()
                self._busy = Respawn(context.steps(6, 14))
        elif observation.enemies and not isinstance(self._busy, Fight) and context.chance(style.aggression / 10):
            self._busy = Fight(style.aim, style.strafe, style.distance, context.steps(20, 60))
        if self._busy is None:
            self._busy = self._next(observation)
        if self._busy.act(context, observation):
            self._busy = None
        if not observation.dead:
            self._random_inputs()
            context.look.step(context.builder, observation.pitch)
        context.buttons.step(context.builder)
        return context.builder.state_A

    def _next(self, observation: Observation) -> Behaviour:
        style, context = self._style, self._context
        names = ("travel", "scan", "circle", "sidestep", "back", "straight", "idle")
        weights = np.array([getattr(style, name) for name in names])
        name = names[int(context.rng.choice(len(names), p=weights / weights.sum()))]
        if name == "travel":
            return self._travel(observation)
        if name in ("scan", "circle"):
            return self._turn(walking=name == "circle")
        if name == "idle":
            return Idle(context.steps(4, 18))
        if name == "sidestep":
            return Walk(0.0, context.side() * self._pace(), context.steps(6, 14))
        if name == "back":
            return Walk(-self._pace(), 0.0, context.steps(6, 16))
        return Walk(self._pace(), 0.0, context.steps(10, 30))

    def _pace(self) -> float:
        return float(self._context.rng.choice([0.375, 0.625, 1.0], p=[0.15, 0.25, 0.6]))

    def _turn(self, walking: bool) -> Turn:
        context = self._context
        level = int(context.rng.choice([2, 3, 4, 5], p=[0.25, 0.3, 0.2, 0.25]))
        left = context.steps(7, 20) if level >= 4 else context.steps(8, 26)
        forward = self._pace() if walking else 0.0
        return Turn(context.side(), min(level, 3) if walking and context.chance(0.5) else level, left, forward)

    def _travel(self, observation: Observation) -> Travel | UseGate:
        context, style = self._context, self._style
        dice = context.rng.random()
        if dice < style.greed:
            goal = context.navigation.items[int(context.rng.integers(len(context.navigation.items)))]
        elif dice < style.greed + style.gates:
            return self._use_gate(observation.position)
        else:
            spots = [context.navigation.random_point(context.rng) for _ in range(3 if context.chance(0.8) else 1)]
            goal = min(spots, key=lambda spot: abs(wrap(bearing(observation.position, spot) - observation.yaw)))
        return Travel(goal, style.speed, context.steps(40, 120), style.top, float(context.rng.uniform(10, 18)))

    def _use_gate(self, here: Point) -> UseGate:
        columns, rows = self._variant.size
        fronts = [
            (cell_centre(x + right, y + down), cell_centre(x, y))
            for y in range(rows)
            for x in range(columns)
            for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1))
            if self._variant.cell(x, y) == "G" and self._variant.cell(x + right, y + down) in ".ab"
        ]
        front, gate = min(fronts, key=lambda pair: math.dist(pair[0], here))
        return UseGate(Travel(front, self._style.speed, 120, self._style.top), gate)

    def _random_inputs(self) -> None:
        context, style = self._context, self._style
        if context.chance(style.jump):
            context.buttons.press("button_A", context.steps(1, 3))
        if context.chance(style.crouch):
            context.buttons.press("trigger_LT", context.steps(5, 14))
        if context.builder.get("left_stick_y") > 0.5 and context.chance(style.sprint):
            context.buttons.press("button_B", context.steps(6, 20))
        if context.chance(style.tinker):
            context.buttons.press(str(context.rng.choice(_GADGETS)), context.steps(1, 4))
        if context.chance(0.004):
            context.buttons.press("trigger_RT", context.steps(2, 6))
        if context.look.left <= 0 and context.chance(style.glance):
            pitch = context.side() * float(context.rng.uniform(6, 20))
            context.look.glance(pitch, context.steps(5, 16))

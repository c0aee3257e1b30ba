"""Styles of scripted players, and the player."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.games.arena.engine import VisibleEnemy
from playloom.games.arena.maps import Variant
from playloom.games.bots.behaviors import Behaviour, Bot, fight, idle, respawn, travel, turn, use_gate, walk
from playloom.games.bots.navigation import Navigation, cell_centre


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

_WEIGHTS = ("travel", "scan", "circle", "sidestep", "back", "straight", "idle")
_GADGETS = ("skill_1", "skill_2", "button_Y", "dpad_up", "dpad_down", "dpad_left", "dpad_right")


class ScriptedPlayer:
    """A player of one arena and style; the same seed and views give the same play."""

    def __init__(self, variant: Variant, style: str, seed: int) -> None:
        self._style = STYLES[style]
        self._variant = variant
        self._bot = Bot(Navigation(variant), np.random.default_rng((seed, 1)))
        self._doing: str | None = None
        self._behaviour: Behaviour = iter(())

    def act(self, row: NDArray[np.float32], enemies: Sequence[VisibleEnemy] = ()) -> NDArray[np.float32]:
        """Return the controller state after a state row (see `STATE_COLUMNS`) and the enemies seen with it.

        It is float32 [16], in the order of `CONTROLS`, +y forward and up.
        """
        bot, style = self._bot, self._style
        bot.observe(row, enemies)
        if bot.dead:
            if self._doing != "respawn":
                bot.pad.held.clear()
                self._doing, self._behaviour = "respawn", respawn(bot, bot.steps(6, 14))
        elif enemies and self._doing != "fight" and bot.chance(style.aggression / 10):
            self._doing = "fight"
            self._behaviour = fight(bot, style.aim, style.strafe, style.distance, bot.steps(20, 60))
        if self._doing is None:
            weights = np.array([getattr(style, name) for name in _WEIGHTS])
            self._doing = _WEIGHTS[int(bot.rng.choice(len(_WEIGHTS), p=weights / weights.sum()))]
            self._behaviour = self._begin(self._doing)
        if next(self._behaviour, True):
            self._doing = None
        if not bot.dead:
            self._random_inputs()
            bot.pad.positions["right_stick_y"] = bot.look.step(bot.pitch)
        return bot.pad.next_state()

    def _begin(self, name: str) -> Behaviour:
        bot = self._bot
        if name == "travel":
            return self._travel()
        if name in ("scan", "circle"):
            return self._turn(walking=name == "circle")
        if name == "idle":
            return idle(bot, bot.steps(4, 18))
        if name == "sidestep":
            return walk(bot, 0.0, bot.side() * self._pace(), bot.steps(6, 14))
        if name == "back":
            return walk(bot, -self._pace(), 0.0, bot.steps(6, 16))
        return walk(bot, self._pace(), 0.0, bot.steps(10, 30))

    def _pace(self) -> float:
        return float(self._bot.rng.choice([0.375, 0.625, 1.0], p=[0.15, 0.25, 0.6]))

    def _turn(self, walking: bool) -> Behaviour:
        bot = self._bot
        level = int(bot.rng.choice([2, 3, 4, 5], p=[0.25, 0.3, 0.2, 0.25]))
        left = bot.steps(7, 20) if level >= 4 else bot.steps(8, 26)
        forward = self._pace() if walking else 0.0
        return turn(bot, bot.side(), min(level, 3) if walking and bot.chance(0.5) else level, left, forward)

    def _travel(self) -> Behaviour:
        bot, style = self._bot, self._style
        dice = bot.rng.random()
        if dice < style.greed:
            goal = bot.navigation.items[int(bot.rng.integers(len(bot.navigation.items)))]
        elif dice < style.greed + style.gates:
            columns, rows = self._variant.size
            fronts = [
                (cell_centre(x + right, y + down), cell_centre(x, y))
                for y in range(rows)
                for x in range(columns)
                for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1))
                if self._variant.cell(x, y) == "G" and self._variant.cell(x + right, y + down) in ".ab"
            ]
            return use_gate(bot, *min(fronts, key=lambda pair: bot.distance(pair[0])), style.speed, style.top)
        else:
            spots = [bot.navigation.random_point(bot.rng) for _ in range(3 if bot.chance(0.8) else 1)]
            goal = min(spots, key=lambda spot: abs(bot.error(spot)))
        return travel(bot, goal, style.speed, bot.steps(40, 120), style.top, float(bot.rng.uniform(10, 18)))

    def _random_inputs(self) -> None:
        bot, style = self._bot, self._style
        if bot.chance(style.jump):
            bot.pad.press("button_A", bot.steps(1, 3))
        if bot.chance(style.crouch):
            bot.pad.press("trigger_LT", bot.steps(5, 14))
        if bot.pad.positions.get("left_stick_y", 0.0) > 0.5 and bot.chance(style.sprint):
            bot.pad.press("button_B", bot.steps(6, 20))
        if bot.chance(style.tinker):
            bot.pad.press(str(bot.rng.choice(_GADGETS)), bot.steps(1, 4))
        if bot.chance(0.004):
            bot.pad.press("trigger_RT", bot.steps(2, 6))
        if bot.look.left <= 0 and bot.chance(style.glance):
            bot.look.goal, bot.look.left = bot.side() * float(bot.rng.uniform(6, 20)), bot.steps(5, 16)

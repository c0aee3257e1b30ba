"""Human-like controller movement of scripted players: steady sweeps, ignored small errors, held buttons."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import BIN_VALUES
from playloom.actions.controller import CONTROLS
from playloom.games.arena.engine import look_per_step, turn_per_step

_INDEX = {control.name: index for index, control in enumerate(CONTROLS)}
_LEVELS: tuple[float, ...] = tuple(float(v) for v in BIN_VALUES if v >= 0)
"""Stick positions from rest to full, in steps of the bins."""
FULL = len(_LEVELS) - 1


def wrap(degrees: float) -> float:
    """Wrap an angle to [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0


@dataclass
class ControllerBuilder:
    """Controller state under construction for one step."""

    state_A: NDArray[np.float32] = field(default_factory=lambda: np.zeros(len(CONTROLS), np.float32))
    """Float32 [16] in the order of `CONTROLS`."""

    def set(self, name: str, value: float) -> None:
        """Set a control's position."""
        self.state_A[_INDEX[name]] = value

    def get(self, name: str) -> float:
        """Return a control's position."""
        return float(self.state_A[_INDEX[name]])

    def walk(self, forward: float, right: float) -> None:
        """Set the left stick, each axis in [-1, 1]."""
        self.set("left_stick_y", float(np.clip(forward, -1, 1)))
        self.set("left_stick_x", float(np.clip(right, -1, 1)))


@dataclass
class StickController:
    """One stick axis that moves through neighbouring positions and rests before it changes sides."""

    rate: tuple[float, ...]  # degrees a step at each level
    level: int = 0
    sign: int = 1
    cruise: int = 0  # level of the current sweep

    @classmethod
    def turning(cls) -> StickController:
        """The right stick's x."""
        return cls(tuple(turn_per_step(level) for level in _LEVELS))

    @classmethod
    def looking(cls) -> StickController:
        """The right stick's y."""
        return cls(tuple(look_per_step(level) for level in _LEVELS))

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

    stick: StickController = field(default_factory=StickController.looking)
    goal: float = 0.0
    left: int = 0

    def glance(self, pitch: float, steps: int) -> None:
        """Look at a pitch (degrees, positive up) and stay there for about `steps`."""
        self.goal, self.left = pitch, steps

    def step(self, builder: ControllerBuilder, pitch: float) -> None:
        """Move the right stick's y."""
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
            builder.set("right_stick_y", self.stick.position)
            return
        builder.set("right_stick_y", self.stick.follow(error, 2.0, FULL))


@dataclass
class ButtonController:
    """Buttons that are held for some steps each."""

    held: dict[str, int] = field(default_factory=dict)

    def press(self, name: str, steps: int = 1) -> None:
        """Hold a button or trigger for at least `steps` more steps."""
        self.held[name] = max(self.held.get(name, 0), steps)

    def release(self) -> None:
        """Release everything."""
        self.held.clear()

    def step(self, builder: ControllerBuilder) -> None:
        """Write the held buttons."""
        for name in list(self.held):
            builder.set(name, 1.0)
            self.held[name] -= 1
            if self.held[name] <= 0:
                del self.held[name]


def bearing(start: tuple[float, float], end: tuple[float, float]) -> float:
    """Return the heading from one place to another in degrees, positive clockwise (north is -90)."""
    return -math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))

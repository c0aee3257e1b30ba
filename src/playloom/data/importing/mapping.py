"""Mappings of keys, mouse and pad to the sixteen controls, as TOML files.

    dead_zone = 0.1            # of sticks; default 0
    counts_for_full = 60       # mouse counts in 0.1 s that are full stick; default: fitted to the recordings
    [controls]
    left_stick_y = { w = 1, s = -1 }
    right_stick_x = { mouse_dx = 1 }
    button_A = "space"
    trigger_RT = ["mouse_left", "e"]

Each entry of `controls` is a control (+y is forward and up) and its sources with their weights, or names of sources of
weight 1; `names` has their spelling. The values of sources times weights are added and clipped to the control's range.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import encode_named
from playloom.actions.controller import CONTROLS
from playloom.data.importing.names import control_name
from playloom.data.importing.resample import PAUSED
from playloom.errors import ConfigError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

READY = ("controller", "vpt", "wasd-mouse", "xinput")
"""Names of the mappings that come with playloom."""
MOUSE = ("mouse_dx", "mouse_dy")
_FOLDER = Path(__file__).parent / "mappings"
_NAMES = [control.name for control in CONTROLS]
_KEYS = ("dead_zone", "counts_for_full", "controls")
_PERCENTILE = 99


@dataclass(frozen=True, kw_only=True)
class ControlMapping:
    """Sources of every control, see the module."""

    weights: Mapping[str, Mapping[str, float]]
    """Weight of each source, by control and source."""
    dead_zone: float = 0.0
    """Stick positions below it are 0, [0, 1)."""
    counts_for_full: float | None = None
    """Mouse counts in 0.1 s that are full stick, more than 0; None: to be fitted."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources and `PAUSED`, in the order of the columns of `apply`."""
        names = {source for weights in self.weights.values() for source in weights}
        return (*sorted(names), PAUSED)

    def fit(self, counts_TM: NDArray[np.float32]) -> ControlMapping:
        """Return the mapping with `counts_for_full` fitted to the mouse counts of all steps, [T, 2] for `MOUSE`.

        It is the 99th percentile of |dx|, of |dy| where the mouse never moves to the side. A given value stays.
        """
        if self.counts_for_full is not None:
            return self
        for counts_T in np.abs(counts_TM.reshape(-1, len(MOUSE)).T):
            if counts_T.any():
                full = float(np.percentile(counts_T, _PERCENTILE)) or float(counts_T.max())
                return replace(self, counts_for_full=full)
        return replace(self, counts_for_full=1.0)

    def mouse_counts(self, input_TC: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mouse counts [T, 2] in the input of steps [T, C]; 0 for an axis that is no source."""
        counts_TM = np.zeros((len(input_TC), len(MOUSE)), np.float32)
        for axis, name in enumerate(MOUSE):
            if name in self.sources:
                counts_TM[:, axis] = input_TC[:, self.sources.index(name)]
        return counts_TM

    def apply(self, input_TC: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Turn the input of steps, float32 [T, C], into action values uint8 [T, 16]."""
        scaled_TC = input_TC.copy()
        mouse = [column for column, name in enumerate(self.sources) if name in MOUSE]
        scaled_TC[:, mouse] /= self.counts_for_full or 1.0
        state_TK = np.zeros((len(input_TC), len(_NAMES)), np.float32)
        for name, weights in self.weights.items():
            columns = [self.sources.index(source) for source in weights]
            state_TK[:, _NAMES.index(name)] = scaled_TC[:, columns] @ np.array(list(weights.values()), np.float32)
        low = np.array([control.low for control in CONTROLS], np.float32)
        buttons = np.array([control.kind == "button" for control in CONTROLS])
        state_TK = np.where(buttons, state_TK >= 0.5, state_TK.clip(low, 1))
        return encode_named(state_TK)


def read_mapping(names: Sequence[str]) -> ControlMapping:
    """Read and combine mappings: names of `READY`, or paths of TOML files; ConfigError when one is wrong."""
    weights: dict[str, dict[str, float]] = {}
    dead_zone, counts = 0.0, None
    for name in names:
        content = _read_toml(name)
        for control, sources in content["controls"].items():
            weights.setdefault(control, {}).update(sources)
        dead_zone = max(dead_zone, content.get("dead_zone", 0.0))
        counts = content.get("counts_for_full", counts)
    return ControlMapping(weights=weights, dead_zone=dead_zone, counts_for_full=counts)


def _read_toml(name: str) -> dict[str, Any]:
    path = _FOLDER / f"{name}.toml" if name in READY else Path(name)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no mapping {name}; give a TOML file, or {did_you_mean(name, READY)}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"mapping {name} cannot be read ({error}); expected a TOML file") from error
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"mapping {name} has an unknown key {key!r}; {did_you_mean(key, _KEYS)}")
    if not isinstance(content.get("controls"), dict) or not content["controls"]:
        raise ConfigError(f"mapping {name} has no table [controls]; see docs/own_game.md")
    for key, low, high in (("dead_zone", 0.0, 0.99), ("counts_for_full", 1e-6, 1e9)):
        if key in content and not (_is_number(content[key]) and low <= content[key] <= high):
            raise ConfigError(f"mapping {name}: {key} is wrong: got {content[key]!r:.60}, expected {low:g} to {high:g}")
    content["controls"] = {control: _weights(name, control, given) for control, given in content["controls"].items()}
    return content


def _weights(name: str, control: str, given: Any) -> dict[str, float]:
    if control not in _NAMES:
        raise ConfigError(f"mapping {name} has an unknown control {control!r}; {did_you_mean(control, _NAMES)}")
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and all(isinstance(source, str) for source in given):
        given = dict.fromkeys(given, 1)
    if not isinstance(given, dict) or not all(map(_is_number, given.values())):
        raise ConfigError(
            f"mapping {name}: {control} is wrong: got {given!r:.60}, expected a source, a list of sources, or weights"
        )
    return {control_name(source): float(weight) for source, weight in given.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))

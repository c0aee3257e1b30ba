"""An action for when a reply has none: random, of the kind existing clients fall back to.

Owns its distribution: both sticks anywhere, the right trigger four times in ten, one key of the directional pad.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from playloom.actions import CONTROLS, encode_named

TRIGGER_SHARE = 0.4
"""How often the right trigger is pressed."""


def random_action(seed: int, step: int) -> NDArray[np.uint8]:
    """Action values [16] in slot order. The same seed and step give the same action, whatever happened before."""
    source = np.random.default_rng([seed, step])
    state = {c.name: source.uniform(-1, 1) for c in CONTROLS if c.kind == "axis"}
    state["trigger_RT"] = float(source.random() < TRIGGER_SHARE)
    state[str(source.choice([c.name for c in CONTROLS if c.name.startswith("dpad_")]))] = 1.0
    return encode_named([state.get(c.name, 0.0) for c in CONTROLS])

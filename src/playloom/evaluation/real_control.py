"""The control protocol in the real game: the same held inputs, judged by the same estimators, as the perfect answer.

Owns how real pictures under held inputs come about: the recorded episode is played again up to the moment, then the
inputs are held one after the other, each undone before the next. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.actions import decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.recording import STATE_COLUMNS
from playloom.data.stores import FrameStore, Span
from playloom.evaluation.control import INPUTS, Control, measure_control
from playloom.evaluation.moments import Moment
from playloom.evaluation.motion import Camera

if TYPE_CHECKING:
    from playloom.games.process import GameProcess

_SETTLE = 10
"""Steps at rest before walking is judged: the game's walk has momentum (it fades over some four steps)."""


def game_control(
    store: FrameStore,
    moments: Sequence[Moment],
    *,
    steps: int,
    camera: Camera,
    tick: Callable[[str], None] = lambda _: None,
) -> Control | None:
    """Run the protocol in the game.

    Args:
        store: where the episodes' actions and their meta lie.
        moments: where to begin; each costs one replay of its episode up to there.
        steps: how long an input is held.
        camera: the pictures' geometry.
        tick: told after each moment.

    Returns:
        What the inputs led to (moments with a death on the way are left out), or None when none is of this game.

    Raises:
        MissingExtraError: when the game is not installed.
    """
    seen: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in INPUTS}
    for moment in moments:
        span = next(s for s in store.spans if s.start <= moment.row < s.start + s.length)
        trial = _trial(store, span, moment.row, steps)
        for name, frames in trial.items():
            seen[name].append(frames)
        tick("control, real game")
    if not seen["rest"]:
        return None
    return measure_control(lambda name, _: np.stack(seen[name]), steps, camera)


def _trial(store: FrameStore, span: Span, row: int, steps: int) -> Mapping[str, NDArray[np.uint8]]:
    """Pictures [1 + steps, H, W, 3] of each input from one moment; nothing after a death, or for another game."""
    if span.meta.get("game") != "arena":
        return {}
    from playloom.games.doom import GameSpec
    from playloom.games.process import GameProcess

    spec = GameSpec(variant=str(span.meta["variant"]), mode=str(span.meta["mode"]), seed=int(span.meta["seed"]))
    with GameProcess(spec) as game:
        for state in decode_values(np.array(store.actions_FA[span.start : row])):
            game.step(state)
        trial = {
            "right": _hold(game, "right", steps),
            "undo right": _hold(game, "left", steps),
            "left": _hold(game, "left", steps),
            "undo left": _hold(game, "right", steps),
            "settle": _hold(game, "rest", _SETTLE),
            "rest": _hold(game, "rest", steps),
            "forward": _hold(game, "forward", steps),
        }
        alive = game.row[STATE_COLUMNS.index("dead")] <= 0
    return {name: trial[name] for name in INPUTS} if alive else {}


def _hold(game: GameProcess, name: str, steps: int) -> NDArray[np.uint8]:
    state = np.array([getattr(INPUTS[name], control.name) for control in CONTROLS], np.float32)
    frames = [game.frame_HWC.copy()]
    frames += [game.step(state)[0].copy() for _ in range(steps)]
    return np.stack(frames)

"""Controllability: camera motion under held inputs, in generated frames and in the real game.

One input is held for some steps, everything else at rest. Turning is the median over the steps of the yaw between
consecutive pictures. Walking is the growth of the scene from the last real picture to the last one, against rest.
M segments, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import decode_values, encode_named
from playloom.actions.controller import CONTROLS, ControllerState
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.recording import STATE_COLUMNS
from playloom.data.sampler import alive_spans
from playloom.evaluation.camera_motion import Camera, expansion_between, yaw_between
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import Segment, dream_all, reconstruct, with_codes
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import WorldModel

if TYPE_CHECKING:
    from playloom.games.arena.process import GameProcess

TRUE_TURN = 9.0
"""Degrees that a full stick turns the real game's camera in one step."""
INPUTS: Mapping[str, ControllerState] = {
    "right": ControllerState(right_stick_x=1.0),
    "left": ControllerState(right_stick_x=-1.0),
    "forward": ControllerState(left_stick_y=1.0),
    "rest": ControllerState(),
}
"""Held inputs by name."""

Pictures = Callable[[str, NDArray[np.uint8]], NDArray[np.uint8]]
"""Name and action values uint8 [S, 16] of a held input to pictures uint8 [moments, 1 + S, H, W, 3]: the last seen
picture, then what follows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlResult:
    """Camera motion under the held inputs, one figure per segment."""

    right: NDArray[np.float64]
    """Degrees per step with the stick at +1, positive clockwise."""
    left: NDArray[np.float64]
    """Degrees per step with the stick at -1."""
    forward: NDArray[np.float64]
    """Growth of the scene when walking forward; 1 is none."""
    rest: NDArray[np.float64]
    """Growth with nothing held."""

    @property
    def sign_right(self) -> float:
        """Share of all turns whose direction is right."""
        return float(np.mean(np.concatenate([self.right > 0, self.left < 0])))

    @property
    def median_turn(self) -> float:
        """Median turn in the held direction, degrees per step; wrong directions count as negative."""
        return float(np.median(np.concatenate([self.right, -self.left])))

    @property
    def expands(self) -> float:
        """Share of segments whose scene grows more walking than at rest; equal growth counts half."""
        return float(np.mean((self.forward > self.rest) + 0.5 * (self.forward == self.rest)))


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Error of the yaw estimator on recorded play."""

    median_error: float
    """Median absolute error in degrees, over steps that turn by more than 2 degrees."""
    sign_right: float
    """Share of those steps whose direction is right."""
    full_stick: float
    """Median degrees per step, in the true direction, where the recorded turn is at least 8.5 degrees; NaN for none."""
    pairs: int
    """Number of steps."""


def measure_control(pictures: Pictures, steps: int, camera: Camera) -> ControlResult:
    """Hold every input of `INPUTS` for `steps` steps and estimate the camera motion."""
    seen = {name: pictures(name, held(name, steps)) for name in INPUTS}
    return ControlResult(
        right=turn_per_step(seen["right"], camera),
        left=turn_per_step(seen["left"], camera),
        forward=expansion_between(seen["forward"][:, 0], seen["forward"][:, -1], camera),
        rest=expansion_between(seen["rest"][:, 0], seen["rest"][:, -1], camera),
    )


def held(name: str, steps: int) -> NDArray[np.uint8]:
    """Return action values uint8 [steps, 16] with one input of `INPUTS` held."""
    state = [getattr(INPUTS[name], control.name) for control in CONTROLS]
    return np.tile(encode_named(state), (steps, 1))


def turn_per_step(frames_MSHWC: NDArray[np.uint8], camera: Camera) -> NDArray[np.float64]:
    """Return the median over the steps of the yaw between consecutive pictures, degrees [M].

    The median, because one step whose sky is hidden by a wall would spoil a mean.
    """
    steps = frames_MSHWC.shape[1] - 1
    yaw = [yaw_between(frames_MSHWC[:, step], frames_MSHWC[:, step + 1], camera) for step in range(steps)]
    return np.asarray(np.median(np.stack(yaw), axis=0))


def evaluate_estimator(
    store: FrameDataset, spans: Sequence[EpisodeSlice], *, count: int, seed: int, camera: Camera, batch: int = 16
) -> Recorded:
    """Compare the yaw seen in recorded pictures with the yaw of the recorded states.

    Takes up to `count` steps that turn by more than 2 degrees, drawn from these episodes; the dead do not count.
    All figures are NaN when nothing turns, or the states do not say the heading.
    """
    if not {"dead", "yaw"} <= set(store.state_columns):
        return Recorded(median_error=np.nan, sign_right=np.nan, full_stick=np.nan, pairs=0)
    dead, yaw = store.column("dead"), store.column("yaw")
    living = alive_spans(spans, dead)
    rows = np.concatenate([np.arange(span.start, span.start + span.length - 1) for span in living])
    truth = (yaw[rows + 1] - yaw[rows] + 180) % 360 - 180
    rows, truth = rows[np.abs(truth) > 2], truth[np.abs(truth) > 2]
    if not len(rows):
        return Recorded(median_error=np.nan, sign_right=np.nan, full_stick=np.nan, pairs=0)
    kept = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    rows, truth = rows[kept], truth[kept]
    seen = np.concatenate(
        [
            yaw_between(store.frames_FHWC[part], store.frames_FHWC[part + 1], camera)
            for part in np.split(rows, range(batch, len(rows), batch))
        ]
    )
    full = np.abs(truth) >= 8.5
    return Recorded(
        median_error=float(np.median(np.abs(seen - truth))),
        sign_right=float(np.mean(np.sign(seen) == np.sign(truth))),
        full_stick=float(np.median((seen * np.sign(truth))[full])) if full.any() else np.nan,
        pairs=len(rows),
    )


def control_rows(dream: ControlResult, recorded: Recorded, game: ControlResult | None) -> list[Row]:
    """Return the report rows; `game` is the same protocol in the real game."""
    turns, walks = len(dream.right) + len(dream.left), len(dream.forward)
    growth, rest = float(np.median(dream.forward)), float(np.median(dream.rest))
    game_turn = {} if game is None else {"real game": game.median_turn}
    return [
        Row(
            part="control",
            name="right_stick_x ±1: direction right",
            value=dream.sign_right,
            unit="%",
            baselines={**({} if game is None else {"real game": game.sign_right}), "estimator": recorded.sign_right},
            bar=">= 95 %",
            passed=dream.sign_right >= 0.95,
            count=turns,
        ),
        Row(
            part="control",
            name="right_stick_x ±1: median turn a step",
            value=dream.median_turn,
            unit="deg",
            baselines={"true": TRUE_TURN, **game_turn, "estimator": recorded.full_stick},
            bar=f"{0.75 * TRUE_TURN:g} to {1.25 * TRUE_TURN:g} deg",
            passed=abs(dream.median_turn - TRUE_TURN) <= 0.25 * TRUE_TURN,
            count=turns,
        ),
        Row(
            part="control",
            name="yaw estimator, median error on real turns",
            value=recorded.median_error,
            unit="deg",
            count=recorded.pairs,
        ),
        Row(
            part="control",
            name="forward: median growth of the scene",
            value=growth,
            unit="x",
            baselines={"rest": rest, **({} if game is None else {"real game": float(np.median(game.forward))})},
            bar="> 1, > rest by 2 SE",
            passed=growth > 1 and is_significant(np.log(dream.forward) - np.log(dream.rest)),
            count=walks,
        ),
        Row(
            part="control",
            name="forward grows more than rest",
            value=dream.expands,
            unit="%",
            baselines={"chance": 0.5, **({} if game is None else {"real game": game.expands})},
            count=walks,
        ),
    ]


def dream_control(
    model: WorldModel,
    dreamer: Engine,
    store: FrameDataset,
    moments: Sequence[Segment],
    *,
    steps: int,
    sampling: Sampling,
    seed: int,
    batch: int,
    camera: Camera,
    tick: Callable[[str], None] = lambda _: None,
) -> ControlResult:
    """Hold every input for `steps` steps from every segment and measure the generated pictures.

    Args:
        model: the dreamer's model.
        dreamer: dreams, in its order.
        store: where the moments lie.
        moments: where to begin.
        steps: how long an input is held.
        sampling: how tokens are drawn.
        seed: of the first dream; dream i has `seed + i`.
        batch: dreams at once.
        camera: of the game whose pictures these are.
        tick: told after every input.
    """
    prompts = with_codes(model, [moment.prompt(store) for moment in moments])
    seen = reconstruct(model, np.stack([moment.last_frame(store) for moment in moments]), batch)

    def pictures(name: str, held_SA: NDArray[np.uint8]) -> NDArray[np.uint8]:
        held = [held_SA] * len(prompts)
        frames = dream_all(dreamer, prompts, held, sampling=sampling, seed=seed, batch=batch)
        tick(f"control, {name}")
        return np.concatenate([seen[:, None], frames], axis=1)

    return measure_control(pictures, steps, camera)


_SETTLE = 10
"""Steps at rest before walking is measured: the game's walk has momentum that fades over about four steps."""


def game_control(
    store: FrameDataset,
    moments: Sequence[Segment],
    *,
    steps: int,
    camera: Camera,
    tick: Callable[[str], None] = lambda _: None,
) -> ControlResult | None:
    """Run the protocol in the real game.

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


def _trial(store: FrameDataset, span: EpisodeSlice, row: int, steps: int) -> Mapping[str, NDArray[np.uint8]]:
    """Pictures [1 + steps, H, W, 3] of each input from one segment; empty after a death, or for another game."""
    if span.meta.get("game") != "arena":
        return {}
    from playloom.games.arena.engine import GameSpec
    from playloom.games.arena.process import GameProcess

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

"""Alignment check of actions and frames, before training and without a model.

The action of step t must explain some of the motion from frame t to t + 1 that older actions and past motions do not
explain, and later actions must add nothing (a test of Granger causality, Granger 1969). Ridge regressions measure, on
held-out stretches, what the action of step t + s adds for each shift s. Inertia only makes older actions add more.
T frames, H W picture; S shifts, M frame pairs, C motions, A action slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, decode_values
from playloom.data.motion import MOTIONS, motions
from playloom.errors import RecordingError

SHIFTS = (-2, -1, 0, 1, 2)  # shifts tried; s pairs the motion after frame t with the action of step t + s
_OLDEST = -4  # oldest action that may explain a motion
_PAST = 2  # past motions that may explain one
_FOLDS = 4
_BLOCK = 20
_RIDGE = 1e-2
_LEAST_SHARE = 0.03
_STOP_SHARE = 0.1
"""Least share that is strong evidence: with shifted actions it is 0.25 to 0.98 on three games, see docs/log.md."""
_LEAST_PART = 0.2
_LEAST_SPREAD = 0.01
_SURE = 2.5


@dataclass(frozen=True, kw_only=True)
class AlignmentReport:
    """Result of the alignment check."""

    verdict: Literal["aligned", "shifted", "undecided"]
    """`shifted`: strong evidence that the effect of an action begins at another shift than 0."""
    best_shift: int  # shift at which the effect seems to begin; 0 where none is seen
    motion: str
    shares: Mapping[int, float]
    """By shift, the share of the motion that the action explains where older ones and past motions do not.

    It is the partial R squared on held-out stretches.
    """
    pairs: int

    def sentence(self) -> str:
        """Return the result and what to do, as one sentence."""
        table = ", ".join(f"{shift:+d}: {share:.2f}" for shift, share in self.shares.items())
        found = f"share of the unexplained {self.motion} that the action of step t+s explains, for s = {table}"
        if self.verdict == "aligned":
            return f"actions fit their frames ({found})"
        way = f"the motion begins with the action stored {abs(self.best_shift)} step(s) "
        way += "later" if self.best_shift > 0 else "earlier"
        if self.verdict == "shifted":
            return (
                f"actions do not fit their frames: {way} ({found}); shift the actions by {-self.best_shift:+d} step(s) "
                "and prepare the data again"
            )
        if self.best_shift:
            return f"it seems that {way}, but the evidence is weak ({found})"
        return f"{self.pairs} frame pairs are too few, or their motion is too unclear ({found})"


def check_alignment(episodes: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> AlignmentReport:
    """Find the shift of actions at which their effect on the pictures begins.

    `episodes` are stretches of some hundred steps in all: frames uint8 [T, H, W, 3] and actions uint8 [T, 16].
    """
    motion_MC, past_MP, actions_LMA = _pairs(episodes)
    if len(motion_MC) < 4 * _BLOCK:
        raise RecordingError(f"the alignment check needs at least {4 * _BLOCK} steps: got {len(motion_MC)}")
    errors = []
    for lag in range(SHIFTS[0] - 1, SHIFTS[-1] + 1):
        known = np.concatenate([past_MP, *actions_LMA[: lag - _OLDEST + 1]], axis=1)
        errors.append(_held_out_errors(known, motion_MC))
    before_SMC, gains_SMC = np.stack(errors[:-1]), -np.diff(errors, axis=0)
    moving_C = motion_MC.var(axis=0) > _LEAST_SPREAD
    shares_SC, sure_SC = gains_SMC.mean(axis=1) / (before_SMC.mean(axis=1) + 1e-9), _sure(gains_SMC) & moving_C
    _, column = np.unravel_index(int((shares_SC * sure_SC).argmax()), shares_SC.shape)
    verdict, shift = _verdict(shares_SC[:, column], sure_SC[:, column])
    if shift < 0 and (sure_SC & (shares_SC >= _LEAST_SHARE))[SHIFTS.index(0)].any():
        verdict, shift = "undecided", 0  # another motion begins with the present action
    return AlignmentReport(
        verdict=verdict,
        best_shift=shift,
        motion=MOTIONS[column],
        shares=dict(zip(SHIFTS, shares_SC[:, column].tolist(), strict=True)),
        pairs=len(motion_MC),
    )


def _verdict(
    shares_S: NDArray[np.float64], sure_S: NDArray[np.bool_]
) -> tuple[Literal["aligned", "shifted", "undecided"], int]:
    """Decide by the latest action that adds much.

    Inertia makes older actions add more, never later ones. A player who answers what the picture shows makes later
    ones add a little, so they must add more than the present one.
    """
    strong = sure_S & (shares_S >= max(_LEAST_SHARE, _LEAST_PART * shares_S.max()))
    if not strong.any():
        return "undecided", 0
    latest, aligned = int(np.flatnonzero(strong)[-1]), SHIFTS.index(0)
    if latest == aligned:
        return "aligned", 0
    if latest > aligned and shares_S[latest] < shares_S[aligned]:
        return "undecided", 0
    return ("shifted" if shares_S[latest] >= _STOP_SHARE else "undecided"), SHIFTS[latest]


def _sure(gains_SMC: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Gains [S, C] that are above 0 by some standard errors over blocks of steps."""
    shifts, pairs, columns = gains_SMC.shape
    blocks = gains_SMC[:, : pairs // _BLOCK * _BLOCK].reshape(shifts, -1, _BLOCK, columns).mean(axis=2)
    return blocks.mean(axis=1) > _SURE * blocks.std(axis=1, ddof=1) / np.sqrt(blocks.shape[1])


def _pairs(
    episodes: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Motions [M, C] of frame pairs, past motions [M, P] in standard deviations, and actions by lag [L, M, A]."""
    moved, earlier = [np.zeros((0, len(MOTIONS)))], [np.zeros((_PAST, 0, len(MOTIONS)))]
    lags = range(_OLDEST, SHIFTS[-1] + 1)
    acted = [np.zeros((len(lags), 0, ACTION_SLOTS))]
    for frames_THWC, actions_TA in episodes:
        first, last = -_OLDEST, len(frames_THWC) - 1 - SHIFTS[-1]
        if last <= first:
            continue
        motion_TC = motions(np.asarray(frames_THWC)).astype(np.float64)
        state_TA = decode_values(actions_TA)
        moved.append(motion_TC[first:last])
        earlier.append(np.stack([motion_TC[first - back : last - back] for back in range(1, _PAST + 1)]))
        acted.append(np.stack([state_TA[first + lag : last + lag] for lag in lags]))
    motion_MC, past = np.concatenate(moved), np.concatenate(earlier, axis=1)
    if len(motion_MC):
        low, high = np.percentile(motion_MC, [1, 99], axis=0)  # a failed match is a jump across the picture
        motion_MC, past = motion_MC.clip(low, high), past.clip(low, high) / (motion_MC.clip(low, high).std(0) + 1e-6)
    return motion_MC, np.concatenate(list(past), axis=1), np.concatenate(acted, axis=1).astype(np.float64)


def _held_out_errors(x_MF: NDArray[np.float64], y_MC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared errors [M, C] of ridge regressions on stretches they were not fitted to."""
    fold_M = np.arange(len(x_MF)) * _FOLDS // len(x_MF)
    errors = np.empty_like(y_MC)
    for fold in range(_FOLDS):
        seen = fold_M != fold
        mean_x, mean_y = x_MF[seen].mean(axis=0), y_MC[seen].mean(axis=0)
        x = x_MF[seen] - mean_x
        ridge = _RIDGE * len(x) * np.eye(x.shape[1])
        weights = np.linalg.solve(x.T @ x + ridge, x.T @ (y_MC[seen] - mean_y))
        errors[~seen] = (y_MC[~seen] - mean_y - (x_MF[~seen] - mean_x) @ weights) ** 2
    return errors

"""Labels of steps: reward, termination and state scalars, from the state columns of a data set.

Row t labels the step of action t, which leads from frame t to frame t + 1, as Gymnasium returns them together:

* `reward`: the column `reward`, else the change of `frags` from row t to row t + 1.
* `terminated`: the column `terminated`, else `dead` becoming 1 from row t to row t + 1.
* a state scalar: its column in row t + 1, where it is measured when frame t + 1 is seen.

A recorder of Gymnasium environments writes what the step of action t returned into row t, and one more row with the
episode's last frame and NaN as its reward. NaN means no label. Steps without a frame after them in their episode, and
those that begin dead (column `dead`), have no label. F rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset, TokenDataset
from playloom.data.sampler import alive_spans


@dataclass(frozen=True, kw_only=True, eq=False)
class StepLabels:
    """Labels of every row of a data set; NaN: none."""

    reward_F: NDArray[np.float32] | None
    """Rewards; None: the data set has none."""
    terminated_F: NDArray[np.float32] | None
    """1 where the step ended the episode, else 0; None: the data set does not say."""
    states_FS: NDArray[np.float32]
    """State scalars after the step, in the order that was asked for."""
    unseen: int
    """Terminations without a label, because no frame follows them."""


def step_labels(dataset: FrameDataset | TokenDataset, states: Sequence[str] = ()) -> StepLabels:
    """Read the labels of a data set, with these state scalars; RecordingError for a state that it does not have."""
    known = dataset.state_columns
    followed_F = np.zeros(len(dataset), bool)
    for span in dataset.spans:
        followed_F[span.start : span.rows.stop - 1] = True

    def after(name: str) -> NDArray[np.float32]:
        return np.roll(dataset.column(name), -1)

    begins_F = dataset.column("dead") <= 0 if "dead" in known else np.ones(len(dataset), bool)
    labelled_F = followed_F & begins_F
    reward = terminated = None
    if "reward" in known:
        reward = dataset.column("reward")
    elif "frags" in known:
        reward = after("frags") - dataset.column("frags")
    if "terminated" in known:
        terminated = dataset.column("terminated")
    elif "dead" in known:
        terminated = (after("dead") > 0).astype(np.float32)
    columns = [_masked(after(name), labelled_F) for name in states]
    return StepLabels(
        reward_F=None if reward is None else _masked(reward, labelled_F),
        terminated_F=None if terminated is None else _masked(terminated, labelled_F),
        states_FS=np.stack(columns, axis=1) if columns else np.zeros((len(dataset), 0), np.float32),
        unseen=int((dataset.column("terminated")[~followed_F] > 0).sum()) if "terminated" in known else 0,
    )


def labelled_spans(dataset: FrameDataset | TokenDataset, spans: Sequence[EpisodeSlice]) -> tuple[EpisodeSlice, ...]:
    """Return the stretches of episodes that labels belong to: without dead rows but the first of each death."""
    if "dead" not in dataset.state_columns:
        return tuple(spans)
    dead_F = np.array(dataset.column("dead"))
    later_F = np.roll(dead_F, 1)  # dead in the row before
    for span in spans:
        later_F[span.start] = 1
    return alive_spans(spans, np.minimum(dead_F, later_F))


def _masked(values_F: NDArray[np.float32], keep_F: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(keep_F, values_F, np.nan).astype(np.float32)

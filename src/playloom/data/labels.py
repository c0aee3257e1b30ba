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

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset, TokenDataset
from playloom.data.sampler import alive_spans


def step_labels(dataset: FrameDataset | TokenDataset, states: Sequence[str] = ()) -> dict[str, NDArray[np.float32]]:
    """Return the labels of every row by name, float32 [F] each: reward and terminated if known, and these states.

    RecordingError for a state that the data set does not have.
    """
    known = dataset.state_columns
    labelled_F = np.zeros(len(dataset), bool)
    for span in dataset.spans:
        labelled_F[span.start : span.rows.stop - 1] = True
    if "dead" in known:
        labelled_F &= dataset.column("dead") <= 0
    after = {name: np.roll(dataset.column(name), -1) for name in ("frags", "dead") if name in known}
    labels = {str(name): dataset.column(name) for name in ("reward", "terminated") if name in known}
    if "frags" in known and "reward" not in known:
        labels["reward"] = after["frags"] - dataset.column("frags")
    if "dead" in known and "terminated" not in known:
        labels["terminated"] = (after["dead"] > 0).astype(np.float32)
    labels |= {name: np.roll(dataset.column(name), -1) for name in states}
    return {name: np.where(labelled_F, values_F, np.nan).astype(np.float32) for name, values_F in labels.items()}


def labelled_spans(dataset: FrameDataset | TokenDataset, spans: Sequence[EpisodeSlice]) -> tuple[EpisodeSlice, ...]:
    """Return the stretches of episodes that labels belong to: without dead rows but the first of each death."""
    if "dead" not in dataset.state_columns:
        return tuple(spans)
    dead_F = np.array(dataset.column("dead"))
    later_F = np.roll(dead_F, 1)  # dead in the row before
    for span in spans:
        later_F[span.start] = 1
    return alive_spans(spans, np.minimum(dead_F, later_F))

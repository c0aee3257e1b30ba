"""Selection of good prompts from a dataset, by states and pictures.

>>> chosen = select_prompts(dataset, dataset.of_split("test"), count=4)
>>> save_chosen(dataset, chosen, Path("src/playloom/assets/prompts"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.prompts import save_bundled_prompt
from playloom.data.sampler import alive_spans
from playloom.errors import RecordingError

CONTEXT_STEPS = 10
"""Context steps of a prompt."""
FOLLOWING_STEPS = 50
"""Recorded steps after the context, to compare a rollout with."""
_STRIDE = 5
_WALK = 300.0
"""Map units of walking for the full score: ten steps at full speed."""
_TURN = 180.0
"""Degrees of turning for the full score."""
_JUMP = 120.0
"""Map units per step that no player walks: a respawn or a teleport."""
_LOOKS = 4
"""Pictures checked per stretch."""


@dataclass(frozen=True, kw_only=True)
class PromptCandidate:
    """A stretch of an episode with its score."""

    start: int
    """First row in the dataset."""
    span: EpisodeSlice
    """Its episode."""
    score: float
    """Sum of the parts, each in [0, 1]."""
    parts: dict[str, float]
    """`walks`, `turns`, `fights`, `sees`."""

    @property
    def rows(self) -> slice:
        """Its rows as a slice."""
        return slice(self.start, self.start + CONTEXT_STEPS + FOLLOWING_STEPS)


def select_prompts(store: FrameDataset, spans: Sequence[EpisodeSlice], *, count: int) -> list[PromptCandidate]:
    """Choose the best prompts of these episodes, from as many different episodes, players and arenas as there are.

    A candidate has no death and no teleport. The score adds walking, turning, fights (health lost or a frag) and the
    colours of its poorest picture, which tell a wall from a view.

    Args:
        store: needs the state columns x, y, yaw, health, dead and frags.
        spans: the episodes to choose from, usually those of the split "test".
        count: how many at most.

    Returns:
        At most `count`, best first.

    Raises:
        RecordingError: when no stretch is long enough.
    """
    candidates = [
        moment
        for span in spans
        for part in alive_spans([span], store.column("dead"))
        for moment in _of_stretch(store, span, part)
    ]
    if not candidates:
        steps = CONTEXT_STEPS + FOLLOWING_STEPS
        raise RecordingError(f"no {steps} steps without a death in {len(spans)} episodes; record longer ones")
    # Looking is dear, so only at the best: a wall in front of the nose is their commonest fault.
    candidates.sort(key=lambda moment: -moment.score)
    looked = sorted((_look(store, moment) for moment in candidates[: 40 * count]), key=lambda moment: -moment.score)
    return _different(looked, count)


def save_chosen(store: FrameDataset, moments: Sequence[PromptCandidate], folder: Path) -> list[Path]:
    """Write the prompts into a folder, named by arena and player; return the paths of the `.npz`.

    Raises:
        PlayloomError: when the folder cannot be written to.
    """
    paths: list[Path] = []
    for moment in moments:
        meta = moment.span.meta
        base = "-".join(str(meta[key]) for key in ("variant", "style") if meta.get(key)) or "moment"
        taken = sum(path.stem.rstrip("0123456789-") == base for path in paths)
        name = f"{base}-{taken + 1}" if taken else base
        facts = {key: meta[key] for key in ("game", "variant", "mode", "style", "seed", "split") if key in meta}
        facts |= {"step": moment.start - moment.span.start, "context_steps": CONTEXT_STEPS}
        path = folder / f"{name}.npz"
        paths.append(save_bundled_prompt(path, store.frames_FHWC[moment.rows], store.actions_FA[moment.rows], facts))
    return paths


def colour_bits(frame_HWC: NDArray[np.uint8]) -> float:
    """Return the entropy, in bits (0 to 9), of a picture's pixels at three bits per channel."""
    coarse = (frame_HWC >> 5).astype(np.int64)
    counts = np.bincount((coarse @ np.array([64, 8, 1])).ravel(), minlength=512)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _of_stretch(store: FrameDataset, span: EpisodeSlice, living: EpisodeSlice) -> list[PromptCandidate]:
    steps = CONTEXT_STEPS + FOLLOWING_STEPS
    columns = {name: store.column(name)[living.rows] for name in ("x", "y", "yaw", "health", "frags")}
    walked = np.hypot(np.diff(columns["x"]), np.diff(columns["y"]))
    turned = np.abs((np.diff(columns["yaw"]) + 180) % 360 - 180)
    hurt = np.maximum(-np.diff(columns["health"]), 0) + np.maximum(np.diff(columns["frags"]), 0)
    moments = []
    for first in range(0, living.length - steps + 1, _STRIDE):
        inside = slice(first, first + steps - 1)
        if walked[inside].max() > _JUMP:
            continue
        parts = {
            "walks": min(float(walked[inside].sum()) / _WALK, 1.0),
            "turns": min(float(turned[inside].sum()) / _TURN, 1.0),
            "fights": float(hurt[inside].any()),
        }
        start = living.start + first
        moments.append(PromptCandidate(start=start, span=span, score=sum(parts.values()), parts=parts))
    return moments


def _look(store: FrameDataset, moment: PromptCandidate) -> PromptCandidate:
    """Add twice the score of the poorest picture."""
    rows = np.linspace(moment.rows.start, moment.rows.stop - 1, _LOOKS).astype(int)
    bits = min(colour_bits(store.frames_FHWC[row]) for row in rows)
    sees = min(bits / 5.0, 1.0)
    return PromptCandidate(
        start=moment.start, span=moment.span, score=moment.score + 2 * sees, parts={**moment.parts, "sees": sees}
    )


def _different(ranked: Sequence[PromptCandidate], count: int) -> list[PromptCandidate]:
    """The best, avoiding repetition: first of player and arena, then of episode."""
    chosen: list[PromptCandidate] = []

    def kind(moment: PromptCandidate) -> tuple[str, str]:
        return str(moment.span.meta.get("variant")), str(moment.span.meta.get("style"))

    for avoid in (kind, lambda moment: moment.span.start):
        for moment in ranked:
            if len(chosen) < count and avoid(moment) not in {avoid(other) for other in chosen}:
                chosen.append(moment)
    return sorted(chosen, key=lambda moment: -moment.score)

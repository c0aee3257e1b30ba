"""Selection of good prompts from a dataset, by states and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
_PICTURES = 4
"""Pictures checked per candidate."""


@dataclass(frozen=True, kw_only=True)
class PromptCandidate:
    """A stretch of an episode with its score."""

    start: int
    """First row in the dataset."""
    span: EpisodeSlice
    """Episode of the segment."""
    score: float
    """From 0 to 5: walking, turning, a fight, and twice the view."""

    @property
    def rows(self) -> slice:
        """Rows of the segment."""
        return slice(self.start, self.start + CONTEXT_STEPS + FOLLOWING_STEPS)


def select_prompts(store: FrameDataset, spans: Sequence[EpisodeSlice], *, count: int) -> list[PromptCandidate]:
    """Choose the best prompts of these episodes, from as many different episodes, players and arenas as there are.

    A candidate has no death and no teleport. The score adds walking, turning, fights (health lost or a frag) and the
    colours of its poorest picture, which distinguish a view from a wall.

    `store` needs the state columns x, y, yaw, health, dead and frags. Returns at most `count` candidates, best first.
    """
    dead = store.column("dead")
    alive = [(span, part) for span in spans for part in alive_spans([span], dead)]
    candidates = [found for span, part in alive for found in _candidates(store, span, part)]
    if not candidates:
        steps = CONTEXT_STEPS + FOLLOWING_STEPS
        raise RecordingError(f"no {steps} steps without a death in {len(spans)} episodes; record longer ones")
    candidates.sort(key=lambda found: -found.score)
    # Pictures are expensive to check, so only those of the best; their most frequent fault is a close wall.
    checked = [_with_view(store, found) for found in candidates[: 40 * count]]
    return _different(sorted(checked, key=lambda found: -found.score), count)


def save_chosen(store: FrameDataset, chosen: Sequence[PromptCandidate], folder: Path) -> list[Path]:
    """Write the prompts into a folder, named by arena and player; return the paths of the `.npz`."""
    paths: list[Path] = []
    for prompt in chosen:
        meta = prompt.span.meta
        base = "-".join(str(meta[key]) for key in ("variant", "style") if meta.get(key)) or "prompt"
        taken = sum(path.stem.rstrip("0123456789-") == base for path in paths)
        name = f"{base}-{taken + 1}" if taken else base
        facts = {key: meta[key] for key in ("game", "variant", "mode", "style", "seed", "split") if key in meta}
        facts |= {"step": prompt.start - prompt.span.start, "context_steps": CONTEXT_STEPS}
        path = folder / f"{name}.npz"
        paths.append(save_bundled_prompt(path, store.frames_FHWC[prompt.rows], store.actions_FA[prompt.rows], facts))
    return paths


def colour_bits(frame_HWC: NDArray[np.uint8]) -> float:
    """Return the entropy, in bits (0 to 9), of a picture's pixels at three bits per channel."""
    coarse = (frame_HWC >> 5).astype(np.int64)
    counts = np.bincount((coarse @ np.array([64, 8, 1])).ravel(), minlength=512)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _candidates(store: FrameDataset, span: EpisodeSlice, alive: EpisodeSlice) -> list[PromptCandidate]:
    steps = CONTEXT_STEPS + FOLLOWING_STEPS
    columns = {name: store.column(name)[alive.rows] for name in ("x", "y", "yaw", "health", "frags")}
    walked = np.hypot(np.diff(columns["x"]), np.diff(columns["y"]))
    turned = np.abs((np.diff(columns["yaw"]) + 180) % 360 - 180)
    hurt = np.maximum(-np.diff(columns["health"]), 0) + np.maximum(np.diff(columns["frags"]), 0)
    found = []
    for first in range(0, alive.length - steps + 1, _STRIDE):
        inside = slice(first, first + steps - 1)
        if walked[inside].max() > _JUMP:
            continue
        walks = min(float(walked[inside].sum()) / _WALK, 1.0)
        turns = min(float(turned[inside].sum()) / _TURN, 1.0)
        score = walks + turns + float(hurt[inside].any())
        found.append(PromptCandidate(start=alive.start + first, span=span, score=score))
    return found


def _with_view(store: FrameDataset, found: PromptCandidate) -> PromptCandidate:
    rows = np.linspace(found.rows.start, found.rows.stop - 1, _PICTURES).astype(int)
    bits = min(colour_bits(store.frames_FHWC[row]) for row in rows)
    return replace(found, score=found.score + 2 * min(bits / 5.0, 1.0))


def _different(ranked: Sequence[PromptCandidate], count: int) -> list[PromptCandidate]:
    """The best of different players and arenas, then of different episodes."""
    chosen: list[PromptCandidate] = []

    def kind(prompt: PromptCandidate) -> tuple[str, str]:
        return str(prompt.span.meta.get("variant")), str(prompt.span.meta.get("style"))

    for avoid in (kind, lambda prompt: prompt.span.start):
        for prompt in ranked:
            if len(chosen) < count and avoid(prompt) not in {avoid(other) for other in chosen}:
                chosen.append(prompt)
    return sorted(chosen, key=lambda prompt: -prompt.score)

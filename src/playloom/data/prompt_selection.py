"""Selection of good prompts from a dataset, by states, pictures and input."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.prompts import save_prompt_file
from playloom.data.sampler import alive_spans
from playloom.errors import RecordingError

CONTEXT_STEPS = 10
"""Context steps of a prompt."""
FOLLOWING_STEPS = 50
"""Recorded steps after the context, to compare a rollout with."""
_STRIDE = 5
_WALK = 300.0  # map units for the full score: ten steps at full speed
_TURN = 180.0  # degrees for the full score
_JUMP = 120.0  # map units per step that no player walks: a respawn or a teleport
_PICTURES = 4  # checked per candidate
_STATES = ("x", "y", "yaw", "health", "dead", "frags")
_CHECKED = 200  # candidates whose pictures are read, at most, where there are no states
_FAR = 32.0  # mean difference of two coarse pictures, in levels of 255, for the full score of variety


@dataclass(frozen=True, kw_only=True)
class PromptCandidate(EpisodeSlice):
    """A stretch of an episode with its score."""

    span: EpisodeSlice
    """Episode of the stretch."""
    score: float
    """From 0 to 5: walking, turning, a fight, and twice the view; without states from 0 to 4: motion, input, and twice
    the view."""
    context: int = CONTEXT_STEPS
    """Number of rows before those that follow."""


def select_prompts(
    dataset: FrameDataset, spans: Sequence[EpisodeSlice], *, count: int, context: int = CONTEXT_STEPS
) -> list[PromptCandidate]:
    """Choose the best prompts of these episodes, with `context` steps before those that follow.

    With the state columns x, y, yaw, health, dead and frags: a candidate has no death and no teleport. The score adds
    walking, turning, fights (health lost or a frag) and the colours of its poorest picture, which distinguish a view
    from a wall. The best of different players, arenas and episodes are chosen.

    Without: the score adds the motion between pictures, the share of steps with input, and the same colours. Those with
    at least half of the best score are chosen for different pictures. Fewer steps follow where episodes are short.

    Returns at most `count` candidates, best first.
    """
    alive = [(span, part) for span in spans for part in alive_spans(dataset, [span])]
    if not set(_STATES) <= set(dataset.state_columns):
        return _by_pictures(dataset, alive, count, context)
    candidates = [found for span, part in alive for found in _candidates(dataset, span, part, context)]
    if not candidates:
        steps = context + FOLLOWING_STEPS
        raise RecordingError(f"no {steps} steps without a death in {len(spans)} episodes; record longer ones")
    candidates.sort(key=lambda found: -found.score)
    # Pictures are expensive to check, so only those of the best; their most frequent fault is a close wall.
    checked = [_with_view(dataset, found) for found in candidates[: 40 * count]]
    return _different(sorted(checked, key=lambda found: -found.score), count)


def save_chosen(
    dataset: FrameDataset, chosen: Sequence[PromptCandidate], folder: Path, *, name: str = "prompt"
) -> list[Path]:
    """Write the prompts into a folder, named by arena and player, else by `name`; return the paths of the `.npz`."""
    paths: list[Path] = []
    for prompt in chosen:
        meta = prompt.meta
        words = (meta.get("variant") or re.sub(r"\W+", "_", name), meta.get("style"))
        base = re.sub(r"[^\w-]+", "_", "-".join(str(word) for word in words if word))  # of `module:function` too
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        taken = {path.stem for path in paths}
        file = next(stem for stem in itertools.chain([base], numbered) if stem not in taken)
        facts = {key: meta[key] for key in ("game", "variant", "mode", "style", "seed", "split") if key in meta}
        facts |= {"step": prompt.start - prompt.span.start, "context_steps": prompt.context}
        path = folder / f"{file}.npz"
        paths.append(save_prompt_file(path, dataset.frames_FHWC[prompt.rows], dataset.actions_FA[prompt.rows], facts))
    return paths


def colour_bits(frame_HWC: NDArray[np.uint8]) -> float:
    """Return the entropy, in bits (0 to 9), of a picture's pixels at three bits per channel."""
    coarse = (frame_HWC >> 5).astype(np.int64)
    counts = np.bincount((coarse @ np.array([64, 8, 1])).ravel(), minlength=512)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _candidates(dataset: FrameDataset, span: EpisodeSlice, alive: EpisodeSlice, context: int) -> list[PromptCandidate]:
    steps, found = context + FOLLOWING_STEPS, []
    x, y, yaw, health, frags = (np.diff(dataset.column(n)[alive.rows]) for n in ("x", "y", "yaw", "health", "frags"))
    walked, turned, fought = np.hypot(x, y), np.abs((yaw + 180) % 360 - 180), (health < 0) | (frags > 0)
    for first in range(0, alive.length - steps + 1, _STRIDE):
        inside = slice(first, first + steps - 1)
        if walked[inside].max() <= _JUMP:
            walks, turns = (float(x[inside].sum()) / full for x, full in ((walked, _WALK), (turned, _TURN)))
            score = min(walks, 1.0) + min(turns, 1.0) + float(fought[inside].any())
            start = alive.start + first
            one = PromptCandidate(start=start, length=steps, meta=span.meta, span=span, score=score, context=context)
            found.append(one)
    return found


def _by_pictures(
    dataset: FrameDataset, parts: Sequence[tuple[EpisodeSlice, EpisodeSlice]], count: int, context: int
) -> list[PromptCandidate]:
    lengths = sorted(part.length for _, part in parts if part.length > context)
    if not lengths:
        raise RecordingError(f"no {context + 1} steps in a row in {len(parts)} episodes; record longer ones")
    steps = min(context + FOLLOWING_STEPS, lengths[-count:][0])
    places = [(span, row) for span, part in parts for row in range(part.start, part.rows.stop - steps + 1, _STRIDE)]
    places = [places[index] for index in np.unique(np.linspace(0, len(places) - 1, _CHECKED).astype(int))]
    motion, coarse, candidates = np.zeros(len(places)), [], []
    for index, (span, start) in enumerate(places):
        rows = np.linspace(start, start + steps - 2, _PICTURES).astype(int)
        pairs = dataset.frames_FHWC[np.stack([rows, rows + 1], axis=1).ravel()][:, ::4, ::4].astype(np.float32)
        motion[index] = np.median(np.abs(pairs[1::2] - pairs[::2]).mean(axis=(1, 2, 3)))
        coarse.append(pairs[0, ::4, ::4])
        score = float((dataset.actions_FA[start : start + steps] != REST_VALUES).any(axis=1).mean())
        found = PromptCandidate(start=start, length=steps, meta=span.meta, span=span, score=score, context=context)
        candidates.append(_with_view(dataset, found))
    scores = np.array([found.score for found in candidates]) + motion / max(motion.max(), 1e-9)
    candidates = [replace(found, score=float(score)) for found, score in zip(candidates, scores, strict=True)]
    pictures, variety, chosen = np.stack(coarse), np.ones(len(places)), list[int]()
    while len(chosen) < count:
        starts = [candidates[index].start for index in chosen]
        apart = [all(abs(found.start - start) >= steps for start in starts) for found in candidates]
        fits = apart & (scores >= scores.max() / 2)
        if not fits.any():
            break
        chosen.append(int(np.argmax(np.where(fits, scores + variety, -1.0))))
        distance = np.abs(pictures - pictures[chosen[-1]]).mean(axis=(1, 2, 3)) / _FAR
        variety = np.minimum(variety, distance)
    return [candidates[index] for index in chosen]


def _with_view(dataset: FrameDataset, found: PromptCandidate) -> PromptCandidate:
    rows = np.linspace(found.rows.start, found.rows.stop - 1, _PICTURES).astype(int)
    bits = min(colour_bits(dataset.frames_FHWC[row]) for row in rows)
    return replace(found, score=found.score + 2 * min(bits / 5.0, 1.0))


def _different(ranked: Sequence[PromptCandidate], count: int) -> list[PromptCandidate]:
    chosen: list[PromptCandidate] = []
    for same in (lambda one: (one.meta.get("variant"), one.meta.get("style")), lambda one: one.span.start):
        for prompt in ranked:
            if len(chosen) < count and same(prompt) not in map(same, chosen):
                chosen.append(prompt)
    return sorted(chosen, key=lambda prompt: -prompt.score)

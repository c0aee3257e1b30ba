"""Does an edit stay? An object is pasted into the last frames of a prompt, and looked for in the dream that follows.

An automatic stand-in for the published protocol ("World and Human Action Models towards gameplay ideation", Nature
2025: objects pasted into 1, 5 or 10 frames, judged by people), not the same figure. From each moment two dreams with
one seed and nothing pressed, with and without the object. Owns the dreams and the rows; `persistency_template` finds
an object, `persistency_objects` draws it. M moments, S steps, O objects, T frames of a prompt, H W C picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.actions import REST_VALUES
from playloom.checkpoint import Model
from playloom.data.stores import FrameStore
from playloom.engine import Dreamer, Prompt
from playloom.evaluation.dreams import dream_all, reconstruct, with_codes
from playloom.evaluation.moments import Moment
from playloom.evaluation.persistency_objects import OBJECTS, Box, paste, place
from playloom.evaluation.persistency_template import Template
from playloom.evaluation.report import Row
from playloom.evaluation.settings import EvaluationSettings

EDITS = (1, 5, 10)
"""How many of the prompt's last frames hold the object; all of them where a prompt is shorter."""
THERE = 0.5
"""The share of an object from which it counts as there."""
CALM = 8
"""Moments of which one is taken: that whose pictures move least, since an object stands still in the picture."""

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Persistency:
    """What is left of the objects at every moment (rows) and step (columns; column 0 is step 1)."""

    there_MS: Mapping[int, NDArray[np.float64]]
    """Share of the object in the dream, by number of edited frames."""
    other_MS: Mapping[int, NDArray[np.float64]]
    """The same dreams, searched for another object at the same place."""
    chance_MS: NDArray[np.float64]
    """Share of the object in a dream without it, of another seed."""
    kept_MO: NDArray[np.float64]
    """Share of each object of `OBJECTS` that the tokenizer keeps in the last frame of every moment tried [M, O]."""
    prompt_frames: int
    """T."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """One moment with its object."""

    plain: Prompt
    """The prompt as it was, with codes."""
    edited: Prompt
    """The same with the object in every frame, with codes."""
    own: Template
    """The object, as the tokenizer shows it."""
    other: Template
    """Another object at the same place, as the tokenizer shows it."""

    def prompt(self, frames: int) -> Prompt:
        """The prompt with the object in its last `frames` frames only."""
        first = len(self.plain.frames_THWC) - frames
        codes = (self.plain.codes_TN, self.edited.codes_TN)
        assert codes[0] is not None and codes[1] is not None
        return dataclasses.replace(
            self.plain,
            frames_THWC=np.concatenate([self.plain.frames_THWC[:first], self.edited.frames_THWC[first:]]),
            codes_TN=np.concatenate([codes[0][:first], codes[1][first:]]),
        )


def calm_moments(store: FrameStore, candidates: Sequence[Moment], count: int) -> list[Moment]:
    """From each of `count` equal groups of neighbouring candidates the one whose seen pictures change least."""
    if len(candidates) <= count:
        return list(candidates)
    moved = [_movement(moment.prompt(store).frames_THWC) for moment in candidates]
    groups = np.array_split(np.arange(len(candidates)), count)
    return [candidates[min(group.tolist(), key=moved.__getitem__)] for group in groups]


def make_edits(model: Model, prompts: Sequence[Prompt], least: float) -> tuple[list[Edit], NDArray[np.float64]]:
    """Put an object into every prompt; objects take turns, and so do the left and the right of the picture.

    An object of which the tokenizer itself keeps less than the share `least` at its place lets the next one go first:
    no dream can hold what codes cannot say. A prompt without any has no edit.

    Returns:
        The edits, and the share that the tokenizer keeps of each object in each prompt [prompts, objects].
    """
    names, edits, kept = list(OBJECTS), [], np.empty((len(prompts), len(OBJECTS)))
    for index, plain in enumerate(with_codes(model, prompts)):
        height, width = plain.frames_THWC.shape[1:3]
        box = place(height, width, side=index)
        templates, kept[index] = _templates(model, plain.frames_THWC[-1], box)
        turn = [(index + later) % len(names) for later in range(len(names))]
        able = [number for number in turn if kept[index, number] >= least]
        if able:
            pasted = dataclasses.replace(
                plain, frames_THWC=paste(plain.frames_THWC, names[able[0]], box), codes_TN=None
            )
            (edited,) = with_codes(model, [pasted])
            # Of an object that is hardly kept little colour is left, and any change is many times that.
            other = able[1] if len(able) > 1 else (able[0] + 1) % len(names)
            edits.append(Edit(plain=plain, edited=edited, own=templates[able[0]], other=templates[other]))
    return edits, kept


def measure_persistency(
    model: Model,
    store: FrameStore,
    moments: Sequence[Moment],
    settings: EvaluationSettings,
    tick: Callable[[str], None] = lambda _: None,
) -> Persistency:
    """Paste an object at every moment (see `make_edits`), dream on at rest, and look for it.

    Args:
        model: what is measured.
        store: where the moments lie.
        moments: where to begin.
        settings: steps, order, sampling, batch and seed; dream i has `seed + i`, with the object and without.
        tick: told after every set of dreams.
    """
    s, dreamer = settings, Dreamer(model, lag=settings.lag)
    edits, kept = make_edits(model, [moment.prompt(store) for moment in moments], s.persistency_kept)
    rest = [np.tile(REST_VALUES, (s.persistency_steps, 1))] * len(edits)

    def dreams(prompts: list[Prompt], seed: int = s.seed) -> Pictures:
        if not prompts:
            return np.zeros((0, s.persistency_steps, 1, 1, 3), np.uint8)
        frames = dream_all(dreamer, prompts, rest, sampling=s.sampling, seed=seed, batch=s.batch)
        tick("persistency")
        return frames

    plain = [edit.plain for edit in edits]
    without, another = dreams(plain), dreams(plain, s.seed + len(plain))
    own, other = [edit.own for edit in edits], [edit.other for edit in edits]
    there, instead = {}, {}
    for count in sorted({min(count, moments[0].past) for count in EDITS}):
        frames = dreams([edit.prompt(count) for edit in edits])
        there[count], instead[count] = (_shares(some, frames, without) for some in (own, other))
    return Persistency(
        there_MS=there,
        other_MS=instead,
        chance_MS=_shares(own, another, without),
        kept_MO=kept,
        prompt_frames=moments[0].past,
    )


def persistency_rows(result: Persistency) -> list[Row]:
    """The table's lines: where an object is there at the last step, how much of it, and what the tokenizer keeps."""
    steps, chance_M = result.chance_MS.shape[1], result.chance_MS[:, -1]
    rows = []
    for count, there_MS in result.there_MS.items():
        where = f"in {count} of {result.prompt_frames} frames"
        left, other_M = there_MS[:, -1], result.other_MS[count][:, -1]
        rows.append(_row(f"object there after {steps} steps, {where}", *map(_there, (left, chance_M, other_M))))
        rows.append(_row(f"share of it left after {steps} steps, {where}", left, chance_M, other_M))
    rows.append(_row("share of an object the tokenizer keeps", result.kept_MO.mean(1)))
    return rows


def persistency_curves(result: Persistency) -> dict[str, object]:
    """Mean shares by step with their standard errors, for the JSON."""
    return {
        "steps": list(range(1, result.chance_MS.shape[1] + 1)),
        "prompt_frames": result.prompt_frames,
        "edited_frames": {
            str(count): {
                **_means(there_MS),
                "another_object": _means(result.other_MS[count])["mean"],
                "moments_last_step": there_MS[:, -1],
            }
            for count, there_MS in result.there_MS.items()
        },
        "another_seed": _means(result.chance_MS),
        "kept_by_the_tokenizer": dict(zip(OBJECTS, result.kept_MO.T, strict=True)),
    }


def _templates(model: Model, frame_HWC: Pictures, box: Box) -> tuple[list[Template], list[float]]:
    """Every object in one picture as the tokenizer shows it, and how much of it that is."""
    pasted = [paste(frame_HWC[None], name, box)[0] for name in OBJECTS]
    plain, *shown = reconstruct(model, np.stack([frame_HWC, *pasted]))
    drawn = [Template.between(name, box, frame, frame_HWC) for name, frame in zip(OBJECTS, pasted, strict=True)]
    kept = [float(t.share(frame[None], plain[None])[0]) for t, frame in zip(drawn, shown, strict=True)]
    return [Template.between(name, box, frame, plain) for name, frame in zip(OBJECTS, shown, strict=True)], kept


def _movement(frames_THWC: Pictures) -> float:
    """Mean change of a pixel from one picture to the next, grey levels; 0 for one picture."""
    changes = np.abs(np.diff(frames_THWC.astype(np.int16), axis=0))
    return float(changes.mean()) if len(changes) else 0.0


def _shares(templates: Sequence[Template], frames_MSHWC: Pictures, without_MSHWC: Pictures) -> NDArray[np.float64]:
    shares = [t.share(*pair) for t, *pair in zip(templates, frames_MSHWC, without_MSHWC, strict=True)]
    return np.stack(shares) if shares else np.zeros(frames_MSHWC.shape[:2])


def _there(share_M: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where enough of the object is left, else 0."""
    return (share_M >= THERE).astype(np.float64)


def _row(
    name: str,
    value_M: NDArray[np.float64],
    chance_M: NDArray[np.float64] | None = None,
    other_M: NDArray[np.float64] | None = None,
) -> Row:
    beside = {"another seed without it": chance_M, "another object": other_M}
    means = {what: _mean(values_M) for what, values_M in beside.items() if values_M is not None}
    return Row(
        part="persistency",
        name=name,
        value=_mean(value_M),
        unit="%",
        baselines={"SE": float(_error(value_M)), **means},
        count=len(value_M),
    )


def _mean(values_M: NDArray[np.float64]) -> float:
    return float(values_M.mean()) if len(values_M) else np.nan


def _means(share_MS: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    nothing = np.full(share_MS.shape[1], np.nan)
    return {"mean": share_MS.mean(0) if len(share_MS) else nothing, "standard_error": _error(share_MS)}


def _error(values_M: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of the mean over the first dimension; NaN for fewer than two."""
    if len(values_M) < 2:
        return np.full(values_M.shape[1:], np.nan)
    return np.asarray(values_M.std(0, ddof=1) / np.sqrt(len(values_M)))

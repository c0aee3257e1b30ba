"""Persistence of pasted objects: an object is pasted into the last frames of a prompt and searched for in the rollout.

An automatic stand-in for the published protocol ("World and Human Action Models towards gameplay ideation", Nature
2025: objects pasted into 1, 5 or 10 frames, rated by people), not the same figure. Each segment has two rollouts with
one seed and nothing pressed, with and without the object. Only colour counts, not brightness.

M segments, S steps, O objects, T frames of a prompt, H W C picture, D side of the object's box, P pixels of the object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.evaluation.report import Row, standard_error
from playloom.evaluation.segments import EvaluationContext, Segment, reconstruct, segment_episodes, with_codes
from playloom.inference.session import Prompt
from playloom.models.checkpoint import WorldModel

HEIGHT = 0.3  # height of an object, over picture height: 54 pixels of 180
GROUND = 0.84  # lower end of the object's box, over picture height
EDITS = (1, 5, 10)  # numbers of last prompt frames that hold the object; at most the whole prompt
PRESENT = 0.5  # least share of an object that counts as present
CANDIDATES = 8  # candidates per chosen segment: the one whose pictures move least, since a pasted object stands still
_BASELINES = ("another seed without it", "another object")
_SIDES = (0.2, 0.8)  # middle of the box left and right of the player's body, over picture width
_LIGHT = np.array([-0.45, -0.65, 0.61])  # unit vector towards the light: left, above, in front
_FINE = 4  # samples along each side of a pixel, for soft edges

Grid = NDArray[np.float64]
Pictures = NDArray[np.uint8]


def evaluate(run: EvaluationContext) -> None:
    """Measure the persistence of pasted objects."""
    s = run.settings
    if not s.persistency_segments:
        return
    candidates = run.segments(CANDIDATES * s.persistency_segments, 1)
    segments = static_segments(run.dataset, candidates, s.persistency_segments)
    result = measure_persistency(run, segments)
    run.rows += persistency_rows(result)
    run.curves["persistency"] = persistency_curves(result)
    run.counts["persistency_segments"] = len(segments)


def _ball(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    inside = x**2 + y**2 <= 1
    front = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    lit = np.clip(x * _LIGHT[0] + y * _LIGHT[1] + front * _LIGHT[2], 0, 1)
    return _shade((215, 25, 35), 0.35 + 0.65 * lit) + 120 * (lit**12)[..., None] * [0.3, 1, 1], inside


def _crate(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    planks = 0.62 + 0.1 * (np.floor((x + 1) * 3) % 2)
    bar = (np.abs(x + y) < 0.25) | (np.maximum(np.abs(x), np.abs(y)) > 0.78)
    light = np.where(y < -0.78, 1.15, np.where(bar, 0.95, planks))
    return _shade((30, 70, 205), light), np.ones_like(x, dtype=bool)


def _cone(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    half = 0.08 + 0.84 * (y + 1) / 2
    inside = (np.abs(x) <= half) | (y > 0.82)
    lit = np.where(y > 0.82, 0.75, 0.95 - 0.35 * np.clip(x / half, -1, 1))
    return _shade((250, 200, 0), lit), inside


def _shade(colour: tuple[int, int, int], light: Grid) -> Grid:
    return np.asarray(np.clip(np.array(colour, np.float64) * light[..., None], 0, 255))


OBJECTS = {"red ball": _ball, "blue crate": _crate, "yellow cone": _cone}
"""Objects by name: a function from coordinates in [-1, 1] (right, down) to colour and mask."""


class Box(NamedTuple):
    """A square of a picture."""

    rows: slice
    columns: slice

    @property
    def side(self) -> int:
        """Length of a side in pixels."""
        return int(self.rows.stop - self.rows.start)


def object_box(height: int, width: int, side: int) -> Box:
    """Return the box of an object, left (`side` even) or right (odd) of the middle of a picture."""
    size = min(max(2, round(HEIGHT * height)), width)
    bottom = max(size, round(GROUND * height))
    left = min(max(0, round(_SIDES[side % 2] * width - size / 2)), width - size)
    return Box(slice(bottom - size, bottom), slice(left, left + size))


def draw_object(name: str, size: int) -> tuple[Grid, Grid]:
    """Draw an object of `OBJECTS`: RGB in [0, 255], float64 [D, D, 3], and opacity in [0, 1], float64 [D, D]."""
    fine = size * _FINE
    middle = (np.arange(fine) + 0.5) / fine * 2 - 1
    y, x = np.meshgrid(middle, middle, indexing="ij")
    colour, inside = OBJECTS[name](x, y)
    blocks = (size, _FINE, size, _FINE)
    opacity_DD = inside.reshape(blocks).mean((1, 3))
    summed = np.where(inside[..., None], colour, 0.0).reshape(*blocks, 3).mean((1, 3))
    return summed / np.maximum(opacity_DD, 1e-9)[..., None], opacity_DD


def paste(frames_THWC: Pictures, name: str, box: Box) -> Pictures:
    """Return the pictures, uint8 [T, H, W, 3], with the object in the box of each."""
    colour_DDC, opacity_DD = draw_object(name, box.side)
    opacity = opacity_DD[..., None]
    edited = np.array(frames_THWC)
    behind = edited[:, box.rows, box.columns].astype(np.float64)
    edited[:, box.rows, box.columns] = np.rint(behind * (1 - opacity) + colour_DDC * opacity).astype(np.uint8)
    return edited


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """Change of colour that an object makes in a picture."""

    box: Box
    inside_DD: NDArray[np.bool_]  # mask of the object's pixels in the box
    change_PC: NDArray[np.float64]  # change of colour at those P pixels, grey levels

    @classmethod
    def between(cls, name: str, box: Box, with_HWC: Pictures, without_HWC: Pictures) -> Template:
        """Build from one picture with the named object in the box, and the same picture without it."""
        inside = draw_object(name, box.side)[1] > 0.5
        return cls(box=box, inside_DD=inside, change_PC=_change(box, inside, with_HWC[None], without_HWC[None])[0])

    def share(self, after_SHWC: Pictures, before_SHWC: Pictures) -> NDArray[np.float64]:
        """Return the share of the object in pictures that may hold it, float64 [S]; `before_SHWC` are those without it.

        The projection of the change onto the object's own: 1 for all of it, 0 for none, less for the opposite colour;
        NaN when the object itself changes nothing.
        """
        found_SPC = _change(self.box, self.inside_DD, after_SHWC, before_SHWC)
        energy = (self.change_PC**2).sum() or np.nan
        return np.asarray((found_SPC * self.change_PC).sum((-2, -1)) / energy)


def _change(box: Box, inside_DD: NDArray[np.bool_], after_SHWC: Pictures, before_SHWC: Pictures) -> NDArray[np.float64]:
    """Change of colour at the object's pixels [S, P, 3]: each channel less the mean of the three."""
    where = (slice(None), box.rows, box.columns)
    change_SPC = (after_SHWC[where].astype(np.float64) - before_SHWC[where])[:, inside_DD]
    return np.asarray(change_SPC - change_SPC.mean(-1, keepdims=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """A prompt and its version with an object in every frame, both with codes."""

    plain: Prompt
    edited: Prompt
    own: Template  # the object, after the tokenizer
    other: Template  # another object at the same place, after the tokenizer

    def prompt(self, frames: int) -> Prompt:
        """Return the prompt with the object in its last `frames` frames only."""
        frames_THWC, codes_TN = np.array(self.plain.frames_THWC), np.array(self.plain.codes_TN)
        frames_THWC[-frames:] = self.edited.frames_THWC[-frames:]
        codes_TN[-frames:] = np.array(self.edited.codes_TN)[-frames:]
        return dataclasses.replace(self.plain, frames_THWC=frames_THWC, codes_TN=codes_TN)


def make_edits(model: WorldModel, prompts: Sequence[Prompt], least: float) -> tuple[list[Edit], NDArray[np.float64]]:
    """Paste an object into every prompt; objects and sides alternate.

    An object of which the tokenizer keeps less than the share `least` is skipped for the next one, because no rollout
    can show it. A prompt without any has no edit. Also returns the share that the tokenizer keeps of each object in
    each prompt [prompts, objects].
    """
    names, edits, kept = list(OBJECTS), [], np.empty((len(prompts), len(OBJECTS)))
    for index, plain in enumerate(with_codes(model, prompts)):
        height, width = plain.frames_THWC.shape[1:3]
        box = object_box(height, width, side=index)
        frame_HWC = plain.frames_THWC[-1]
        pasted = [paste(frame_HWC[None], name, box)[0] for name in names]
        without, *decoded = reconstruct(model, np.stack([frame_HWC, *pasted]))
        drawn = [Template.between(name, box, one, frame_HWC) for name, one in zip(names, pasted, strict=True)]
        kept[index] = [one.share(frame[None], without[None])[0] for one, frame in zip(drawn, decoded, strict=True)]
        templates = [Template.between(name, box, frame, without) for name, frame in zip(names, decoded, strict=True)]
        turn = [(index + later) % len(names) for later in range(len(names))]
        able = [number for number in turn if kept[index, number] >= least]
        if able:
            frames_THWC = paste(plain.frames_THWC, names[able[0]], box)
            (edited,) = with_codes(model, [dataclasses.replace(plain, frames_THWC=frames_THWC, codes_TN=None)])
            # Of an object that is hardly kept little colour is left, and any change is many times that.
            other = able[1] if len(able) > 1 else (able[0] + 1) % len(names)
            edits.append(Edit(plain=plain, edited=edited, own=templates[able[0]], other=templates[other]))
    return edits, kept


def static_segments(dataset: FrameDataset, candidates: Sequence[Segment], count: int) -> list[Segment]:
    """From each of `count` equal groups of neighbouring candidates choose the one whose pictures change least."""
    if len(candidates) <= count:
        return list(candidates)
    steps = (np.abs(np.diff(one.prompt(dataset).frames_THWC.astype(np.int16), axis=0)) for one in candidates)
    changes = [float(step.mean()) if step.size else 0.0 for step in steps]
    groups = np.array_split(np.arange(len(candidates)), count)
    return [candidates[min(group.tolist(), key=changes.__getitem__)] for group in groups]


@dataclass(frozen=True, kw_only=True, eq=False)
class Persistency:
    """Share of the objects left at every segment (rows) and step (columns; column 0 is step 1)."""

    present_MS: Mapping[int, NDArray[np.float64]]  # share of the object in the rollout, by number of edited frames
    other_MS: Mapping[int, NDArray[np.float64]]  # share of another object at the same place, in the same rollouts
    chance_MS: NDArray[np.float64]  # share of the object in a rollout without it, with another seed
    kept_MO: NDArray[np.float64]  # share of each object of `OBJECTS` that the tokenizer keeps in the last prompt frame
    prompt_frames: int
    kept_episodes_M: NDArray[np.int64]  # number of each segment's episode
    episodes_M: NDArray[np.int64]  # the same for the segments that have an object


def measure_persistency(run: EvaluationContext, segments: Sequence[Segment]) -> Persistency:
    """Paste an object at every segment (see `make_edits`), generate at rest, and search for it."""
    s, past, episodes_M = run.settings, segments[0].past, segment_episodes(run.dataset, segments)
    prompts = [segment.prompt(run.dataset) for segment in segments]
    edits, kept = make_edits(run.model, prompts, s.persistency_kept)
    actions = [np.tile(REST_VALUES, (s.persistency_steps, 1))] * len(edits)

    def rollouts(prompts: list[Prompt], seed: int = s.seed) -> Sequence[Pictures]:
        frames = [*run.changed(seed=seed).rollout_frames(prompts, actions)] if prompts else []
        run.progress("persistency")
        return frames

    def shares(templates: list[Template], frames: Sequence[Pictures]) -> Grid:
        found = [template.share(*pair) for template, *pair in zip(templates, frames, without, strict=True)]
        return np.array(found).reshape(-1, s.persistency_steps)

    plain, own, other = ([getattr(edit, name) for edit in edits] for name in ("plain", "own", "other"))
    without, another = rollouts(plain), rollouts(plain, s.seed + len(plain))
    frames = {n: rollouts([edit.prompt(n) for edit in edits]) for n in sorted({min(n, past) for n in EDITS})}
    return Persistency(
        present_MS={n: shares(own, pictures) for n, pictures in frames.items()},
        other_MS={n: shares(other, pictures) for n, pictures in frames.items()},
        chance_MS=shares(own, another),
        kept_MO=kept,
        prompt_frames=past,
        kept_episodes_M=episodes_M,
        episodes_M=episodes_M[(kept >= s.persistency_kept).any(1)],
    )


def persistency_rows(result: Persistency) -> list[Row]:
    """Return the report rows: presence at the last step, share left, and share kept by the tokenizer."""
    steps, chance_M = result.chance_MS.shape[1], result.chance_MS[:, -1]
    row, rows = partial(Row.of, "persistency", episodes_M=result.episodes_M), []
    for count, present_MS in result.present_MS.items():
        where = f"in {count} of {result.prompt_frames} frames"
        shares_M = (present_MS[:, -1], chance_M, result.other_MS[count][:, -1])
        there_M = [(share_M >= PRESENT).astype(np.float64) for share_M in shares_M]
        for name, values in (("object there", there_M), ("share of it left", shares_M)):
            beside = {kind: float(_mean(x_M)) for kind, x_M in zip(_BASELINES, values[1:], strict=True)}
            rows.append(row(f"{name} after {steps} steps, {where}", values[0], "%", beside))
    kept_M, episodes_M = result.kept_MO.mean(1), result.kept_episodes_M
    rows.append(row("share of an object the tokenizer keeps", kept_M, "%", episodes_M=episodes_M))
    return rows


def persistency_curves(result: Persistency) -> dict[str, object]:
    """Return mean shares by step with their standard errors, JSON values."""
    return {
        "steps": list(range(1, result.chance_MS.shape[1] + 1)),
        "prompt_frames": result.prompt_frames,
        "edited_frames": {
            str(count): {
                **_by_step(present_MS, result.episodes_M),
                "another_object": _mean(result.other_MS[count]),
                "segments_last_step": present_MS[:, -1],
            }
            for count, present_MS in result.present_MS.items()
        },
        "another_seed": _by_step(result.chance_MS, result.episodes_M),
        "kept_by_the_tokenizer": dict(zip(OBJECTS, result.kept_MO.T, strict=True)),
    }


def _by_step(shares_MS: Grid, episodes_M: NDArray[np.int64]) -> dict[str, object]:
    errors = [standard_error(shares_M, episodes_M) for shares_M in shares_MS.T]
    return {"mean": _mean(shares_MS), "standard_error": errors}


def _mean(values_M: Grid) -> Grid:
    return np.asarray(values_M.mean(0)) if len(values_M) else np.full(values_M.shape[1:], np.nan)

"""Does an edit stay? An object is pasted into the last frames of a prompt, and looked for in the dream that follows.

An automatic stand-in for the published protocol ("World and Human Action Models towards gameplay ideation", Nature
2025: objects pasted into 1, 5 or 10 frames, judged by people), not the same figure. From each moment two dreams with
one seed and nothing pressed, with and without the object. Owns the dreams and the rows; `persistency_template` finds
an object, `persistency_objects` draws it. M moments, S steps, O objects, T frames of a prompt, H W C picture.

Three objects to paste into pictures: a shaded ball, a crate, a cone. Drawn here from formulas, in any size.

Owns how they look and where they stand. Knows nothing of models or of what is measured. H W of the whole picture, D of
the object's square box.

How much of an object is in a picture: the change of colour it makes, and the share of it found in another change.

Pure. Only colour counts, not brightness: a dream that turns an object into a grey figure has lost it. H W C picture,
D the side of the object's box, P pixels of the object, S pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row
from playloom.evaluation.segments import Moment, dream_all, reconstruct, with_codes
from playloom.inference.engine import Engine
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel

HEIGHT = 0.3
"""An object's height, as a share of the picture's: 54 pixels of 180."""
GROUND = 0.84
"""Where it stands: the lower end of its box, as a share of the picture's height."""
_SIDES = (0.2, 0.8)
"""Left and right of the player's body: the middle of the box, as a share of the picture's width."""
_LIGHT = np.array([-0.45, -0.65, 0.61])
"""Where light comes from: left, above, in front. Length 1."""
_FINE = 4
"""Points drawn along each side of a pixel, for soft edges."""

Grid = NDArray[np.float64]


class Box(NamedTuple):
    """A part of a picture."""

    rows: slice
    """Its rows."""
    columns: slice
    """Its columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """One object in one size."""

    colour_DDC: NDArray[np.float64]
    """RGB in [0, 255], float64 [D, D, 3]."""
    cover_DD: NDArray[np.float64]
    """How much of the picture behind it hides, float64 [D, D] in [0, 1]."""


def draw(name: str, size: int) -> Drawn:
    """The object of `OBJECTS` with this name in a box of `size` x `size` pixels."""
    fine = size * _FINE
    middle = (np.arange(fine) + 0.5) / fine * 2 - 1
    y, x = np.meshgrid(middle, middle, indexing="ij")
    colour, cover = OBJECTS[name](x, y)
    colour = np.where(cover[..., None], colour, 0.0)
    blocks = (size, _FINE, size, _FINE)
    share = cover.reshape(blocks).mean((1, 3))
    summed = colour.reshape(*blocks, 3).mean((1, 3))
    return Drawn(colour_DDC=summed / np.maximum(share, 1e-9)[..., None], cover_DD=share)


def place(height: int, width: int, side: int) -> Box:
    """The box an object stands in, left (`side` even) or right (odd) of the middle of a picture."""
    size = min(max(2, round(HEIGHT * height)), width)
    bottom = max(size, round(GROUND * height))
    left = round(_SIDES[side % 2] * width - size / 2)
    left = min(max(0, left), width - size)
    return Box(slice(bottom - size, bottom), slice(left, left + size))


def paste(frames_THWC: NDArray[np.uint8], name: str, box: Box) -> NDArray[np.uint8]:
    """The same pictures, uint8 [T, H, W, 3], with the object in the box of each."""
    drawn = draw(name, box.rows.stop - box.rows.start)
    edited = np.array(frames_THWC)
    behind = edited[:, box.rows, box.columns].astype(np.float64)
    cover = drawn.cover_DD[..., None]
    edited[:, box.rows, box.columns] = np.rint(behind * (1 - cover) + drawn.colour_DDC * cover).astype(np.uint8)
    return edited


def _ball(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    """A red ball with a soft highlight."""
    inside = x**2 + y**2 <= 1
    front = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    lit = np.clip(x * _LIGHT[0] + y * _LIGHT[1] + front * _LIGHT[2], 0, 1)
    return _shade((215, 25, 35), 0.35 + 0.65 * lit) + 120 * (lit**12)[..., None] * [0.3, 1, 1], inside


def _crate(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    """A blue crate: a frame, a crossbar, planks, and a lighter lid."""
    planks = 0.62 + 0.1 * (np.floor((x + 1) * 3) % 2)
    bar = (np.abs(x + y) < 0.25) | (np.maximum(np.abs(x), np.abs(y)) > 0.78)
    light = np.where(y < -0.78, 1.15, np.where(bar, 0.95, planks))
    return _shade((30, 70, 205), light), np.ones_like(x, dtype=bool)


def _cone(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    """A yellow cone on a foot, lit from the left."""
    half = 0.08 + 0.84 * (y + 1) / 2
    inside = (np.abs(x) <= half) | (y > 0.82)
    lit = np.where(y > 0.82, 0.75, 0.95 - 0.35 * np.clip(x / half, -1, 1))
    return _shade((250, 200, 0), lit), inside


def _shade(colour: tuple[int, int, int], light: Grid) -> Grid:
    return np.asarray(np.clip(np.array(colour, np.float64) * light[..., None], 0, 255))


OBJECTS: dict[str, Callable[[Grid, Grid], tuple[Grid, NDArray[np.bool_]]]] = {
    "red ball": _ball,
    "blue crate": _crate,
    "yellow cone": _cone,
}
"""What can be pasted, by name: from places in [-1, 1] (right, down) to a colour and whether the object is there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """What an object changes in a picture."""

    box: Box
    """Where it stands."""
    inside_DD: NDArray[np.bool_]
    """Which pixels of the box are its own."""
    change_PC: NDArray[np.float64]
    """The change of colour it makes at those P pixels, grey levels."""

    @classmethod
    def between(cls, name: str, box: Box, with_HWC: NDArray[np.uint8], without_HWC: NDArray[np.uint8]) -> Template:
        """From one picture with the object of this name in the box, and the same one without it."""
        inside = draw(name, box.rows.stop - box.rows.start).cover_DD > 0.5
        return cls(box=box, inside_DD=inside, change_PC=_change(box, inside, with_HWC[None], without_HWC[None])[0])

    def share(self, after_SHWC: NDArray[np.uint8], before_SHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The share of the object that came into each picture, float64 [S]: the projection of the change onto its own.

        Args:
            after_SHWC: pictures, uint8, that may hold it.
            before_SHWC: the same pictures without it.

        Returns:
            1 for all of it, 0 for none, less for the opposite colour; NaN when the object itself changes nothing.
        """
        energy = float((self.change_PC**2).sum())
        found_SPC = _change(self.box, self.inside_DD, after_SHWC, before_SHWC)
        if not energy:
            return np.full(len(found_SPC), np.nan)
        return np.asarray((found_SPC * self.change_PC).sum((-2, -1)) / energy)


def _change(
    box: Box, inside_DD: NDArray[np.bool_], after_SHWC: NDArray[np.uint8], before_SHWC: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Change of colour at the object's pixels [S, P, 3]: each channel less the mean of the three."""
    where = (slice(None), box.rows, box.columns)
    change_SPC = (after_SHWC[where].astype(np.float64) - before_SHWC[where])[:, inside_DD]
    return np.asarray(change_SPC - change_SPC.mean(-1, keepdims=True))


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


def calm_moments(store: FrameDataset, candidates: Sequence[Moment], count: int) -> list[Moment]:
    """From each of `count` equal groups of neighbouring candidates the one whose seen pictures change least."""
    if len(candidates) <= count:
        return list(candidates)
    moved = [_movement(moment.prompt(store).frames_THWC) for moment in candidates]
    groups = np.array_split(np.arange(len(candidates)), count)
    return [candidates[min(group.tolist(), key=moved.__getitem__)] for group in groups]


def make_edits(model: WorldModel, prompts: Sequence[Prompt], least: float) -> tuple[list[Edit], NDArray[np.float64]]:
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
    model: WorldModel,
    store: FrameDataset,
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
    s, dreamer = settings, Engine(model, row_delay=settings.row_delay)
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


def _templates(model: WorldModel, frame_HWC: Pictures, box: Box) -> tuple[list[Template], list[float]]:
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

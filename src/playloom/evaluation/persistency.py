"""Persistence of pasted objects: an object is pasted into the last frames of a prompt and searched for in the rollout.

An automatic stand-in for the published protocol ("World and Human Action Models towards gameplay ideation", Nature
2025: objects pasted into 1, 5 or 10 frames, rated by people), not the same figure. From each segment two rollouts with
one seed and nothing pressed, with and without the object. Only colour counts, not brightness.

M segments, S steps, O objects, T frames of a prompt, H W C picture, D side of the object's box, P pixels of the object.
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
from playloom.evaluation.segments import Segment, dream_all, reconstruct, with_codes
from playloom.inference.engine import Engine
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel

HEIGHT = 0.3
"""Height of an object, over picture height: 54 pixels of 180."""
GROUND = 0.84
"""Lower end of the object's box, over picture height."""
_SIDES = (0.2, 0.8)
"""Middle of the box left and right of the player's body, over picture width."""
_LIGHT = np.array([-0.45, -0.65, 0.61])
"""Unit vector towards the light: left, above, in front."""
_FINE = 4
"""Samples along each side of a pixel, for soft edges."""

Grid = NDArray[np.float64]


class Box(NamedTuple):
    """A rectangle of a picture."""

    rows: slice
    columns: slice


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """One object at one size."""

    colour_DDC: NDArray[np.float64]
    """RGB in [0, 255], float64 [D, D, 3]."""
    cover_DD: NDArray[np.float64]
    """Opacity, float64 [D, D] in [0, 1]."""


def draw(name: str, size: int) -> Drawn:
    """Draw the object of `OBJECTS` with this name in a box of `size` x `size` pixels."""
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
    """Return the box of an object, left (`side` even) or right (odd) of the middle of a picture."""
    size = min(max(2, round(HEIGHT * height)), width)
    bottom = max(size, round(GROUND * height))
    left = round(_SIDES[side % 2] * width - size / 2)
    left = min(max(0, left), width - size)
    return Box(slice(bottom - size, bottom), slice(left, left + size))


def paste(frames_THWC: NDArray[np.uint8], name: str, box: Box) -> NDArray[np.uint8]:
    """Return the pictures, uint8 [T, H, W, 3], with the object in the box of each."""
    drawn = draw(name, box.rows.stop - box.rows.start)
    edited = np.array(frames_THWC)
    behind = edited[:, box.rows, box.columns].astype(np.float64)
    cover = drawn.cover_DD[..., None]
    edited[:, box.rows, box.columns] = np.rint(behind * (1 - cover) + drawn.colour_DDC * cover).astype(np.uint8)
    return edited


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


OBJECTS: dict[str, Callable[[Grid, Grid], tuple[Grid, NDArray[np.bool_]]]] = {
    "red ball": _ball,
    "blue crate": _crate,
    "yellow cone": _cone,
}
"""Objects by name: a function from coordinates in [-1, 1] (right, down) to colour and mask."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """Change of colour that an object makes in a picture."""

    box: Box
    inside_DD: NDArray[np.bool_]
    """Mask of the object's pixels in the box."""
    change_PC: NDArray[np.float64]
    """Change of colour at those P pixels, grey levels."""

    @classmethod
    def between(cls, name: str, box: Box, with_HWC: NDArray[np.uint8], without_HWC: NDArray[np.uint8]) -> Template:
        """Build from one picture with the named object in the box, and the same picture without it."""
        inside = draw(name, box.rows.stop - box.rows.start).cover_DD > 0.5
        return cls(box=box, inside_DD=inside, change_PC=_change(box, inside, with_HWC[None], without_HWC[None])[0])

    def share(self, after_SHWC: NDArray[np.uint8], before_SHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the share of the object in each picture, float64 [S]: the projection of the change onto its own.

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
"""Numbers of last prompt frames that hold the object; at most the whole prompt."""
PRESENT = 0.5
"""Least share of an object that counts as present."""
CANDIDATES = 8
"""Candidates per chosen segment: the one whose pictures move least, since a pasted object stands still."""

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Persistency:
    """Share of the objects left at every segment (rows) and step (columns; column 0 is step 1)."""

    present_MS: Mapping[int, NDArray[np.float64]]
    """Share of the object in the rollout, by number of edited frames."""
    other_MS: Mapping[int, NDArray[np.float64]]
    """Share of another object at the same place, in the same rollouts."""
    chance_MS: NDArray[np.float64]
    """Share of the object in a rollout without it, with another seed."""
    kept_MO: NDArray[np.float64]
    """Share of each object of `OBJECTS` that the tokenizer keeps in the last prompt frame [M, O]."""
    prompt_frames: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """One segment with its object."""

    plain: Prompt
    """The prompt with codes."""
    edited: Prompt
    """The prompt with the object in every frame, with codes."""
    own: Template
    """The object, after the tokenizer."""
    other: Template
    """Another object at the same place, after the tokenizer."""

    def prompt(self, frames: int) -> Prompt:
        """Return the prompt with the object in its last `frames` frames only."""
        first = len(self.plain.frames_THWC) - frames
        codes = (self.plain.codes_TN, self.edited.codes_TN)
        assert codes[0] is not None and codes[1] is not None
        return dataclasses.replace(
            self.plain,
            frames_THWC=np.concatenate([self.plain.frames_THWC[:first], self.edited.frames_THWC[first:]]),
            codes_TN=np.concatenate([codes[0][:first], codes[1][first:]]),
        )


def static_segments(store: FrameDataset, candidates: Sequence[Segment], count: int) -> list[Segment]:
    """From each of `count` equal groups of neighbouring candidates choose the one whose pictures change least."""
    if len(candidates) <= count:
        return list(candidates)
    moved = [_movement(moment.prompt(store).frames_THWC) for moment in candidates]
    groups = np.array_split(np.arange(len(candidates)), count)
    return [candidates[min(group.tolist(), key=moved.__getitem__)] for group in groups]


def make_edits(model: WorldModel, prompts: Sequence[Prompt], least: float) -> tuple[list[Edit], NDArray[np.float64]]:
    """Paste an object into every prompt; objects and sides alternate.

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
    moments: Sequence[Segment],
    settings: EvaluationSettings,
    tick: Callable[[str], None] = lambda _: None,
) -> Persistency:
    """Paste an object at every segment (see `make_edits`), generate at rest, and search for it.

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
        present_MS=there,
        other_MS=instead,
        chance_MS=_shares(own, another, without),
        kept_MO=kept,
        prompt_frames=moments[0].past,
    )


def persistency_rows(result: Persistency) -> list[Row]:
    """Return the report rows: presence at the last step, share left, and share kept by the tokenizer."""
    steps, chance_M = result.chance_MS.shape[1], result.chance_MS[:, -1]
    rows = []
    for count, present_MS in result.present_MS.items():
        where = f"in {count} of {result.prompt_frames} frames"
        left, other_M = present_MS[:, -1], result.other_MS[count][:, -1]
        rows.append(_row(f"object there after {steps} steps, {where}", *map(_present, (left, chance_M, other_M))))
        rows.append(_row(f"share of it left after {steps} steps, {where}", left, chance_M, other_M))
    rows.append(_row("share of an object the tokenizer keeps", result.kept_MO.mean(1)))
    return rows


def persistency_curves(result: Persistency) -> dict[str, object]:
    """Return mean shares by step with their standard errors, JSON values."""
    return {
        "steps": list(range(1, result.chance_MS.shape[1] + 1)),
        "prompt_frames": result.prompt_frames,
        "edited_frames": {
            str(count): {
                **_means(present_MS),
                "another_object": _means(result.other_MS[count])["mean"],
                "moments_last_step": present_MS[:, -1],
            }
            for count, present_MS in result.present_MS.items()
        },
        "another_seed": _means(result.chance_MS),
        "kept_by_the_tokenizer": dict(zip(OBJECTS, result.kept_MO.T, strict=True)),
    }


def _templates(model: WorldModel, frame_HWC: Pictures, box: Box) -> tuple[list[Template], list[float]]:
    pasted = [paste(frame_HWC[None], name, box)[0] for name in OBJECTS]
    plain, *shown = reconstruct(model, np.stack([frame_HWC, *pasted]))
    drawn = [Template.between(name, box, frame, frame_HWC) for name, frame in zip(OBJECTS, pasted, strict=True)]
    kept = [float(t.share(frame[None], plain[None])[0]) for t, frame in zip(drawn, shown, strict=True)]
    return [Template.between(name, box, frame, plain) for name, frame in zip(OBJECTS, shown, strict=True)], kept


def _movement(frames_THWC: Pictures) -> float:
    """Mean change of a pixel between consecutive pictures, grey levels; 0 for one picture."""
    changes = np.abs(np.diff(frames_THWC.astype(np.int16), axis=0))
    return float(changes.mean()) if len(changes) else 0.0


def _shares(templates: Sequence[Template], frames_MSHWC: Pictures, without_MSHWC: Pictures) -> NDArray[np.float64]:
    shares = [t.share(*pair) for t, *pair in zip(templates, frames_MSHWC, without_MSHWC, strict=True)]
    return np.stack(shares) if shares else np.zeros(frames_MSHWC.shape[:2])


def _present(share_M: NDArray[np.float64]) -> NDArray[np.float64]:
    return (share_M >= PRESENT).astype(np.float64)


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
    if len(values_M) < 2:
        return np.full(values_M.shape[1:], np.nan)
    return np.asarray(values_M.std(0, ddof=1) / np.sqrt(len(values_M)))

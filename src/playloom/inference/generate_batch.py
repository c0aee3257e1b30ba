"""Dreaming over a folder of clips in the published data set's form, with the published protocols.

`base`: the recorded actions are fed. `comprehensive`: the actions are dreamed too. A clip that cannot be used is
skipped with its reason; the others go on, and every output keeps its clip's name.

One dream of a batch as two files beside each other: `NAME.npz` for programs and `NAME.mp4` for people.

Owns the pair, in the form the reference's batch dreaming leaves behind. Knows nothing of how a batch is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.atomic_io import ensure_writable, next_free_path
from playloom.errors import BadInputError, PlayloomError, RecordingError
from playloom.inference.engine import Engine
from playloom.inference.generate import build_manifest, open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import GenerationRequest, Prompt, StepResult
from playloom.media.clips import find_clips, read_clip, write_dream_clip
from playloom.media.contact_sheet import film_frames, title_of
from playloom.media.output_folder import OutputStep, film_moments, seen_tiles
from playloom.media.video import write_mp4
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import DecodeOrder
from playloom.provenance import Manifest

_FILM = 2  # times the frames' own width


def write_batch_dream(
    stem: Path | str,
    *,
    context_THWC: NDArray[np.uint8],
    dreamed_SHWC: NDArray[np.uint8],
    actions_TA: NDArray[np.uint8],
    given_T: NDArray[np.bool_],
    manifest: Manifest,
    reconstructed_THWC: NDArray[np.uint8] | None = None,
    true_SHWC: NDArray[np.uint8] | None = None,
) -> tuple[Path, Path]:
    """Write the arrays and the video of one clip; files of those names are replaced, each when it is whole.

    Args:
        stem: the path without an ending; folders above it are made. A dot in the name stays part of it.
        context_THWC: the real frames, uint8 [ctx, H, W, 3].
        dreamed_SHWC: the dreamed frames, unmarked, uint8 [S, H, W, 3]; the video shows them marked, with their input.
        actions_TA: see `playloom.media.clips.write_dream_clip`, as for the rest.
        given_T: whether each action was given.
        manifest: what made the dream.
        reconstructed_THWC: the true frames through the tokenizer, if they are known.
        true_SHWC: what really followed with the same actions, for the video.

    Returns:
        The paths of the `.npz` and of the `.mp4`.

    Raises:
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    arrays, video = Path(f"{stem}.npz"), Path(f"{stem}.mp4")
    write_dream_clip(
        arrays,
        context_THWC=context_THWC,
        dreamed_SHWC=dreamed_SHWC,
        actions_TA=actions_TA,
        given_T=given_T,
        manifest=manifest,
        reconstructed_THWC=reconstructed_THWC,
    )
    seen = len(context_THWC)
    tiles = seen_tiles(context_THWC, actions_TA[: seen - 1])
    steps = map(OutputStep, dreamed_SHWC, actions_TA[seen - 1 :], given_T[seen - 1 :])
    shown = film_moments(tiles, steps, context_THWC[:0] if true_SHWC is None else true_SHWC)
    film = film_frames(shown, kinds=["real", "dreamed"], title=title_of(manifest), enlarged=_FILM)
    write_mp4(video, film, manifest=manifest)
    return arrays, video


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """What to dream over a folder.

    Raises:
        BadInputError: when a number is not positive or the protocol is unknown.
    """

    folder: Path
    """Searched recursively for `.npz` clips."""
    out: Path
    """Gets an `.npz` and an `.mp4` per clip, under the clip's relative name; must be absent or empty."""
    model: str | None = None
    """A bundled model's name or a folder; None: the first bundled one."""
    protocol: Literal["base", "comprehensive"] = "base"
    """Whether actions are fed or dreamed."""
    context: int = 10
    """Real frames the model sees."""
    steps: int = 10
    """Frames to dream."""
    batch: int = 1
    """Clips dreamed together."""
    max_files: int | None = None
    """Only the first so many clips."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are drawn."""
    seed: int = 0
    """Clip number i is dreamed with seed + i, whatever the batch size."""
    decode_order: DecodeOrder | None = None
    """`raster`, or the row delay; None: the model card's, else raster."""
    device: str = "auto"
    """Where to compute."""

    def __post_init__(self) -> None:
        for name in ("context", "steps", "batch"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.max_files is not None and self.max_files < 1:
            raise BadInputError(f"max_files is {self.max_files}; expected 1 or more")
        if self.protocol not in ("base", "comprehensive"):
            raise BadInputError(f"unknown protocol {self.protocol!r}; choose base or comprehensive")


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """What became of the clips."""

    written: tuple[Path, ...]
    """The `.npz` files, in clip order."""
    skipped: tuple[str, ...]
    """A sentence for every clip that could not be used."""


class _Work(NamedTuple):
    path: Path
    frames_THWC: NDArray[np.uint8]
    actions_TA: NDArray[np.uint8]
    request: GenerationRequest


def dream_clips(job: BatchJob, on_clip: Callable[[int, int, str], None] | None = None) -> BatchSummary:
    """Dream every clip of a folder.

    Args:
        job: what to do.
        on_clip: told clips done, clips in all, and a sentence, after each clip.

    Raises:
        PlayloomError: when the folder holds no clip, the model cannot be loaded, or `out` holds files or cannot be
            written; bad clips are only skipped.
    """
    paths = find_clips(job.folder)[: job.max_files]
    ensure_writable(next_free_path(job.out) / "clip")
    dreamer = open_engine(job.model, device=job.device, decode_order=job.decode_order)
    model = dreamer.model
    written: list[Path] = []
    skipped: list[str] = []

    def tell(sentence: str) -> None:
        if on_clip is not None:
            on_clip(len(written) + len(skipped), len(paths), sentence)

    def skip(path: Path, error: PlayloomError) -> None:
        words = str(error)
        skipped.append(f"skipped: {words}" if str(path) in words else f"skipped: {path}: {words}")
        tell(skipped[-1])

    works = _usable(paths, job, model, skip)
    while group := list(islice(works, job.batch)):
        rows = list(dreamer.dream_batch([work.request for work in group]))
        for index, work in enumerate(group):
            try:
                written.append(_write(job, dreamer, work, [row[index] for row in rows]))
                tell(f"wrote {written[-1]}")
            except PlayloomError as error:
                skip(work.path, error)
    return BatchSummary(written=tuple(written), skipped=tuple(skipped))


def _usable(
    paths: list[Path], job: BatchJob, model: WorldModel, skip: Callable[[Path, PlayloomError], None]
) -> Iterator[_Work]:
    for number, path in enumerate(paths):
        try:
            yield _read(path, job, model, job.seed + number)
        except PlayloomError as error:
            skip(path, error)


def _read(path: Path, job: BatchJob, model: WorldModel, seed: int) -> _Work:
    clip = read_clip(path)
    total = job.context + job.steps
    if len(clip.frames_THWC) < total:
        raise RecordingError(
            f"{len(clip.frames_THWC)} steps are shorter than the {total} asked for ({job.context} + {job.steps})"
        )
    model.tokenizer.check_size(torch.as_tensor(clip.frames_THWC[:1]))
    frames, actions = clip.frames_THWC[:total], clip.actions_TA[:total]
    fed = actions[job.context - 1 : -1] if job.protocol == "base" else None
    request = GenerationRequest(
        prompt=Prompt(frames_THWC=frames[: job.context], actions_TA=actions[: job.context - 1]),
        mode="world" if fed is not None else "full",
        steps=job.steps,
        actions_SA=fed,
        sampling=job.sampling,
        seed=seed,
    )
    return _Work(path, frames, actions, request)


def _write(job: BatchJob, dreamer: Engine, work: _Work, steps: list[StepResult]) -> Path:
    dreamed_SHWC = np.stack([step.frame_HWC for step in steps if step.frame_HWC is not None])
    context_THWC = work.frames_THWC[: job.context]
    target = job.out / work.path.relative_to(job.folder)
    request = work.request
    made = build_manifest(dreamer, context_THWC, mode=request.mode, sampling=job.sampling, seed=request.seed)
    manifest = replace(made, prompt=work.path.name)
    last = work.actions_TA[-1:] if job.protocol == "base" else work.actions_TA[:0]
    taken = np.stack([step.action_A for step in steps])
    actions_TA = np.concatenate([work.actions_TA[: job.context - 1], taken, last])
    given_T = np.array([True] * (job.context - 1) + [s.action_given for s in steps] + [True] * len(last))
    tokenizer = dreamer.model.tokenizer
    codes_TN = tokenizer.encode(torch.as_tensor(work.frames_THWC))
    arrays, _ = write_batch_dream(
        target.with_suffix(""),
        context_THWC=context_THWC,
        dreamed_SHWC=dreamed_SHWC,
        actions_TA=actions_TA,
        given_T=given_T,
        manifest=manifest,
        reconstructed_THWC=tokenizer.decode(codes_TN).cpu().numpy(),
        true_SHWC=work.frames_THWC[job.context :] if job.protocol == "base" else None,
    )
    return arrays

"""Generate dreams over a folder of clips in the published data set's form, with the published protocols.

`base` gives the recorded actions, `comprehensive` samples them. Each clip becomes `NAME.npz` and `NAME.mp4`. A clip
that cannot be used is skipped with its reason.
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

_FILM = 2  # enlargement of the video


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """Dreams over a folder of clips.

    Raises:
        BadInputError: when a number is not positive or the protocol is unknown.
    """

    folder: Path
    """Folder with `.npz` clips, searched recursively."""
    out: Path
    """Empty or new folder for an `.npz` and an `.mp4` of each clip, under its relative name."""
    model: str | None = None
    """A bundled model's name or a folder; None: the first bundled one."""
    protocol: Literal["base", "comprehensive"] = "base"
    """`base`: actions given; `comprehensive`: actions sampled."""
    context: int = 10
    """Real frames that the model sees."""
    steps: int = 10
    """Frames to generate."""
    batch: int = 1
    """Clips in one batch."""
    max_files: int | None = None
    """Most clips; None: all."""
    sampling: Sampling = field(default_factory=Sampling)
    """Sampling parameters."""
    seed: int = 0
    """Clip i has seed + i, whatever the batch size."""
    decode_order: DecodeOrder | None = None
    """`raster`, or the row delay; None: the model card's, else raster."""
    device: str = "auto"
    """See `playloom.device.pick_device`."""

    def __post_init__(self) -> None:
        for name in ("context", "steps", "batch", "max_files"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInputError(f"{name} is {value}: expected 1 or more")
        if self.protocol not in ("base", "comprehensive"):
            raise BadInputError(f"unknown protocol {self.protocol!r}: expected base or comprehensive")


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """Result of `dream_clips`."""

    written: tuple[Path, ...]
    """The `.npz` files, in clip order."""
    skipped: tuple[str, ...]
    """A sentence for each clip that could not be used."""


class _Clip(NamedTuple):
    path: Path
    frames_THWC: NDArray[np.uint8]
    actions_TA: NDArray[np.uint8]
    request: GenerationRequest


def dream_clips(job: BatchJob, on_clip: Callable[[int, int, str], None] | None = None) -> BatchSummary:
    """Dream every clip of a folder.

    Args:
        job: the folder and settings.
        on_clip: called after each clip with the number of finished clips, the total, and a sentence.

    Raises:
        PlayloomError: when the folder has no clip, the model cannot be loaded, or `out` cannot be written.
    """
    paths = find_clips(job.folder)[: job.max_files]
    ensure_writable(next_free_path(job.out) / "clip")
    engine = open_engine(job.model, device=job.device, decode_order=job.decode_order)
    written: list[Path] = []
    skipped: list[str] = []

    def report(sentence: str) -> None:
        if on_clip is not None:
            on_clip(len(written) + len(skipped), len(paths), sentence)

    def skip(path: Path, error: PlayloomError) -> None:
        words = str(error)
        skipped.append(f"skipped: {words}" if str(path) in words else f"skipped: {path}: {words}")
        report(skipped[-1])

    clips = _usable(paths, job, engine.model, skip)
    while batch := list(islice(clips, job.batch)):
        steps = list(engine.dream_batch([clip.request for clip in batch]))
        for index, clip in enumerate(batch):
            try:
                written.append(_write(job, engine, clip, [row[index] for row in steps]))
                report(f"wrote {written[-1]}")
            except PlayloomError as error:
                skip(clip.path, error)
    return BatchSummary(written=tuple(written), skipped=tuple(skipped))


def _usable(
    paths: list[Path], job: BatchJob, model: WorldModel, skip: Callable[[Path, PlayloomError], None]
) -> Iterator[_Clip]:
    for number, path in enumerate(paths):
        try:
            yield _read(path, job, model, job.seed + number)
        except PlayloomError as error:
            skip(path, error)


def _read(path: Path, job: BatchJob, model: WorldModel, seed: int) -> _Clip:
    clip = read_clip(path)
    total = job.context + job.steps
    if len(clip.frames_THWC) < total:
        raise RecordingError(
            f"the clip has {len(clip.frames_THWC)} steps: expected {total} ({job.context} + {job.steps})"
        )
    model.tokenizer.check_size(torch.as_tensor(clip.frames_THWC[:1]))
    frames, actions = clip.frames_THWC[:total], clip.actions_TA[:total]
    base = job.protocol == "base"
    request = GenerationRequest(
        prompt=Prompt(frames_THWC=frames[: job.context], actions_TA=actions[: job.context - 1]),
        mode="world" if base else "full",
        steps=job.steps,
        actions_SA=actions[job.context - 1 : -1] if base else None,
        sampling=job.sampling,
        seed=seed,
    )
    return _Clip(path, frames, actions, request)


def _write(job: BatchJob, engine: Engine, clip: _Clip, steps: list[StepResult]) -> Path:
    request, base = clip.request, job.protocol == "base"
    context_THWC = clip.frames_THWC[: job.context]
    manifest = build_manifest(engine, context_THWC, mode=request.mode, sampling=job.sampling, seed=request.seed)
    last_TA = clip.actions_TA[-1:] if base else clip.actions_TA[:0]
    taken_TA = np.stack([step.action_A for step in steps])
    tokenizer = engine.model.tokenizer
    codes_TN = tokenizer.encode(torch.as_tensor(clip.frames_THWC))
    arrays, _ = write_batch_dream(
        (job.out / clip.path.relative_to(job.folder)).with_suffix(""),
        context_THWC=context_THWC,
        dreamed_SHWC=np.stack([step.frame_HWC for step in steps if step.frame_HWC is not None]),
        actions_TA=np.concatenate([clip.actions_TA[: job.context - 1], taken_TA, last_TA]),
        given_T=np.array([True] * (job.context - 1) + [s.action_given for s in steps] + [True] * len(last_TA)),
        manifest=replace(manifest, prompt=clip.path.name),
        reconstructed_THWC=tokenizer.decode(codes_TN).cpu().numpy(),
        true_SHWC=clip.frames_THWC[job.context :] if base else None,
    )
    return arrays


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
    """Write the arrays and the video of one clip, and return both paths; existing files are replaced.

    Args:
        stem: the path without an ending; its folders are made.
        context_THWC: see `playloom.media.clips.write_dream_clip`, as for the next five.
        dreamed_SHWC: unmarked; the video shows them marked.
        actions_TA: also shown in the video.
        given_T: also shown in the video.
        manifest: also in the video's metadata.
        reconstructed_THWC: not in the video.
        true_SHWC: true frames after the context with the same actions, for the video.

    Raises:
        StorageError: when the place cannot be written to or the disk is full.
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

"""Generate dreams over a folder of clips in the published dataset's form, with the published protocols.

Each clip becomes `NAME.npz` and `NAME.mp4`; one that cannot be used is skipped with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.atomic_io import ensure_writable, next_free_path
from playloom.errors import PlayloomError, RecordingError
from playloom.inference.backend import BackendName
from playloom.inference.engine import Engine
from playloom.inference.generate import build_manifest, open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import GenerationRequest, Prompt, StepResult
from playloom.media.clips import find_clips, read_clip, write_dream_clip
from playloom.media.output_folder import GeneratedClip, OutputStep
from playloom.models.decode_order import DecodeOrder
from playloom.models.folder import ModelDescription


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """Dreams over a folder of clips."""

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
    backend: BackendName = "auto"
    """What runs the networks; see `BackendName`."""


class BatchSummary(NamedTuple):
    """Result of `dream_clips`."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]


class _Clip(NamedTuple):
    path: Path
    frames_THWC: NDArray[np.uint8]
    actions_TA: NDArray[np.uint8]
    request: GenerationRequest


def dream_clips(job: BatchJob, on_clip: Callable[[int, int, str], None] = lambda *_: None) -> BatchSummary:
    """Dream every clip of a folder; `on_clip` receives the number of finished clips, the total, and a sentence."""
    paths = find_clips(job.folder)[: job.max_files]
    ensure_writable(next_free_path(job.out) / "clip")
    engine = open_engine(job.model, device=job.device, decode_order=job.decode_order, backend=job.backend)
    written: list[Path] = []
    skipped: list[str] = []

    def report(sentence: str) -> None:
        on_clip(len(written) + len(skipped), len(paths), sentence)

    def skip(path: Path, error: PlayloomError) -> None:
        words = str(error)
        skipped.append(f"skipped: {words}" if str(path) in words else f"skipped: {path}: {words}")
        report(skipped[-1])

    def usable() -> Iterator[_Clip]:
        for number, path in enumerate(paths):
            try:
                yield _read(path, job, engine.model, job.seed + number)
            except PlayloomError as error:
                skip(path, error)

    clips = usable()
    while batch := list(islice(clips, job.batch)):
        steps = list(engine.dream_batch([clip.request for clip in batch]))
        for index, clip in enumerate(batch):
            try:
                written.append(_write(job, engine, clip, [row[index] for row in steps]))
                report(f"wrote {written[-1]}")
            except PlayloomError as error:
                skip(clip.path, error)
    return BatchSummary(written=tuple(written), skipped=tuple(skipped))


def _read(path: Path, job: BatchJob, model: ModelDescription, seed: int) -> _Clip:
    clip = read_clip(path)
    total = job.context + job.steps
    if len(clip.frames_THWC) < total:
        raise RecordingError(
            f"the clip has {len(clip.frames_THWC)} steps: expected {total} ({job.context} + {job.steps})"
        )
    model.config.tokenizer.check_size(clip.frames_THWC[:1])
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
    request, base, seen = clip.request, job.protocol == "base", job.context
    manifest = replace(
        build_manifest(engine, clip.frames_THWC[:seen], mode=request.mode, sampling=job.sampling, seed=request.seed),
        prompt=clip.path.name,
    )
    dream = GeneratedClip(
        real_frames_THWC=clip.frames_THWC[:seen],
        real_actions_TA=clip.actions_TA[: seen - 1],
        steps=tuple(OutputStep(step.frame_HWC, step.action_A, step.action_given) for step in steps),
        manifest=manifest,
        true_frames_SHWC=clip.frames_THWC[seen:] if base else clip.frames_THWC[:0],
    )
    last_TA = clip.actions_TA[-1:] if base else clip.actions_TA[:0]
    codes_TN = engine.codes(Prompt(frames_THWC=clip.frames_THWC, actions_TA=clip.actions_TA[:-1]))
    stem = job.out / clip.path.relative_to(job.folder).with_suffix("")
    arrays = Path(f"{stem}.npz")
    write_dream_clip(
        arrays,
        context_THWC=dream.real_frames_THWC,
        dreamed_SHWC=dream.frames,
        actions_TA=np.concatenate([dream.real_actions_TA, dream.actions, last_TA]),
        given_T=np.array([True] * (seen - 1) + [step.action_given for step in steps] + [True] * len(last_TA)),
        manifest=manifest,
        reconstructed_THWC=engine.frames(codes_TN),
    )
    dream.save(f"{stem}.mp4")
    return arrays

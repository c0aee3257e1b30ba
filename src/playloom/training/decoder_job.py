"""One whole decoder training: a trained model or tokenizer in, the same with a better decoder out.

Owns loading, making the codes, and the export; a test holds that codes, encoder and codebook come out bit for bit as
they went in. The training itself is `decoder.py`.

    >>> run_decoder(DecoderJob(source="arena-live", data=Path("recordings"), out=Path("runs/decoder"), ...))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from playloom.checkpoint import fingerprint, save_model
from playloom.data.stores import FrameStore, TokenStore
from playloom.errors import CheckpointError, RecordingError
from playloom.runtime import pick_device
from playloom.tokenizer.frame_tokenizer import FrameTokenizer
from playloom.training.decoder import DecoderTask, DecoderTrainingConfig, grown_tokenizer
from playloom.training.facts import hardware
from playloom.training.loop import Loop, Report
from playloom.training.origin import TRANSFORMER_FILE, Origin, load_origin
from playloom.training.settings import to_mapping
from playloom.training.sources import Preparation, frames_from, tokens_from
from playloom.training.strategy import world
from playloom.training.task import Outcome
from playloom.training.tokenizer_files import save_tokenizer

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DecoderJob:
    """What to train, on what, and where to."""

    source: str
    """A bundled model's name, a model's folder, or the run's folder of a tokenizer, a world or a decoder."""
    data: Path
    """Recordings or a frame store."""
    out: Path
    """The run's folder."""
    config: DecoderTrainingConfig
    """How the decoder is trained, and how deep it is."""
    preparation: Preparation
    """How recordings are rendered and encoded."""


@dataclass(frozen=True)
class DecoderResult:
    """What a job leaves."""

    outcome: Outcome
    """How the training ended."""
    path: Path
    """The exported model's folder; of a tokenizer alone, the run's folder."""


def run_decoder(
    job: DecoderJob, *, perceptual: nn.Module | None = None, report: Report | None = None, say: Say = print
) -> DecoderResult:
    """Do a job, or go on with it, and export: a tokenizer into `out` itself, a model into `out/model`.

    Args:
        job: what.
        perceptual: a feature distance of one's own, see `TokenizerLoss`.
        report: told about progress.
        say: told one sentence about the data.

    Raises:
        CheckpointError: when the source cannot be read, or `out` holds another run.
        RecordingError: when the data do not fit.
        ConfigError: when the decoder's depths are impossible.
    """
    source, frames, codes = prepare_decoder(job, say)
    config, loop = job.config, job.config.loop
    tokenizer = grown_tokenizer(
        source.tokenizer, blocks=config.decoder_blocks, layers=config.decoder_layers, seed=loop.seed
    )
    training = Loop(DecoderTask(tokenizer, config, frames, codes, perceptual=perceptual), loop, job.out, report)
    outcome = training.run()
    path = job.out if source.model is None else job.out / "model"
    if training.fabric.is_global_zero:
        with training.averaged():
            _export(path, source, tokenizer.cpu(), refinement_card(job, source, codes, outcome))
    training.fabric.barrier()
    return DecoderResult(outcome, path)


def prepare_decoder(job: DecoderJob, say: Say = print) -> tuple[Origin, FrameStore, TokenStore]:
    """The first half of a job: pictures and codes, made once in `out`. Arguments as in `run_decoder`."""
    source = load_origin(job.source)
    frames = frames_from(job.data, job.out / "frames", job.preparation)
    _check_size(source.tokenizer, frames)
    device = pick_device(job.config.loop.device)
    encoder = source.tokenizer.to(device)
    how = dataclasses.replace(job.preparation, mirror=False)
    codes = tokens_from(frames.folder, job.out / "codes", how, encoder, source.name)
    encoder.cpu()
    if world()[0] == 0:
        say(f"{len(codes)} frames in {len(codes.spans)} episodes, tokenizer {codes.tokenizer}")
    return source, frames, codes


def refinement_card(job: DecoderJob, source: Origin, codes: TokenStore, outcome: Outcome) -> dict[str, Any]:
    """The model's card, this training added to its list `decoder`; without figures, which were of the old decoder."""
    seeds = {
        split: [int(span.meta["seed"]) for span in codes.of_split(split) if "seed" in span.meta]
        for split in ("train", "validation")
    }
    decoder = {
        "note": "Only the decoder was trained again, on codes made once; encoder, codebook, transformer are unchanged.",
        "before": source.name,
        "updates": outcome.step,
        "training_seconds": round(outcome.elapsed, 1),
        "data": {"frames": len(codes), "episodes": len(codes.spans), "seeds": seeds},
        "validation": outcome.validation,
        "hardware": hardware(),
        "settings": to_mapping(job.config),
    }
    kept = source.model.card if source.model is not None else {}
    rest = {name: value for name, value in kept.items() if name not in ("evaluation", "decoder")}
    return {**rest, "decoder": [*kept.get("decoder", []), decoder]}


def _export(folder: Path, source: Origin, tokenizer: FrameTokenizer, card: dict[str, Any]) -> None:
    model = source.model
    if model is None:
        save_tokenizer(folder, tokenizer, card=card)
        return
    config = dataclasses.replace(model.config, tokenizer=tokenizer.config)
    refined = dataclasses.replace(model, config=config, tokenizer=tokenizer, card=card)
    # Written as the source was stored, so that the transformer's file comes out byte for byte.
    for dtype in (torch.float16, None):
        save_model(folder, refined, dtype)
        if fingerprint(folder / TRANSFORMER_FILE) == source.transformer:
            return
    raise CheckpointError(f"{folder / TRANSFORMER_FILE} differs from the source's, which is stored in an unusual type")


def _check_size(tokenizer: FrameTokenizer, frames: FrameStore) -> None:
    height, width = frames.frames_FHWC.shape[1:3]
    config = tokenizer.config
    if (height, width) != (config.frame_height, config.frame_width):
        raise RecordingError(
            f"{frames.folder} has pictures of {width} x {height}; this tokenizer takes "
            f"{config.frame_width} x {config.frame_height}: prepare the data again"
        )

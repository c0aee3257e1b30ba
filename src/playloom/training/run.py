"""One world model training: codes, alignment check, training, export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.data.prompt_selection import save_chosen, select_prompts
from playloom.data.prompts import PROMPTS, list_prompts
from playloom.data.sampler import alive_spans
from playloom.device import pick_device
from playloom.errors import BadInputError, CheckpointError, RecordingError
from playloom.models.checkpoint import WorldModel, save_model
from playloom.models.config import ModelConfig
from playloom.models.decode_order import DEFAULT_ROW_DELAY
from playloom.models.onnx.export import export_if_installed
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.alignment import check_alignment
from playloom.training.artifacts import (
    PretrainedModel,
    control_words,
    copies_of,
    default_name,
    load_tokenizer,
    players_of,
    training_facts,
)
from playloom.training.checkpoint import differences
from playloom.training.data_source import PrepareOptions, detect_dataset_kind, tokens_from
from playloom.training.distributed import dist_info
from playloom.training.loop import Loop, Report
from playloom.training.task import Say, TrainingResult
from playloom.training.world_model import WorldConfig, WorldTask

_STRETCHES, _STRETCH_STEPS = 16, 120  # number and length of the stretches of the alignment check
_PROMPTS, _PROMPT_SPLITS = 5, ("validation", "test", "train")  # number of a model's prompts, and their first source


@dataclass(frozen=True, kw_only=True)
class ModelJob:
    """Inputs and outputs of any training that ends with a whole model."""

    model: ModelConfig
    """Sizes; with `start` those of its model."""
    data: Path
    """Recordings or a frame dataset; for a world model alone also a token dataset."""
    out: Path
    """Folder of the run: `tokens/`, `model/` and, where a tokenizer is trained too, `tokenizer/`."""
    prepare: PrepareOptions
    start: PretrainedModel | None = None
    """A whole model to fine-tune; None: random weights."""
    name: str | None = None
    """Name of the exported model; None: see `default_name`."""
    controls: Mapping[str, str] = field(default_factory=dict)
    """What controls do in the game, by control."""
    alignment: Literal["strict", "warn", "off"] = "strict"
    """`strict`: misaligned data ends the run; `warn`: only report; `off`: no check."""


@dataclass(frozen=True, kw_only=True)
class WorldJob(ModelJob):
    """Inputs and outputs of a world model training."""

    config: WorldConfig
    tokenizer: Path | None
    """Folder of a trained tokenizer, to tokenise and to export a whole model. With `start`: its tokenizer or one
    fine-tuned from it; None: that of `start`."""


def run_world(job: WorldJob, *, report: Report | None = None, say: Say = print) -> TrainingResult:
    """Run or resume a job; export the model into `out/model` if there is a tokenizer."""
    dataset, tokenizer = prepare_world(job, say)
    task = WorldTask(job.model, job.config, dataset, tokenizer=tokenizer, start=job.start)
    loop = Loop(task, job.config.loop, job.out, report)
    result = loop.run()
    if tokenizer is None:
        return result
    # The heads of an initial model read another transformer.
    config = dataclasses.replace(job.model, name=job.name or default_name(dataset, job.data, job.out), heads=None)
    card = _card(job, dataset, result)
    model = WorldModel(config=config, tokenizer=tokenizer, transformer=task.transformer, card=card)
    loop.export(lambda: _export(job, model, say))
    return dataclasses.replace(result, path=job.out / "model")


def _export(job: WorldJob, model: WorldModel, say: Say) -> None:
    """Write the model's folder; prompts that are there already, chosen or brought, stay."""
    prompts = job.out / "model" / PROMPTS
    if detect_dataset_kind(job.data) == "frames" and not list_prompts(prompts):
        frames, context = FrameDataset.open(job.data), model.config.transformer.context_steps
        spans = next((found for split in _PROMPT_SPLITS if (found := frames.of_split(split))), ())
        try:
            chosen = select_prompts(frames, spans, count=_PROMPTS, context=context)
            save_chosen(frames, chosen, prompts, name=model.config.name)
        except RecordingError as error:
            say(f"no prompts were chosen: {error}")
    save_model(job.out / "model", model, keep_measured=True)
    export_if_installed(job.out / "model")


def prepare_world(job: WorldJob, say: Say = print) -> tuple[TokenDataset, FrameTokenizer | None]:
    """Make the codes and, for a new run, check the alignment."""
    source = _tokenizer(job)
    tokenizer = source.tokenizer.to(pick_device(job.config.loop.device)) if source is not None else None
    name = source.name if source is not None else None
    prepare = dataclasses.replace(job.prepare, mirror=job.config.mirror)
    dataset = tokens_from(job.data, job.out / "tokens", prepare, tokenizer, name)
    if dist_info()[0] == 0:
        copies = "".join(f", {count} of them {kind} copies" for kind, count in copies_of(dataset).items())
        players = ", ".join(f"{name} {count}" for name, count in players_of(dataset).items())
        by = f", played by {players}" if players else ""
        say(f"{len(dataset)} frames in {len(dataset.spans)} episodes{copies}{by}, tokenizer {dataset.tokenizer}")
        if job.alignment != "off" and not (job.out / "checkpoints").exists():
            kind = detect_dataset_kind(job.data)
            frames = FrameDataset.open(job.data) if kind == "frames" else None
            say(check_actions(dataset, frames, tokenizer, job.alignment))
    return dataset, tokenizer


def _tokenizer(job: WorldJob) -> PretrainedModel | None:
    if job.tokenizer is None:
        return job.start
    source = load_tokenizer(job.tokenizer)
    if job.start is not None and job.start.name not in (source.name, *source.ancestors):
        raise CheckpointError(
            f"{job.tokenizer} holds another tokenizer than the model to start with: got {source.name}, expected "
            f"{job.start.name}; omit --tokenizer, or give one that was fine-tuned from it"
        )
    changed = differences(job.model.tokenizer.to_dict(), source.tokenizer.config.to_dict())
    if changed:
        raise CheckpointError(f"the tokenizer is not the one of {job.model.name}: {', '.join(changed)}")
    return source


def _card(job: WorldJob, dataset: TokenDataset, result: TrainingResult) -> dict[str, Any]:
    """The training facts, and recommended generation settings: those of the initial model or the default."""
    before = job.start.model.card if job.start and job.start.model else {}
    card = {name: value for name, value in before.items() if name in ("row_delay", "sampling")}
    if job.model.rows:
        raster, shares = job.model.layout.grid_width, job.config.row_delay_shares(job.model)
        row_delay = card.get("row_delay", DEFAULT_ROW_DELAY) or raster
        if row_delay not in shares:
            row_delay = max(shares, key=shares.__getitem__)
        card["row_delay"] = None if row_delay == raster else row_delay
    card["controls"] = control_words(dataset, job.controls)
    card |= {**training_facts(dataset, result, job.config), "tokenizer": dataset.tokenizer}
    if job.start is not None:
        # The model learned from the start's data too; but evaluation metrics hold for one set of weights.
        before = {name: value for name, value in before.items() if name != "evaluation"}
        card["start"] = {**before, "transformer": job.start.transformer}
    return card


def check_actions(
    dataset: FrameDataset | TokenDataset,
    frames: FrameDataset | None,
    tokenizer: FrameTokenizer | None,
    alignment: Literal["strict", "warn"],
) -> str:
    """Return the verdict of the alignment check; BadInputError if `strict` and the actions are shifted.

    `dataset` has the episodes and actions. Their pictures are those of `frames`, else decoded from its codes.
    """
    if frames is None and tokenizer is None:
        return "alignment not checked: that needs pictures, so a frame dataset or the tokenizer's folder"
    try:
        report = check_alignment(_stretches(dataset, frames, tokenizer))
    except RecordingError as error:
        return f"alignment not checked: {error}"
    if report.verdict == "shifted" and alignment == "strict":
        raise BadInputError(f"{report.sentence()}; or train anyway with --alignment warn")
    return f"alignment {report.verdict}: {report.sentence()}"


def _stretches(
    dataset: FrameDataset | TokenDataset, frames: FrameDataset | None, tokenizer: FrameTokenizer | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    spans = alive_spans(dataset, [span for span in dataset.of_split("train") if not span.meta.get("mirrored")])
    least = min(_STRETCH_STEPS, max((span.length for span in spans), default=0))
    long = [span for span in spans if span.length >= least]
    for index in np.unique(np.linspace(0, len(long) - 1, _STRETCHES).astype(int)) if long else ():
        span = long[index]
        rows = slice(span.start, span.start + min(span.length, _STRETCH_STEPS))
        if frames is not None:
            pictures = frames.frames_FHWC[rows]
        else:
            assert tokenizer is not None and isinstance(dataset, TokenDataset)
            codes = torch.from_numpy(dataset.tokens_FN[rows].astype(np.int64))
            parts = [tokenizer.decode(codes[first : first + 32]).cpu() for first in range(0, len(codes), 32)]
            pictures = torch.cat(parts).numpy()
        yield pictures, dataset.actions_FA[rows]

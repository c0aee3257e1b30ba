"""One world model training: codes, alignment check, training, export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset, TokenDataset
from playloom.data.sampler import alive_spans
from playloom.device import pick_device
from playloom.errors import BadInputError, CheckpointError, ConfigError, RecordingError, did_you_mean
from playloom.models.checkpoint import WorldModel, save_model
from playloom.models.decode_order import DEFAULT_LAG
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.world_model import ModelConfig
from playloom.training.alignment import check_alignment
from playloom.training.artifacts import PretrainedModel, ancestors, load_tokenizer, players_of, training_facts
from playloom.training.data_source import Preparation, detect_dataset_kind, tokens_from
from playloom.training.distributed import dist_info
from playloom.training.loop import Report
from playloom.training.preview import dream_preview
from playloom.training.task import LoopResult
from playloom.training.world_model import Start, WorldConfig, train_world

_CHECKS = ("strict", "warn", "off")
_STRETCH = 120
_STRETCHES = 8

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class WorldJob:
    """Inputs and outputs of a world model training.

    Raises:
        ConfigError: for an unknown kind of alignment check.
    """

    model: ModelConfig
    config: WorldConfig
    data: Path
    """Recordings, a frame dataset or a token dataset."""
    out: Path
    """Folder of the run."""
    tokenizer: Path | None
    """Folder of a trained tokenizer, to tokenise and to export a whole model. With `start`: its tokenizer or one
    fine-tuned from it; None: that of `start`."""
    preparation: Preparation
    start: PretrainedModel | None = None
    """A whole model of these sizes to initialise the transformer from; None: random weights."""
    alignment: str = "strict"
    """`strict`: misaligned data ends the run; `warn`: only report; `off`: no check."""

    def __post_init__(self) -> None:
        if self.alignment not in _CHECKS:
            raise ConfigError(f"alignment is {self.alignment!r}; {did_you_mean(self.alignment, _CHECKS)}")


@dataclass(frozen=True)
class WorldResult:
    """Result of a world model training."""

    outcome: LoopResult
    path: Path
    """Folder of the exported model; without a tokenizer the run's folder."""


def run_world(job: WorldJob, *, report: Report | None = None, say: Say = print) -> WorldResult:
    """Run or resume a job.

    Args:
        job: what.
        report: told about the training's progress.
        say: told one sentence about each stage.

    Raises:
        BadInputError: when the actions do not fit their frames and the check is strict.
        RecordingError, CheckpointError, ConfigError: as in the stages.
    """
    store, tokenizer = prepare_world(job, say)
    preview = dream_preview(job.model, tokenizer, store) if tokenizer is not None else None
    run = train_world(job.model, job.config, store, job.out, start=_start(job), preview=preview, report=report)
    path = job.out
    if tokenizer is not None and dist_info()[0] == 0:
        path = job.out / "model"
        card = training_card(job, store, run.outcome)
        model = WorldModel(config=job.model, tokenizer=tokenizer.cpu(), transformer=run.transformer, card=card)
        save_model(path, model)
    return WorldResult(run.outcome, path)


def prepare_world(job: WorldJob, say: Say = print) -> tuple[TokenDataset, FrameTokenizer | None]:
    """Make the codes and, for a new run, check the alignment. Arguments as in `run_world`."""
    tokenizer, name = _tokenizer(job)
    if tokenizer is not None:
        _check_same(job.model, tokenizer)
        tokenizer.to(pick_device(job.config.loop.device))
    store = tokens_from(job.data, job.out / "tokens", job.preparation, tokenizer, name)
    if dist_info()[0] == 0:
        players = ", ".join(f"{name} {count}" for name, count in players_of(store).items())
        by = f", played by {players}" if players else ""
        say(f"{len(store)} frames in {len(store.spans)} episodes{by}, tokenizer {store.tokenizer}")
        if not (job.out / "checkpoints").exists():
            _align(job, store, tokenizer, say)
    return store, tokenizer


def training_card(job: WorldJob, store: TokenDataset, outcome: LoopResult) -> dict[str, Any]:
    """Return the training facts of a model's card."""
    facts = training_facts(store, outcome, job.config)
    card: dict[str, Any] = {**_recommended(job), **facts, "tokenizer": store.tokenizer}
    if job.start is not None and job.start.model is not None:
        # All that is known of it, for it learned from those data too; but figures are of its own weights.
        before = {name: value for name, value in job.start.model.card.items() if name != "evaluation"}
        card["start"] = {**before, "transformer": job.start.transformer}
    return card


def _recommended(job: WorldJob) -> dict[str, Any]:
    """Recommended generation settings: those of the initial model or the default, in a trained decode order."""
    before = job.start.model.card if job.start is not None and job.start.model is not None else {}
    card = {name: value for name, value in before.items() if name in ("row_delay", "sampling")}
    if not job.model.rows:
        return card
    row_delay, trained = (
        card.get("row_delay", DEFAULT_LAG) or 0,
        dict(zip(job.config.lags, job.config.lag_weights, strict=True)),
    )
    if not trained.get(row_delay):
        row_delay = max(trained, key=trained.__getitem__)
    return {**card, "row_delay": row_delay or None}  # in a card None is raster


def _tokenizer(job: WorldJob) -> tuple[FrameTokenizer | None, str | None]:
    if job.tokenizer is None:
        return (job.start.tokenizer, job.start.name) if job.start is not None else (None, None)
    tokenizer, name = load_tokenizer(job.tokenizer)
    if job.start is not None and job.start.name not in (name, *ancestors(job.tokenizer)):
        raise CheckpointError(
            f"{job.tokenizer} holds tokenizer {name}, but the model to start with learned the codes of "
            f"{job.start.name}; leave --tokenizer out, or give one that was trained on from it"
        )
    return tokenizer, name


def _start(job: WorldJob) -> Start | None:
    if job.start is None:
        return None
    assert job.start.model is not None and job.start.transformer is not None
    return Start(transformer=job.start.model.transformer, fingerprint=job.start.transformer)


def _align(job: WorldJob, store: TokenDataset, tokenizer: FrameTokenizer | None, say: Say) -> None:
    """Check actions against raw pictures if at hand, else against decoded codes."""
    if job.alignment == "off":
        return
    frames = FrameDataset.open(job.data) if detect_dataset_kind(job.data) == "frames" else None
    if frames is None and tokenizer is None:
        say("alignment not checked: that needs pictures, so a frame store or the tokenizer's folder")
        return
    try:
        report = check_alignment(_stretches(store, frames, tokenizer))
    except RecordingError as error:
        say(f"alignment not checked: {error}")
        return
    if report.verdict == "shifted" and job.alignment == "strict":
        raise BadInputError(f"{report.sentence()}; or train anyway with --alignment warn")
    say(f"alignment {report.verdict}: {report.sentence()}")


def _stretches(
    store: TokenDataset, frames: FrameDataset | None, tokenizer: FrameTokenizer | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    for span in _cut(_living(store)):
        if frames is not None:
            pictures = frames.frames_FHWC[span.rows]
        else:
            assert tokenizer is not None
            codes = torch.from_numpy(store.tokens_FN[span.rows].astype(np.int64))
            parts = [tokenizer.decode(codes[i : i + 32]).cpu() for i in range(0, len(codes), 32)]
            pictures = torch.cat(parts).numpy()
        yield pictures, store.actions_FA[span.rows]


def _living(store: TokenDataset | FrameDataset) -> tuple[EpisodeSlice, ...]:
    spans = [span for span in store.of_split("train") if not span.meta.get("mirrored")]
    return alive_spans(spans, store.column("dead")) if "dead" in store.state_columns else tuple(spans)


def _cut(spans: tuple[EpisodeSlice, ...]) -> list[EpisodeSlice]:
    long = [span for span in spans if span.length >= min(_STRETCH, max(s.length for s in spans))]
    chosen = [long[i] for i in np.unique(np.linspace(0, len(long) - 1, _STRETCHES).astype(int))] if long else []
    return [EpisodeSlice(start=s.start, length=min(s.length, _STRETCH), meta=s.meta) for s in chosen]


def _check_same(model: ModelConfig, tokenizer: FrameTokenizer) -> None:
    if model.tokenizer != tokenizer.config:
        wanted, came = model.tokenizer.to_dict(), tokenizer.config.to_dict()
        differ = [f"{key} {came[key]} instead of {wanted[key]}" for key in wanted if wanted[key] != came[key]]
        raise CheckpointError(f"the tokenizer is not the one of {model.name}: it has {', '.join(differ)}")

"""The stages that learn: `tokenizer`, `tokens` and `world`. Owns the order; the work is `data`'s and `training`'s."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.data.prepare import Progress, build_frame_store, tokenise_recordings
from playloom.data.recording import STATE_COLUMNS, load_meta
from playloom.device import pick_device
from playloom.errors import BadInputError, RecordingError
from playloom.games.arena.env import render_episode
from playloom.recipes.piece import PieceOver
from playloom.recipes.preview import dream_preview
from playloom.recipes.recording import RecordingBeside, record_rest, recorded
from playloom.recipes.shop import Shop
from playloom.training.artifacts import load_tokenizer
from playloom.training.config import LoopConfig
from playloom.training.data_source import Preparation
from playloom.training.run import WorldJob, alignment_of, run_world
from playloom.training.task import LoopResult
from playloom.training.tokenizer import train_tokenizer

_LEARNED = ("train", "validation")
_SURE_PAIRS = 400
"""Pairs of frames from which a finding of shifted actions ends the run; from fewer (a toy) it is only said."""


def train_the_tokenizer(shop: Shop) -> dict[str, Any]:
    """Render some recordings, check that actions fit pictures, and train; the rest is recorded meanwhile.

    Raises:
        BadInputError: when the actions are shifted against the pictures.
    """
    settings = shop.recipe.tokenizer
    frames = shop.tokenizer / "frames"
    if not (frames / "index.json").is_file():
        paths = recorded(shop, *_LEARNED)[: settings.episodes]
        tell = shop.teller("rendering, frames")
        build_frame_store(frames, paths, render_episode, workers=shop.machine.games, progress=tell)
    store = FrameDataset.open(frames)
    alignment = _alignment(store)
    shop.say(f"  alignment: {alignment}")
    training = dataclasses.replace(settings.training, loop=_loop(shop, settings.training.loop))
    with RecordingBeside(shop):
        run = train_tokenizer(
            shop.recipe.model.tokenizer, training, store, shop.tokenizer, report=shop.reporter("tokenizer")
        )
    _go_on_if_finished(run.outcome)
    return {**_outcome(run.outcome), "fingerprint": run.fingerprint, "frames": len(store), "alignment": alignment}


def make_tokens(shop: Shop) -> dict[str, Any]:
    """Render every recording for training and validation, and keep only its codes."""
    before = shop.facts.get("tokens", {})
    facts = shop.facts["tokens"] = {"recording_seconds": 0.0, "seconds": 0.0, **before}
    facts["recording_seconds"] = record_rest(shop, facts["recording_seconds"])
    paths = recorded(shop, *_LEARNED)
    tokenizer, name = load_tokenizer(shop.tokenizer)
    device = pick_device(shop.machine.device)
    tokenizer.to(device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    clock = _Deadline(shop, facts)
    whole = shop.tokens / "all"
    try:
        store = tokenise_recordings(
            whole,
            paths,
            render_episode,
            tokenizer.encode,
            fingerprint=name,
            batch=shop.recipe.tokens.batch,
            device=str(device),
            workers=shop.machine.games,
            progress=clock.tick,
        )
    except _TimeIsUpError:
        store = cut_store(whole, shop.tokens / "cut", paths, slots=tokenizer.config.image_slots, tokenizer=name)
        shop.say(f"  the time for codes is over: {len(store):,} frames are used")
    return {**facts, "store": store.folder.name, "frames": len(store), "seeds": _seeds(store)}


def train_the_world(shop: Shop) -> dict[str, Any]:
    """Train the transformer and put tokenizer and transformer together as one model."""
    world = shop.recipe.world
    job = WorldJob(
        model=shop.recipe.model,
        config=dataclasses.replace(world, loop=_loop(shop, world.loop)),
        data=shop.tokens / shop.facts["tokens"]["store"],
        out=shop.world,
        tokenizer=shop.tokenizer,
        preparation=Preparation(render=render_episode),
        alignment="off",  # checked on real pictures before the tokenizer was trained
    )
    preview = dream_preview(shop.recipe.model)
    result = run_world(job, preview_of=preview, report=shop.reporter("world"), say=lambda line: shop.say(f"  {line}"))
    _go_on_if_finished(result.outcome)
    return _outcome(result.outcome)


def cut_store(growing: Path, target: Path, paths: list[Path], *, slots: int, tokenizer: str) -> TokenDataset:
    """The episodes that an unfinished token store holds, as a finished one.

    Args:
        growing: the unfinished store's folder; it stays.
        target: the finished one's.
        paths: all recordings that were to go into it.
        slots: codes a frame.
        tokenizer: fingerprint.

    Raises:
        RecordingError: when it holds no episode yet.
    """
    total = sum(load_meta(path).steps for path in paths)
    source = TokenDataset.create(growing, total, slots=slots, tokenizer=tokenizer, state_columns=STATE_COLUMNS)
    if not source.done:
        raise RecordingError(f"no episode was encoded in time; give tokens.minutes more, or redo tokens: {growing}")
    columns = [np.load(source.part(name), mmap_mode="r") for name in ("tokens", "actions", "states")]
    writer = TokenDataset.create(target, source.done, slots=slots, tokenizer=tokenizer, state_columns=STATE_COLUMNS)
    start = writer.done
    for span in source.spans[len(writer.spans) :]:
        tokens, actions, states = (column[span.rows] for column in columns)
        writer.write(start, tokens, "tokens")
        writer.record(start, actions, states, span.meta, length=span.length)
        start += span.length
    writer.finish()
    return TokenDataset.open(target)


class _TimeIsUpError(Exception):
    """Raised inside a progress callback to end encoding; what is encoded stays."""


class _Deadline:
    """Counts the seconds of encoding over all pieces, and ends it."""

    def __init__(self, shop: Shop, facts: dict[str, Any]) -> None:
        self._tell: Progress = shop.teller("encoding, frames")
        self._facts, self._before, self._started = facts, float(facts["seconds"]), time.monotonic()
        self._minutes = shop.recipe.tokens.minutes

    def tick(self, done: int, total: int) -> None:
        self._facts["seconds"] = self._before + time.monotonic() - self._started
        if self._minutes is not None and self._facts["seconds"] >= 60 * self._minutes and done < total:
            raise _TimeIsUpError
        self._tell(done, total)


def _loop(shop: Shop, loop: LoopConfig) -> LoopConfig:
    """The loop's settings with what this piece and this machine allow."""
    return dataclasses.replace(
        loop,
        piece_minutes=shop.piece.loop_minutes,
        device=shop.machine.device,
        threads=shop.machine.threads,
    )


def _alignment(store: FrameDataset) -> str:
    try:
        report = alignment_of(store)
    except RecordingError as error:
        return f"not checked: {error}"
    if report.verdict != "shifted":
        return report.sentence()
    if report.pairs < _SURE_PAIRS:
        return f"not decided, {report.pairs} pairs of frames are too few: {report.sentence()}"
    raise BadInputError(report.sentence())


def _go_on_if_finished(outcome: LoopResult) -> None:
    """A loop that stopped early was told to: the piece is over, or somebody sent a signal."""
    if not outcome.finished:
        raise PieceOver


def _outcome(outcome: LoopResult) -> dict[str, Any]:
    return {
        "updates": outcome.step,
        "training_seconds": round(outcome.elapsed, 1),
        "validation": outcome.validation,
    }


def _seeds(store: TokenDataset) -> dict[str, list[int]]:
    return {split: sorted(int(span.meta["seed"]) for span in store.of_split(split)) for split in _LEARNED}

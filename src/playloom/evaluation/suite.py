"""Evaluation of one model: the test episodes, every part, one report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import playloom
from playloom.atomic_io import folder_lock
from playloom.data.dataset import FrameDataset
from playloom.data.recording import build_frame_dataset, list_episodes, load_meta
from playloom.device import machine
from playloom.errors import RecordingError
from playloom.evaluation import control, diversity, drift, heads, inverse_dynamics, likelihood, persistency, rollout
from playloom.evaluation.config import EvaluationSettings, require_extra
from playloom.evaluation.report import Report, rollout_plot, rollout_strip
from playloom.evaluation.segments import EvaluationContext, Progress, decode
from playloom.inference.engine import Engine
from playloom.media.images import write_picture
from playloom.models.checkpoint import WorldModel
from playloom.provenance import Manifest

PARTS: Mapping[str, Callable[[EvaluationContext], None]] = {
    "tokenizer": rollout.evaluate_tokenizer,
    "likelihood": likelihood.evaluate,
    "horizon": rollout.evaluate,
    "control": control.evaluate,
    "inverse dynamics": inverse_dynamics.evaluate,
    "drift": drift.evaluate,
    "revisit": control.evaluate_revisit,
    "diversity": diversity.evaluate,
    "persistency": persistency.evaluate,
    "heads": heads.evaluate,
}
"""Parts in the order of the table."""
StepsDone = Callable[[str, int, int], None]  # receives a description of the work, the pieces done, and their total
TEST_SEEDS = range(18, 418, 20)  # seeds recorded here, twenty: all of the test split
HELDOUT_SEEDS = (19, 39, 59)  # seeds with the held-out arena, the held-out style, and both
STEPS = 200  # steps of an episode recorded here: many short ones vary more than a few long ones


def open_test_set(data: Path | None, work: Path, progress: StepsDone = lambda *_: None) -> FrameDataset:
    """Open the pictures, actions and states to evaluate on.

    `data` is a frame dataset; or a folder of recordings, whose test and held-out episodes are rendered; or None to
    record a small set (twenty test episodes and three held-out ones, of 20 s each). `work` is the folder for
    recordings and rendered pictures; those of an earlier call are used again. StorageError while another process
    prepares it. Only recording and rendering need the game.
    """
    if data is not None and (data / "index.json").is_file():
        dataset = FrameDataset.open(data)
        _check_test_split([episode.meta.get("split") for episode in dataset.spans], data)
        return dataset
    with folder_lock(work):
        recordings = work / "recordings" if data is None else data
        if data is None:
            from playloom.games.recorder import plan_episode, record_plans

            plans = [plan_episode(seed, STEPS) for seed in (*TEST_SEEDS, *HELDOUT_SEEDS)]
            recording = partial(progress, "recording test episodes")
            record_plans(recordings, plans, progress=lambda done, total, _: recording(done, total))
        metas = {path: load_meta(path) for path in list_episodes(recordings)}
        metas = {path: meta for path, meta in metas.items() if meta.split in ("test", "heldout")}
        _check_test_split([meta.split for meta in metas.values()], recordings)
        if (work / "frames" / "index.json").is_file():
            dataset = FrameDataset.open(work / "frames")
            rendered = [dict(episode.meta) for episode in dataset.spans]
            if rendered == [dataclasses.asdict(meta) for meta in metas.values()]:
                return dataset
        from playloom.games.arena.env import render_episode

        rendering = partial(progress, "rendering test episodes")
        return build_frame_dataset(work / "frames", list(metas), render_episode, progress=rendering)


def _check_test_split(splits: Collection[object], folder: Path) -> None:
    if "test" not in splits:
        raise RecordingError(
            f"{folder} has no episode of the test split; record some with seeds 18, 38, 58 ... (every twentieth is a "
            f"test episode: playloom record --seed 18 --hours 0.016 --out {folder}), or leave out --data"
        )


def evaluate(
    model: WorldModel,
    dataset: FrameDataset,
    settings: EvaluationSettings,
    *,
    pictures: Path | None = None,
    progress: Progress = lambda _: None,
    part_done: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Measure a model on the test episodes of a dataset.

    Episodes of the split "test" are measured, those of "heldout" in rows of their own. RecordingError when there is
    none of the split "test".

    `pictures` is a folder for the rollout's plot and a strip of real and generated frames. `progress` is called after
    every piece of work, `part_done` after every part of `PARTS` with a report of all rows so far; its `run` names the
    parts.
    """
    require_extra()
    _check_test_split([episode.meta.get("split") for episode in dataset.spans], dataset.folder)
    started, seconds = time.perf_counter(), dict[str, float]()
    engine = Engine(model, row_delay=settings.row_delay, backend=settings.backend)
    model.config.tokenizer.check_size(dataset.frames_FHWC[:1])
    run = EvaluationContext(engine, dataset, settings, progress)

    def report(**more: object) -> Report:
        spent = {**seconds, "all": round(time.perf_counter() - started, 1)}
        return Report(rows=tuple(run.rows), curves=dict(run.curves), run={**_metadata(run), "seconds": spent, **more})

    for name, part in PARTS.items():
        before = time.perf_counter()
        part(run)
        seconds[name] = round(time.perf_counter() - before, 1)
        part_done(report(parts=list(seconds)))
    if pictures is not None:
        _draw(run, pictures)
    return report()


def _metadata(run: EvaluationContext) -> dict[str, Any]:
    s, model, episodes = run.settings, run.model, dict[str, Any]()
    for split, spans in (("test", run.test), ("heldout", run.heldout)):
        seeds: list[Any] = sorted({span.meta.get("seed") for span in spans} - {None})
        episodes |= {f"{split}_episodes": len(spans), f"{split}_seeds": seeds}
    return {
        "model": {
            "name": model.config.name,
            "fingerprint": model.fingerprint,
            "parameters": sum(weight.numel() for weight in model.transformer.parameters()),
        },
        "data": {**episodes, "frames": len(run.dataset)},
        "counts": run.counts,
        "notes": list(run.notes),
        "settings": dataclasses.asdict(s),
        "seed": s.seed,
        "machine": machine(model.device),
        "playloom": playloom.__version__,
    }


def _draw(run: EvaluationContext, folder: Path) -> None:
    s, name = run.settings, run.model.config.name
    plot = rollout_plot(run.curves["horizon"], f"{name}: dreams with the recorded actions")
    write_picture(folder / "horizon.png", plot)
    assert run.dreams is not None
    (segment, *_), codes_MSN = run.dreams
    actions = segment.future_actions(run.dataset, s.horizon_steps)
    generated = decode(run.model, codes_MSN[0, : s.horizon_steps].astype(np.int64))
    steps = [step for step in (1, 2, 3, 5, 10, 15, 20, 30) if step <= s.horizon_steps]
    real = segment.future_frames(run.dataset, s.horizon_steps)
    sheet = rollout_strip(real, generated, actions, steps, f"{name}, recorded actions")
    sampling = dataclasses.asdict(s.sampling)
    manifest = Manifest(model=name, weights=run.model.fingerprint, seed=s.seed, mode="world", sampling=sampling)
    write_picture(folder / "strip.png", sheet, manifest)

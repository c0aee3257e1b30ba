"""Evaluation of one model: every part, one report.

>>> report = evaluate(load_model(folder), FrameDataset.open(data), EvaluationSettings())  # doctest: +SKIP
>>> print(table(report.rows))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import playloom
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.device import machine
from playloom.errors import ConfigError, GameError, MissingExtraError
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.control import (
    ControlMetrics,
    control_rows,
    evaluate_estimator,
    measure_control,
    measure_game_control,
)
from playloom.evaluation.diversity import diversity_curves, diversity_rows, measure_diversity
from playloom.evaluation.likelihood import baselines, likelihood, likelihood_rows, measure_likelihood, windows_at
from playloom.evaluation.persistency import (
    CANDIDATES,
    measure_persistency,
    persistency_curves,
    persistency_rows,
    static_segments,
)
from playloom.evaluation.reconstruction import measure_tokenizer, tokenizer_rows
from playloom.evaluation.report import Report, Row, rollout_plot, rollout_strip
from playloom.evaluation.rollout import (
    collapse_row,
    measure_collapse,
    measure_rollout,
    rollout_curves,
    rollout_rows,
)
from playloom.evaluation.segments import Progress, Segment, choose_segments, rollout_frames
from playloom.inference.engine import Engine
from playloom.media.images import write_picture
from playloom.models.checkpoint import WorldModel
from playloom.provenance import Manifest

LAGS = (4, 2, 1)
"""Row lags compared with raster order, as far as the model supports them."""


def require_extra() -> None:
    """Raise a MissingExtraError unless the packages of the extra `evaluate` are installed."""
    for package in ("scipy", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError.of(package, "evaluate")


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

    Args:
        model: in evaluation mode, on any device.
        dataset: pictures, actions and states; episodes of the split "test" are measured, those of "heldout" in rows of
            their own.
        settings: sizes of the parts.
        pictures: folder for the rollout's plot and a strip of real and generated frames; None: no pictures.
        progress: called after every piece of work.
        part_done: called after every part of `PARTS` with a report of all rows so far; its `run` names the parts.

    Raises:
        RecordingError: when the dataset has no stretch long enough.
        PictureError: when its pictures are of another size than the model's.
        ConfigError: when the model cannot decode with the settings' lag.
        MissingExtraError: when the extra `evaluate` is not installed.
    """
    require_extra()
    started = time.perf_counter()
    engine = Engine(model, lag=settings.lag)
    model.tokenizer.check_size(torch.from_numpy(np.array(dataset.frames_FHWC[:1])))
    run = _Run(model, engine, dataset, settings, progress)
    for part in PARTS:
        before = time.perf_counter()
        part(run)
        run.seconds[part.__name__.strip("_")] = round(time.perf_counter() - before, 1)
        part_done(run.report(started, parts=list(run.seconds)))
    if pictures is not None:
        _draw(run, pictures)
    return run.report(started)


@dataclass
class _Run:
    model: WorldModel
    engine: Engine
    dataset: FrameDataset
    settings: EvaluationSettings
    progress: Progress
    rows: list[Row] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.test, self.heldout = self.dataset.of_split("test"), self.dataset.of_split("heldout")
        self.past = self.model.config.transformer.context_steps

    def segments(
        self, count: int, future: int, episodes: Sequence[EpisodeSlice] | None = None, past: int = 0
    ) -> list[Segment]:
        episodes = self.test if episodes is None else episodes
        past, seed = past or self.past, self.settings.seed
        return choose_segments(self.dataset, episodes, count=count, past=past, future=future, seed=seed)

    def report(self, started: float, **more: object) -> Report:
        """Build the report of all rows so far; `more` goes into its `run`."""
        s, model = self.settings, self.model
        seconds = {**self.seconds, "all": round(time.perf_counter() - started, 1)}
        about = {
            "model": {
                "name": model.config.name,
                "fingerprint": model.fingerprint,
                "parameters": sum(weight.numel() for weight in model.transformer.parameters()),
            },
            "data": {
                "test_episodes": len(self.test),
                "test_seeds": _seeds(self.test),
                "heldout_episodes": len(self.heldout),
                "heldout_seeds": _seeds(self.heldout),
                "frames": len(self.dataset),
            },
            "counts": self.counts,
            "settings": dataclasses.asdict(s),
            "seed": s.seed,
            "machine": machine(model.device),
            "seconds": seconds,
            "playloom": playloom.__version__,
        }
        return Report(rows=tuple(self.rows), curves=dict(self.curves), run={**about, **more})


def _seeds(episodes: Sequence[EpisodeSlice]) -> list[Any]:
    return sorted({episode.meta.get("seed") for episode in episodes} - {None})


def _tokenizer(run: _Run) -> None:
    s = run.settings
    test = measure_tokenizer(run.model, run.dataset, run.test, count=s.frames, seed=s.seed, batch=s.batch)
    run.progress("tokenizer")
    heldout = None
    if run.heldout:
        count = max(1, s.frames // 4)
        heldout = measure_tokenizer(run.model, run.dataset, run.heldout, count=count, seed=s.seed, batch=s.batch)
        run.progress("tokenizer, held out")
    run.rows += tokenizer_rows(test, heldout)
    run.counts["tokenizer_frames"] = test.frames


def _likelihood(run: _Run) -> None:
    s, layout = run.settings, run.model.config.layout
    lags = [None, *(lag for lag in LAGS if layout.rows and lag < layout.grid_width)]
    segments = run.segments(s.windows, 1, past=run.past + 2)
    result = measure_likelihood(run.model, windows_at(run.model, run.dataset, segments), lags, s.lag, run.progress)
    heldout = None
    if run.heldout:
        apart = run.segments(max(1, s.windows // 2), 1, run.heldout, past=run.past + 2)
        windows = windows_at(run.model, run.dataset, apart)
        heldout = (likelihood(run.model, windows.codes_BTN, windows.actions, s.lag), baselines(windows))
        run.progress("likelihood, held out")
    run.rows += likelihood_rows(result, heldout)
    run.curves["likelihood"] = {name: one.to_json() for name, one in result.orders.items()}
    run.curves["alignment"] = {name: {"mean": gap.mean(), "windows": gap} for name, gap in result.gaps_B.items()}
    run.counts["likelihood_windows"] = len(segments)


def _horizon(run: _Run) -> None:
    s = run.settings
    segments = run.segments(s.horizon_moments, s.horizon_reach)
    test = measure_rollout(run.engine, run.dataset, segments, s, run.progress, steps=s.horizon_reach)
    greedy = heldout = None
    if s.greedy_moments:
        short: dict[str, Any] = {"progress": run.progress, "steps": s.greedy_steps, "detail": False}
        cold = dataclasses.replace(s, sampling=dataclasses.replace(s.sampling, temperature=0.0))
        greedy = measure_rollout(run.engine, run.dataset, segments[: s.greedy_moments], cold, **short)
        if run.heldout:
            apart = run.segments(s.greedy_moments, s.greedy_steps, run.heldout)
            heldout = measure_rollout(run.engine, run.dataset, apart, s, **short)
    collapse = measure_collapse(run.model, run.dataset, segments, test, s.collapse_step)
    run.rows += [*rollout_rows(test, greedy, heldout), collapse_row(collapse)]
    run.curves["horizon"] = rollout_curves(test)
    run.curves["collapse"] = dataclasses.asdict(collapse)
    run.counts["horizon_moments"] = len(segments)


def _control(run: _Run) -> None:
    if {episode.meta.get("game", "arena") for episode in run.test} != {"arena"}:
        return  # camera and turning speed of other games are unknown
    s = run.settings
    segments = run.segments(s.control_moments, s.control_steps)
    dream = measure_control(run.engine, run.dataset, segments, s, run.progress)
    estimator = evaluate_estimator(run.dataset, run.test, count=s.estimator_pairs, seed=s.seed)
    run.progress("control, estimator")
    game = _game_control(run, segments) if s.game_moments else None
    run.rows += control_rows(dream, estimator, game)
    run.curves["control"] = {"dream": _rounded(dream), "game": None if game is None else _rounded(game)}
    run.curves["estimator"] = dataclasses.asdict(estimator)
    run.counts["control_moments"] = len(segments)


def _game_control(run: _Run, segments: Sequence[Segment]) -> ControlMetrics | None:
    s = run.settings
    some = segments[:: max(1, len(segments) // s.game_moments)][: s.game_moments]
    try:
        return measure_game_control(run.dataset, some, steps=s.control_steps, progress=run.progress)
    except (MissingExtraError, GameError, ConfigError):  # only a baseline: not worth losing all other figures
        return None


def _rounded(control: ControlMetrics) -> dict[str, list[float]]:
    return {name: [round(float(value), 3) for value in values] for name, values in vars(control).items()}


def _diversity(run: _Run) -> None:
    s = run.settings
    if not s.diversity_moments:
        return
    segments = run.segments(s.diversity_moments, s.diversity_steps)
    result = measure_diversity(run.engine, run.dataset, segments, s, run.progress, episodes=run.test)
    run.rows += diversity_rows(result)
    run.curves["diversity"] = diversity_curves(result)
    run.counts["diversity_moments"] = len(segments)


def _persistency(run: _Run) -> None:
    s = run.settings
    if not s.persistency_moments:
        return
    candidates = run.segments(CANDIDATES * s.persistency_moments, 1)
    segments = static_segments(run.dataset, candidates, s.persistency_moments)
    result = measure_persistency(run.engine, run.dataset, segments, s, run.progress)
    run.rows += persistency_rows(result)
    run.curves["persistency"] = persistency_curves(result)
    run.counts["persistency_moments"] = len(segments)


PARTS = (_tokenizer, _likelihood, _horizon, _control, _diversity, _persistency)
"""Parts in the order of the table."""


def _draw(run: _Run, folder: Path) -> None:
    s, name = run.settings, run.model.config.name
    plot = rollout_plot(run.curves["horizon"], f"{name}: dreams with the recorded actions")
    write_picture(folder / "horizon.png", plot)
    segment = run.segments(s.horizon_moments, s.horizon_reach)[0]
    actions = segment.future_actions(run.dataset, s.horizon_steps)
    (generated,) = rollout_frames(run.engine, [segment.prompt(run.dataset)], [actions], s)
    steps = [step for step in (1, 2, 3, 5, 10, 15, 20, 30) if step <= s.horizon_steps]
    real = segment.future_frames(run.dataset, s.horizon_steps)
    sheet = rollout_strip(real, generated, actions, steps, f"{name}, recorded actions")
    sampling = dataclasses.asdict(s.sampling)
    manifest = Manifest(model=name, weights=run.model.fingerprint, seed=s.seed, mode="world", sampling=sampling)
    write_picture(folder / "strip.png", sheet, manifest)

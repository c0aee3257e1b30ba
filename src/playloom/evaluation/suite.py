"""Evaluation of one model: every part, one report.

report = evaluate(load_model(folder), FrameDataset.open(data), EvaluationSettings())
print(table(report.rows))
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import playloom
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.device import machine
from playloom.errors import ConfigError, GameError, MissingExtraError
from playloom.evaluation.camera_motion import Camera
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.control import ControlResult, control_rows, dream_control, evaluate_estimator, game_control
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
from playloom.evaluation.report import Report, Row, horizon_plot, strip
from playloom.evaluation.rollout import (
    Horizon,
    collapse_rows,
    horizon_curves,
    horizon_rows,
    measure_collapse,
    measure_horizon,
)
from playloom.evaluation.segments import Segment, choose_segments, dream_all
from playloom.inference.engine import Engine
from playloom.media.images import write_picture
from playloom.models.checkpoint import WorldModel
from playloom.provenance import Manifest

ROW_DELAYS = (4, 2, 1)
"""Row row_delays compared with raster order, as far as the model supports them."""
Tick = Callable[[str], None]
"""Progress callback: receives a description of the finished piece of work."""


@dataclass
class _Run:
    model: WorldModel
    store: FrameDataset
    settings: EvaluationSettings
    tick: Tick
    rows: list[Row] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def test(self) -> tuple[EpisodeSlice, ...]:
        return self.store.of_split("test")

    @property
    def heldout(self) -> tuple[EpisodeSlice, ...]:
        return self.store.of_split("heldout")

    @property
    def past(self) -> int:
        return self.model.config.transformer.context_steps

    def moments(
        self, count: int, future: int, spans: Sequence[EpisodeSlice] | None = None, past: int = 0
    ) -> list[Segment]:
        spans = self.test if spans is None else spans
        seed = self.settings.seed
        return choose_segments(self.store, spans, count=count, past=past or self.past, future=future, seed=seed)

    def horizon(self, moments: Sequence[Segment], steps: int, *, greedy: bool = False, detail: bool = True) -> Horizon:
        sampling = self.settings.sampling
        return measure_horizon(
            self.model,
            Engine(self.model, row_delay=self.settings.row_delay),
            self.store,
            moments,
            steps=steps,
            sampling=dataclasses.replace(sampling, temperature=0.0) if greedy else sampling,
            seed=self.settings.seed,
            batch=self.settings.batch,
            tick=self.tick,
            detail=detail,
        )


def evaluate(
    model: WorldModel,
    store: FrameDataset,
    settings: EvaluationSettings,
    *,
    pictures: Path | None = None,
    tick: Tick = lambda _: None,
    part_done: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Measure a model on the test episodes of a store.

    Args:
        model: in evaluation mode, on any device.
        store: pictures, actions and states; episodes whose meta says split "test" are measured, "heldout" ones
            in rows of their own.
        settings: how much is measured.
        pictures: a folder for the horizon's plot and a strip of real and dreamed frames; None draws neither.
        tick: told after every piece of work.
        part_done: given a report of all rows so far after every part of `PARTS`; its `run` says `parts`.

    Raises:
        RecordingError: when the store has no stretch long enough.
        PictureError: when its pictures are of another size than the model's.
        ConfigError: when the model cannot decode with the settings' row delay.
    """
    started = time.perf_counter()
    Engine(model, row_delay=settings.row_delay)  # an order the model does not know should fail now, not after a minute
    model.tokenizer.check_size(torch.from_numpy(np.array(store.frames_FHWC[:1])))
    run = _Run(model, store, settings, tick)
    for part in PARTS:
        before = time.perf_counter()
        part(run)
        run.seconds[part.__name__.strip("_")] = round(time.perf_counter() - before, 1)
        about = _about(run, time.perf_counter() - started)
        parts = list(run.seconds)
        part_done(Report(rows=tuple(run.rows), curves=dict(run.curves), run={**about, "parts": parts}))
    if pictures is not None:
        _draw(run, pictures)
    return Report(rows=tuple(run.rows), curves=run.curves, run=_about(run, time.perf_counter() - started))


def _tokenizer(run: _Run) -> None:
    s = run.settings
    test = measure_tokenizer(run.model, run.store, run.test, count=s.frames, seed=s.seed, batch=s.batch)
    run.tick("tokenizer")
    heldout = None
    if run.heldout:
        count = max(1, s.frames // 4)
        heldout = measure_tokenizer(run.model, run.store, run.heldout, count=count, seed=s.seed, batch=s.batch)
        run.tick("tokenizer, held out")
    run.rows += tokenizer_rows(test, heldout)
    run.counts["tokenizer_frames"] = test.frames


def _likelihood(run: _Run) -> None:
    s, layout = run.settings, run.model.config.layout
    row_delays: list[int | None] = [None]
    if layout.rows:
        row_delays += [row_delay for row_delay in ROW_DELAYS if row_delay < layout.grid_width]
    windows = windows_at(run.model, run.store, run.moments(s.windows, 1, past=run.past + 2))
    result = measure_likelihood(run.model, windows, tuple(row_delays), s.row_delay, run.tick)
    heldout = None
    if run.heldout:
        moments = run.moments(max(1, s.windows // 2), 1, run.heldout, past=run.past + 2)
        held = windows_at(run.model, run.store, moments)
        heldout = (likelihood(run.model, held.codes_BTN, held.actions, s.row_delay), baselines(held), len(moments))
        run.tick("likelihood, held out")
    run.rows += likelihood_rows(result, heldout)
    run.curves["likelihood"] = {name: judged.to_json() for name, judged in result.orders.items()}
    run.curves["alignment"] = {name: {"mean": gap.mean(), "windows": gap} for name, gap in result.gaps_B.items()}
    run.counts["likelihood_windows"] = result.windows


def _horizon(run: _Run) -> None:
    s = run.settings
    moments = run.moments(s.horizon_moments, s.horizon_reach)
    test = run.horizon(moments, s.horizon_reach)
    greedy = heldout = None
    if s.greedy_moments:
        greedy = run.horizon(moments[: s.greedy_moments], s.greedy_steps, greedy=True, detail=False)
        if run.heldout:
            apart = run.moments(s.greedy_moments, s.greedy_steps, run.heldout)
            heldout = run.horizon(apart, s.greedy_steps, detail=False)
    run.rows += horizon_rows(test, greedy, heldout)
    run.curves["horizon"] = horizon_curves(test)
    collapse = measure_collapse(run.model, run.store, moments, test, s.collapse_step)
    run.rows += collapse_rows(collapse)
    run.curves["collapse"] = dataclasses.asdict(collapse)
    run.counts["horizon_moments"] = len(moments)


def _control(run: _Run) -> None:
    if {span.meta.get("game", "arena") for span in run.test} != {"arena"}:
        return  # camera and turning speed of another game are not known here
    s, camera = run.settings, Camera()
    moments = run.moments(s.control_moments, s.control_steps)
    dream = dream_control(
        run.model,
        Engine(run.model, row_delay=s.row_delay),
        run.store,
        moments,
        steps=s.control_steps,
        sampling=s.sampling,
        seed=s.seed,
        batch=s.batch,
        camera=camera,
        tick=run.tick,
    )
    recorded = evaluate_estimator(run.store, run.test, count=s.estimator_pairs, seed=s.seed, camera=camera)
    run.tick("control, estimator")
    game = _in_the_game(run, moments, camera) if s.game_moments else None
    run.rows += control_rows(dream, recorded, game)
    run.curves["control"] = {"dream": _lists(dream), "game": None if game is None else _lists(game)}
    run.curves["estimator"] = dataclasses.asdict(recorded)
    run.counts["control_moments"] = len(moments)


def _in_the_game(run: _Run, moments: Sequence[Segment], camera: Camera) -> ControlResult | None:
    some = moments[:: max(1, len(moments) // run.settings.game_moments)][: run.settings.game_moments]
    try:
        return game_control(run.store, some, steps=run.settings.control_steps, camera=camera, tick=run.tick)
    except (MissingExtraError, GameError, ConfigError):  # only a baseline: not worth losing all other figures
        return None


def _diversity(run: _Run) -> None:
    s = run.settings
    if not s.diversity_moments:
        return
    moments = run.moments(s.diversity_moments, s.diversity_steps)
    result = measure_diversity(run.model, run.store, run.test, moments, s, run.tick)
    run.rows += diversity_rows(result)
    run.curves["diversity"] = diversity_curves(result)
    run.counts["diversity_moments"] = len(moments)


def _persistency(run: _Run) -> None:
    s = run.settings
    if not s.persistency_moments:
        return
    moments = static_segments(run.store, run.moments(CANDIDATES * s.persistency_moments, 1), s.persistency_moments)
    result = measure_persistency(run.model, run.store, moments, s, run.tick)
    run.rows += persistency_rows(result)
    run.curves["persistency"] = persistency_curves(result)
    run.counts["persistency_moments"] = len(moments)


PARTS = (_tokenizer, _likelihood, _horizon, _control, _diversity, _persistency)
"""Parts in the order of the table."""


def _draw(run: _Run, folder: Path) -> None:
    s, model = run.settings, run.model
    name = model.config.name
    plotted = horizon_plot(run.curves["horizon"], f"{name}: dreams with the recorded actions")
    write_picture(folder / "horizon.png", plotted)
    moment = run.moments(s.horizon_moments, s.horizon_reach)[0]
    actions = moment.future_actions(run.store, s.horizon_steps)
    (dreamed,) = dream_all(
        Engine(model, row_delay=s.row_delay),
        [moment.prompt(run.store)],
        [actions],
        sampling=s.sampling,
        seed=s.seed,
        batch=1,
    )
    steps = [step for step in (1, 2, 3, 5, 10, 15, 20, 30) if step <= s.horizon_steps]
    real = moment.future_frames(run.store, s.horizon_steps)
    sheet = strip(real, dreamed, actions, steps, f"{name}, recorded actions")
    manifest = Manifest(model=name, weights=model.fingerprint, seed=s.seed, mode="world", sampling=_sampling(s))
    write_picture(folder / "strip.png", sheet, manifest)


def _about(run: _Run, seconds: float) -> dict[str, Any]:
    s, store = run.settings, run.store
    return {
        "model": {
            "name": run.model.config.name,
            "fingerprint": run.model.fingerprint,
            "parameters": sum(weight.numel() for weight in run.model.transformer.parameters()),
        },
        "data": {
            "test_episodes": len(run.test),
            "test_seeds": sorted({span.meta.get("seed") for span in run.test} - {None}),
            "heldout_episodes": len(run.heldout),
            "heldout_seeds": sorted({span.meta.get("seed") for span in run.heldout} - {None}),
            "frames": len(store),
        },
        "counts": run.counts,
        "settings": {**dataclasses.asdict(s), "sampling": _sampling(s)},
        "seed": s.seed,
        "machine": machine(run.model.device),
        "seconds": {**run.seconds, "all": round(seconds, 1)},
        "playloom": playloom.__version__,
    }


def _sampling(settings: EvaluationSettings) -> dict[str, float | int | str | None]:
    return dict(dataclasses.asdict(settings.sampling))


def _lists(control: ControlResult) -> dict[str, list[float]]:
    return {name: [round(float(value), 3) for value in values] for name, values in vars(control).items()}

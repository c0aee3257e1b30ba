"""Evaluation at the edges: one step of context, one segment, small pictures, deaths, and settings in conflict."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from conftest import loud_model, tiny_config
from evaluation_toys import frame_dataset, noise, random_actions, resting
from playloom.actions.codec import REST_VALUES
from playloom.cli.app import app
from playloom.errors import ConfigError, PlayloomError, RecordingError
from playloom.evaluation import control, inverse_dynamics, likelihood, rollout, suite
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.control import revisit_row
from playloom.evaluation.diversity import action_spread, joint_distance, measure_diversity
from playloom.evaluation.segments import EvaluationContext, Segment, spread
from playloom.inference.engine import Engine
from playloom.models.checkpoint import save_model
from playloom.models.tokenizer.metrics import ssim

SMALL = EvaluationSettings(
    row_delay=2, frames=4, horizon_segments=2, horizon_steps=3, greedy_segments=0, collapse_step=12, diversity_steps=2
)


def context(folder: Path, *, dead: int = 0, settings: EvaluationSettings = SMALL, **sizes: object) -> EvaluationContext:
    """Two test episodes of 30 steps, dead in the first `dead` of them, and a tiny model of these sizes."""
    lying = {"dead": np.arange(60) % 30 < dead}
    dataset = frame_dataset(folder, noise(60), random_actions(60), lengths=[30, 30], states=lying)
    engine = Engine(loud_model(tiny_config(**sizes)), row_delay=2)
    return EvaluationContext(engine, dataset, settings)


def test_a_context_of_one_step_has_no_likelihood(tmp_path: Path) -> None:
    run = context(tmp_path, context_steps=1, local_steps=None)
    likelihood.evaluate(run)
    assert not run.rows


def test_a_prompt_without_inputs_repeats_rest_not_the_input_of_another_episode(tmp_path: Path) -> None:
    run = context(tmp_path, context_steps=1, local_steps=None)
    spread = measure_diversity(run, run.segments(60, 2)[:1])
    rest, reference = resting(2), np.array(run.dataset.actions_FA)[2:]
    repeated = spread["kinds"]["repeat"]
    assert repeated["steps_that_change"] == 0
    assert repeated["inputs_apart"] == pytest.approx(
        action_spread(rest[None], REST_VALUES[None], reference, 0)["inputs_apart"]
    )


def test_players_dead_at_the_start_leave_nothing_to_read_inputs_from(tmp_path: Path) -> None:
    run = context(tmp_path, dead=9, settings=dataclasses.replace(SMALL, encoded_frames=10))
    run.dreams = [], np.zeros((0, 12, 24), np.int32)
    inverse_dynamics.evaluate(run)
    assert not run.rows


def test_the_horizon_ends_where_its_setting_says(tmp_path: Path) -> None:
    run = context(tmp_path)
    rollout.evaluate(run)
    rows = {row.name: row for row in run.rows if row.part == "horizon"}
    assert "PSNR at step 3" in rows and "PSNR at step 10" not in rows
    ceilings = run.curves["horizon"]["ceiling_psnr"]
    assert rows["PSNR, mean of steps 1 to 3"].baselines["ceiling"] == pytest.approx((ceilings["1"] + ceilings["3"]) / 2)
    assert "motion of steps 1 to 3, dream over real" in rows


def test_one_segment_has_no_actions_and_no_view_of_another(tmp_path: Path) -> None:
    run = context(tmp_path, settings=dataclasses.replace(SMALL, horizon_segments=1))
    rollout.evaluate(run)
    assert run.rows and not any("due to actions" in row.name for row in run.rows)
    start = np.zeros((1, 16, 24, 3), np.uint8)
    row = revisit_row("path", start, start, np.zeros((1, 4, 16, 24, 3), np.uint8), [], np.arange(1))
    assert "another segment" not in row.baselines and row.passed is False


def test_episodes_of_an_unknown_game_return_to_the_start_without_the_real_game(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATHS", {"there and back": ("right", "left")})
    settings = dataclasses.replace(SMALL, revisit_segments=1, game_segments=1)
    run = context(tmp_path, settings=settings)
    control.evaluate_revisit(run)
    assert [row.name for row in run.rows] == ["PSNR of the start after there and back (2 steps)"]
    assert "real game" not in run.rows[0].baselines
    (note,) = run.notes
    assert note.startswith("rows without the real game: no test episode can be replayed")


def test_another_game_is_measured_without_control_and_a_note_says_so(tmp_path: Path) -> None:
    run = context(tmp_path, settings=dataclasses.replace(SMALL, revisit_segments=1))
    run.test = tuple(dataclasses.replace(span, meta={"game": "pong"}) for span in run.test)
    control.evaluate(run)
    control.evaluate_revisit(run)
    assert not run.rows
    assert run.notes == ["control and revisit are left out: pong has an unknown camera"]


def test_the_real_game_is_refused_where_it_cannot_be_measured(tmp_path: Path) -> None:
    """Its rows were left out without a word for recordings whose metadata has no game."""
    pytest.importorskip("vizdoom")
    run = context(tmp_path / "store")
    save_model(tmp_path / "model", run.model)
    call = ["evaluate", "--game", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "store")]
    call += ["--cache-dir", str(tmp_path / "work")]
    for words, said in (
        ((), "their records name no game, expected the game arena"),
        (("--quick",), "game_segments is 0"),
    ):
        refused = CliRunner().invoke(app, [*call, *words]).exception
        assert isinstance(refused, PlayloomError) and said in str(refused)
    meta = {"split": "test", "game": "arena", "variant": "plaza", "mode": "ffa", "seed": 1}
    arena = dataclasses.replace(run.test[1], meta=meta)
    control.require_game(dataclasses.replace(run.dataset, spans=(arena,)))
    run.dataset = dataclasses.replace(run.dataset, spans=(run.test[0], arena))
    chosen = control.replayable(run.dataset, run.segments(8, 3), 2)
    assert len(chosen) == 2 and all(segment.row >= 30 for segment in chosen)


def test_a_few_of_the_segments_are_from_the_whole_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy sampling was measured on the first half of the test episodes only."""
    assert spread(list(range(10)), 4) == [0, 2, 5, 7] and spread([1, 2], 6) == [1, 2]
    run, measured = context(tmp_path, settings=dataclasses.replace(SMALL, horizon_segments=4, greedy_segments=2)), []
    measure = rollout.measure_rollout

    def noted(run: EvaluationContext, segments: list[Segment], **how: object) -> rollout.RolloutMetrics:
        measured.append([segment.row // 30 for segment in segments])
        return measure(run, segments, **how)

    monkeypatch.setattr(rollout, "measure_rollout", noted)
    rollout.evaluate(run)
    assert measured == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 1]]


def test_a_dataset_without_test_episodes_is_a_sentence(tmp_path: Path) -> None:
    run = context(tmp_path)
    spans = tuple(dataclasses.replace(span, meta={"split": "train"}) for span in run.dataset.spans)
    with pytest.raises(RecordingError, match="no episode of the test split"):
        suite.evaluate(run.model, dataclasses.replace(run.dataset, spans=spans), SMALL)


def test_pictures_smaller_than_the_window_have_no_ssim() -> None:
    for size in ((10, 24), (24, 10), (1, 1)):
        picture = np.zeros((2, *size, 3), np.uint8)
        assert torch.isnan(ssim(picture, picture)).tolist() == [True, True]
    picture = np.zeros((2, 11, 11, 3), np.uint8)
    assert ssim(picture, picture).tolist() == [1, 1]


def test_every_draw_of_a_standard_error_compares_samples_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller sample would choose its partners, and seem nearer."""
    sizes = []

    def measured(first: np.ndarray, second: np.ndarray) -> float:
        sizes.append((len(first), len(second)))
        return joint_distance(first, second)

    monkeypatch.setattr("playloom.evaluation.diversity.joint_distance", measured)
    actions = random_actions(5, 2)
    action_spread(actions, actions[:, 0], actions.reshape(-1, 16), 0, np.array([1, 2, 2, 2, 2]))
    assert len(set(sizes)) > 1 and all(first == second for first, second in sizes)


def test_a_config_has_sizes_only_and_its_sizes_hold_with_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model", loud_model(tiny_config()))
    context(tmp_path / "store")
    call = ["evaluate", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "store"), "--quick"]
    call += ["--cache-dir", str(tmp_path / "work"), "--config", str(tmp_path / "sizes.json")]
    for name, flag in (("seed", "--seed"), ("row_delay", "--decode-order")):
        (tmp_path / "sizes.json").write_text(json.dumps({name: 1}))
        refused = CliRunner().invoke(app, call)
        assert isinstance(refused.exception, ConfigError) and flag in str(refused.exception)
    (tmp_path / "sizes.json").write_text(json.dumps({"frames": 5}))
    given: list[EvaluationSettings] = []

    def stop(_: object, __: object, settings: EvaluationSettings, **___: object) -> None:
        given.append(settings)
        raise ConfigError("enough")

    monkeypatch.setattr(suite, "evaluate", stop)
    CliRunner().invoke(app, call)
    quick = EvaluationSettings().quick()
    assert (given[0].frames, given[0].windows, given[0].game_segments) == (5, quick.windows, 0)

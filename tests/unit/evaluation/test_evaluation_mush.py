"""Pictures that are no dream (the mean, the last one for ever, a blurred copy) miss a bar of every claim of quality."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from conftest import loud_model, tiny_config
from evaluation_toys import frame_dataset, resting
from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.control import revisit_row
from playloom.evaluation.drift import Stretches, drift_metrics, drift_rows
from playloom.evaluation.inverse_dynamics import (
    Pairs,
    classes_of,
    counts_of,
    inverse_rows,
    macro_f1,
    train_inverse_dynamics,
)
from playloom.evaluation.report import Row
from playloom.evaluation.rollout import (
    RolloutMetrics,
    TokenizerMetrics,
    action_rows,
    measure_rollout,
    motion,
    quality_rows,
    rollout_rows,
    tokenizer_rows,
)
from playloom.evaluation.segments import EvaluationContext, choose_segments
from playloom.inference.session import GenerationRequest, StepResult
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, sharpness

STEPS, LENGTH = 12, 40
Fake = Callable[[int, int], np.ndarray]
FAKES = ("mean", "frozen", "blurred")


@pytest.fixture(scope="module")
def scrolling(tmp_path_factory: pytest.TempPathFactory) -> FrameDataset:
    """Three episodes of a picture that moves left by a column per step."""
    frames = []
    for seed in range(3):
        wide = np.random.default_rng(seed).integers(0, 256, (8, 60, 3)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
        frames += [wide[:, step : step + 24] for step in range(LENGTH)]
    return frame_dataset(tmp_path_factory.mktemp("scroll"), np.stack(frames), lengths=[LENGTH] * 3)


def blurred(picture: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2)))


def mean_of(store: FrameDataset) -> np.ndarray:
    return np.asarray(store.frames_FHWC).mean(0).round().astype(np.uint8)


def fake_dream(store: FrameDataset, kind: str) -> RolloutMetrics:
    """Measure rollouts whose frames are fake; `true` is the recording itself."""
    segments = choose_segments(store, store.spans, count=6, past=4, future=STEPS, seed=0)

    def frame(index: int, step: int) -> np.ndarray:
        row = segments[index].row
        truth, last = store.frames_FHWC[row + step + 1], store.frames_FHWC[row]
        choices = {"true": truth, "mean": mean_of(store), "frozen": last, "blurred": blurred(np.array(truth))}
        return np.array(choices[kind])

    def dream_batch(requests: list[GenerationRequest]) -> Iterator[list[StepResult]]:
        for step in range(requests[0].steps):
            yield [
                StepResult(
                    index=step,
                    action_A=REST_VALUES,
                    action_given=True,
                    frame_HWC=frame(request.seed, step),
                    codes_N=np.zeros(24, np.int64),
                )
                for request in requests
            ]

    engine: Any = SimpleNamespace(model=loud_model(tiny_config()), dream_batch=dream_batch)
    how, detail = EvaluationSettings(batch=3), (1, 3, 10, STEPS)
    run = EvaluationContext(engine, store, how)
    return measure_rollout(run, segments, steps=STEPS, detail=detail, mean_HWC=mean_of(store))


def missed(rows: list[Row]) -> bool:
    return any(row.passed is False for row in rows)


def test_the_recording_itself_reaches_the_bars_of_the_horizon(scrolling: FrameDataset) -> None:
    dream = fake_dream(scrolling, "true")
    assert not missed(rollout_rows(dream, None, None)) and not missed(quality_rows(dream, STEPS))
    blind = action_rows(dream, dream)
    assert missed(blind) and blind[0].value == 0, "the same error with wrong actions"
    other = dataclasses.replace(dream, dream_MS=dream.repeat_MS)
    assert not missed(action_rows(dream, other)) and action_rows(dream, other)[0].value == 1


@pytest.mark.parametrize("kind", FAKES)
def test_no_fake_rollout_reaches_all_bars(kind: str, scrolling: FrameDataset) -> None:
    dream = fake_dream(scrolling, kind)
    assert missed(rollout_rows(dream, None, None))
    assert missed(quality_rows(dream, STEPS))
    if kind != "blurred":
        assert missed(action_rows(dream, dream))


@pytest.mark.parametrize("kind", ["mean", "blurred"])
def test_no_fake_reconstruction_reaches_all_bars(kind: str, scrolling: FrameDataset) -> None:
    truth = np.asarray(scrolling.frames_FHWC)
    fake = np.stack([blurred(frame) if kind == "blurred" else mean_of(scrolling) for frame in truth])
    decibels = psnr(fake, truth, PSNR_CAP).double().numpy()
    metrics = TokenizerMetrics(
        psnr_F=np.maximum(decibels, 30) if kind == "blurred" else decibels,  # a soft game, in which blur costs little
        ssim_F=decibels,
        sharpness_F2=np.stack([sharpness(fake), sharpness(truth)], -1),
        mean_psnr_F=decibels,
        mean_ssim_F=decibels,
        codes_FN=np.zeros((len(truth), 24), np.int64),
        episodes_F=np.arange(len(truth)),
    )
    assert missed(tokenizer_rows(metrics, None, 16))


@pytest.mark.parametrize("kind", ["true", *FAKES])
def test_no_fake_long_dream_reaches_all_bars(kind: str, scrolling: FrameDataset) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (3, 4, 9, 24))

    def stretches(kind: str) -> Stretches:
        sharp, moved = np.empty((3, 4)), np.empty((3, 4))
        for dream, span in enumerate(scrolling.spans):
            truth = np.array(scrolling.frames_FHWC[span.rows][:36])
            still = mean_of(scrolling) if kind == "mean" else truth[0]
            soft = np.stack([blurred(frame) for frame in truth])
            frames = {"true": truth, "blurred": soft}.get(kind, np.broadcast_to(still, truth.shape))
            sharp[dream] = sharpness(frames).reshape(4, 9).mean(1)
            moved[dream] = np.append(motion(frames[:-1], frames[1:]), np.nan).reshape(4, 9)[:, :8].mean(1)
        return Stretches(sharpness_MD=sharp, motion_MD=moved, codes_MDTN=codes, episodes_M=np.arange(3))

    true = stretches("true")
    flat = {name: values.reshape(12, 1, *values.shape[2:]) for name, values in vars(true).items() if name[-1] != "M"}
    recorded = Stretches(**flat, episodes_M=np.arange(3).repeat(4))
    rows = drift_rows(drift_metrics(stretches(kind), recorded, 16), np.arange(3), 9)
    assert missed(rows) == (kind != "true") and len(rows) == 8


def test_drift_names_the_worst_stretch_and_the_slope() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (2, 4, 5, 24))
    fading = Stretches(
        sharpness_MD=np.array([[1.0, 0.9, 0.8, 0.7]] * 2) * 5,
        motion_MD=np.full((2, 4), 3.0),
        codes_MDTN=codes,
        episodes_M=np.arange(2),
    )
    recorded = Stretches(
        sharpness_MD=np.full((8, 1), 5.0),
        motion_MD=np.full((8, 1), 3.0),
        codes_MDTN=codes.reshape(8, 1, 5, 24),
        episodes_M=np.arange(2).repeat(4),
    )
    metrics = drift_metrics(fading, recorded, 16)
    rows = {row.name: row for row in drift_rows(metrics, np.arange(2), 5)}
    worst, slope = list(rows.values())[:2]
    assert worst.value == pytest.approx(0.7) and slope.value == pytest.approx(-0.1 / 5 * 100)
    nearest = next(row for name, row in rows.items() if "nearest" in name)
    assert nearest.value == 0 and 0 < nearest.baselines["recorded"] < 1, "its own codes; those of another episode"


def test_only_who_leaves_and_comes_back_has_come_back(tmp_path: Path) -> None:
    start = np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3)).astype(np.uint8)
    away = np.random.default_rng(1).integers(0, 256, (6, 4, 16, 24, 3)).astype(np.uint8)
    back = away.copy()
    back[:, -1] = start
    lost, frozen = away, np.repeat(start[:, None], 4, axis=1)
    mean = np.broadcast_to(start.mean(0).round().astype(np.uint8), away.shape)
    passed = [
        revisit_row("path", start, start, frames, [30.0], np.arange(6)).passed for frames in (back, lost, frozen, mean)
    ]
    assert passed == [True, False, False, False]


def moving_pairs(seed: int, count: int = 300) -> Pairs:
    """Pictures that move by a column with the right stick and are new where trigger LT (slot 0) is pressed."""
    source = np.random.default_rng(seed)
    before = source.integers(0, 16, (count, 4, 6))
    actions = resting(count)
    actions[:, 14] = source.choice([0, 5, 10], count)
    side = np.sign(actions[:, 14].astype(int) - 5)
    after = np.stack([np.roll(frame, -s, axis=1) for frame, s in zip(before, side, strict=True)])
    flat = (before.reshape(count, 24), after.reshape(count, 24))
    return Pairs(before_PN=flat[0], after_PN=flat[1], actions_PA=actions, episodes_P=np.arange(count) % 6)


def test_inputs_are_read_from_frames_that_show_them_only() -> None:
    model = loud_model(tiny_config())
    network = train_inverse_dynamics(model, moving_pairs(0, 600), 120, seed=0)
    real = moving_pairs(1)
    good = inverse_rows(network, real, moving_pairs(2), seed=0)
    assert good[0].passed and good[1].value > 0.5 > 2 * good[0].baselines["shuffled"]
    frozen = dataclasses.replace(real, after_PN=real.before_PN)
    mean = dataclasses.replace(
        real, before_PN=real.before_PN[:1].repeat(300, 0), after_PN=real.before_PN[:1].repeat(300, 0)
    )
    assert not inverse_rows(network, real, frozen, seed=0)[0].passed
    assert not inverse_rows(network, real, mean, seed=0)[0].passed


def test_the_f1_of_known_readings() -> None:
    actions = resting(4)
    actions[:, 0], actions[:, 14] = [1, 1, 0, 0], [0, 5, 10, 10]
    read = actions.copy()
    assert macro_f1(counts_of(classes_of(read), actions), [0, 14]) == 1
    read[:, 0], read[:, 14] = [1, 0, 1, 0], [0, 5, 5, 10]
    left, rest, right = 1.0, 2 / 3, 2 / 3
    assert macro_f1(counts_of(classes_of(read), actions), [0, 14]) == pytest.approx(
        (0.5 + (left + rest + right) / 3) / 2
    )

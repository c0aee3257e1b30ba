"""Moments, likelihood, horizon and collapse: what must hold for the figures to mean what they say."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from conftest import loud_model, tiny_config
from evaluation_toys import frame_dataset, noise, random_actions
from playloom.data.dataset import FrameDataset
from playloom.errors import RecordingError
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.likelihood import (
    BUTTONS,
    STICKS,
    Windows,
    baselines,
    conditional_entropy,
    entropy,
    likelihood,
    likelihood_rows,
    measure_likelihood,
    windows_at,
)
from playloom.evaluation.rollout import (
    RolloutMetrics,
    draw_rows,
    measure_rollout,
    measure_tokenizer,
    motion,
    quality_rows,
    rollout_curves,
    rollout_rows,
    tokenizer_rows,
)
from playloom.evaluation.segments import EvaluationContext, choose_segments, encode, frames_after, reconstruct
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import WorldModel, build_transformer
from playloom.models.decode_order import schedule
from playloom.models.sequence import NO_TOKEN
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, sharpness
from playloom.models.transformer.transformer import interleave, position_inputs
from playloom.training.world_model import WorldLoss


def test_moments_keep_clear_of_the_dead_and_of_episode_ends(tmp_path: Path) -> None:
    frames = np.zeros((60, 16, 24, 3), np.uint8)
    store = frame_dataset(tmp_path, frames, lengths=[30, 30], states={"dead": np.arange(60) == 45})
    moments = choose_segments(store, store.spans, count=100, past=4, future=6, seed=0)
    seen = {m.row for m in moments}
    assert seen == {row for row in range(60) if 3 <= row % 30 <= 23 and not row - 3 <= 45 <= row + 6}
    again = choose_segments(store, store.spans, count=5, past=4, future=6, seed=3)
    assert again == choose_segments(store, store.spans, count=5, past=4, future=6, seed=3)
    assert again != choose_segments(store, store.spans, count=5, past=4, future=6, seed=4)
    with pytest.raises(RecordingError, match="31 steps"):
        choose_segments(store, store.spans, count=5, past=10, future=21, seed=0)


def test_a_moment_is_cut_without_an_off_by_one(tmp_path: Path) -> None:
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 24, 3), np.uint8)
    store = frame_dataset(tmp_path, frames, random_actions(20))
    moment = next(m for m in choose_segments(store, store.spans, count=99, past=3, future=4, seed=0) if m.row == 7)
    prompt = moment.prompt(store)
    assert prompt.frames_THWC[:, 0, 0, 0].tolist() == [5, 6, 7]
    assert np.array_equal(prompt.actions_TA, store.actions_FA[5:7])
    assert np.array_equal(moment.future_actions(store, 4), store.actions_FA[7:11])
    assert moment.future_frames(store, 4)[:, 0, 0, 0].tolist() == [8, 9, 10, 11]
    assert frames_after(store, [moment], 1)[0, 0, 0, 0] == 8


@pytest.mark.parametrize("row_delay", [None, 1, 2])
def test_likelihood_equals_going_token_by_token_without_the_future(row_delay: int | None) -> None:
    """The judge sees, for every pass, only what is known by then; everything later is overwritten with zeros."""
    model = loud_model(tiny_config())
    layout, order = model.config.layout, schedule(model.config.layout, row_delay)
    source = torch.Generator().manual_seed(5)
    codes = torch.randint(0, layout.vocab.codebook_size, (2, 3, layout.image_slots), generator=source)
    values = torch.from_numpy(random_actions(2, 3).astype(np.int64))
    tokens = interleave(layout, codes, values)
    losses = torch.full(tokens.shape, torch.nan)
    with torch.inference_mode():
        for step, index in itertools.product(range(3), range(order.passes)):
            positions = order.positions_of(index, index + 1)
            slots = layout.target_P[positions]
            known = tokens[:, : step + 1].clone()
            later = [s for s in range(layout.slots) if order.pass_P[layout.position_of_K[s]] >= index]
            known[:, -1, later] = 0 if index < order.image_passes else layout.vocab.codebook_size
            taken = known[..., layout.image_slots :]
            previous = torch.cat([torch.full_like(taken[:, :1], NO_TOKEN), taken[:, :-1]], dim=1)
            hidden = model.transformer(position_inputs(layout, known), torch.from_numpy(order.visible_PP), previous)[
                :, -1, positions
            ]
            for row, slot in enumerate(slots):
                if slot >= 0:
                    groups = [layout.image_group] * layout.image_slots + list(layout.action_groups)
                    group = groups[slot]
                    logits = model.transformer.logits(hidden[:, row], group.first_id, group.last_id)
                    right = tokens[:, step, slot] - group.first_id
                    losses[:, step, slot] = -logits.log_softmax(-1).gather(-1, right[:, None])[:, 0]
    judged = likelihood(model, codes.numpy(), values.numpy().astype(np.uint8), row_delay, batch=1)
    images, actions = losses[:, 1:, : layout.image_slots], losses[:, 1:, layout.image_slots :]
    assert judged["image"] == pytest.approx(images.mean((1, 2)).numpy(), abs=1e-4)
    assert judged["buttons"].mean() == pytest.approx(float(actions[..., BUTTONS].mean()), abs=1e-4)
    assert judged["sticks"].mean() == pytest.approx(float(actions[..., STICKS].mean()), abs=1e-4)


def test_likelihood_does_not_depend_on_the_batch() -> None:
    model = loud_model(tiny_config())
    codes = np.random.default_rng(0).integers(0, 16, (5, 4, 24))
    actions = random_actions(5, 4)
    one, all_at_once = (likelihood(model, codes, actions, 1, batch=b) for b in (2, 5))
    assert all(one[name] == pytest.approx(all_at_once[name], abs=1e-5) for name in all_at_once)


def test_windows_carry_the_actions_around_them(tmp_path: Path) -> None:
    model, store = loud_model(tiny_config()), frame_dataset(tmp_path, noise(40), random_actions(40))
    moments = choose_segments(store, store.spans, count=4, past=6, future=1, seed=0)
    windows = windows_at(model, store, moments)
    rows = moments[1].row - 3 + np.arange(4)
    assert np.array_equal(windows.codes_BTN[1], encode(model, store.frames_FHWC[rows]))
    assert np.array_equal(windows.actions[1], store.actions_FA[rows])
    assert np.array_equal(windows.shifted(-1)[1], store.actions_FA[rows - 1])
    assert np.array_equal(windows.shifted(1)[1], store.actions_FA[rows + 1])
    assert np.array_equal(windows.shuffled()[1], windows.actions[3])


def test_entropies_of_known_sequences() -> None:
    even = np.arange(400) % 4
    assert entropy(even) == pytest.approx(np.log(4))
    assert conditional_entropy(even[1:], even[:-1]) == pytest.approx(0, abs=1e-9)
    coins = np.random.default_rng(0).integers(0, 2, 20_000)
    assert conditional_entropy(coins[1:], coins[:-1]) == pytest.approx(np.log(2), abs=1e-3)


def test_repeat_baselines_of_still_play(tmp_path: Path) -> None:
    frames = np.full((30, 16, 24, 3), 90, np.uint8)
    store = frame_dataset(tmp_path, frames)
    model = loud_model(tiny_config())
    still = baselines(windows_at(model, store, choose_segments(store, store.spans, count=3, past=6, future=1, seed=0)))
    assert [base.repeat for base in still.values()] == [1.0] * 3
    assert still["sticks"].marginal == still["buttons"].given_last == 0.0


def test_the_action_of_a_windows_first_step_is_nobodys_to_foretell() -> None:
    """A model and the predictors beside it are judged on the same actions: those that have one before them."""
    model = loud_model(tiny_config())
    codes = np.random.default_rng(0).integers(0, 16, (5, 4, 24))
    around = random_actions(5, 6)
    windows = Windows(codes_BTN=codes, actions_BTA=around, episodes_B=np.arange(5))
    pairs = windows.actions[:, 1:] == windows.actions[:, :-1]
    beside = baselines(windows)
    assert beside["sticks"].repeat == pytest.approx(pairs[..., STICKS].mean())
    other = around.copy()
    other[:, 0] = 0  # the action before the first frame: nobody's business
    assert baselines(dataclasses.replace(windows, actions_BTA=other)) == beside
    moved = around.copy()
    moved[:, 1, -1] = (moved[:, 1, -1] + 1) % 11
    first, second = (likelihood(model, codes, w[:, 1:-1], 1) for w in (around, moved))
    assert first["sticks"].mean() != second["sticks"].mean(), "it is seen by what follows"


def test_a_model_that_never_looks_at_actions_has_no_alignment_gap(tmp_path: Path) -> None:
    store = frame_dataset(tmp_path, noise(80), random_actions(80))
    model = loud_model(tiny_config())
    with torch.no_grad():
        model.transformer.token.weight[model.config.layout.vocab.codebook_size :] = 0
        model.transformer.action_condition.weight.zero_()
    moments = choose_segments(store, store.spans, count=6, past=6, future=1, seed=0)
    windows = windows_at(model, store, moments)
    orders, gaps = measure_likelihood(model, windows, (None,), 1)
    rows = likelihood_rows(orders, "row delay 1", windows, gaps, None)
    rows = [row for row in rows if row.part == "alignment"]
    assert len(rows) == 3 and not any(row.passed for row in rows)
    assert [row.value for row in rows] == pytest.approx([0, 0, 0], abs=1e-5)


@pytest.fixture(scope="module")
def blinking(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldModel, FrameDataset]:
    """A world whose picture changes between two for ever, and a tiny model that has learned it."""
    source = np.random.default_rng(0)
    two = source.integers(0, 256, (2, 4, 6, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    frames = two[np.arange(64) % 2]
    store = frame_dataset(tmp_path_factory.mktemp("blink"), frames)
    model = dataclasses.replace(loud_model(tiny_config()), transformer=build_transformer(tiny_config()))
    codes = torch.from_numpy(encode(model, np.asarray(store.frames_FHWC[:8])))
    assert not torch.equal(codes[0], codes[1])
    loss = WorldLoss(model.transformer.train(), action_weight=1.0, first_step_image=False)
    optimiser = torch.optim.AdamW(model.transformer.parameters(), lr=1e-2)
    own_PP = torch.from_numpy(schedule(model.config.layout, 1).visible_PP)
    values = torch.from_numpy(np.array(store.actions_FA, np.int64))
    rows = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    for _ in range(300):
        optimiser.zero_grad()
        judged = loss(codes[rows], values[rows], own_PP)
        judged.loss.backward()
        optimiser.step()
        if judged.image_accuracy == 1 and judged.image < 0.05:
            break
    model.transformer.eval().requires_grad_(False)
    return model, store


def horizon_of(model: WorldModel, store: FrameDataset, steps: int, count: int = 3) -> RolloutMetrics:
    moments = choose_segments(store, store.spans, count=count, past=4, future=steps, seed=0)
    settings = EvaluationSettings(sampling=Sampling(temperature=0.0), batch=2)
    mean = np.full(store.frames_FHWC.shape[1:], 128, np.uint8)
    run = EvaluationContext(Engine(model, row_delay=1), store, settings)
    return measure_rollout(run, moments, steps=steps, detail=(1, 3, steps), mean_HWC=mean)


def test_a_learned_world_reaches_the_ceiling_and_its_steps_are_counted_right(
    blinking: tuple[WorldModel, FrameDataset],
) -> None:
    """A dream one step off would be the other picture; the repeated frame is right at even steps only."""
    model, store = blinking
    horizon = horizon_of(model, store, 4)
    for step in (1, 3):
        assert horizon.dream_MS[:, step - 1] == pytest.approx(horizon.ceiling_MS[:, step - 1])
        assert horizon.model_MS[:, step - 1] == pytest.approx(np.full(3, PSNR_CAP)), "a dream equal to its ceiling"
    assert (horizon.repeat_MS[:, [1, 3]] == PSNR_CAP).all() and (horizon.repeat_MS[:, [0, 2]] < 20).all()
    gain = rollout_curves(horizon)["gain_psnr"][0]
    assert gain == pytest.approx(float((horizon.dream_MS - horizon.repeat_MS)[:, 0].mean()))


def test_the_horizon_bar_is_the_repeated_frame(blinking: tuple[WorldModel, FrameDataset]) -> None:
    model, store = blinking
    horizon = horizon_of(model, store, 4)
    better = dataclasses.replace(horizon, dream_MS=horizon.repeat_MS + 1, mean_MS=horizon.repeat_MS)

    def verdicts(metrics: RolloutMetrics, other: RolloutMetrics | None = None) -> list[bool | None]:
        return [row.passed for row in rollout_rows(metrics, None, other) if row.bar and "PSNR" in row.name]

    assert verdicts(better) == [True, True]
    assert verdicts(dataclasses.replace(better, mean_MS=better.dream_MS)) == [False, False]
    worse = dataclasses.replace(horizon, dream_MS=horizon.repeat_MS - 1)
    assert verdicts(worse, horizon) == [False, False]


def test_collapse_compares_with_the_real_frames_of_that_step(blinking: tuple[WorldModel, FrameDataset]) -> None:
    model, store = blinking
    moments = choose_segments(store, store.spans, count=3, past=4, future=6, seed=0)
    horizon = horizon_of(model, store, 6)
    real = frames_after(store, moments, 6)
    assert horizon.sharpness_MS2[:, 5, 1] == pytest.approx(sharpness(real))
    assert horizon.sharpness_MS2[:, 5, 0] == pytest.approx(sharpness(reconstruct(model, real)), rel=1e-5)
    assert horizon.ceiling_sharpness_MS[:, 5] == pytest.approx(sharpness(reconstruct(model, real)), rel=1e-5)
    steps = motion(frames_after(store, moments, 5), real)
    assert horizon.motion_MS2[:, 5, 1] == pytest.approx(steps)
    for factor, passed in ((0.6, False), (1.25, True)):
        pairs = np.stack([factor * horizon.sharpness_MS2[..., 1], horizon.sharpness_MS2[..., 1]], axis=-1)
        row = quality_rows(dataclasses.replace(horizon, sharpness_MS2=pairs), 6)[0]
        assert row.passed is passed and row.value == pytest.approx(factor)


def test_sharpness_falls_with_blur_and_rises_with_noise() -> None:
    source = np.random.default_rng(0)
    blocks = source.integers(0, 256, (12, 20, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    blurred = [np.array(Image.fromarray(blocks).filter(ImageFilter.GaussianBlur(r))) for r in (0, 1, 2, 4)]
    values = sharpness(np.stack(blurred))
    assert (np.diff(values) < 0).all()
    noisy = np.clip(blocks + source.normal(0, 25, blocks.shape), 0, 255).astype(np.uint8)
    assert sharpness(noisy[None])[0] > values[0]
    assert sharpness(np.full((1, 8, 8, 3), 77, np.uint8))[0] == 0


def test_psnr_is_capped_for_equal_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 3)).astype(np.uint8)
    assert psnr(picture, picture, PSNR_CAP)[0] == PSNR_CAP
    assert float(psnr(picture, picture ^ 1)[0]) == pytest.approx(10 * np.log10(255**2), abs=1e-3)


def test_the_tokenizer_is_measured_on_the_frames_it_was_given(tmp_path: Path) -> None:
    store, model = frame_dataset(tmp_path, noise(40)), loud_model(tiny_config())
    measured = measure_tokenizer(model, store, store.spans, EvaluationSettings(batch=5), 12)
    truth = np.array(store.frames_FHWC[draw_rows(store.spans, 12, 0)])
    assert measured.psnr_F == pytest.approx(psnr(reconstruct(model, truth), truth).numpy(), abs=1e-4)
    mean = np.broadcast_to(truth.mean(0).round().astype(np.uint8), truth.shape)
    assert measured.mean_psnr_F == pytest.approx(psnr(mean, truth).numpy(), abs=1e-4)
    rows = {row.name: row for row in tokenizer_rows(measured, None, 16)}
    used, perplexity = rows["codebook used"].value, rows["codebook perplexity"].value
    assert 1 <= perplexity <= 16 * used <= 16 and all(row.count == 12 and row.error > 0 for row in rows.values())
    assert rows["PSNR of reconstructions"].passed is False
    good = dataclasses.replace(measured, psnr_F=np.full(12, 24.0))
    assert tokenizer_rows(good, measured, 16)[0].passed is True

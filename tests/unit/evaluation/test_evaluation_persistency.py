"""Persistency: the objects, the share of one in a picture, and dreams of tiny worlds that keep an edit or lose it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import loud_model, tiny_config
from evaluation_toys import frame_dataset
from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.persistency import (
    OBJECTS,
    Persistency,
    Template,
    draw_object,
    make_edits,
    measure_persistency,
    object_box,
    paste,
    persistency_curves,
    persistency_rows,
    static_segments,
)
from playloom.evaluation.segments import EvaluationContext, Segment, choose_segments, encode, reconstruct
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import WorldModel, build_transformer
from playloom.models.decode_order import schedule
from playloom.training.world_model import WorldLoss

SETTINGS = EvaluationSettings(persistency_steps=3, persistency_kept=0, sampling=Sampling(temperature=0.0))
GREY = np.full((16, 24, 3), 128, np.uint8)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("size", [(180, 300), (16, 24), (40, 10)])
def test_an_object_stands_inside_the_picture_and_changes_nothing_else(name: str, size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    boxes = [object_box(*size, side) for side in (0, 1)]
    assert boxes[0].columns.start <= boxes[1].columns.start and (boxes[0] != boxes[1] or size[1] < 24)
    for box in boxes:
        assert 0 <= box.rows.start < box.rows.stop <= size[0] and 0 <= box.columns.start < box.columns.stop <= size[1]
        edited = paste(frames, name, box)
        changed = (edited != frames).any(-1)
        assert changed[:, box.rows, box.columns].mean() > 0.4
        changed[:, box.rows, box.columns] = False
        assert not changed.any()


def test_objects_have_the_colour_of_their_name_in_every_size() -> None:
    for name, channels in {"red ball": [0], "blue crate": [2], "yellow cone": [0, 1]}.items():
        for size in (4, 54):
            colour, opacity = draw_object(name, size)
            inside = colour[opacity > 0.5]
            assert colour.min() >= 0 and colour.max() <= 255
            others = [c for c in range(3) if c not in channels]
            assert inside[:, channels].mean() > 2 * inside[:, others].mean()


def test_the_share_is_one_for_the_object_and_zero_without_it() -> None:
    box = object_box(16, 24, 0)
    ball = paste(GREY[None], "red ball", box)[0]
    template = Template.between("red ball", box, ball, GREY)
    half = ((ball.astype(int) + GREY) // 2).astype(np.uint8)
    figure = GREY.copy()
    figure[box] = 40
    crate = paste(GREY[None], "blue crate", box)[0]
    lighter = np.minimum(ball.astype(int) + 20, 255).astype(np.uint8)
    dreams = np.stack([ball, GREY, half, figure, crate, lighter])
    shares = template.share(dreams, np.broadcast_to(GREY, dreams.shape))
    assert shares[:4] == pytest.approx([1, 0, 0.5, 0], abs=0.01)
    assert shares[4] < 0.1 and shares[5] > 0.8
    moved = template.share(paste(GREY[None], "red ball", object_box(16, 24, 1)), GREY[None])
    assert moved == pytest.approx([0], abs=1e-9)
    nothing = Template.between("red ball", box, GREY, GREY)
    assert np.isnan(nothing.share(ball[None], GREY[None])).all()


def test_of_every_group_the_calmest_moment_is_taken(tmp_path: Path) -> None:
    frames = np.zeros((40, 16, 24, 3), np.uint8)
    frames[::2] = 50
    frames[8:14], frames[30:36] = 7, 9
    store = frame_dataset(tmp_path, frames)
    candidates = [Segment(row=row, past=4) for row in range(3, 39)]
    calm = static_segments(store, candidates, 2)
    assert [m.row for m in calm] == [11, 33]
    assert static_segments(store, candidates[:2], 2) == candidates[:2]


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldModel, FrameDataset]:
    """A grey world where nothing ever moves, not even a thing that was put there, and a model that has learned it."""
    store = frame_dataset(tmp_path_factory.mktemp("still"), np.broadcast_to(GREY, (24, *GREY.shape)).copy())
    model = dataclasses.replace(loud_model(tiny_config()), transformer=build_transformer(tiny_config()))
    edits, _ = make_edits(model, [moment.prompt(store) for moment in moments_of(store)], 0)
    codes = torch.from_numpy(np.stack([edits[0].plain.codes_TN[0], *(edit.edited.codes_TN[0] for edit in edits)]))
    loss = WorldLoss(model.transformer.train(), action_weight=0.1, first_step_image=False)
    optimiser = torch.optim.AdamW(model.transformer.parameters(), lr=5e-3)
    things = range(1, len(codes))
    windows = torch.tensor(
        [[0] * 5, *([0] * before + [thing] * (5 - before) for thing in things for before in range(4))]
    )
    values = torch.from_numpy(REST_VALUES.astype(np.int64)).expand(*windows.shape, -1)
    own_PP = torch.from_numpy(schedule(model.config.layout, 1).visible_PP)
    for _ in range(400):
        optimiser.zero_grad()
        judged = loss(codes[windows], values, own_PP)
        judged.loss.backward()
        optimiser.step()
        if judged.image < 0.0235:  # all that is left is when things appear
            break
    model.transformer.eval().requires_grad_(False)
    return model, store


def moments_of(store: FrameDataset) -> list[Segment]:
    return choose_segments(store, store.spans, count=2, past=4, future=1, seed=0)


def persistency_of(model: WorldModel, store: FrameDataset, settings: EvaluationSettings, *more: Any) -> Persistency:
    engine = Engine(model, row_delay=settings.row_delay)
    return measure_persistency(EvaluationContext(engine, store, settings, *more), moments_of(store))


def test_a_world_that_keeps_what_it_sees_has_all_of_the_object_and_no_other_seed_has_it(
    still: tuple[WorldModel, FrameDataset],
) -> None:
    model, store = still
    done: list[str] = []
    result = persistency_of(model, store, SETTINGS, done.append)
    assert set(result.present_MS) == {1, 4} and result.prompt_frames == 4 and len(done) == 4
    for present_MS in result.present_MS.values():
        assert present_MS == pytest.approx(np.ones((2, 3)), abs=1e-6)
    assert result.chance_MS == pytest.approx(np.zeros((2, 3)), abs=1e-6)
    rows = persistency_rows(result)
    assert [row.value for row in rows[:4]] == pytest.approx([1, 1, 1, 1])
    assert rows[0].name == "object there after 3 steps, in 1 of 4 frames" and rows[0].count == 2
    assert rows[0].baselines["another seed without it"] == 0 and rows[0].error == 0
    curves = persistency_curves(result)
    assert curves["edited_frames"]["4"]["mean"] == pytest.approx([1, 1, 1])


def test_a_world_that_never_looks_at_what_it_saw_has_nothing_of_the_object(
    still: tuple[WorldModel, FrameDataset],
) -> None:
    model, store = still
    blind = dataclasses.replace(model, transformer=build_transformer(tiny_config()).eval())
    blind.transformer.load_state_dict(model.transformer.state_dict())
    with torch.no_grad():
        blind.transformer.token.weight[: model.config.layout.vocab.codebook_size] = 0
    result = persistency_of(blind, store, SETTINGS)
    for present_MS in result.present_MS.values():
        assert (present_MS == 0).all() and present_MS.shape == (2, 3)
    assert [row.value for row in persistency_rows(result)[:4]] == [0, 0, 0, 0]


def test_an_edit_is_in_the_last_frames_only_and_carries_its_codes(still: tuple[WorldModel, FrameDataset]) -> None:
    model, store = still
    edits, kept = make_edits(model, [moment.prompt(store) for moment in moments_of(store)], 0)
    assert kept.shape == (2, len(OBJECTS)) and len(edits) == 2
    for edit in edits:
        prompt = edit.prompt(3)
        assert (prompt.frames_THWC != GREY).any((1, 2, 3)).tolist() == [False, True, True, True]
        assert np.array_equal(prompt.codes_TN, encode(model, prompt.frames_THWC))
        assert np.array_equal(prompt.actions_TA, edit.plain.actions_TA)


def test_what_the_tokenizer_loses_is_not_asked_for(still: tuple[WorldModel, FrameDataset]) -> None:
    model, store = still
    settings = dataclasses.replace(SETTINGS, persistency_kept=1.0)
    result = measure_persistency(EvaluationContext(Engine(model), store, settings), moments_of(store))
    rows = persistency_rows(result)
    assert all(np.isnan(row.value) and row.count == 0 for row in rows[:-1])
    assert rows[-1].count == 2 and rows[-1].value < 1
    assert np.isnan(persistency_curves(result)["another_seed"]["mean"]).all()


def test_the_other_object_is_one_that_the_tokenizer_keeps_too(still: tuple[WorldModel, FrameDataset]) -> None:
    """One of which nothing is left would be found many times over, or its opposite, in any change of colour."""
    model, store = still
    prompts = [moment.prompt(store) for moment in moments_of(store)]
    edits, kept = make_edits(model, prompts[:1], 0)
    least = float(np.sort(kept[0])[1])  # the object of which least is kept is none to look for
    (edit,), _ = make_edits(model, prompts[:1], least)
    for number, name in enumerate(OBJECTS):
        shown = reconstruct(model, np.stack([GREY, paste(GREY[None], name, edit.own.box)[0]]))
        template = Template.between(name, edit.own.box, shown[1], shown[0])
        looked_for = any(np.array_equal(template.change_PC, t.change_PC) for t in (edit.own, edit.other))
        assert looked_for == (kept[0, number] >= least), name


def test_half_of_an_object_is_still_there() -> None:
    shares = {1: np.array([[0.9, 0.5], [0.9, 0.49], [0.9, 0.1], [0.9, 0.8]])}
    kept_MO = np.array([[0.2, 0.8], [0.1, 0.9], [0.4, 0.6], [1.0, 0.0]])
    result = Persistency(
        present_MS=shares,
        other_MS={1: 0 * shares[1]},
        chance_MS=0 * shares[1],
        kept_MO=kept_MO,
        prompt_frames=10,
        kept_episodes_M=np.arange(4),
        episodes_M=np.arange(4),
    )
    there, left, kept = persistency_rows(result)
    assert (there.value, left.value, kept.value, kept.count) == pytest.approx((0.5, 0.4725, 0.5, 4))
    assert kept.error == pytest.approx(0), "over moments, whose objects share a picture"
    assert there.error == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2, rel=0.1)

"""Camera motion from pictures: known turns and zooms are found, with their sign; the real game turns by 9 degrees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from playloom.actions.codec import REST_VALUES, encode_named
from playloom.data.dataset import FrameDataset
from playloom.data.recording import STATE_COLUMNS
from playloom.evaluation.camera_motion import (
    FOCAL,
    HORIZON,
    LARGEST_TURN,
    ZOOMS,
    expansion_between,
    horizontal_shift,
    yaw_between,
)
from playloom.evaluation.control import (
    ControlMetrics,
    control_rows,
    evaluate_estimator,
    held_state,
    measure_game_control,
    median_turns,
)
from playloom.evaluation.segments import Segment

HEIGHT, WIDTH = 90, 150


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft random shapes of all sizes, uint8 [height, width, 3]; its left and right edges meet."""
    source = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (4, 9, 20, 45):
        small = source.random((max(2, cells * height // width), cells, 3))
        small = np.concatenate([small, small[:, :1]], axis=1)
        image = [Image.fromarray(small[..., c].astype(np.float32)) for c in range(3)]
        total += np.stack([np.asarray(i.resize((width, height), Image.Resampling.BICUBIC)) for i in image], -1)
    return (255 * (total - total.min()) / (total.max() - total.min())).astype(np.uint8)


def view(panorama: np.ndarray, yaw: float) -> np.ndarray:
    """What a pinhole camera turned by `yaw` degrees clockwise sees of a panorama that covers 360 degrees."""
    focal = FOCAL * WIDTH
    angle = np.degrees(np.arctan((np.arange(WIDTH) - (WIDTH - 1) / 2) / focal)) + yaw
    column = (angle % 360) / 360 * panorama.shape[1]
    left = column.astype(int)
    share = (column - left)[:, None]
    right = (left + 1) % panorama.shape[1]
    return (panorama[:, left] * (1 - share) + panorama[:, right] * share).round().astype(np.uint8)


@pytest.mark.parametrize("turn", [-14.0, -9.0, -3.0, 0.0, 1.5, 9.0, 13.0])
def test_a_known_turn_is_found_with_its_sign(turn: float) -> None:
    panorama = texture(HEIGHT, 1440)
    before = np.stack([view(panorama, yaw) for yaw in (10, 100, 250)])
    after = np.stack([view(panorama, yaw + turn) for yaw in (10, 100, 250)])
    assert np.abs(yaw_between(before, after) - turn).max() < 0.7  # a column of these small pictures


def test_turning_clockwise_moves_the_scene_left() -> None:
    picture = texture(30, 120)[None].astype(np.float32)
    moved = np.roll(picture, -7, axis=2)
    assert horizontal_shift(picture, moved, reach=20, tilt=3)[0] == pytest.approx(-7, abs=0.2)
    wide = texture(HEIGHT, WIDTH)[None]
    assert yaw_between(wide, np.roll(wide, -12, axis=2))[0] > 5


def test_peaks_beyond_the_largest_turn_are_not_looked_at() -> None:
    panorama = texture(HEIGHT, 1440)
    found = yaw_between(view(panorama, 0)[None], view(panorama, 30)[None])
    assert abs(found[0]) <= LARGEST_TURN + 1


def zoomed(picture: np.ndarray, zoom: float) -> np.ndarray:
    """The picture enlarged about the vanishing point, by Pillow."""
    height, width = picture.shape[:2]
    x, y = width / 2, HORIZON * height
    affine = (1 / zoom, 0, x - x / zoom, 0, 1 / zoom, y - y / zoom)
    image = Image.fromarray(picture)
    return np.array(image.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("zoom", [0.85, 1.0, 1.1, 1.3])
def test_a_known_zoom_is_found_though_the_body_stays(zoom: float) -> None:
    before = texture(180, 300, seed=3)
    after = zoomed(before, zoom)
    for picture in (before, after):
        picture[80:, 115:185] = (30, 90, 30)
    found = expansion_between(before[None], after[None])[0]
    assert found == pytest.approx(zoom, rel=0.03)
    assert found in ZOOMS


def test_the_same_picture_does_not_grow() -> None:
    picture = texture(180, 300)[None]
    assert expansion_between(picture, picture)[0] == 1.0


def test_median_turns_outlives_one_spoiled_step() -> None:
    panorama = texture(HEIGHT, 1440)
    frames = np.stack([view(panorama, 9.0 * step) for step in range(6)])[None]
    frames[0, 3] = 128
    assert median_turns(frames)[0] == pytest.approx(9, abs=1)


def test_held_inputs_are_what_they_say() -> None:
    right, left, forward, rest = (encode_named(held_state(name)) for name in ("right", "left", "forward", "rest"))
    assert rest.tolist() == REST_VALUES.tolist()
    assert (right != REST_VALUES).sum() == 1 and right[14] == 10 and left[14] == 0
    assert forward[13] == 10


def figures(right: list[float], left: list[float], forward: list[float], rest: list[float]) -> ControlMetrics:
    return ControlMetrics(right=np.array(right), left=np.array(left), forward=np.array(forward), rest=np.array(rest))


def test_control_figures_count_wrong_ways() -> None:
    control = figures([9, 8, -9, 9], [-9, -9, -9, 9], [1.2, 1.0, 1.3, 0.9], [1.0, 1.0, 1.0, 1.0])
    assert control.sign_right == 0.75
    assert control.median_turn == 9.0
    assert control.expands == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_control_bars_fail_where_they_should(tmp_path: Path) -> None:
    store = panorama_store(tmp_path)
    recorded = evaluate_estimator(store, store.spans, count=50, seed=0)
    good = figures([9.5] * 9 + [8], [-9] * 10, [1.2] * 9 + [1.25], [1.0] * 10)
    assert [row.passed for row in control_rows(good, recorded, None) if row.passed is not None] == [True, True, True]
    bad = figures([6.0] * 10, [6.0] * 10, [1.2, 0.8] * 5, [1.0] * 10)
    assert [row.passed for row in control_rows(bad, recorded, good) if row.passed is not None] == [False, False, False]


def panorama_store(folder: Path) -> FrameDataset:
    """An episode that turns by 5 degrees a step for ten steps, then back."""
    if not (folder / "index.json").exists():
        turns = np.array([5.0] * 10 + [-5.0] * 9)
        yaw = np.concatenate([[355.0], 355.0 + np.cumsum(turns)])
        panorama = texture(HEIGHT, 1440)
        states = np.zeros((20, len(STATE_COLUMNS)), np.float32)
        states[:, STATE_COLUMNS.index("yaw")] = yaw % 360
        writer = FrameDataset.create(folder, 20, height=HEIGHT, width=WIDTH, state_columns=STATE_COLUMNS)
        frames = np.stack([view(panorama, angle) for angle in yaw])
        writer.append_episode(frames, np.tile(REST_VALUES, (20, 1)), states, {"split": "test", "seed": 1})
        writer.finish()
    return FrameDataset.open(folder)


def test_the_estimator_is_judged_against_the_states(tmp_path: Path) -> None:
    store = panorama_store(tmp_path)
    judged = evaluate_estimator(store, store.spans, count=100, seed=0)
    assert judged["pairs"] == 19 and judged["sign_right"] == 1.0 and judged["median_error"] < 0.5
    assert np.isnan(judged["full_stick"])


@pytest.mark.slow  # the game
def test_the_real_game_turns_by_nine_degrees_and_grows_when_walking(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    steps = 12
    writer = FrameDataset.create(tmp_path, steps, height=180, width=300, state_columns=STATE_COLUMNS)
    meta = {"game": "arena", "variant": "plaza", "mode": "ffa", "seed": 18, "split": "test"}
    frames, states = np.zeros((steps, 180, 300, 3), np.uint8), np.zeros((steps, len(STATE_COLUMNS)), np.float32)
    writer.append_episode(frames, np.tile(REST_VALUES, (steps, 1)), states, meta)
    writer.finish()
    moment = Segment(row=6, past=5)
    control = measure_game_control(FrameDataset.open(tmp_path), [moment], steps=5)
    assert control is not None
    assert control.right[0] == pytest.approx(9, abs=0.5) and control.left[0] == pytest.approx(-9, abs=0.5)
    assert control.forward[0] >= control.rest[0]


def test_another_game_cannot_be_asked(tmp_path: Path) -> None:
    store = panorama_store(tmp_path)
    assert measure_game_control(store, [Segment(row=5, past=3)], steps=2) is None

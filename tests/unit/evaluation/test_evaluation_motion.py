"""Camera motion from pictures: known turns and zooms are found, with their sign; the real game turns by 9 degrees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evaluation_toys import frame_dataset
from playloom.actions.codec import REST_VALUES, encode_named
from playloom.data.dataset import FrameDataset
from playloom.errors import RecordingError
from playloom.evaluation.camera_motion import (
    FOCAL,
    HORIZON,
    LARGEST_TURN,
    ZOOMS,
    expansion_between,
    picture_shift,
    pitch_between,
    rise_between,
    slide_between,
    yaw_between,
)
from playloom.evaluation.control import (
    INPUTS,
    MEASURES,
    ControlMetrics,
    control_rows,
    effects,
    evaluate_estimator,
    held_state,
    measure_game_control,
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
    assert picture_shift(picture, moved, (3, 20))[0] == pytest.approx([0, -7], abs=0.2)
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


@pytest.mark.parametrize("rows", [-11, 0, 6])
def test_looking_up_moves_the_scene_down(rows: int) -> None:
    tall = texture(240, 300, seed=5)
    degrees = pitch_between(tall[None, 30:210], tall[None, 30 - rows : 210 - rows])[0]
    assert degrees == pytest.approx(np.degrees(np.arctan(rows / 144)), abs=0.2)


@pytest.mark.parametrize("zoom", [0.85, 1.0, 1.2])
def test_a_higher_camera_stretches_the_ground(zoom: float) -> None:
    before = texture(180, 300, seed=3)
    horizon = HORIZON * 180
    image = Image.fromarray(before)
    affine = (1, 0, 0, 0, 1 / zoom, horizon - horizon / zoom)
    after = np.array(image.transform((300, 180), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))
    assert rise_between(before[None], after[None])[0] == pytest.approx(zoom, rel=0.03)


@pytest.mark.parametrize("slide", [-0.3, 0.0, 0.2])
def test_a_step_to_the_right_shears_the_ground_to_the_left(slide: float) -> None:
    before = texture(180, 300, seed=4)
    after = before.copy()
    for row in range(76, 180):
        after[row] = np.roll(before[row], -round(slide * (row - HORIZON * 180)), axis=0)
    assert slide_between(before[None], after[None])[0] == pytest.approx(slide, abs=0.05)
    turned = np.roll(before, -20, axis=1)
    assert slide != 0 or abs(slide_between(before[None], turned[None])[0]) < 0.6


def test_a_median_outlives_one_spoiled_step() -> None:
    panorama = texture(HEIGHT, 1440)
    frames = np.stack([view(panorama, 9.0 * step) for step in range(6)])[None]
    frames[0, 3] = 128
    assert MEASURES["turn"].estimate(frames, frames)[0] == pytest.approx(9, abs=1)


def test_held_inputs_are_what_they_say() -> None:
    right, left, forward, rest = (encode_named(held_state(name)) for name in ("right", "left", "forward", "rest"))
    assert rest.tolist() == REST_VALUES.tolist()
    assert (right != REST_VALUES).sum() == 1 and right[14] == 10 and left[14] == 0
    assert forward[13] == 10


def figures(name: str, held: list[list[float]], rest: list[float]) -> ControlMetrics:
    return ControlMetrics(
        held_MK={name: np.array(held).T}, rest_M={name: np.array(rest)}, episodes_M=np.arange(len(rest))
    )


def test_control_figures_count_wrong_ways() -> None:
    turns = figures("turn", [[9, 8, -9, 9], [9, 9, 9, -9]], [0.0] * 4)
    assert turns.right_MK("turn").mean() == 0.75
    growth = figures("forward", [[1.2, 1.0, 1.3, 0.9]], [1.0] * 4)
    assert growth.right_MK("forward").mean() == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def verdicts(dream: ControlMetrics, game: ControlMetrics | None = None) -> list[bool | None]:
    nothing = {name: np.zeros(0) for name in ("error", "right", "episodes")}
    return [row.passed for row in control_rows(dream, nothing, game) if row.passed is not None]


def test_control_bars_fail_where_they_should() -> None:
    good = figures("turn", [[9.5] * 9 + [8], [9] * 10], [0.0] * 10)
    assert verdicts(good) == [True, True]
    assert verdicts(figures("turn", [[6.0] * 10, [-6.0] * 10], [0.0] * 10), good) == [False, False]
    assert verdicts(figures("forward", [[1.2] * 9 + [1.25]], [1.0] * 10)) == [True, True]
    assert verdicts(figures("forward", [[1.2, 0.8] * 5], [1.0] * 10)) == [False, False]


@pytest.mark.parametrize("blur", [False, True])
def test_no_input_works_in_a_still_picture(blur: bool) -> None:
    """A frozen picture and a blurred one miss every bar of control."""
    picture = texture(180, 300)
    if blur:
        picture = np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(6)))
    frames = np.broadcast_to(picture, (2, 3, *picture.shape))
    still = effects(dict.fromkeys(INPUTS, frames), np.arange(2), tuple(MEASURES))
    assert verdicts(still) == [False] * 2 * len(MEASURES)


def panorama_store(folder: Path) -> FrameDataset:
    """An episode that turns by 5 degrees a step for ten steps, then back."""
    yaw = 355.0 + np.cumsum([0.0] + [5.0] * 10 + [-5.0] * 9)
    panorama = texture(HEIGHT, 1440)
    frames = np.stack([view(panorama, angle) for angle in yaw])
    return frame_dataset(folder, frames, states={"yaw": yaw % 360})


def test_the_estimator_is_judged_against_the_states(tmp_path: Path) -> None:
    store = panorama_store(tmp_path)
    judged = evaluate_estimator(store, store.spans, count=100, seed=0)
    assert len(judged["right"]) == 19 and judged["right"].all() and np.median(judged["error"]) < 0.5


@pytest.mark.slow  # the game
def test_the_real_game_turns_by_nine_degrees_and_grows_when_walking(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    meta = {"game": "arena", "variant": "plaza", "mode": "ffa", "seed": 18}
    store = frame_dataset(tmp_path, np.zeros((12, 180, 300, 3), np.uint8), metas=[meta])
    control = measure_game_control(store, [Segment(row=6, past=5)], count=1, steps=5)
    assert control.held_MK["turn"][0] == pytest.approx([9, 9], abs=0.5)
    assert control.held_MK["look"][0] == pytest.approx([4.5, 4.5], abs=0.7)
    sidestep = control.held_MK["sidestep"][0]  # a wall is near on one side
    assert sidestep.min() > 0 and sidestep.max() > 0.1 and control.held_MK["jump"][0] > 1.2
    assert control.held_MK["forward"][0] >= control.rest_M["forward"][0]


def test_another_game_cannot_be_asked(tmp_path: Path) -> None:
    store = panorama_store(tmp_path)
    with pytest.raises(RecordingError, match="their records name no game, expected the game arena"):
        measure_game_control(store, [Segment(row=5, past=3)], count=1, steps=2)

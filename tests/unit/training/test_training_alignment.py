"""The alignment check finds the shift that was put in, and says so when it cannot."""

import numpy as np
import pytest
from PIL import Image

from playloom.data.motion import motions
from playloom.errors import RecordingError
from playloom.training.alignment import check_alignment
from training_toys import RIGHT_X, panorama_at, scroll, stick_actions

STEPS = 130


def stretch(seed, shift=0):
    """A stretch whose stored actions are `shift` steps late against what moved the pictures."""
    actions = stick_actions(STEPS + 4, seed)
    frames = scroll(actions, height=48, width=64, pixels=2)
    return frames[2 : 2 + STEPS], actions[2 - shift : 2 - shift + STEPS]


@pytest.mark.parametrize("shift", [-1, 0, 1, 2])
def test_the_shift_that_was_put_in_is_found(shift):
    report = check_alignment([stretch(seed, shift) for seed in range(2)])
    assert report.best_shift == shift
    assert report.verdict == ("shifted" if shift else "aligned")
    assert report.shares[shift] > 0.9
    assert report.shares[shift] > max(share for s, share in report.shares.items() if s != shift) + 0.1


def test_the_advice_mends_the_data():
    frames, actions = stretch(0, shift=1)
    report = check_alignment([(frames, actions)])
    assert "shift the actions by -1 step(s)" in report.sentence()
    assert check_alignment([(frames[:-1], actions[1:])]).verdict == "aligned"


def test_inertia_stops_nothing():
    """Where motion goes on, older actions explain more of it than the present one."""
    stretches = []
    for seed in range(3):
        actions = stick_actions(STEPS, seed)
        speed, places = 0.0, [0.0]
        for action in actions[:-1, RIGHT_X].astype(float):
            speed = 0.7 * speed + 0.5 * (action - 5)
            places.append(places[-1] + speed)
        frames = panorama_at(np.round(places), height=48, width=64)
        moved, held = np.diff(places)[1:], actions[:-1, RIGHT_X]
        assert np.corrcoef(moved, held[:-1])[0, 1] > np.corrcoef(moved, held[1:])[0, 1]
        stretches.append((frames, actions))
    assert check_alignment(stretches).verdict == "aligned"


def test_a_player_who_answers_the_picture_stops_nothing():
    """The next action makes up for half of what pushed the camera; it is known before it acts."""
    random = np.random.default_rng(3)
    actions = stick_actions(2 * STEPS, 3)
    places, push = [0], 0
    for step in range(2 * STEPS - 1):
        actions[step, RIGHT_X] = np.clip(random.integers(3, 8) - round(push / 2), 0, 10)
        push = random.integers(-3, 4)
        places.append(places[-1] + int(actions[step, RIGHT_X]) - 5 + push)
    assert check_alignment([(panorama_at(np.array(places), height=48, width=64), actions)]).verdict != "shifted"


def test_shuffled_actions_are_undecided():
    frames, actions = stretch(0)
    shuffled = np.random.default_rng(0).permutation(actions)
    report = check_alignment([(frames, shuffled)])
    assert report.verdict == "undecided" and "undecided" not in report.sentence(), "it was said twice"


def test_still_pictures_and_too_few_steps():
    frames, actions = stretch(0)
    assert check_alignment([(np.repeat(frames[:1], STEPS, axis=0), actions)]).verdict == "undecided"
    with pytest.raises(RecordingError, match="at least"):
        check_alignment([(frames[:20], actions[:20])])


@pytest.mark.parametrize(("height", "width"), [(48, 64), (96, 160)])
def test_motion_is_measured_in_pixels_and_has_its_sign(height, width):
    random = np.random.default_rng(1)
    wide = random.integers(0, 256, (height // 4, 100, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    steps = [0, 6, 2, 2, -4]
    frames = np.stack([wide[:, 50 - x : 50 - x + width] for x in steps])
    sideways = motions(frames, chunk=2)[:, :6:2]
    expected = np.diff(steps)[:, None].repeat(3, 1)
    assert np.abs(sideways - expected).max() < 0.6


def test_rotation_is_measured_in_degrees_about_any_point():
    random = np.random.default_rng(1)
    picture = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((240, 240))
    angles = [0, 2, 10, 5]
    turned = [picture.rotate(angle, Image.Resampling.BICUBIC, center=(120, 150)) for angle in angles]
    found = motions(np.stack([np.asarray(one)[60:180, 60:180] for one in turned]))[:, -1]
    assert np.abs(found + np.diff(angles)).max() <= 1

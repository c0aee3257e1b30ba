"""Actions of Gymnasium environments as controls."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from gymnasium_toys import Slide
from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.errors import ConfigError
from playloom.games.gymnasium.player import GymnasiumRecording, action_encoder, examine, play


def env_of(space, meanings=None):
    own = {"get_action_meanings": lambda: meanings} if meanings else {}
    return SimpleNamespace(action_space=space, unwrapped=SimpleNamespace(**own))


def held(name, space, action, meanings=None, path=None):
    """The controls that an action holds."""
    values = decode_values(action_encoder(name, env_of(space, meanings), path).encode([action]))[0]
    return {control.name: round(float(value), 1) for control, value in zip(CONTROLS, values, strict=True) if value}


CAR = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("name", "space", "action", "expected"),
    [
        ("CarRacing-v3", CAR, np.array([-1, 0.9, 0]), {"left_stick_x": -1, "trigger_RT": 1}),
        ("CarRacing-v3", spaces.Discrete(5), 2, {"left_stick_x": -1}),
        ("mine:Own-v1", spaces.Discrete(14), 13, {"left_stick_x": -1}),
        ("Own-v1", spaces.Discrete(3), np.int64(1), {"dpad_right": 1}),
        ("Own-v1", spaces.MultiDiscrete([3, 2]), np.array([2, 1]), {"dpad_right": 1, "dpad_up": 1}),
        ("Own-v1", spaces.MultiDiscrete([3, 2], start=[5, 0]), np.array([7, 1]), {"dpad_right": 1, "dpad_up": 1}),
        ("Own-v1", spaces.MultiBinary(5), np.array([0, 0, 0, 1, 1]), {"dpad_down": 1, "button_A": 1}),
        ("Own-v1", spaces.Box(-2, 2, (1, 2)), np.array([[2, -2]]), {"left_stick_x": 1, "left_stick_y": -1}),
    ],
)
def test_actions_of_every_space_are_controls(name, space, action, expected):
    assert held(name, space, action) == expected


def test_meanings_and_mappings_say_what_actions_are(tmp_path):
    meanings = ["NOOP", "UP", "UPRIGHTFIRE"]
    space = spaces.Discrete(3)
    assert held("ALE/Any-v5", space, 0, meanings) == {}
    assert held("ALE/Any-v5", space, 2, meanings) == {"dpad_up": 1, "dpad_right": 1, "button_A": 1}
    path = tmp_path / "own.toml"
    path.write_text('[controls]\nbutton_X = "fire"\nleft_stick_y = { action_1 = -1 }\n', encoding="utf-8")
    assert held("ALE/Any-v5", space, 2, meanings, str(path)) == {"button_X": 1}
    assert held("ALE/Any-v5", space, 1, meanings, str(path)) == {"left_stick_y": -1}
    path.write_text('[controls]\nbutton_X = "fier"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean fire"):
        held("ALE/Any-v5", space, 2, meanings, str(path))
    with pytest.raises(ConfigError, match="more actions"):
        held("Own-v1", spaces.Discrete(40), 0)


class Canvas(Slide):
    """Draws into the same array at every step."""

    canvas = np.zeros((8, 16, 3), np.uint8)

    def render(self):
        self.canvas[:] = super().render()
        return self.canvas


def test_an_environment_may_draw_into_one_array():
    """Every frame of an episode was the last one."""
    gymnasium.register("playloom-toys/Canvas-v0", entry_point=Canvas)
    recording = GymnasiumRecording(env="playloom-toys/Canvas-v0", frame_size=(8, 16), steps=4, frame_skip=1)
    played = play(recording, examine(recording), 0)
    places = played.frames_THWC[:, 0, :, 0].argmax(axis=1) - 8
    assert places[0] == 0 and (np.abs(np.diff(places)) == 1).all()

"""Acting without the game: figures of known play, hands that press, jobs that say what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("vizdoom")
pytest.importorskip("gymnasium")

from acting_toys import arena_model, saved
from conftest import loud_model, tiny_config
from engine_toys import prompt_of
from playloom.actions.codec import REST_VALUES, SLOT_SIZES, encode_named
from playloom.actions.controller import CONTROLS
from playloom.cli.app import main
from playloom.data.recording import STATE_COLUMNS
from playloom.errors import BadInputError, PictureError
from playloom.evaluation.online.metrics import COLUMNS, ActReport, Game, episode_metrics, summary
from playloom.evaluation.online.rollout import EpisodeController, model_policy, random_policy, repeat_policy
from playloom.evaluation.online.run import COMPARED, PLAYERS, ActJob
from playloom.games.arena.maps import variant_of
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt

NAMES = [control.name for control in CONTROLS]


def held(**positions: float) -> np.ndarray:
    state = np.zeros(16, np.float32)
    for name, value in positions.items():
        state[NAMES.index(name)] = value
    return encode_named(state)


def rows(**columns: list[float]) -> np.ndarray:
    """State rows of which only these columns are not 0."""
    states = np.zeros((len(next(iter(columns.values()))), len(STATE_COLUMNS)), np.float32)
    for name, values in columns.items():
        states[:, STATE_COLUMNS.index(name)] = values
    return states


def test_the_figures_of_a_walk():
    """Three steps of 30 units forward, two against a wall, then a turn of 9 degrees past north."""
    states = rows(x=[100, 130, 160, 190, 190, 190, 190], y=[-10.0] * 7, yaw=[356.0] * 6 + [5.0])
    walk, turn = held(left_stick_y=1), held(right_stick_x=1)
    figures = episode_metrics(states, np.stack([walk] * 5 + [turn, REST_VALUES]))
    assert figures.steps == 7
    assert figures.way == pytest.approx(90 / 6 * 10)
    assert figures.tiles == 2, "x = 128 is where the second tile begins"
    assert figures.blocked == pytest.approx(2 / 6)
    assert figures.turning == pytest.approx(9 / 6 * 10)
    assert figures.changes == pytest.approx(2 / 6)
    assert figures.resting == pytest.approx(1 / 7)
    assert (figures.frags, figures.deaths, figures.dead) == (0, 0, 0)


def test_only_the_players_own_steps_count():
    """The script walks two steps, the player turns two, the script walks again."""
    states = rows(x=[0, 30, 60, 60, 60, 200], yaw=[0, 0, 0, 9, 18, 18.0])
    walk, turn = held(left_stick_y=1), held(right_stick_x=1)
    own_T = np.array([0, 0, 1, 1, 0, 0], bool)
    figures = episode_metrics(states, np.stack([walk, walk, turn, turn, walk, walk]), own_T)
    assert (figures.steps, figures.way, figures.turning, figures.tiles) == (2, 0, 90, 1)
    assert (figures.changes, figures.blocked, figures.resting) == (0, 0, 0)


def test_lying_dead_and_coming_back_is_no_way():
    states = rows(
        x=[0, 10, 10, 10, 900, 910], dead=[0, 0, 1, 1, 0, 0], yaw=[0, 0, 0, 0, 180, 180], frags=[2, 3, 3, 3, 3, 4]
    )
    figures = episode_metrics(states, np.stack([held(left_stick_y=1)] * 6))
    assert figures.way == pytest.approx(10 * 10), "two steps alive, ten units each"
    assert figures.turning == 0 and figures.blocked == 0
    assert (figures.frags, figures.deaths, figures.steps) == (2, 1, 4)
    assert figures.dead == pytest.approx(2 / 6)
    assert figures.tiles == 2


def test_mean_and_standard_error():
    assert summary([4.0]) == {"mean": 4.0, "error": None}
    assert summary([2.0, 4.0, 6.0]) == {"mean": 4.0, "error": pytest.approx(2 / 3**0.5)}


def test_a_report_knows_who_was_not_timed(tmp_path):
    walk = episode_metrics(rows(x=[0.0, 30]), np.stack([held(left_stick_y=1)] * 2))
    report = ActReport(folder=tmp_path, facts={"seed": 1})
    for seed, speed in ((1, 5.0), (2, 7.0)):
        report.games.append(Game(player="model", seed=seed, steps=2, figures=walk, steps_per_second=speed, files=()))
    report.games.append(
        Game(player="rusher", seed=1, steps=1, figures=None, steps_per_second=None, files=(tmp_path / "a" / "b.npz",))
    )
    table = [dict(zip(report.head(), line, strict=True)) for line in report.lines()]
    assert (
        table[0]["way units/s"] == "300 ± 0"
        and table[0]["steps_per_second"] == "6.0 ± 1.0"
        and table[0]["games"] == "2"
    )
    assert table[1]["way units/s"] == table[1]["steps_per_second"] == "-"
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["players"]["model"]["steps_per_second"] == {"mean": 6.0, "error": 1.0}
    assert content["games"][2]["files"] == ["a/b.npz"] and content["games"][2]["figures"] is None
    assert set(content["players"]["rusher"]) == {"games", *COLUMNS}


def test_hands_that_do_not_look():
    prompt = prompt_of(3)
    repeat = repeat_policy(prompt)
    for _ in range(2):
        assert np.array_equal(repeat.act(), prompt.actions_TA[-1])
        repeat.observe(prompt.frames_THWC[0])
    assert np.array_equal(repeat_policy(prompt_of(1)).act(), REST_VALUES)
    drawn = np.stack([hand.act() for hand in [random_policy(3)] for _ in range(400)])
    again = random_policy(3)
    assert np.array_equal(drawn[0], again.act()) and not np.array_equal(drawn[0], random_policy(4).act())
    for slot, size in enumerate(SLOT_SIZES):
        share = np.bincount(drawn[:, slot], minlength=size) / 400
        assert len(share) == size and np.abs(share - 1 / size).max() < 0.1


def test_the_model_answers_the_frame_it_has_just_seen():
    """Two games that differ in their newest frame only: the inputs differ, and the same game gives the same."""
    model = loud_model(tiny_config())
    with torch.no_grad():
        for weight in model.transformer.parameters():
            weight.mul_(10)  # else what it sees hardly moves a random model's hand
    engine = Engine(model)
    prompt, frames = prompt_of(3), prompt_of(4, seed=4).frames_THWC
    how = Sampling(temperature=1.0)

    def inputs(newest: np.ndarray) -> list[bytes]:
        hand = model_policy(engine, prompt, sampling=how, seed=2)
        for frame_HWC in [*frames[:-1], newest]:
            hand.act()
            read_only = frame_HWC.copy()
            read_only.flags.writeable = False
            hand.observe(read_only)
        found = [hand.act().tobytes()]
        hand.close()
        return found

    assert inputs(frames[-1]) == inputs(frames[-1])
    others = prompt_of(4, seed=5).frames_THWC
    assert len({tuple(inputs(other)) for other in others}) > 1


def test_a_hand_refuses_frames_of_another_size():
    engine = Engine(loud_model(tiny_config()))
    wrong = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(PictureError):
        model_policy(
            engine, Prompt(frames_THWC=wrong, actions_TA=np.zeros((0, 16), np.uint8)), sampling=Sampling(), seed=0
        )


@dataclasses.dataclass
class Toy:
    """A game that goes on as it was written down."""

    frame_HWC: np.ndarray
    row: np.ndarray


class Noting:
    """A hand that writes down what it is given."""

    def __init__(self, log: list[str], prompt: Prompt, life: int) -> None:
        self.log = log
        assert len(prompt.actions_TA) == len(prompt.frames_THWC) - 1
        log.append(f"life {life} from {prompt.frames_THWC[:, 0, 0, 0].tolist()}")

    def act(self) -> np.ndarray:
        return held(left_stick_y=1)

    def observe(self, frame_HWC: np.ndarray) -> None:
        self.log.append(f"sees {frame_HWC[0, 0, 0]}")

    def close(self) -> None:
        self.log.append("done")


def test_every_life_begins_with_the_script_and_no_hand_sees_two():
    """Ten frames, the fifth and sixth lying; two scripted steps begin a life."""
    dead = [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    log: list[str] = []
    lives = EpisodeController(
        variant_of("plaza"), 3, warmup_steps=2, make_policy=lambda prompt, life: Noting(log, prompt, life)
    )
    toy = Toy(np.zeros((2, 2, 3), np.uint8), rows(dead=[0.0])[0])
    own = []
    for step, lying in enumerate(dead):
        toy.frame_HWC, toy.row = np.full((2, 2, 3), step, np.uint8), rows(x=[200.0], y=[-200.0], dead=[lying])[0]
        if step:
            lives.observe(toy)
        own.append(lives.prepare(toy))
        assert lives.act(toy).shape == (16,)
    lives.close()
    lives.close()
    assert own == [False, False, True, True, False, False, False, False, True, True]
    assert log == ["life 0 from [0, 1, 2]", "sees 3", "done", "life 1 from [6, 7, 8]", "sees 9", "done"]


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"seconds": 0}, BadInputError, "seconds is 0; expected 0.2 or more"),
        ({"seconds": float("nan")}, BadInputError, "seconds is nan"),
        ({"players": ("model", "repeet")}, BadInputError, "unknown player 'repeet'; did you mean repeat"),
    ],
)
def test_a_job_says_what_is_wrong_with_it(wrong, error, said):
    with pytest.raises(error, match=said):
        ActJob(**wrong)


def test_the_games_of_a_job():
    job = ActJob(seed=16, games=4, seconds=2.0, mode="4v4")
    plans = list(job.plans("model-tiny", 3))
    assert [(plan.seed, plan.split) for plan in plans] == [
        (16, "train"), (17, "validation"), (18, "test"), (19, "heldout"),
    ]  # fmt: skip
    assert {(plan.steps, plan.style, plan.mode) for plan in plans} == {(23, "model-tiny", "4v4")}
    assert {plan.split for plan in ActJob(variant="canyon", games=4).plans("repeat", 9)} == {"heldout"}
    assert set(COMPARED) < set(PLAYERS) and COMPARED[0] == "model"


def test_a_model_of_other_pictures_cannot_play(tmp_path):
    job = ActJob(model=saved(tmp_path / "tiny", loud_model(tiny_config())), device="cpu")
    with pytest.raises(BadInputError, match="24 x 16, expected 300 x 180"):
        job.load_engine()
    assert ActJob(players=("repeat",), model="no such model").load_engine() is None
    fits = ActJob(model=saved(tmp_path / "fits", arena_model()), device="cpu").load_engine()
    assert fits is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "nobody"], "'nobody'"),
        (["--policy", ""], "--policy"),
        (["--policy", "random", "--compare"], "leave out --policy"),
        (["--variant", "moon"], "moon"),
        (["--seconds", "0"], "seconds is 0"),
        (["--model", "no/such/model"], "no/such/model"),
    ],
)
def test_the_command_says_one_sentence(words, said, monkeypatch, capsys, tmp_path):
    out = tmp_path / "act"
    monkeypatch.setattr(sys, "argv", ["playloom", "act", "--out", str(out), *words])
    with pytest.raises(SystemExit) as exit_info:
        main()
    complaint = capsys.readouterr().err
    assert exit_info.value.code == 2 and said in complaint and complaint.count("\n") == 1
    assert not out.exists()

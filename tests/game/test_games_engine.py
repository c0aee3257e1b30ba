"""The running game: the same again in another process, the right turn, a dead child, recording that goes on."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vizdoom")
pytest.importorskip("gymnasium")

from typer.testing import CliRunner

from playloom.actions.controller import CONTROLS
from playloom.cli.app import app
from playloom.data.recording import Episode, list_episodes, load_episode
from playloom.errors import ActionError, ConfigError, GameError
from playloom.evaluation.camera_motion import yaw_between
from playloom.evaluation.online.metrics import play_statistics
from playloom.games.arena.engine import GameProcess, GameSpec, _serve
from playloom.games.arena.env import ArenaEnv, render_episode
from playloom.games.bots.players import STYLES
from playloom.games.recorder import EpisodePlan, record_episodes, record_plans

NAMES = [control.name for control in CONTROLS]
REST = np.zeros(16, np.float32)


def hold(**positions: float) -> np.ndarray:
    state = REST.copy()
    for name, value in positions.items():
        state[NAMES.index(name)] = value
    return state


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One episode of every style, both modes, both training arenas."""
    folder = tmp_path_factory.mktemp("recorded")
    plans = [
        EpisodePlan(
            seed=100 + i,
            variant=("plaza", "court")[i % 2],
            mode="4v4" if i == 1 else "ffa",
            style=style,
            split="train",
            steps=250,
        )
        for i, style in enumerate(STYLES)
    ]
    record_plans(folder, plans, processes=2)
    return folder


@pytest.fixture(scope="module")
def episodes(recorded: Path) -> list[Episode]:
    return [load_episode(path) for path in list_episodes(recorded)]


def test_recorded_actions_render_the_same_pictures_again(episodes: list[Episode]) -> None:
    frames = list(render_episode(episodes[1], verify=True))  # 4 v 4: eight bodies, two teams
    assert len(frames) == 250
    assert all(frame.shape == (180, 300, 3) and frame.dtype == np.uint8 for frame in frames)


def test_another_action_is_noticed(episodes: list[Episode]) -> None:
    episode = episodes[0]
    actions = episode.actions_TA.copy()
    actions[5, 14] = 10 - actions[5, 14] if actions[5, 14] != 5 else 10
    with pytest.raises(GameError, match="differ"):
        list(render_episode(Episode(episode.meta, actions, episode.states)))


def test_states_follow_the_actions(episodes: list[Episode]) -> None:
    from playloom.actions.codec import decode_values
    from playloom.games.arena.engine import turn_per_step

    for episode in episodes:
        stick = decode_values(episode.actions_TA)[:-1, NAMES.index("right_stick_x")]
        turned = (np.diff(episode.states[:, 3]) + 180) % 360 - 180
        alive = (episode.states[:-1, 6] == 0) & (episode.states[1:, 6] == 0)
        expected = np.array([turn_per_step(float(x)) for x in stick])
        # A respawn turns the body as well; nothing else does.
        assert (np.abs(turned - expected)[alive] < 0.1).mean() > 0.99, episode.meta.style


def test_players_play_like_people(episodes: list[Episode]) -> None:
    figures = play_statistics(episodes)
    assert figures["reversals a second"] < 0.7
    assert 0.02 < figures["full turns"] < 0.25 and 0.02 < figures["at rest"] < 0.3
    assert figures["walking straight"] > 0.15 and figures["backward"] > 0.02 and figures["sideways"] > 0.02
    assert 0.02 < figures["off level"] < 0.25 and figures["dead"] < 0.15
    assert all(share > 0 for share in figures.values()), figures
    for episode in episodes:
        assert play_statistics([episode])["reversals a second"] < 1.0, episode.meta.style
        assert episode.states[0, 6] == 0, "an episode begins alive"
        assert len({(int(x // 128), int(y // 128)) for x, y in episode.states[:, :2]}) > 8, "nobody stays put"


def test_the_sky_shows_the_turn() -> None:
    with GameProcess(GameSpec(variant="plaza", seed=2)) as game:
        frames, rows = [game.frame_HWC], [game.row]
        for state in [hold(right_stick_x=1.0)] * 12 + [REST] * 3 + [hold(right_stick_x=-0.625)] * 12:
            frame, row = game.step(state)
            frames.append(frame)
            rows.append(row)
    truth = (np.diff([row[3] for row in rows]) + 180) % 360 - 180
    assert truth[:12] == pytest.approx(np.full(12, 9.0), abs=0.05)
    seen = yaw_between(np.stack(frames[:-1]), np.stack(frames[1:]))
    turning = np.abs(truth) > 2
    assert (np.sign(seen) == np.sign(truth))[turning].mean() >= 0.9
    assert np.median(np.abs(seen - truth)) < 0.5


def test_walking_forward_moves_along_the_heading() -> None:
    with GameProcess(GameSpec(variant="plaza", seed=2)) as game:
        before = game.row
        for _ in range(6):
            game.step(hold(left_stick_y=1.0))
        after = game.row
    moved = after[:2] - before[:2]
    heading = np.radians(-before[3])
    ahead = moved @ np.array([np.cos(heading), np.sin(heading)])
    assert ahead > 40 and ahead > 0.9 * np.hypot(*moved)


def test_the_environment_keeps_gymnasiums_contract() -> None:
    import warnings

    from gymnasium.utils.env_checker import check_env

    env = ArenaEnv(variant="plaza")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes.*")
        check_env(env, skip_render_check=True)
    assert env.render() is not None
    env.close()
    assert env.render() is None


def test_the_environment_takes_what_it_records() -> None:
    env = ArenaEnv(max_steps=2)
    with pytest.raises(GameError, match="reset"):
        env.step(REST)
    env.reset(seed=5)
    with pytest.raises(ActionError, match="16 numbers"):
        env.step(np.zeros(3, np.float32))
    action = hold(right_stick_x=0.9, button_A=0.7, trigger_RT=-0.5)
    _, _, terminated, truncated, info = env.step(action)
    assert not terminated and not truncated
    # 0.9 falls into the bin of 0.85, A is down, RT is up: what is stored is what the game got.
    assert info["actions"][14] == 9 and info["actions"][2] == 1 and info["actions"][1] == 0
    assert env.step(REST)[3] is True
    env.close()


def test_a_dead_game_is_an_error_not_a_crash() -> None:
    with GameProcess(GameSpec(variant="plaza", seed=1)) as game:
        (child,) = multiprocessing.active_children()
        child.kill()
        with pytest.raises(GameError, match="-9"):
            for _ in range(3):
                game.step(REST)


def test_unknown_arenas_and_modes_are_told_from_the_child() -> None:
    with pytest.raises(ConfigError, match="court"):
        GameProcess(GameSpec(variant="cort"))
    with pytest.raises(ConfigError, match="mode"):
        GameProcess(GameSpec(mode="2v2"))


def test_a_game_whose_parent_is_gone_removes_its_folder(tmp_path: Path) -> None:
    (folder := tmp_path / "game").mkdir()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, GameSpec(), str(folder), False))
    process.start()
    ours.close()
    theirs.close()
    process.join(120)
    assert process.exitcode == 0 and not folder.exists()


def test_recording_goes_on_after_a_kill(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from playloom.games.recorder import record_episodes\n"
        f"if __name__ == '__main__': record_episodes(Path({str(tmp_path)!r}), 90 / 36000, 7, 1, None, 30)"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not list_episodes(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait()
    time.sleep(1.5)  # an episode that was under way in a process of its own may still be written
    before = {path: path.stat().st_mtime_ns for path in list_episodes(tmp_path)}
    assert 1 <= len(before) < 3
    reports: list[tuple[int, ...]] = []
    paths = record_episodes(tmp_path, 90 / 36000, 7, 1, lambda *now: reports.append(now), 30)
    assert [load_episode(path).meta.seed for path in paths] == [7, 8, 9]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert reports[0] == (len(before), 3, len(before)) and reports[-1][0] == 3


def test_a_damaged_episode_is_recorded_again_and_another_plan_refused(tmp_path: Path) -> None:
    plan = EpisodePlan(seed=3, variant="plaza", mode="ffa", style="novice", split="train", steps=10)
    (path,) = record_plans(tmp_path, [plan])
    whole = load_episode(path)
    path.write_bytes(b"half")
    assert load_episode(record_plans(tmp_path, [plan])[0]).meta == whole.meta
    with pytest.raises(ConfigError, match="novice"):
        record_plans(tmp_path, [EpisodePlan(**{**vars(plan), "style": "rusher"})])


@pytest.mark.parametrize(
    "wrong", [{"hours": 0.0}, {"hours": float("nan")}, {"steps": 0}, {"steps": 10**14}, {"processes": 0}]
)
def test_senseless_requests_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} (is|are) wrong"):
        record_episodes(**{"folder": tmp_path, "hours": 1.0, **wrong})


def test_record_and_view_on_the_command_line(tmp_path: Path) -> None:
    run = CliRunner()
    folder = str(tmp_path / "rec")
    done = run.invoke(app, ["record", "--hours", "0.0005", "--out", folder, "--steps", "20", "--seed", "4"])
    assert done.exit_code == 0 and "1 episode of 20 steps" in done.stdout, done.output
    shown = run.invoke(app, ["view", folder, "--out", str(tmp_path / "out"), "--every", "5"])
    assert shown.exit_code == 0, shown.output
    from playloom.media.images import read_picture
    from video_toys import read_frames

    film = read_frames(tmp_path / "out" / "arena-00000004.mp4")
    assert len(film) == 20
    truth = next(render_episode(load_episode(list_episodes(tmp_path / "rec")[0]), verify=False))
    assert np.abs(film[0, -186:-6, 6:306].astype(int) - truth).mean() < 6
    assert read_picture(tmp_path / "out" / "arena-00000004.png").frame_HWC.shape[1] > 4 * 250
    figures = run.invoke(app, ["view", folder, "--figures"])
    assert figures.exit_code == 0 and "reversals a second" in figures.stdout

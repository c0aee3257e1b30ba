"""Acting in the real game with a tiny model: the order of seeing and pressing, what is kept, who is said to play."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("vizdoom")
pytest.importorskip("gymnasium")

from acting_toys import arena_model, saved
from playloom.cli.app import app, main
from playloom.cli.common import stopping
from playloom.data.recording import STATE_COLUMNS, Episode, list_episodes, load_episode
from playloom.errors import GameError, MissingExtraError, PlayloomError
from playloom.evaluation.online.run import DEFAULT_WARMUP, ActJob, run_act
from playloom.games.arena.env import render_episode
from playloom.inference.session import Prompt
from playloom.media.images import read_picture
from playloom.models.onnx.export import export_onnx
from video_toys import read_frames, read_manifest

LEAD, STEPS = 3, 20
"""The tiny model sees four steps."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = saved(tmp_path_factory.mktemp("model") / "tiny", arena_model())
    export_onnx(folder)
    return folder


def job(model: str, out: Path, **changes: object) -> ActJob:
    settings = {"model": model, "out": out, "seconds": STEPS / 10, "device": "cpu", "timestamp": False, "videos": 0}
    return ActJob(**{**settings, **changes})


@pytest.fixture(scope="module")
def acted(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One game by the model, filmed."""
    out = tmp_path_factory.mktemp("acted") / "act"
    run_act(job(model, out, videos=None), machine={"cpu": "some"})
    return out


@pytest.fixture(scope="module")
def episode(acted: Path) -> Episode:
    (path,) = list_episodes(acted)
    return load_episode(path)


def test_the_recording_holds_what_policy_mode_presses_on_its_frames(model: str, episode: Episode) -> None:
    """No step is off by one: every input answers the frame beside it, and leads to the next."""
    frames = np.stack(list(render_episode(episode)))  # checks the hash
    assert len(frames) == LEAD + STEPS
    asked = job(model, Path("unused"))
    engine = asked.load_engine()
    assert engine is not None
    prompt = Prompt(frames_THWC=frames[: LEAD + 1], actions_TA=episode.actions_TA[:LEAD])
    wanted = engine.dream(
        prompt, mode="policy", steps=STEPS, frames_SHWC=frames[LEAD + 1 :], sampling=asked.sampling, seed=asked.seed
    )
    assert np.array_equal(np.stack([step.action_A for step in wanted]), episode.actions_TA[LEAD:])
    assert len(np.unique(episode.actions_TA[LEAD:], axis=0)) > 5, "a player that only holds would prove nothing"


def test_it_says_that_a_model_played(acted: Path, episode: Episode) -> None:
    meta = episode.meta
    assert meta.style == "model-tiny" and meta.versions["model"] == "tiny" and meta.versions["weights"]
    assert meta.versions["script"] == "explorer at steps 0 to 2"
    report = json.loads((acted / "report.json").read_text())
    assert report["weights"] == meta.versions["weights"] and report["machine"] == {"cpu": "some"}
    (game,) = report["games"]
    assert game["steps"] == STEPS and game["steps_per_second"] > 0 and game["figures"]["steps"] == STEPS
    assert all((acted / name).is_file() for name in game["files"]) and len(game["files"]) == 3


def test_the_film_shows_real_pictures_and_names_the_player(acted: Path, episode: Episode) -> None:
    film = acted / "arena-00001000.mp4"
    assert read_frames(film)[0].shape[1] == 432 and len(read_frames(film)) == LEAD + STEPS
    for manifest in (read_manifest(film), read_picture(film.with_suffix(".png")).manifest):
        assert manifest is not None and manifest.mode == "policy" and manifest.seed == 1000
        assert manifest.weights == episode.meta.versions["weights"]
        assert manifest.note.startswith("real pictures of the game; its player is a model")


def test_playloom_view_shows_it(acted: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["view", str(acted), "--out", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "arena-00001000.mp4").is_file()
    assert "model-tiny" in CliRunner().invoke(app, ["view", str(acted), "--figures"]).stdout


def test_same_seed_same_play_and_the_baselines_begin_alike(model: str, episode: Episode, tmp_path: Path) -> None:
    players = ("model", "repeat", "random", "rusher")
    told: list[tuple[str, int, int]] = []
    report = run_act(job(model, tmp_path / "act", players=players, seconds=1.0), progress=lambda *now: told.append(now))
    assert report.players == list(players) and told[-1] == ("rusher", 40, 40)
    found = {player: load_episode(tmp_path / "act" / player / "arena-00001000.npz") for player in players}
    assert np.array_equal(found["model"].actions_TA, episode.actions_TA[: LEAD + 10])
    assert np.array_equal(found["model"].states, episode.states[: LEAD + 10])
    for player in ("repeat", "random"):
        assert np.array_equal(found[player].actions_TA[:LEAD], episode.actions_TA[:LEAD]), "the same scripted steps"
        assert found[player].meta.style == player and "model" not in found[player].meta.versions
    assert (found["repeat"].actions_TA[LEAD:] == found["repeat"].actions_TA[LEAD - 1]).all()
    assert len(np.unique(found["random"].actions_TA[LEAD:], axis=0)) == 10
    assert found["rusher"].meta.style == "rusher" and found["rusher"].meta.steps == LEAD + 10
    assert np.array_equal(found["rusher"].states[0], episode.states[0]), "the same game"
    assert {game.steps for game in report.games} == {10}


def test_another_seed_is_another_game(model: str, episode: Episode, tmp_path: Path) -> None:
    run_act(job(model, tmp_path / "act", seed=1001, games=2, seconds=0.5))
    first, second = map(load_episode, list_episodes(tmp_path / "act"))
    assert (first.meta.seed, second.meta.seed) == (1001, 1002)
    assert len({e.states[0].tobytes() for e in (episode, first, second)}) == 3


def test_who_falls_is_brought_back_by_the_script(tmp_path: Path) -> None:
    """Eight bodies and a player that hardly moves: it falls, lies a while, and begins another life."""
    out = tmp_path / "act"
    (game,) = run_act(ActJob(players=("random",), out=out, mode="4v4", seconds=60.0, videos=0)).games
    kept = load_episode(game.files[0])
    dead = kept.states[:, STATE_COLUMNS.index("dead")] > 0
    assert game.figures is not None and game.figures.deaths >= 1 and not dead[-1]
    back = int(np.flatnonzero(dead)[-1]) + 1
    first, *later = kept.meta.versions["script"].removeprefix("explorer at steps ").split(", ")
    assert first == f"0 to {DEFAULT_WARMUP - 1}" and len(later) == game.figures.deaths
    assert later[-1] == f"{np.flatnonzero(dead & ~np.roll(dead, 1))[-1]} to {back + DEFAULT_WARMUP - 1}"
    scripted = sum(1 + int(b) - int(a) for a, b in (span.split(" to ") for span in (first, *later)))
    assert game.steps == game.figures.steps == kept.meta.steps - scripted
    assert len(list(render_episode(kept))) == kept.meta.steps


def test_ctrl_c_keeps_what_was_played(model: str, tmp_path: Path) -> None:
    def interrupt(player: str, done: int, total: int) -> None:
        if done == 7:
            signal.raise_signal(signal.SIGINT)

    asked = job(model, tmp_path / "act", players=("model", "rusher"), games=2, seconds=60.0, videos=1)
    with stopping("kept", after_step=True) as stopped:
        report = run_act(asked, stop=stopped, progress=interrupt)
    (game,) = report.games
    assert game.steps == 7
    kept = load_episode(tmp_path / "act" / "model" / "arena-00001000.npz")
    assert kept.meta.steps == LEAD + 7 == len(list(render_episode(kept)))
    assert (tmp_path / "act" / "report.json").is_file() and len(game.files) == 3


def test_a_game_that_dies_leaves_what_was_played(tmp_path: Path) -> None:
    def kill(player: str, done: int, total: int) -> None:
        if done == 5:
            (game,) = multiprocessing.active_children()
            game.kill()

    out = tmp_path / "act"
    with pytest.raises(GameError, match=r"ended|exited"):
        run_act(ActJob(players=("repeat",), out=out, games=2, videos=0), progress=kill)
    (path,) = list_episodes(out)
    kept = load_episode(path)
    assert kept.meta.steps == DEFAULT_WARMUP + 6 == len(list(render_episode(kept)))
    assert json.loads((out / "report.json").read_text())["games"][0]["steps"] == 6


def test_a_film_that_cannot_be_made_takes_no_figures_with_it(tmp_path: Path) -> None:
    out = tmp_path / "act"

    def obstruct(*_: object) -> None:
        (out / "arena-00001000.mp4").mkdir(parents=True, exist_ok=True)

    with pytest.raises(PlayloomError, match=r"arena-00001000\.mp4"):
        run_act(ActJob(players=("repeat",), out=out, seconds=0.5), progress=obstruct)
    (game,) = json.loads((out / "report.json").read_text())["games"]
    assert game["steps"] == 5 and game["files"] == ["arena-00001000.npz"] and (out / game["files"][0]).is_file()


def test_a_game_that_was_over_before_its_player_could_press_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script falls in its lead, so that there is no time for another life; the games after that are played."""
    monkeypatch.setattr("playloom.evaluation.online.run.DEFAULT_WARMUP", 300)
    asked = ActJob(players=("repeat",), out=tmp_path / "act", mode="4v4", seconds=0.2, games=2, videos=0)
    assert [game.seed for game in run_act(asked).games] == [1001]
    words = ["--policy", "repeat", "--mode", "4v4", "--seconds", "0.2", "--out", str(tmp_path / "other")]
    monkeypatch.setattr(sys, "argv", ["playloom", "act", *words])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2 and "--seconds" in capsys.readouterr().err


def test_stopped_before_it_began_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "act"
    asked = ActJob(players=("repeat",), out=out)
    assert run_act(asked, stop=lambda: True).games == [] and not out.exists()


def test_one_step_has_no_figures_yet(model: str, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    asked = ActJob(players=("random",), out=tmp_path / "act", videos=0)
    (game,) = run_act(asked, stop=lambda: bool(told), progress=lambda *now: told.append(now)).games
    assert game.steps == 1 and game.figures is None
    assert load_episode(game.files[0]).meta.steps == DEFAULT_WARMUP + 1


def test_the_command(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", model, "--device", "cpu", "--seconds", "0.5", "--out", str(tmp_path / "act"), "--videos", "0"]
    monkeypatch.setattr(sys, "argv", ["playloom", "act", *words])
    with pytest.raises(SystemExit) as exit_info:
        main()
    lines = capsys.readouterr().out.splitlines()
    assert exit_info.value.code == 0
    assert lines[0].split()[:2] == ["player", "games"] and lines[2].startswith("model ")
    monkeypatch.setattr(sys, "argv", ["playloom", "act", *words, "--json"])
    with pytest.raises(SystemExit):
        main()
    content = json.loads(capsys.readouterr().out)
    assert content["players"]["model"]["games"] == 1 and content["variant"] == "plaza" and content["tiles"] == 130


def test_without_the_game_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'playloom\[game\]'"):
        run_act(ActJob(players=("repeat",), out=tmp_path / "act"))
    assert not (tmp_path / "act").exists()

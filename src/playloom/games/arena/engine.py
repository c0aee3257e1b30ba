"""ViZDoom in a child process; crashes there become `GameError`.

The engine writes a settings file into its working directory and can crash the process. ViZDoom runs it as a program of
its own, a child of the child. When the child dies the engine would live on and keep our pipes open, so the child shares
nothing with it and both form one process group that ends together.

Turning has no inertia, walking has: the engine's friction lets speed build up over about four steps.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.controller import CONTROLS
from playloom.errors import ConfigError, GameError, PlayloomError, did_you_mean, import_extra
from playloom.games.arena.maps import ForeignObject, arena_wad, variant_of

GAME_NAME = "arena"
FRAME_SHAPE = (180, 300, 3)
MODES = {"ffa": 3, "4v4": 7}

_VARIABLES = (  # in the order of `STATE_COLUMNS`
    "POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "PITCH", "HEALTH", "DEAD", "SELECTED_WEAPON", "FRAGCOUNT",
)  # fmt: skip
_MARGIN = 10  # columns cut from each side of the engine's 320
_WARM_UP_STEPS = 14  # steps before the first frame: bots arrive, the camera settles
_ARGUMENTS = (
    "-host 1 -deathmatch +sv_chasecam 1 +sv_forcerespawn 0 +sv_spawnfarthest 1 +sv_itemrespawn 1 "
    "+sv_weaponstay 1 +sv_nocrouch 0 +timelimit 0 +fraglimit 0 +viz_respawn_delay 0 +cl_run 1 "
    "+sb_deathmatch_enable 0 +sb_teamdeathmatch_enable 0 +sb_cooperative_enable 0 "
    "+movebob 0 +name Player +colorset 0"
)
_TEAM_ARGUMENTS = " +teamplay 1 +team 0 +teamdamage 0"
# A calm bot that keeps its distance, in the engine's table of bots.
_BOT = """{{
    name        {name}
    aiming      45
    perfection  30
    reaction    60
    isp         40
    color       "{colour}"
    skin        base
    class       LoomBot
}}
"""
_BOTS = {
    "Amber": "f0 c0 20",
    "Bluebell": "30 50 f0",
    "Cherry": "e0 20 20",
    "Dove": "e8 e8 e8",
    "Ember": "f0 80 20",
    "Fig": "c0 30 c0",
    "Gull": "b0 b0 b0",
}

TICS_PER_STEP = 3  # engine tics (declared 1/30 s each) in one step of 0.1 s
TURN_PER_TIC = 3.0  # degrees a tic at full right stick x
LOOK_PER_TIC = 1.5  # degrees a tic at full right stick y
# Engine units of thrust at full left stick: forward, sideways, and forward with B held.
WALK, STRAFE, SPRINT = 34.0, 30.0, 50.0
STICK_CURVE = 1.7

_STOP = "stop"
_PATIENCE = 5.0  # timeout in seconds for the child to exit
_DESCRIPTORS = 256  # file descriptors checked; a fresh child has a handful
_HELD = {
    "ATTACK": "trigger_RT",
    "ALTATTACK": "skill_1",
    "RELOAD": "skill_2",
    "JUMP": "button_A",
    "CROUCH": "trigger_LT",
    "USE": "button_X",
    "SELECT_NEXT_WEAPON": "button_Y",
    "SELECT_WEAPON2": "dpad_down",
    "SELECT_WEAPON3": "dpad_left",
    "SELECT_WEAPON4": "dpad_up",
    "SELECT_WEAPON5": "dpad_right",
}
BUTTONS: tuple[str, ...] = (  # in the order `engine_buttons` fills them
    "MOVE_FORWARD_BACKWARD_DELTA", "MOVE_LEFT_RIGHT_DELTA", "TURN_LEFT_RIGHT_DELTA", "LOOK_UP_DOWN_DELTA", *_HELD,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GameSpec:
    """Settings that, with the actions, decide every pixel of an episode."""

    variant: str = "plaza"
    """Name of the arena, see `VARIANTS`."""
    mode: str = "ffa"
    """`ffa` (3 bots) or `4v4` (7 bots, teams)."""
    seed: int = 0
    """Random seed of the engine and of the choice of bots."""
    objects: tuple[ForeignObject, ...] = ()
    """Foreign objects; they change pictures and nothing else."""


class VisibleEnemy(NamedTuple):
    """Another player on the screen."""

    id: int
    x: float  # map units
    y: float
    area: int  # pixels of its bounding box


class DoomEngine:
    """One running game. Not shareable between processes; `close` it."""

    def __init__(self, spec: GameSpec, folder: Path, enemy_info: bool) -> None:
        """Start the game; `folder` becomes the working directory, `enemy_info` makes `enemies` report them."""
        if spec.mode not in MODES:
            raise ConfigError(f"unknown game mode {spec.mode!r}; {did_you_mean(spec.mode, MODES)}")
        variant = variant_of(spec.variant)
        self._vzd = import_extra("vizdoom", "game")
        os.chdir(folder)
        wad = folder / "arena.wad"
        wad.write_bytes(arena_wad(variant, spec.objects))
        self._enemy_info = enemy_info
        self._game = self._vzd.DoomGame()
        self._configure(wad, spec)
        try:
            self._game.init()
        except Exception as error:
            raise GameError(f"the engine did not start on arena {spec.variant}: {error}") from error
        self._populate(spec)

    def _configure(self, wad: Path, spec: GameSpec) -> None:
        game, vzd = self._game, self._vzd
        game.set_doom_scenario_path(str(wad))
        game.set_doom_map("map01")
        game.set_screen_resolution(vzd.ScreenResolution.RES_320X180)
        game.set_screen_format(vzd.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        for hidden in ("hud", "crosshair", "decals", "particles", "messages", "screen_flashes"):
            getattr(game, f"set_render_{hidden}")(False)
        game.set_labels_buffer_enabled(self._enemy_info)
        game.set_available_buttons([getattr(vzd.Button, name) for name in BUTTONS])
        game.set_mode(vzd.Mode.PLAYER)
        game.set_seed(spec.seed % 2**32)
        game.set_episode_timeout(0)
        bots = wad.with_name("bots.cfg")
        bots.write_text("".join(_BOT.format(name=name, colour=_BOTS[name]) for name in _BOTS), encoding="utf-8")
        game.add_game_args(f"+viz_bots_path {bots} ")
        game.add_game_args(_ARGUMENTS + (_TEAM_ARGUMENTS if spec.mode == "4v4" else ""))

    def _populate(self, spec: GameSpec) -> None:
        names = np.random.default_rng(spec.seed).permutation(list(_BOTS))
        for name in names[: MODES[spec.mode]]:
            self._game.send_game_command(f"addbot {name}")
        for command in ("chase", "chase_dist 80", "chase_height -2"):
            self._game.send_game_command(command)
        rest, use = [0.0] * len(BUTTONS), [float(name == "USE") for name in BUTTONS]
        for _ in range(_WARM_UP_STEPS):
            self._advance(rest)
        for attempt in range(60):
            if self._game.get_game_variable(self._vzd.GameVariable.DEAD) == 0:
                break
            self._advance(use if attempt % 2 else rest)

    def frame(self) -> NDArray[np.uint8]:
        """Return the current picture, uint8 [180, 300, 3] RGB."""
        screen = self._state().screen_buffer
        return np.ascontiguousarray(screen[:, _MARGIN : screen.shape[1] - _MARGIN])

    def row(self) -> NDArray[np.float32]:
        """Return the current state, float32 [9], see `STATE_COLUMNS`."""
        variables = self._vzd.GameVariable
        row = np.array([self._game.get_game_variable(getattr(variables, n)) for n in _VARIABLES], np.float32)
        row[3] = (-row[3]) % 360
        row[4] = -((row[4] + 180) % 360 - 180)
        return row

    def enemies(self) -> tuple[VisibleEnemy, ...]:
        """Return the other players on the screen; none unless started with `enemy_info`."""
        found, (here_x, here_y) = [], self.row()[:2]
        for label in self._state().labels if self._enemy_info else ():
            x, y = label.object_position_x, label.object_position_y
            if label.object_name in ("LoomPlayer", "LoomBot") and math.hypot(x - here_x, y - here_y) > 4:
                found.append(VisibleEnemy(id=label.object_id, x=x, y=y, area=label.width * label.height))
        return tuple(found)

    def step(self, state_A: Sequence[float]) -> None:
        """Hold a controller state (16 floats, order of `CONTROLS`) for one step of 0.1 s."""
        self._advance(engine_buttons(state_A))

    def close(self) -> None:
        """End the game."""
        self._game.close()

    def _advance(self, buttons: list[float]) -> None:
        try:
            self._game.make_action(buttons, TICS_PER_STEP)
        except self._vzd.ViZDoomUnexpectedExitException as error:
            raise GameError("the engine crashed in the middle of a game; start a new one") from error

    def _state(self) -> Any:
        state = self._game.get_state()
        if state is None:
            raise GameError("the engine has ended the game; start a new one")
        return state


class GameProcess(contextlib.AbstractContextManager["GameProcess"]):
    """A running game in a child process; `close` it. Any call raises GameError when the process is dead."""

    frame_HWC: NDArray[np.uint8]  # current picture, [180, 300, 3] RGB
    row: NDArray[np.float32]  # current state [9], see `STATE_COLUMNS`
    enemies: tuple[VisibleEnemy, ...]  # other players on the screen, if the game was started with `enemy_info`

    def __init__(self, spec: GameSpec, *, enemy_info: bool = False) -> None:
        import_extra("vizdoom", "game")
        self._folder = tempfile.TemporaryDirectory(prefix="playloom-game-")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, self._folder.name, enemy_info), daemon=True)
        self._process.start()
        theirs.close()
        self._begun = False
        self._receive()

    def step(self, state_A: Sequence[float] | NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Hold a controller state for one step; return the frame, uint8 [180, 300, 3], and state row that follow."""
        try:
            self._pipe.send(np.asarray(state_A, np.float32).tolist())
        except OSError as error:
            raise self._died() from error
        self._receive()
        return self.frame_HWC, self.row

    def close(self) -> None:
        """End the game and its process; idempotent."""
        if self._process.is_alive():
            try:
                self._pipe.send(_STOP)
            except OSError:
                self._process.kill()
            self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()
        if hasattr(os, "killpg") and self._process.pid is not None:  # the engine that it may have left behind
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._pipe.close()
        self._folder.cleanup()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _receive(self) -> None:
        try:
            content = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(content, PlayloomError):
            self.close()
            raise content
        self._begun = True
        self.frame_HWC, self.row, self.enemies = content

    def _died(self) -> GameError:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        self.close()
        # The commonest cause before the first frame: the child imports the script that started it, and starts again.
        guard = "; in a script, start games only under: if __name__ == '__main__':" if not self._begun else ""
        return GameError(f"the game's process exited unexpectedly (exit code {code}); start a new game{guard}")


def _serve(pipe: Connection, spec: GameSpec, folder: str, enemy_info: bool) -> None:
    for descriptor in range(3, _DESCRIPTORS):  # see the top of this file
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptor, False)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    try:
        with contextlib.closing(DoomEngine(spec, Path(folder), enemy_info)) as engine:
            while True:
                pipe.send((engine.frame(), engine.row(), engine.enemies()))
                message = pipe.recv()
                if message == _STOP:
                    return
                engine.step(message)
    except PlayloomError as error:
        pipe.send(error)
    except (EOFError, ConnectionError):  # the parent is gone
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            pipe.send(GameError(f"the game could not write its files: {error}"))


def turn_per_step(stick: float) -> float:
    """Return degrees of clockwise turn per step for a right stick x in [-1, 1]."""
    return TICS_PER_STEP * TURN_PER_TIC * _curve(stick)


def look_per_step(stick: float) -> float:
    """Return degrees of upward look per step for a right stick y in [-1, 1]."""
    return TICS_PER_STEP * LOOK_PER_TIC * _curve(stick)


def engine_buttons(state_A: Sequence[float]) -> list[float]:
    """Convert a controller state (16 floats, order of `CONTROLS`, +y forward / up) to values for `BUTTONS`."""
    state = dict(zip((control.name for control in CONTROLS), map(float, state_A), strict=True))
    return [
        state["left_stick_y"] * (SPRINT if state["button_B"] >= 0.5 else WALK),
        state["left_stick_x"] * STRAFE,
        _curve(state["right_stick_x"]) * TURN_PER_TIC,
        _curve(state["right_stick_y"]) * LOOK_PER_TIC,
        *(float(state[name] >= 0.5) for name in _HELD.values()),
    ]


def _curve(stick: float) -> float:
    return math.copysign(abs(stick) ** STICK_CURVE, stick)

"""The engine in a child process; crashes there become `GameError`.

ViZDoom runs the engine as a program of its own, a child of the child. When the child dies the engine would live on and
keep our pipes open, so the child shares nothing with it and both form one process group that ends together.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from playloom.errors import GameError, PlayloomError
from playloom.games.arena.engine import FRAME_SHAPE, DoomEngine, GameSpec, import_vizdoom

_STOP = "stop"
_PATIENCE = 5.0  # timeout in seconds for the child to exit
_DESCRIPTORS = 256  # file descriptors checked; a fresh child has a handful


class GameProcess(contextlib.AbstractContextManager["GameProcess"]):
    """A running game in a child process; `close` it. Any call raises GameError when the process is dead."""

    def __init__(self, spec: GameSpec) -> None:
        import_vizdoom()
        self._folder = tempfile.TemporaryDirectory(prefix="playloom-game-")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, self._folder.name), daemon=True)
        self._process.start()
        theirs.close()
        self._begun = False
        self.frame_HWC, self.row = self._receive()

    def step(self, state_A: Sequence[float] | NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Hold a controller state for one step; return the frame, uint8 [180, 300, 3], and state row that follow."""
        try:
            self._pipe.send(np.asarray(state_A, np.float32).tobytes())
        except OSError as error:
            raise self._died() from error
        self.frame_HWC, self.row = self._receive()
        return self.frame_HWC, self.row

    def close(self) -> None:
        """End the game and its process; idempotent."""
        if self._process.is_alive():
            try:
                self._pipe.send(_STOP)
            except OSError:
                self._process.kill()
            self._process.join(_PATIENCE)
        end_game_process(self._process)
        self._pipe.close()
        self._folder.cleanup()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _receive(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        try:
            kind, content, row = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if kind == "error":
            self.close()
            raise cast(PlayloomError, content)
        self._begun = True
        frame = np.frombuffer(content, np.uint8).reshape(FRAME_SHAPE)
        return frame, np.frombuffer(row, np.float32)

    def _died(self) -> GameError:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        self.close()
        # The commonest cause before the first frame: the child imports the script that started it, and starts again.
        guard = "; in a script, start games only under: if __name__ == '__main__':" if not self._begun else ""
        return GameError(f"the game's process exited unexpectedly (exit code {code}); start a new game{guard}")


def _serve(pipe: Connection, spec: GameSpec, folder: str) -> None:
    enter_game_process()
    try:
        engine = DoomEngine(spec, Path(folder))
    except (PlayloomError, OSError) as error:
        ours = isinstance(error, PlayloomError)
        pipe.send(("error", error if ours else GameError(f"the game could not write its files: {error}"), None))
        return
    try:
        while True:
            pipe.send(("frame", engine.frame().tobytes(), engine.row().tobytes()))
            message = pipe.recv()
            if message == _STOP:
                return
            engine.step(np.frombuffer(message, np.float32).tolist())
    except PlayloomError as error:
        pipe.send(("error", error, None))
    except (EOFError, OSError):
        pass  # the parent is gone
    finally:
        engine.close()


def enter_game_process() -> None:
    """Prepare a child process for an engine; call it first, see the top of this file."""
    for descriptor in range(3, _DESCRIPTORS):
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptor, False)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def end_game_process(process: BaseProcess) -> None:
    """Kill a child that called `enter_game_process`, if it is alive, and the engine it may have left behind."""
    if process.is_alive():
        process.kill()
    process.join()
    if hasattr(os, "killpg") and process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

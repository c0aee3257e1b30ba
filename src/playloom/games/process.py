"""A game in a process of its own: what crashes there becomes a `GameError` here.

Owns the child process, its temporary folder and the messages between. Knows nothing of what is played.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from playloom.errors import GameError, PlayloomError
from playloom.games.doom import FRAME_SHAPE, DoomEngine, GameSpec, import_vizdoom

_STOP = "stop"


class GameProcess:
    """A running game, stepped from outside. Use as a context manager, or `close` it.

    Raises:
        GameError: when the engine does not start or its process dies, at any call.
        MissingExtraError: when ViZDoom is not installed.
    """

    def __init__(self, spec: GameSpec) -> None:
        import_vizdoom()
        self._folder = tempfile.TemporaryDirectory(prefix="playloom-game-")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, self._folder.name), daemon=True)
        self._process.start()
        theirs.close()
        self.frame_HWC, self.row = self._receive()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return cast(int, self._process.pid)

    def step(self, state_A: Sequence[float] | NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Hold a controller state for one step; returns the frame uint8 [180, 300, 3] and state row that follow."""
        try:
            self._pipe.send(np.asarray(state_A, np.float32).tobytes())
        except OSError as error:
            raise self._died() from error
        self.frame_HWC, self.row = self._receive()
        return self.frame_HWC, self.row

    def close(self) -> None:
        """End the game and its process; harmless when called again."""
        if self._process.is_alive():
            try:
                self._pipe.send(_STOP)
            except OSError:
                self._process.terminate()
            self._process.join(3)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()
        self._folder.cleanup()

    def __enter__(self) -> GameProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        try:
            kind, content, row = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if kind == "error":
            self.close()
            raise cast(PlayloomError, content)
        frame = np.frombuffer(content, np.uint8).reshape(FRAME_SHAPE)
        return frame, np.frombuffer(row, np.float32)

    def _died(self) -> GameError:
        self._process.join(3)
        code = self._process.exitcode
        self.close()
        return GameError(f"the game's process ended without a word (exit code {code}); start a new game")


def _serve(pipe: Connection, spec: GameSpec, folder: str) -> None:
    """The child: answers every state with the frame and row that follow, until told to stop."""
    try:
        engine = DoomEngine(spec, Path(folder))
    except PlayloomError as error:
        pipe.send(("error", error, None))
        return
    message: Any = None
    while message != _STOP:
        pipe.send(("frame", engine.frame().tobytes(), engine.row().tobytes()))
        try:
            message = pipe.recv()
        except EOFError:
            break
        if message != _STOP:
            engine.step(np.frombuffer(message, np.float32).tolist())
    engine.close()

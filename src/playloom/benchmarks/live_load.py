"""Players for a server's live sessions: each presses something new ten times a second and counts what it is shown."""

from __future__ import annotations

import json
import math
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

from playloom.actions.controller import CONTROLS
from playloom.errors import MissingExtraError, PlayloomError

_HEAD = struct.Struct("<4sIIdffBBxx16f")  # docs/serve.md, the same bytes as the page reads
_TURN = [control.name for control in CONTROLS].index("right_stick_x")
_LEAD = 2.0  # seconds of play that are not counted: the prompt, the first frames


@dataclass(kw_only=True)
class PlayedLive:
    """What one player was shown."""

    frames: int = 0
    """Frames that came while it was counted."""
    seconds: float = 0.0
    """How long that was."""
    key_to_frame: list[float] = field(default_factory=list)
    """Seconds from a press to its frame in hand, as the server counted them."""
    memory: int = 0
    """Bytes the server held when the time was over."""

    @property
    def frames_per_second(self) -> float:
        """Frames that came, over the time."""
        return self.frames / self.seconds if self.seconds else 0.0


def play_together(
    address: str, players: int, *, seconds: float, memory: Callable[[], int] = lambda: 0
) -> list[PlayedLive]:
    """Let so many play at once.

    Args:
        address: host and port.
        players: each on a session of its own.
        seconds: counted, after two that are not.
        memory: asked at the end, while all still play.

    Raises:
        MissingExtraError: when `websockets` is not installed.
        PlayloomError: when the server turns one away.
    """
    results = [PlayedLive() for _ in range(players)]
    failures: list[Exception] = []
    together = threading.Barrier(players)

    def play(number: int) -> None:
        try:
            _play(address, number, seconds, results[number], memory, together)
        except Exception as error:  # told to the caller below
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=play, args=(number,)) for number in range(players)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def _play(
    address: str,
    number: int,
    seconds: float,
    result: PlayedLive,
    memory: Callable[[], int],
    together: threading.Barrier,
) -> None:
    try:
        from websockets.sync.client import connect
    except ImportError as error:
        raise MissingExtraError.of("websockets", "serve") from error
    host = urlsplit(f"//{address}")
    with connect(f"ws://{host.netloc}/v1/play", proxy=None) as socket:
        socket.send(json.dumps({"type": "hello", "seed": number}))
        ready = json.loads(socket.recv(30))
        while ready.get("type") == "opening":
            ready = json.loads(socket.recv(30))
        if ready.get("type") != "ready":
            raise PlayloomError(f"the server turned a player away: {ready.get('message', ready)}")
        source = np.random.default_rng(number)
        begin = time.perf_counter() + _LEAD
        pressed = 0.0
        while (now := time.perf_counter()) < begin + seconds:
            if now >= pressed + 0.1:
                pressed = now + source.uniform(-0.02, 0.02)
                stick = np.zeros(len(CONTROLS), "<f4")
                stick[_TURN] = source.uniform(-1, 1)
                socket.send(stick.tobytes())
            try:
                message = socket.recv(0.02)
            except TimeoutError:
                continue
            if isinstance(message, bytes) and now >= begin:
                delay = _HEAD.unpack_from(message)[4]
                result.frames += 1
                result.key_to_frame += [] if math.isnan(delay) else [delay]
        result.seconds = seconds
        together.wait(30)
        result.memory = memory() if number == 0 else 0
        together.wait(30)

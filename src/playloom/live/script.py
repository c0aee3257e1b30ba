"""A scripted person: presses a list of actions at moments between the ticks, from a thread of its own.

Pressing exactly at the ticks would hide the wait for the next one from key-to-frame; so each press falls anywhere
between the tick before its own and its own, drawn from a seed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from playloom.errors import ActionError
from playloom.live.timing import TimeSource

Press = Callable[[NDArray[np.uint8], float], None]
"""Takes an action [16] and the moment it was pressed, as `LiveSession.press` does."""


def press_times(hertz: float, seed: int) -> Iterator[float]:
    """When the presses for ticks 1, 2, 3, … come, in seconds after tick 0; endless.

    Args:
        hertz: ticks a second.
        seed: where between two ticks each press falls, evenly spread.

    Yields:
        The press for tick n: at least (n - 1) / hertz, less than n / hertz.
    """
    source = np.random.default_rng(seed)
    for before in itertools.count():
        yield (before + float(source.random())) / hertz


class ScriptPlayer:
    """Presses a script over and over, as a person would: without looking at the clock's ticks.

    with ScriptPlayer(session.press, actions_SA, first_tick=start, hertz=10, seed=0, time=session.time):
        session.run(show, first_tick=start, ticks=600)
    """

    def __init__(
        self,
        press: Press,
        actions_SA: NDArray[np.uint8],
        *,
        first_tick: float,
        hertz: float,
        seed: int,
        time: TimeSource,
    ) -> None:
        """A player that begins with the `with` block: the first action at once, the others by `press_times`.

        Args:
            press: takes the action and when it was pressed. That is when it should have been: where the thread
                was woken late, waiting for it counts.
            actions_SA: the script, action values [S, 16]; after the last comes the first again.
            first_tick: when tick 0 is due, in seconds of `time`.
            hertz: ticks a second.
            seed: of `press_times`.
            time: the time source of the ticks; it has to pass by itself.

        Raises:
            ActionError: when the script is empty.
        """
        if not len(actions_SA):
            raise ActionError("the script holds no actions; write for example: forward for 2s; turn_left for 1s")
        self._press, self._actions_SA, self._time = press, actions_SA, time
        self._times = (first_tick + after for after in press_times(hertz, seed))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play, name="script", daemon=True)

    def __enter__(self) -> ScriptPlayer:
        self._press(self._actions_SA[0], self._time.now())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _play(self) -> None:
        for number, at in enumerate(self._times, 1):
            while (left := at - self._time.now()) > 0:
                if self._ended.wait(left):
                    return
            if self._ended.is_set():
                return
            self._press(self._actions_SA[number % len(self._actions_SA)], at)

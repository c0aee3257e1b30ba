"""The stage `record`, and recording that goes on beside the tokenizer's training.

Owns how many episodes are asked for and when to stop asking. How an episode is made is the recorder's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from playloom.data.recording import list_episodes, load_meta
from playloom.games.recorder import EpisodePlan, RecordProgress, plan_episode, record_plans
from playloom.recipes.recipe import RecordSettings
from playloom.recipes.shop import Shop

_SPARE = 2
"""Cores left to the training that goes on beside the recording."""


class _EnoughError(Exception):
    """Raised inside the recorder's callback to end it; what is recorded stays."""


def record(shop: Shop) -> dict[str, Any]:
    """Record the episodes that the tokenizer needs."""
    settings = shop.recipe.record
    tell = shop.teller("recording, episodes")
    _record(shop, settings.before, shop.machine.games, lambda state: tell(state.done, state.total))
    return {"episodes": settings.before}


def record_rest(shop: Shop, spent: float) -> float:
    """Record what is missing, for at most `rest_minutes` less the seconds `spent`; returns the seconds spent in all."""
    settings = shop.recipe.record
    if settings.before == settings.episodes:
        return spent
    tell = shop.teller("recording the rest, episodes")
    started = time.monotonic()

    def spent_by_now() -> float:
        return spent + time.monotonic() - started

    def progress(state: RecordProgress) -> None:
        tell(state.done, state.total)
        if spent_by_now() >= 60 * settings.rest_minutes:
            raise _EnoughError

    try:
        _record(shop, settings.episodes, shop.machine.games, progress)
    except _EnoughError:
        shop.say(f"  recording stops after {settings.rest_minutes:g} minutes; the run goes on with what is there")
    return spent_by_now()


class RecordingBeside:
    """Inside the `with`, the rest of the episodes is recorded in a thread that starts games on most cores."""

    def __init__(self, shop: Shop) -> None:
        self._shop, self._thread = shop, None if _complete(shop) else threading.Thread(target=self._work, daemon=True)
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> RecordingBeside:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop after the episodes under way; a failure of the recorder is raised unless another error is on its way."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _work(self) -> None:
        processes = max(1, self._shop.machine.games - _SPARE)
        try:
            _record(self._shop, self._shop.recipe.record.episodes, processes, self._progress)
        except _EnoughError:
            pass
        except BaseException as error:
            self._error = error

    def _progress(self, state: RecordProgress) -> None:
        if self._stop.is_set():
            raise _EnoughError


def recorded(shop: Shop, *splits: str) -> list[Path]:
    """Episodes of this recipe of these splits that are there, in the order of their seeds."""
    settings = shop.recipe.record
    seeds = range(settings.seed, settings.seed + settings.episodes)
    found = [(load_meta(path), path) for path in list_episodes(shop.recordings)]
    wanted = [(meta.seed, path) for meta, path in found if meta.seed in seeds and meta.split in splits]
    return [path for _, path in sorted(wanted)]


def plans(settings: RecordSettings, count: int) -> list[EpisodePlan]:
    """The first `count` episodes."""
    return [plan_episode(settings.seed + index, settings.steps) for index in range(count)]


def _complete(shop: Shop) -> bool:
    settings = shop.recipe.record
    return settings.before == settings.episodes or len(list_episodes(shop.recordings)) >= settings.episodes


def _record(shop: Shop, count: int, processes: int, progress: Callable[[RecordProgress], None]) -> None:
    record_plans(shop.recordings, plans(shop.recipe.record, count), processes, progress)

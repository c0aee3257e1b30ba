"""A run of acting: every player plays every game, and what they did is kept as it comes.

Owns the folder. Every game is there when it is over, so a run can be stopped at any moment.

==============================  =====================================================================
`<key>.npz`, `<key>.json`       the recording; its `style` says who played, `versions` which model
`<key>.png`, `<key>.mp4`        sheet and film of it
`report.json`                   figures of every game, their means, and what they belong to
==============================  =====================================================================

With several players each has a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from playloom.acting.film import write_film
from playloom.acting.hands import Hand, ModelHand, RandomHand, RepeatHand
from playloom.acting.job import DEFAULT_LEAD, MODEL, RANDOM, REPEAT, ActJob, floor_tiles
from playloom.acting.lives import LEAD_STYLE
from playloom.acting.play import Played, play_game
from playloom.acting.report import ActReport, Game
from playloom.data.recording import load_episode, save_episode
from playloom.engine import Dreamer, Prompt, Sampling
from playloom.files import atomic_write, check_place, free_folder
from playloom.games.doom import import_vizdoom
from playloom.games.players import STYLES
from playloom.games.recorder import EpisodePlan, record_plans
from playloom.provenance import Manifest, created_at

_NOTE = "real pictures of the game; its player is a model, but for the steps captioned script"

_LIFE = 2**32
"""Between the seeds of two lives of one game."""


class Progress(NamedTuple):
    """How far a run is."""

    player: str
    """Who plays."""
    done: int
    """Steps done by all players."""
    total: int
    """Steps asked for."""


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The model as a player, and what is said of it."""

    dreamer: Dreamer
    sampling: Sampling
    timestamp: bool

    @property
    def name(self) -> str:
        return self.dreamer.model.config.name

    @property
    def facts(self) -> dict[str, str]:
        """For a recording: whose inputs they are."""
        how = self.sampling
        drawn = f"temperature {how.temperature:g}, top-k {how.top_k}, top-p {how.top_p}"
        return {"model": self.name, "weights": self.dreamer.model.fingerprint, "sampling": drawn}

    def hand(self, prompt: Prompt, seed: int) -> Hand:
        return ModelHand(self.dreamer, prompt, sampling=self.sampling, seed=seed)

    def manifest(self, seed: int) -> Manifest:
        how = self.sampling
        return Manifest(
            model=self.name,
            weights=self.dreamer.model.fingerprint,
            seed=seed,
            mode="policy",
            sampling=how.to_dict(),
            note=_NOTE,
            created=created_at() if self.timestamp else None,
        )


def run_act(
    job: ActJob,
    *,
    machine: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ActReport:
    """Play all games of a job and write the folder.

    Args:
        job: who plays what.
        machine: what the speed was measured on; goes into the report.
        stop: asked before every step of a hand and every game; True ends the run, with all that was played kept. A
            style's game is played to its end.
        progress: told after every step of a hand, and every game.

    Raises:
        MissingExtraError: when the game is not installed.
        PlayloomError: when the model cannot play this game, the game fails, or the folder cannot be written.
    """
    import_vizdoom()
    check_place(job.out, numbered=True)
    dreamer = job.dreamer()
    model = None
    lead = DEFAULT_LEAD
    if dreamer is not None:
        model = _Model(dreamer=dreamer, sampling=job.sampling, timestamp=job.timestamp)
        lead = dreamer.model.config.transformer.context_steps - 1
    folder = free_folder(job.out, numbered=True)
    report = ActReport(folder=folder, facts=_facts(job, model, lead, machine))
    run = _Run(job, model, lead, report, stop, progress)
    try:
        for player in job.players:
            run.play_all(player, folder / player if len(job.players) > 1 else folder)
    finally:  # whatever ended it, what was played has its figures
        if report.games:
            with atomic_write(folder / "report.json") as temporary:
                temporary.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return report


class _Run:
    """The games of a job, one after the other."""

    def __init__(
        self,
        job: ActJob,
        model: _Model | None,
        lead: int,
        report: ActReport,
        stop: Callable[[], bool],
        progress: Callable[[Progress], None],
    ) -> None:
        self._job, self._model, self._lead, self._report = job, model, lead, report
        self._stop, self._progress = stop, progress
        self._done = 0

    def play_all(self, player: str, folder: Path) -> None:
        """Every game of a player; each is kept as soon as it is over."""
        style = f"model-{self._model.name}" if player == MODEL and self._model is not None else player
        for index, plan in enumerate(self._job.plans(style, self._lead)):
            if self._stop():
                return
            played, path = self._play(player, plan, folder)
            if played is None or path is None:
                continue  # it was stopped, which is asked above, or the script fell and was all that played
            films = self._job.films
            shown = films is None or index < films
            files: tuple[Path, ...] = (path,)
            try:
                if shown:
                    files = (path, *self._film(player, played, folder))
            finally:  # a film that cannot be made takes no figures with it
                self._report.add(Game.of(player, played, self._lead, files))
            if played.failure is not None:
                raise played.failure

    def _play(self, player: str, plan: EpisodePlan, folder: Path) -> tuple[Played | None, Path | None]:
        if player in STYLES:
            (path,) = record_plans(folder, [plan], processes=1)
            self._tick(player, self._job.steps)
            episode = load_episode(path)
            return Played(episode=episode, own_T=np.ones(episode.meta.steps, bool)), path
        facts = {} if player != MODEL or self._model is None else self._model.facts
        played = play_game(
            plan,
            lead=self._lead,
            take=lambda prompt, life: self._hand(player, prompt, plan.seed + life * _LIFE),
            versions=facts,
            stop=self._stop,
            tick=lambda: self._tick(player, 1),
        )
        return played, None if played is None else save_episode(folder, played.episode)

    def _hand(self, player: str, prompt: Prompt, seed: int) -> Hand:
        if player == REPEAT:
            return RepeatHand(prompt)
        if player == RANDOM:
            return RandomHand(seed)
        assert player == MODEL and self._model is not None, "the job knows its players"
        return self._model.hand(prompt, seed)

    def _film(self, player: str, played: Played, folder: Path) -> tuple[Path, Path]:
        seed = played.episode.meta.seed
        manifest = self._model.manifest(seed) if player == MODEL and self._model is not None else None
        return write_film(folder, played, who=player, manifest=manifest)

    def _tick(self, player: str, steps: int) -> None:
        self._done += steps
        total = self._job.steps * self._job.games * len(self._job.players)
        self._progress(Progress(player, self._done, total))


def _facts(job: ActJob, model: _Model | None, lead: int, machine: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the figures belong to; JSON can hold it."""
    return {
        "variant": job.variant,
        "mode": job.mode,
        "tiles": floor_tiles(job.variant),
        "seconds": job.seconds,
        "seed": job.seed,
        "lead": {"steps": lead, "style": LEAD_STYLE},
        **({} if model is None else model.facts),
        "machine": dict(machine or {}),
    }

"""`playloom act`: every player plays every game; each game is written as soon as it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from playloom.actions.script import STEPS_PER_SECOND
from playloom.atomic_io import ensure_writable, next_free_path
from playloom.data.recording import Mode, Split, episode_key, load_episode, save_episode
from playloom.errors import BadInputError, did_you_mean, import_extra
from playloom.evaluation.online import rollout
from playloom.evaluation.online.metrics import ActReport, Game
from playloom.games.arena.engine import FRAME_SHAPE
from playloom.games.arena.env import write_views
from playloom.games.arena.maps import free_cells, variant_of
from playloom.games.bots.players import HELDOUT_STYLE, STYLES
from playloom.games.recorder import EpisodePlan, plan_episode, record_plans
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt
from playloom.json_io import write_json
from playloom.provenance import Manifest, created_at

MODEL, REPEAT, RANDOM = "model", "repeat", "random"
PLAYERS = (MODEL, REPEAT, RANDOM, *STYLES)  # names of all players
COMPARED = (MODEL, REPEAT, RANDOM, *(style for style in STYLES if style != HELDOUT_STYLE))
"""The model and its baselines: every style of the training recordings."""
DEFAULT_WARMUP = 9  # warm-up steps of a game without a model; with one, the model's context decides
_LEAST_SECONDS = 2 / STEPS_PER_SECOND
_NOTE = "real pictures of the game; its player is a model, but for the steps captioned script"
_TILES = 60  # pictures of a contact sheet, about
_LIFE = 2**32  # distance between the seeds of two lives of one game


@dataclass(frozen=True, kw_only=True)
class ActJob:
    """Settings of `playloom act`."""

    players: tuple[str, ...] = (MODEL,)
    """Names in `PLAYERS`; all play the same games."""
    model: str | None = None
    """A bundled model's name or a folder; None: the first bundled model."""
    variant: str = "plaza"
    """Arena."""
    mode: Mode = "ffa"
    """Free for all, or four against four."""
    seconds: float = 30.0
    """Length of a game, without the scripted warm-up."""
    games: int = 1
    """Games per player."""
    seed: int = 1000
    """Seed of the first game; later games count up. The bundled model was trained on 0 to 964 and 1200 to 1364."""
    sampling: Sampling = field(default_factory=Sampling)
    """Sampling of the model's actions. A low temperature rarely releases a control."""
    device: str = "auto"  # see `playloom.device.pick_device`
    out: Path = Path("out/act")
    """Folder to write; numbered if it is taken."""
    videos: int | None = None
    """Games per player with a contact sheet and a video; None: all."""
    timestamp: bool = False
    """Write the time into manifests; without it equal jobs give equal files."""

    def __post_init__(self) -> None:
        for player in self.players:
            if player not in PLAYERS:
                raise BadInputError(f"unknown player {player!r}; {did_you_mean(player, PLAYERS)}")
        if not (math.isfinite(self.seconds) and self.seconds >= _LEAST_SECONDS):
            raise BadInputError(f"seconds is {self.seconds:g}; expected {_LEAST_SECONDS:g} or more")

    @property
    def steps(self) -> int:
        """Inputs of a player in one game."""
        return round(self.seconds * STEPS_PER_SECOND)

    def plans(self, style: str, warmup_steps: int) -> Iterator[EpisodePlan]:
        """Yield the games in order; a seed has the same split as in a recording."""
        for seed in range(self.seed, self.seed + self.games):
            split: Split = "heldout" if variant_of(self.variant).heldout else plan_episode(seed).split
            steps = warmup_steps + self.steps
            yield EpisodePlan(seed=seed, variant=self.variant, mode=self.mode, style=style, split=split, steps=steps)

    def load_engine(self) -> Engine | None:
        """Load the model that plays; None when no player needs one."""
        if MODEL not in self.players:
            return None
        engine = open_engine(self.model, device=self.device)
        sizes = engine.model.config.tokenizer
        if (sizes.frame_height, sizes.frame_width) != FRAME_SHAPE[:2]:
            raise BadInputError(
                f"the model {engine.model.config.name} has the wrong picture size: got {sizes.frame_width} x "
                f"{sizes.frame_height}, expected {FRAME_SHAPE[1]} x {FRAME_SHAPE[0]}; choose a model that was trained "
                "on recordings of this game"
            )
        return engine


Progress = Callable[[str, int, int], None]
"""Receives the player, the steps done by all players, and the steps of the whole run."""


def run_act(
    job: ActJob,
    *,
    machine: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
) -> ActReport:
    """Play all games of a job and write the folder.

    `machine` describes the machine, for the report. `stop` is checked before every game and every step of a policy;
    True ends the run and keeps the steps so far, but a style's game is played to its end. `progress` is called after
    every step of a policy, and every game of a style.
    """
    import_extra("vizdoom", "game")
    ensure_writable(job.out, numbered=True)
    run = _Run(job, job.load_engine(), stop, progress)
    folder = next_free_path(job.out, numbered=True)
    facts = {
        "variant": job.variant,
        "mode": job.mode,
        "tiles": len(free_cells(variant_of(job.variant))),
        "seconds": job.seconds,
        "seed": job.seed,
        "lead": {"steps": run.warmup_steps, "style": rollout.WARMUP_STYLE},
        **run.model_facts(),
        "machine": dict(machine or {}),
    }
    report = ActReport(folder=folder, facts=facts)
    try:
        for player in job.players:
            run.play_all(player, folder / player if len(job.players) > 1 else folder, report.games)
    finally:  # however the run ends, the games so far have their metrics
        if report.games:
            write_json(folder / "report.json", report.to_dict())
    return report


@dataclass
class _Run:
    job: ActJob
    engine: Engine | None
    stop: Callable[[], bool]
    progress: Progress
    done: int = 0

    @property
    def warmup_steps(self) -> int:
        return DEFAULT_WARMUP if self.engine is None else self.engine.model.config.transformer.context_steps - 1

    def model_facts(self) -> dict[str, str]:
        if self.engine is None:
            return {}
        model, how = self.engine.model, self.job.sampling
        drawn = f"temperature {how.temperature:g}, top-k {how.top_k}, top-p {how.top_p}"
        return {"model": model.config.name, "weights": model.fingerprint, "sampling": drawn}

    def play_all(self, player: str, folder: Path, games: list[Game]) -> None:
        """Play all games of one player; `games` gets the metrics of each."""
        style = f"model-{self.engine.model.config.name}" if player == MODEL and self.engine is not None else player
        for index, plan in enumerate(self.job.plans(style, self.warmup_steps)):
            if self.stop():
                return
            result = self._play(player, plan, folder)
            if result is None:
                continue  # stopped, or only the script played
            files: tuple[Path, ...] = (folder / f"{episode_key(result.episode.meta)}.npz",)
            try:
                if self.job.videos is None or index < self.job.videos:
                    files += self._write_video(player, result, files[0])
            finally:  # a failed video must not lose the metrics
                games.append(Game.of(player, result, self.warmup_steps, files))
            if result.failure is not None:
                raise result.failure

    def _play(self, player: str, plan: EpisodePlan, folder: Path) -> rollout.EpisodeResult | None:
        if player in STYLES:
            (path,) = record_plans(folder, [plan], processes=1)
            self._step_done(player, self.job.steps)
            return rollout.EpisodeResult(episode=load_episode(path), own_T=np.ones(plan.steps, bool))

        def make_policy(prompt: Prompt, life: int) -> rollout.Policy:
            seed = plan.seed + life * _LIFE
            if player == MODEL and self.engine is not None:
                return rollout.model_policy(self.engine, prompt, sampling=self.job.sampling, seed=seed)
            return rollout.repeat_policy(prompt) if player == REPEAT else rollout.random_policy(seed)

        result = rollout.play_episode(
            plan,
            warmup_steps=self.warmup_steps,
            make_policy=make_policy,
            versions=self.model_facts() if player == MODEL else {},
            stop=self.stop,
            step_done=lambda: self._step_done(player, 1),
        )
        if result is not None:
            save_episode(folder, result.episode)
        return result

    def _write_video(self, player: str, result: rollout.EpisodeResult, path: Path) -> tuple[Path, Path]:
        meta, manifest = result.episode.meta, None
        if player == MODEL and self.engine is not None:
            manifest = Manifest(
                model=self.engine.model.config.name,
                weights=self.engine.model.fingerprint,
                seed=meta.seed,
                mode="policy",
                sampling=self.job.sampling.to_dict(),
                note=_NOTE,
                created=created_at() if self.job.timestamp else None,
            )
        players = [player if own else "script" for own in result.own_T]
        every = max(10, -(-meta.steps // _TILES))
        return write_views(result.episode, path.with_suffix(""), players, every=every, manifest=manifest)

    def _step_done(self, player: str, steps: int) -> None:
        self.done += steps
        total = self.job.steps * self.job.games * len(self.job.players)
        self.progress(player, self.done, total)

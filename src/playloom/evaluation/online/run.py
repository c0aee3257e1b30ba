"""`playloom act`: every player plays every game; each game is written as soon as it ends.

==============================  ===================================================================
`<key>.npz`, `<key>.json`       recording; `style` names the player, `versions` the model
`<key>.png`, `<key>.mp4`        contact sheet and video
`report.json`                   metrics of every game, their means, settings and machine
==============================  ===================================================================

With several players each has a folder of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from playloom.atomic_io import ensure_writable, next_free_path
from playloom.data.recording import Mode, Split, episode_key, load_episode, save_episode
from playloom.errors import BadInputError, ConfigError, did_you_mean
from playloom.evaluation.online.metrics import STEPS_PER_SECOND, ActReport, Game
from playloom.evaluation.online.policies import ModelPolicy, Policy, RandomPolicy, RepeatPolicy
from playloom.evaluation.online.rollout import WARMUP_STYLE, EpisodeResult, play_game
from playloom.games.arena.engine import FRAME_SHAPE, MODES, import_vizdoom
from playloom.games.arena.env import render_episode
from playloom.games.arena.maps import free_cells, variant_of
from playloom.games.bots.players import HELDOUT_STYLE, STYLES
from playloom.games.recorder import EpisodePlan, plan_episode, record_plans
from playloom.games.viewer import describe
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.json_io import write_json
from playloom.media.contact_sheet import Tile, contact_sheet, film_frames, wrap
from playloom.media.images import write_picture
from playloom.media.video import write_mp4
from playloom.provenance import Manifest, created_at

_COLUMNS, _TILE_WIDTH, _TILES = 6, 180, 60


def write_video(
    folder: Path, played: EpisodeResult, *, who: str, manifest: Manifest | None = None
) -> tuple[Path, Path]:
    """Write `<key>.png` and `<key>.mp4` into `folder`.

    The pictures are the game's own, so they are not marked as generated.

    Args:
        folder: where; made if needed.
        played: the recording, and which steps are the player's own.
        who: the player, in a word or two; other steps are captioned as the script's.
        manifest: goes into both files, where the inputs are a model's.

    Returns:
        Sheet and film.

    Raises:
        GameError: when the game fails, or its frames are not those that were played with.
        PlayloomError: when the place cannot be written to.
    """
    episode = played.episode
    tiles: list[Tile] = []
    every = max(10, -(-episode.meta.steps // _TILES))

    def frames() -> Iterator[list[Tile]]:
        for step, frame_HWC in enumerate(render_episode(episode)):
            values_A = episode.actions_TA[step]
            presses = who if played.own_T[step] else "script"
            tile = Tile(frame_HWC=frame_HWC, kind="real", caption=f"step {step}", pads=[(values_A, presses)])
            if step % every == 0:
                tiles.append(tile)
            yield [tile]

    key, title = episode_key(episode.meta), describe(episode.meta)
    sheet, film = folder / f"{key}.png", folder / f"{key}.mp4"
    write_mp4(film, film_frames(frames(), kinds=["real"], title=title), manifest=manifest)
    write_picture(sheet, contact_sheet(wrap(tiles, _COLUMNS), title=title, tile_width=_TILE_WIDTH), manifest)
    return sheet, film


MODEL, REPEAT, RANDOM = "model", "repeat", "random"
PLAYERS = (MODEL, REPEAT, RANDOM, *STYLES)
"""Names of all players."""
COMPARED = (MODEL, REPEAT, RANDOM, *(style for style in STYLES if style != HELDOUT_STYLE))
"""The model and its baselines: every style seen in training."""
DEFAULT_LEAD = 9
"""Warm-up steps of a game without a model; with one, the model's context decides."""
_LEAST_SECONDS = 2 / STEPS_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class ActJob:
    """Settings of `playloom act`.

    Raises:
        BadInputError: when a number is out of range.
        ConfigError: when a player, arena or mode is unknown.
    """

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
    """Seed of the first game; later games count up. The bundled models were trained on seeds below 200."""
    temperature: float = 1.0
    """Divisor of the action logits; 0 is greedy. A low temperature rarely releases a held control."""
    top_k: int | None = None
    """Keep only the k most likely values of a control."""
    top_p: float | None = None
    """Keep only the most likely values with total probability p."""
    device: str = "auto"
    out: Path = Path("out/act")
    """Folder to write; numbered if it is taken."""
    videos: int | None = None
    """Games per player with a contact sheet and a video; None: all."""
    timestamp: bool = False
    """Write the time into manifests; without it equal jobs give equal files."""

    def __post_init__(self) -> None:
        for player in self.players:
            if player not in PLAYERS:
                raise ConfigError(f"unknown player {player!r}; {did_you_mean(player, PLAYERS)}")
        variant_of(self.variant)
        if self.mode not in MODES:
            raise ConfigError(f"unknown game mode {self.mode!r}; {did_you_mean(self.mode, MODES)}")
        if not (math.isfinite(self.seconds) and self.seconds >= _LEAST_SECONDS):
            raise BadInputError(f"seconds is {self.seconds:g}; expected {_LEAST_SECONDS:g} or more")
        for name, value, least in (("games", self.games, 1), ("seed", self.seed, 0), ("videos", self.videos, 0)):
            if value is not None and value < least:
                raise BadInputError(f"{name} is {value}; expected a whole number from {least}")
        _ = self.sampling  # says what is out of range

    @property
    def steps(self) -> int:
        """Inputs of a player in one game."""
        return round(self.seconds * STEPS_PER_SECOND)

    def plans(self, style: str, lead: int) -> Iterator[EpisodePlan]:
        """Yield the games in order; a seed has the same split as in a recording."""
        for seed in range(self.seed, self.seed + self.games):
            split: Split = "heldout" if variant_of(self.variant).heldout else plan_episode(seed).split
            yield EpisodePlan(
                seed=seed, variant=self.variant, mode=self.mode, style=style, split=split, steps=lead + self.steps
            )

    @property
    def sampling(self) -> Sampling:
        """Sampling of the model's actions."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def dreamer(self) -> Engine | None:
        """Load the model that plays; None when no player needs one.

        Raises:
            CheckpointError: when it cannot be loaded.
            BadInputError: when it was made for pictures of another size.
        """
        if MODEL not in self.players:
            return None
        dreamer = open_engine(self.model, device=self.device)
        sizes = dreamer.model.config.tokenizer
        if (sizes.frame_height, sizes.frame_width) != FRAME_SHAPE[:2]:
            raise BadInputError(
                f"the model {dreamer.model.config.name} sees pictures of {sizes.frame_width} x {sizes.frame_height}; "
                f"the game's are {FRAME_SHAPE[1]} x {FRAME_SHAPE[0]}: choose a model that learned from its recordings"
            )
        return dreamer


def floor_tiles(variant: str) -> int:
    """Return the number of walkable tiles of an arena."""
    return len(free_cells(variant_of(variant)))


_NOTE = "real pictures of the game; its player is a model, but for the steps captioned script"

_LIFE = 2**32
"""Distance between the seeds of two lives of one game."""


class RolloutProgress(NamedTuple):
    """Progress of a run."""

    player: str
    done: int
    """Steps done by all players."""
    total: int
    """Steps of the whole run."""


@dataclass(frozen=True, kw_only=True)
class _Model:
    dreamer: Engine
    sampling: Sampling
    timestamp: bool

    @property
    def name(self) -> str:
        return self.dreamer.model.config.name

    @property
    def facts(self) -> dict[str, str]:
        how = self.sampling
        drawn = f"temperature {how.temperature:g}, top-k {how.top_k}, top-p {how.top_p}"
        return {"model": self.name, "weights": self.dreamer.model.fingerprint, "sampling": drawn}

    def hand(self, prompt: Prompt, seed: int) -> Policy:
        return ModelPolicy(self.dreamer, prompt, sampling=self.sampling, seed=seed)

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
    progress: Callable[[RolloutProgress], None] = lambda _: None,
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
    ensure_writable(job.out, numbered=True)
    dreamer = job.dreamer()
    model = None
    lead = DEFAULT_LEAD
    if dreamer is not None:
        model = _Model(dreamer=dreamer, sampling=job.sampling, timestamp=job.timestamp)
        lead = dreamer.model.config.transformer.context_steps - 1
    folder = next_free_path(job.out, numbered=True)
    report = ActReport(folder=folder, facts=_facts(job, model, lead, machine))
    run = _Run(job, model, lead, report, stop, progress)
    try:
        for player in job.players:
            run.play_all(player, folder / player if len(job.players) > 1 else folder)
    finally:  # whatever ended it, what was played has its figures
        if report.games:
            write_json(folder / "report.json", report.to_dict())
    return report


class _Run:
    def __init__(
        self,
        job: ActJob,
        model: _Model | None,
        lead: int,
        report: ActReport,
        stop: Callable[[], bool],
        progress: Callable[[RolloutProgress], None],
    ) -> None:
        self._job, self._model, self._lead, self._report = job, model, lead, report
        self._stop, self._progress = stop, progress
        self._done = 0

    def play_all(self, player: str, folder: Path) -> None:
        style = f"model-{self._model.name}" if player == MODEL and self._model is not None else player
        for index, plan in enumerate(self._job.plans(style, self._lead)):
            if self._stop():
                return
            played, path = self._play(player, plan, folder)
            if played is None or path is None:
                continue  # it was stopped, which is asked above, or the script fell and was all that played
            videos = self._job.videos
            shown = videos is None or index < videos
            files: tuple[Path, ...] = (path,)
            try:
                if shown:
                    files = (path, *self._film(player, played, folder))
            finally:  # a film that cannot be made takes no figures with it
                self._report.add(Game.of(player, played, self._lead, files))
            if played.failure is not None:
                raise played.failure

    def _play(self, player: str, plan: EpisodePlan, folder: Path) -> tuple[EpisodeResult | None, Path | None]:
        if player in STYLES:
            (path,) = record_plans(folder, [plan], processes=1)
            self._tick(player, self._job.steps)
            episode = load_episode(path)
            return EpisodeResult(episode=episode, own_T=np.ones(episode.meta.steps, bool)), path
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

    def _hand(self, player: str, prompt: Prompt, seed: int) -> Policy:
        if player == REPEAT:
            return RepeatPolicy(prompt)
        if player == RANDOM:
            return RandomPolicy(seed)
        assert player == MODEL and self._model is not None, "the job knows its players"
        return self._model.hand(prompt, seed)

    def _film(self, player: str, played: EpisodeResult, folder: Path) -> tuple[Path, Path]:
        seed = played.episode.meta.seed
        manifest = self._model.manifest(seed) if player == MODEL and self._model is not None else None
        return write_video(folder, played, who=player, manifest=manifest)

    def _tick(self, player: str, steps: int) -> None:
        self._done += steps
        total = self._job.steps * self._job.games * len(self._job.players)
        self._progress(RolloutProgress(player, self._done, total))


def _facts(job: ActJob, model: _Model | None, lead: int, machine: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "variant": job.variant,
        "mode": job.mode,
        "tiles": floor_tiles(job.variant),
        "seconds": job.seconds,
        "seed": job.seed,
        "lead": {"steps": lead, "style": WARMUP_STYLE},
        **({} if model is None else model.facts),
        "machine": dict(machine or {}),
    }

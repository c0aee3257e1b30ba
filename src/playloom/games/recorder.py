"""Recorder: scripted players fill a folder with episodes, one engine process each, on all cores."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from playloom import __version__
from playloom.actions.codec import ACTION_SLOTS, decode_values, encode_named
from playloom.actions.script import STEPS_PER_SECOND
from playloom.atomic_io import ensure_writable
from playloom.data.parallel import map_ordered
from playloom.data.recording import (
    STATE_COLUMNS,
    Episode,
    EpisodeMeta,
    Mode,
    Split,
    list_episodes,
    load_episode,
    save_episode,
)
from playloom.device import usable_cores
from playloom.errors import ConfigError, GameError, RecordingError, check_whole, import_extra
from playloom.games.arena.engine import GAME_NAME, GameProcess, GameSpec
from playloom.games.arena.env import new_frame_hash
from playloom.games.arena.maps import VARIANTS, variant_of
from playloom.games.bots.players import HELDOUT_STYLE, STYLES, ScriptedPlayer

EPISODE_STEPS = 600
MAX_HOURS = 1000.0  # play time of one call, at most
_CYCLE = 20  # seeds after which the splits repeat
_SPLITS: dict[int, Split] = {17: "validation", 18: "test", 19: "heldout"}  # by seed in the cycle; others train
_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class EpisodePlan:
    """Settings of one seed's episode."""

    seed: int
    variant: str
    mode: Mode
    style: str
    split: Split
    steps: int = EPISODE_STEPS


Progress = Callable[[int, int, int], None]
"""Receives the episodes in the folder of those planned, the episodes planned, and those that were there before."""


def steps_of(hours: float) -> int:
    """Return the steps of that many hours of play, rounded up; ConfigError when they are too many."""
    if not 0 < hours <= MAX_HOURS:
        raise ConfigError(
            f"hours are wrong: got {hours:g}, expected above 0 and at most {MAX_HOURS:g}; record more hours with "
            "another --seed"
        )
    return max(1, math.ceil(round(hours * 3600 * STEPS_PER_SECOND, 3)))  # 1.1 * 36000 is a little more than 39,600


def plan_episode(seed: int, steps: int = EPISODE_STEPS) -> EpisodePlan:
    """Return the plan of a seed, always the same; of 20 seeds 17 train, one each validates, tests and is held out."""
    if seed < 0:
        raise ConfigError(f"a seed is a whole number from 0; got {seed}")
    block, place = divmod(seed, _CYCLE)
    split = _SPLITS.get(place, "train")
    arenas = [v.name for v in VARIANTS.values() if not v.heldout]
    styles = [s for s in STYLES if s != HELDOUT_STYLE]
    variant = arenas[(seed // len(styles) + block) % len(arenas)]
    style = styles[(seed + block) % len(styles)]
    mode: Mode = "4v4" if (seed // 2 + block) % 5 == 0 else "ffa"
    if split == "heldout":
        (unknown,) = [v.name for v in VARIANTS.values() if v.heldout]
        variant = unknown if block % 3 != 1 else variant
        style = HELDOUT_STYLE if block % 3 != 0 else style
    return EpisodePlan(seed=seed, variant=variant, mode=mode, style=style, split=split, steps=steps)


def record_episodes(
    folder: Path,
    hours: float,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress | None = None,
    steps: int = EPISODE_STEPS,
) -> list[Path]:
    """Record at least `hours` of play into `folder`, seeds from `seed` on; existing episodes are kept and counted."""
    check_whole("steps", steps, 1, steps_of(MAX_HOURS))
    if processes is not None and processes < 1:
        raise ConfigError(f"processes are wrong: got {processes}, expected above 0")
    count = math.ceil(steps_of(hours) / steps)
    return record_plans(folder, [plan_episode(seed + i, steps) for i in range(count)], processes, progress)


def record_plans(
    folder: Path, plans: list[EpisodePlan], processes: int | None = None, progress: Progress | None = None
) -> list[Path]:
    """Record exactly these episodes; see `record_episodes`."""
    import_extra("vizdoom", "game")
    folder = Path(folder).resolve()
    ensure_writable(folder / "episode")
    folder.mkdir(parents=True, exist_ok=True)
    plan_of = {plan.seed: plan for plan in plans}
    present: dict[int, Path] = {}  # complete episodes by seed; a damaged one counts as absent
    for path in list_episodes(folder):
        try:
            meta = load_episode(path).meta
        except RecordingError:
            continue
        if (plan := plan_of.get(meta.seed)) is None:
            continue
        found = ((name, getattr(meta, name), wanted) for name, wanted in vars(plan).items())
        if other := ", ".join(f"{name}={got} instead of {wanted}" for name, got, wanted in found if got != wanted):
            raise ConfigError(f"{path} holds another recording ({other}); choose another folder")
        present[meta.seed] = path
    report = progress or (lambda done, planned, before: None)
    report(len(present), len(plans), len(present))
    jobs = [(plan, folder) for plan in plans if plan.seed not in present]
    paths = [*present.values()]
    workers = min(processes or usable_cores(), len(jobs))
    recorded = map_ordered(_record, jobs, workers=workers if workers > 1 else 0)
    for path in recorded:
        paths.append(path)
        report(len(paths), len(plans), len(present))
    return sorted(paths)


def _record(plan: EpisodePlan, folder: Path) -> Path:
    """Play and save an episode, once more if the engine dies. Runs in a worker."""
    fault: GameError | None = None
    for _ in range(_ATTEMPTS):
        try:
            return save_episode(folder, _play(plan))
        except GameError as error:
            fault = error
        except OSError as error:
            raise GameError(f"the game could not write its files ({error}); make room and run again") from error
    raise GameError(
        f"the game of seed {plan.seed} ({plan.variant}) failed {_ATTEMPTS} times: {fault}; the episodes so far are kept"
    ) from fault


def _play(plan: EpisodePlan) -> Episode:
    player = ScriptedPlayer(variant_of(plan.variant), plan.style, plan.seed)
    digest = new_frame_hash()
    actions = np.empty((plan.steps, ACTION_SLOTS), np.uint8)
    states = np.empty((plan.steps, len(STATE_COLUMNS)), np.float32)
    spec = GameSpec(variant=plan.variant, mode=plan.mode, seed=plan.seed)
    with GameProcess(spec, enemy_info=True) as game:
        for step in range(plan.steps):
            digest.update(game.frame_HWC.tobytes())
            states[step] = game.row
            actions[step] = encode_named(player.act(game.row, game.enemies))
            if step + 1 < plan.steps:
                game.step(decode_values(actions[step]))
    return Episode(episode_meta(plan, digest.hexdigest()), actions, states)


def episode_meta(
    plan: EpisodePlan, frame_hash: str, *, steps: int | None = None, versions: Mapping[str, str] | None = None
) -> EpisodeMeta:
    """Return the metadata of a recording; `steps` if fewer were played, `versions` of other components."""
    components = {"playloom": __version__, "vizdoom": importlib.metadata.version("vizdoom"), **(versions or {})}
    settings = {**vars(plan), "steps": plan.steps if steps is None else steps}
    return EpisodeMeta(game=GAME_NAME, frame_hash=frame_hash, versions=components, **settings)

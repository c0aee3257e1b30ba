"""Recorder: scripted players fill a folder with episodes, one engine process each, on all cores."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from playloom import __version__
from playloom.actions.codec import ACTION_SLOTS, decode_values, encode_named
from playloom.data.recording import (
    STATE_COLUMNS,
    Episode,
    EpisodeMeta,
    Mode,
    Split,
    list_episodes,
    load_episode,
    load_meta,
    save_episode,
)
from playloom.device import usable_cores
from playloom.errors import BadInputError, ConfigError, GameError, PlayloomError, RecordingError
from playloom.games.arena.engine import DoomEngine, GameSpec, import_vizdoom
from playloom.games.arena.env import GAME_NAME, new_frame_hash
from playloom.games.arena.maps import VARIANTS, variant_of
from playloom.games.arena.process import end_game_process, enter_game_process
from playloom.games.bots.players import HELDOUT_STYLE, STYLES, ScriptedPlayer

STEPS_PER_SECOND = 10
EPISODE_STEPS = 600
MAX_HOURS = 1000.0  # play time of one call, at most
_CYCLE = 20  # seeds after which the splits repeat
_SPLITS: dict[int, Split] = {17: "validation", 18: "test", 19: "heldout"}
"""Split by seed modulo the cycle; all others are for training."""
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
    if not 0 < hours <= MAX_HOURS or steps < 1 or (processes is not None and processes < 1):
        raise ConfigError(
            f"hours, steps and processes must be above 0, and hours at most {MAX_HOURS:g}: got hours={hours}, "
            f"steps={steps}, processes={processes}; record more hours with another --seed"
        )
    count = math.ceil(hours * 3600 * STEPS_PER_SECOND / steps)
    return record_plans(folder, [plan_episode(seed + i, steps) for i in range(count)], processes, progress)


def record_plans(
    folder: Path, plans: list[EpisodePlan], processes: int | None = None, progress: Progress | None = None
) -> list[Path]:
    """Record exactly these episodes; see `record_episodes`."""
    import_vizdoom()
    folder = Path(folder).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{folder} cannot be made ({error.strerror}); choose another --out") from error
    present = _present(folder, plans)
    pending = [plan for plan in plans if plan.seed not in present]

    def report(new: int) -> None:
        if progress is not None:
            progress(len(present) + new, len(plans), len(present))

    report(0)
    for new, _ in enumerate(_run_all(folder, pending, processes or usable_cores()), start=1):
        report(new)
    wanted = {plan.seed for plan in plans}
    return [path for path in list_episodes(folder) if load_meta(path).seed in wanted]


def _present(folder: Path, plans: list[EpisodePlan]) -> set[int]:
    """Seeds of complete episodes; a damaged one counts as absent, one of another plan is an error."""
    plan_of = {plan.seed: plan for plan in plans}
    present = set()
    for path in list_episodes(folder):
        try:
            meta = load_episode(path).meta
        except RecordingError:
            continue
        if (plan := plan_of.get(meta.seed)) is None:
            continue
        names = [f.name for f in dataclasses.fields(plan) if getattr(plan, f.name) != getattr(meta, f.name)]
        if names:
            other = ", ".join(f"{n}={getattr(meta, n)} instead of {getattr(plan, n)}" for n in names)
            raise ConfigError(f"{path} holds another recording ({other}); choose another folder")
        present.add(meta.seed)
    return present


@dataclass
class _Job:
    plan: EpisodePlan
    process: BaseProcess
    pipe: Connection
    working: tempfile.TemporaryDirectory[str]


def _run_all(folder: Path, plans: Iterable[EpisodePlan], processes: int) -> Iterator[EpisodePlan]:
    queue = list(plans)[::-1]
    failures: Counter[int] = Counter()
    jobs: list[_Job] = []
    try:
        while queue or jobs:
            while queue and len(jobs) < processes:
                jobs.append(_start(folder, queue.pop()))
            wait([job.process.sentinel for job in jobs])
            for job in [job for job in jobs if not job.process.is_alive()]:
                jobs.remove(job)
                if _finish(job):
                    yield job.plan
                    continue
                failures[job.plan.seed] += 1
                if failures[job.plan.seed] >= _ATTEMPTS:
                    raise GameError(
                        f"the game's process for seed {job.plan.seed} ({job.plan.variant}) died "
                        f"{_ATTEMPTS} times (exit code {job.process.exitcode}); the episodes so far are kept"
                    )
                queue.append(job.plan)
    finally:
        for job in jobs:
            end_game_process(job.process)
            job.working.cleanup()


def _start(folder: Path, plan: EpisodePlan) -> _Job:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    working = tempfile.TemporaryDirectory(prefix="playloom-game-")
    process = context.Process(target=_record, args=(plan, folder, working.name, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Job(plan, process, ours, working)


def _finish(job: _Job) -> bool:
    end_game_process(job.process)
    message: Any = None
    with contextlib.suppress(EOFError):
        message = job.pipe.recv()
    job.pipe.close()
    job.working.cleanup()
    if isinstance(message, PlayloomError):
        raise message
    if isinstance(message, OSError):
        raise GameError(f"the game's process could not write its files ({message}); make room and run again")
    return bool(message == "done")


def _record(plan: EpisodePlan, folder: Path, working: str, pipe: Connection) -> None:
    enter_game_process()
    try:
        save_episode(folder, _play(plan, Path(working)))
    except (PlayloomError, OSError) as error:
        pipe.send(error)
    else:
        pipe.send("done")


def _play(plan: EpisodePlan, folder: Path) -> Episode:
    player = ScriptedPlayer(variant_of(plan.variant), plan.style, plan.seed)
    spec = GameSpec(variant=plan.variant, mode=plan.mode, seed=plan.seed)
    engine = DoomEngine(spec, folder, enemy_info=True)
    digest = new_frame_hash()
    actions = np.empty((plan.steps, ACTION_SLOTS), np.uint8)
    states = np.empty((plan.steps, len(STATE_COLUMNS)), np.float32)
    for step in range(plan.steps):
        digest.update(engine.frame().tobytes())
        observation = engine.observation()
        states[step] = observation.row
        actions[step] = encode_named(player.act(observation))
        if step + 1 < plan.steps:
            engine.step(decode_values(actions[step]).tolist())
    engine.close()
    return Episode(episode_meta(plan, digest.hexdigest()), actions, states)


def episode_meta(
    plan: EpisodePlan, frame_hash: str, *, steps: int | None = None, versions: Mapping[str, str] | None = None
) -> EpisodeMeta:
    """Return the metadata of a recording; `steps` if fewer were played, `versions` of other components."""
    return EpisodeMeta(
        game=GAME_NAME,
        variant=plan.variant,
        mode=plan.mode,
        style=plan.style,
        seed=plan.seed,
        split=plan.split,
        steps=plan.steps if steps is None else steps,
        frame_hash=frame_hash,
        versions={"playloom": __version__, "vizdoom": importlib.metadata.version("vizdoom"), **(versions or {})},
    )

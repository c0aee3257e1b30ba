"""Running a recipe: stage after stage, each once, in as many pieces as it takes.

Owns the order, the stamps, and what happens when settings have changed. What a stage does lies in the other files.

    >>> outcome = run_recipe(recipe("arena-cpu"), Path("runs/arena"), piece_minutes=10)
    >>> outcome.finished
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playloom.atomic_io import folder_lock
from playloom.errors import ConfigError, did_you_mean
from playloom.recipes.learning import make_tokens, train_the_tokenizer, train_the_world
from playloom.recipes.measuring import export, measure
from playloom.recipes.piece import Piece, PieceOver
from playloom.recipes.recipe import Recipe
from playloom.recipes.recording import record
from playloom.recipes.shop import Machine, Say, Shop
from playloom.recipes.stamps import Stamp, differences, plain, read_stamp, remove_stamp, settings_hash, write_stamp
from playloom.training.config import FREE_ON_RESUME, to_mapping

_LENGTHS = frozenset({"steps", "minutes"})


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the way."""

    name: str
    """Its stamp, its folder and what `--redo` calls it."""
    work: Callable[[Shop], dict[str, Any]]
    """Does it, or goes on with it; returns facts about the result."""
    settings: Callable[[Recipe], Mapping[str, Any]]
    """What its result depends on, beside the stages it is made from."""
    made_from: tuple[str, ...] = ()
    """Stages whose results it reads."""
    grows: tuple[str, ...] = ()
    """Settings that may change without starting anew: a longer run goes on."""
    derived: bool = False
    """Cheap and made from others alone: done again by itself when those have changed."""


def _learning(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training that decide its result; where and how often it is saved does not."""
    free = FREE_ON_RESUME - _LENGTHS
    return {**values, "loop": {k: v for k, v in values["loop"].items() if k not in free}}


STAGES = (
    Stage(
        name="record",
        work=record,
        settings=lambda r: {"seed": r.record.seed, "steps": r.record.steps, "first": r.record.before},
        grows=("first",),
    ),
    Stage(
        name="tokenizer",
        work=train_the_tokenizer,
        settings=lambda r: {
            "seed": r.record.seed,
            "steps": r.record.steps,
            "episodes": r.tokenizer.episodes,
            "sizes": r.model.tokenizer.to_dict(),
            **_learning(to_mapping(r.tokenizer.training)),
        },
        grows=("loop.minutes", "loop.steps"),
    ),
    Stage(
        name="tokens",
        work=make_tokens,
        settings=lambda r: {
            "seed": r.record.seed,
            "steps": r.record.steps,
            "episodes": r.record.episodes,
            "minutes": r.tokens.minutes,
        },
        made_from=("tokenizer",),
    ),
    Stage(
        name="world",
        work=train_the_world,
        settings=lambda r: {"model": r.model.to_dict(), **_learning(to_mapping(r.world))},
        made_from=("tokens",),
        grows=("loop.minutes", "loop.steps"),
    ),
    Stage(
        name="evaluate",
        work=measure,
        settings=lambda r: {"episodes": r.evaluate.episodes, **to_mapping(r.evaluate.measure)},
        made_from=("world",),
        derived=True,
    ),
    Stage(
        name="export",
        work=export,
        settings=lambda r: {"name": r.name, **to_mapping(r.export)},
        made_from=("world", "evaluate"),
        derived=True,
    ),
)
"""In order."""


@dataclass(frozen=True)
class RecipeOutcome:
    """How a call of `run_recipe` ended."""

    finished: bool
    """Whether everything asked for is done; else the same call goes on."""
    stage: str
    """The last stage that worked."""
    result: Path
    """Where the shipped files lie, or will."""


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    piece_minutes: float | None = None,
    machine: Machine | None = None,
    redo: str | None = None,
    until: str | None = None,
    say: Say = print,
) -> RecipeOutcome:
    """Do what is left of a recipe; finished stages are skipped, an unfinished one goes on.

    Args:
        recipe: what to make.
        folder: everything goes here; a run found here is resumed.
        piece_minutes: stop cleanly after this long; None: go on to the end.
        machine: what may be used.
        redo: a stage to begin anew, with all that are made from it.
        until: the last stage to do; None: all.
        say: told one line of text at a time.

    Raises:
        ConfigError: for an unknown stage, or when settings of a stage that is begun have changed.
        PlayloomError: as in the stages.
    """
    for name in (redo, until):
        _known(name)
    with folder_lock(folder):
        return _run_stages(recipe, folder, Piece(piece_minutes), machine or Machine(), redo, until, say)


def _run_stages(
    recipe: Recipe, folder: Path, piece: Piece, machine: Machine, redo: str | None, until: str | None, say: Say
) -> RecipeOutcome:
    shop = Shop(recipe=recipe, folder=folder, piece=piece, machine=machine, say=say)
    if redo is not None:
        _forget(folder, redo)
    hashes: dict[str, str] = {}
    stamps: dict[str, Any] = shop.facts.setdefault("stamps", {})
    for stage in STAGES:
        stamp = _ready(stage, recipe, folder, hashes, say)
        hashes[stage.name] = stamp.hash
        shop.facts[stage.name] = dict(stamp.facts)
        if not stamp.finished:
            stamp = _work(stage, shop, stamp)
        stamps[stage.name] = asdict(stamp)
        if not stamp.finished:
            return RecipeOutcome(False, stage.name, shop.result)
        if stage.name == until:
            break
    return RecipeOutcome(True, stage.name, shop.result)


def plan_lines(recipe: Recipe, folder: Path) -> list[str]:
    """One line a stage: whether it is done, how long it took, and its settings that are not nested."""
    lines, hashes = [], dict[str, str]()
    for stage in STAGES:
        settings = plain(stage.settings(recipe))
        hashes[stage.name] = settings_hash(settings, {name: hashes[name] for name in stage.made_from})
        stamp = read_stamp(folder, stage.name)
        state = "to do"
        if stamp is not None:
            state = "changed" if stamp.hash != hashes[stage.name] else "done" if stamp.finished else "begun"
            state += f", {stamp.seconds / 60:.1f} min"
        shown = {key: value for key, value in settings.items() if not isinstance(value, dict)}
        shown |= {f"loop.{key}": settings["loop"][key] for key in ("minutes", "batch") if "loop" in settings}
        lines.append(f"{stage.name:<10} {state:<18} {', '.join(f'{key} {value}' for key, value in shown.items())}")
    return lines


def _work(stage: Stage, shop: Shop, stamp: Stamp) -> Stamp:
    """Let a stage work in what is left of the piece, and write down how far it came."""
    started, finished, facts = time.monotonic(), False, dict(stamp.facts)
    shop.say(f"{stage.name}{': goes on' if stamp.pieces else ''}")
    try:
        shop.piece.check()
        facts, finished = stage.work(shop), True
    except PieceOver:
        facts = shop.facts[stage.name]
    finally:
        spent = time.monotonic() - started
        stamp = Stamp(
            stage=stage.name,
            hash=stamp.hash,
            settings=stamp.settings,
            finished=finished,
            seconds=stamp.seconds + spent,
            pieces=stamp.pieces + 1,
            machine=shop.machine.describe(),
            facts=facts,
        )
        write_stamp(shop.folder, stamp)
    shop.piece.fresh = False
    shop.facts[stage.name] = facts
    shop.say(f"{stage.name}: {'done' if finished else 'goes on in the next piece'}, {stamp.seconds / 60:.1f} min")
    return stamp


def _ready(stage: Stage, recipe: Recipe, folder: Path, hashes: Mapping[str, str], say: Say) -> Stamp:
    """The stage's stamp, if it may be gone on with; a fresh one when it has not begun.

    Raises:
        ConfigError: when it was begun with other settings.
    """
    settings = plain(stage.settings(recipe))
    wanted = settings_hash(settings, {name: hashes[name] for name in stage.made_from})
    fresh = Stamp(stage=stage.name, hash=wanted, settings=settings, finished=False)
    stamp = read_stamp(folder, stage.name)
    if stamp is None:
        return fresh
    if stamp.hash == wanted:
        return stamp
    changed = differences(stamp.settings, settings)
    if stage.derived:
        say(f"{stage.name}: done again, because {_reason(changed, stage)}")
        return fresh
    if changed and set(changed) <= set(stage.grows):
        say(f"{stage.name}: goes on, because {_reason(changed, stage)}")
        return Stamp(**{**asdict(stamp), "hash": wanted, "settings": settings, "finished": False})
    raise ConfigError(
        f"stage {stage.name} in {folder} was made with other settings ({_reason(changed, stage)}); give the old ones, "
        f"or begin it and what is made from it anew with --redo {stage.name}, or choose another --out"
    )


def _reason(changed: Mapping[str, str], stage: Stage) -> str:
    if not changed:
        return f"{' or '.join(stage.made_from)} has changed"
    return "; ".join(f"{key} {change}" for key, change in list(changed.items())[:4])


def _forget(folder: Path, name: str) -> None:
    """Remove a stage's stamp and folder, and those of all stages made from it."""
    gone = {name}
    for stage in STAGES:
        if stage.name in gone or gone & set(stage.made_from):
            gone.add(stage.name)
            remove_stamp(folder, stage.name)
            shutil.rmtree(folder / stage.name, ignore_errors=True)


def _known(name: str | None) -> None:
    names = [stage.name for stage in STAGES]
    if name is not None and name not in names:
        raise ConfigError(f"there is no stage {name!r}; {did_you_mean(name, names)}")

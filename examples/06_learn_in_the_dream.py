"""Learn to walk: explore the real arena, train the model on that, then plan in its dreams and act in the real game.

Needs the extras `train`, `rl` and `game`. `--help` lists the options. Finished stages are kept in `--out`: run it again
to continue.

1. A random walker explores the real game. It walks into walls too, which scripted players avoid.
2. The bundled model learns from these recordings. A reward head learns the distance walked in every step.
3. Real games. The planner dreams five courses from the last second of play, and follows the one with the largest
   predicted distance. Others play the same games: random input, the walker, a scripted player, the model itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import INDEX, TokenDataset
from playloom.data.recording import STATE_COLUMNS, save_episode
from playloom.envs import make_action_mapper
from playloom.evaluation.online.metrics import Game
from playloom.evaluation.online.rollout import Policy, PolicyFactory, play_episode
from playloom.evaluation.online.run import DEFAULT_WARMUP, ActJob, run_act
from playloom.games.arena.env import render_episode
from playloom.games.recorder import plan_episode
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import StepInput
from playloom.inference.types import Prompt
from playloom.json_io import write_json
from playloom.training.artifacts import load_origin
from playloom.training.data_source import PrepareOptions
from playloom.training.heads import HeadsJob, HeadsTrainingConfig, run_heads
from playloom.training.run import WorldJob, run_world
from playloom.training.task import LoopConfig
from playloom.training.world_model import WorldConfig

MODEL, ARENA = "arena-live", "plaza"
ACTIONS = make_action_mapper(["forward", "forward+turn_left", "forward+turn_right", "turn_left", "turn_right"])
FORWARD, CURVE_LEFT, CURVE_RIGHT, LEFT, RIGHT = range(5)
# Courses of the planner, 0.8 seconds each.
COURSES = ([FORWARD] * 8, [CURVE_LEFT] * 8, [CURVE_RIGHT] * 8, [LEFT] * 5 + [FORWARD] * 3, [RIGHT] * 5 + [FORWARD] * 3)
FOLLOWED = (3, 3, 3, 5, 5)  # steps of a course that are played before the next plan
AHEAD = 1.1  # another course is followed only if it leads this much further than the first
MOST = 66.0  # map units; a longer step is a respawn
PREPARE = PrepareOptions(render=render_episode)
MakePolicy = Callable[[Prompt, np.random.Generator], Policy]


def walker(prompt: Prompt, rng: np.random.Generator) -> Policy:
    """Hold a random action for 0.3 to 3 seconds, in six of ten cases forward."""

    def inputs() -> Iterator[NDArray[np.uint8]]:
        while True:
            action = int(rng.choice(5, p=(0.6, 0.1, 0.1, 0.1, 0.1)))
            yield from [ACTIONS.values(action)] * int(rng.integers(8, 30) if action == FORWARD else rng.integers(3, 10))

    return Policy(inputs().__next__)


def planner(engine: Engine, prompt: Prompt, rng: np.random.Generator) -> Policy:
    """Follow the dreamed course on which the reward head predicts the largest distance."""
    session = engine.open(prompt, sampling=Sampling.from_card(engine.model.card), seed=int(rng.integers(2**31)))

    def course() -> int:
        forks, distance = [session.fork(seed=int(rng.integers(2**31))) for _ in COURSES], np.zeros(len(COURSES))
        for actions in zip(*COURSES, strict=True):
            asked = [StepInput(fork, ACTIONS.values(action)) for fork, action in zip(forks, actions, strict=True)]
            steps = engine.step(asked, decode=False)
            distance += [step.prediction.reward or 0.0 for step in steps if step.prediction is not None]
        for fork in forks:
            fork.close()
        return int(np.argmax(distance * [AHEAD, 1, 1, 1, 1]))

    def inputs() -> Iterator[NDArray[np.uint8]]:
        while True:
            best = course()
            for action in COURSES[best][: FOLLOWED[best]]:
                held.append(ACTIONS.values(action))
                yield held[-1]

    held: list[NDArray[np.uint8]] = []
    return Policy(inputs().__next__, lambda frame_HWC: session.step(held[-1], frame_HWC), session.close)


def of_game(make: MakePolicy, seed: int) -> PolicyFactory:
    """Return what makes the policy of each life of a game, with a generator of its own."""
    return lambda prompt, life: make(prompt, np.random.default_rng([seed, life]))


def explore(folder: Path, games: int, steps: int) -> None:
    """Record the walker's games; a tenth of them, at least one, is for validation."""
    every = [plan for plan in (plan_episode(seed, steps) for seed in range(400)) if plan.variant == ARENA]
    held_out = max(1, games // 10)
    for split, number in (("train", games - held_out), ("validation", held_out)):
        for plan in [plan for plan in every if plan.split == split][:number]:
            make = of_game(walker, plan.seed)
            result = play_episode(plan, warmup_steps=DEFAULT_WARMUP, make_policy=make, versions={})
            assert result is not None
            save_episode(folder, result.episode)


def train(recordings: Path, out: Path, loop: LoopConfig) -> None:
    """Train the bundled model further, in windows that are longer than its context."""
    start = load_origin(MODEL)
    assert start.model is not None
    config = WorldConfig(loop=loop, window_steps=24, row_delay_weights=(0.2, 0.15, 0.4, 0.25), validation_windows=4)
    job = WorldJob(
        model=start.model.config,
        config=config,
        data=recordings,
        out=out,
        tokenizer=None,
        prepare=PREPARE,
        start=start,
        alignment="off",
    )
    run_world(job)


def label(store: TokenDataset, folder: Path) -> None:
    """Write the codes of recordings with one more column: `reward`, the map units walked in each step."""
    columns, slots = ("reward", *store.state_columns), store.tokens_FN.shape[1]
    writer = TokenDataset.create(folder, len(store), slots=slots, tokenizer=store.tokenizer, state_columns=columns)
    for span in store.spans:
        states = store.states_FS[span.rows]
        x, y, dead = (states[:, STATE_COLUMNS.index(name)] for name in ("x", "y", "dead"))
        walked = np.hypot(np.diff(x), np.diff(y))
        walked[(dead[1:] + dead[:-1] > 0) | (walked > MOST)] = np.nan
        rows = np.column_stack([np.append(walked, np.nan), states]).astype(np.float32)
        writer.append_episode(store.tokens_FN[span.rows], store.actions_FA[span.rows], rows, span.meta)
    writer.finish()


def add_head(model: Path, data: Path, out: Path, updates: int) -> None:
    """Train the reward head, and print its error on the games that were kept for validation."""
    loop = LoopConfig(steps=updates, batch=256, learning_rate=0.001)
    config = HeadsTrainingConfig(loop=loop, termination=False, states=(), width=64)
    found = run_heads(HeadsJob(source=str(model), data=data, out=out, config=config, prepare=PREPARE)).validation
    print(f"reward head: {found['reward'] / found['constant_reward']:.2f} of the squared error of a constant")


def main() -> None:
    """Run all stages, and print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/walker"))
    parser.add_argument("--recorded", type=int, default=28, help="games of the walker")
    parser.add_argument("--recorded-steps", type=int, default=600, help="steps of a recorded game, 0.1 s each")
    parser.add_argument("--minutes", type=float, default=18, help="training of the model")
    parser.add_argument("--precision", default="auto", help="bf16-mixed is faster where the processor has bfloat16")
    parser.add_argument("--updates", type=int, default=400, help="updates of the reward head")
    parser.add_argument("--games", type=int, default=20, help="real games of each player")
    parser.add_argument("--seconds", type=float, default=20, help="length of a real game")
    options = parser.parse_args()
    recordings, world, data, heads = (options.out / name for name in ("recordings", "world", "data", "heads"))

    if not (world / "model").exists():
        explore(recordings, options.recorded, options.recorded_steps)
        loop = LoopConfig(minutes=options.minutes, precision=options.precision, batch=1, learning_rate=0.0005)
        how: dict[str, Any] = {"optimizer": "muon", "schedule": "wsd", "decay_fraction": 0.6, "ema_decay": 0.98}
        train(recordings, world, replace(loop, warmup_steps=20, **how))
    if not (data / INDEX).exists():
        label(TokenDataset.open(world / "tokens"), data)
    if not (heads / "model").exists():
        add_head(world / "model", data, heads, options.updates)
    engine = open_engine(str(heads / "model"))

    players: dict[str, MakePolicy] = {"planner": lambda prompt, rng: planner(engine, prompt, rng), "walker": walker}
    job = ActJob(
        players=("random", "novice", "model"),
        videos=0,
        out=options.out / "games",
        seconds=options.seconds,
        games=options.games,
    )
    report = run_act(job)
    for player, make in players.items():
        for plan in job.plans(player, DEFAULT_WARMUP):
            factory = of_game(make, plan.seed)
            result = play_episode(plan, warmup_steps=DEFAULT_WARMUP, make_policy=factory, versions={})
            report.games.extend([] if result is None else [Game.of(player, result, DEFAULT_WARMUP, ())])
    write_json(options.out / "report.json", report.means())
    for row in (report.head(), *report.lines()):
        print("".join(f"{cell:20}" for cell in row[:5]), *row[8:10])


if __name__ == "__main__":  # the games run in child processes
    main()

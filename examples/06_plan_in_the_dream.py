"""Plan in dreams, act in the real game: the bundled model learns what walking brings, and finds ways in the real arena.

Needs the extras `train`, `rl` and `game`. `--help` lists the options. Finished stages are kept in `--out`: run it again
to continue.

1. Record real games, half of them of a random walker. It walks into walls, which scripted players avoid.
2. A reward head on the bundled model learns the distance walked in every step. The model itself stays as it is.
3. Real games. The planner dreams five courses from the last second of play, and follows the one with the largest
   predicted distance. Others play the same games: random input, a scripted player, the model itself, the walker.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import INDEX, TokenDataset
from playloom.data.recording import STATE_COLUMNS, save_episode
from playloom.envs import make_action_mapper
from playloom.evaluation.online.metrics import Game
from playloom.evaluation.online.rollout import EpisodeResult, Policy, play_episode
from playloom.evaluation.online.run import DEFAULT_WARMUP, ActJob, run_act
from playloom.games.arena.env import render_episode
from playloom.games.recorder import EpisodePlan, plan_episode, record_plans
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, StepInput
from playloom.json_io import write_json
from playloom.training.artifacts import load_origin
from playloom.training.data_source import PrepareOptions, tokens_from
from playloom.training.heads import HeadsJob, HeadsTrainingConfig, run_heads
from playloom.training.task import LoopConfig

MODEL, ARENA = "arena-live", "plaza"
ACTIONS = make_action_mapper(["forward", "forward+turn_left", "forward+turn_right", "turn_left", "turn_right"])
FORWARD, CURVE_LEFT, CURVE_RIGHT, LEFT, RIGHT = range(5)
# Courses of the planner, 0.8 seconds each.
COURSES = ([FORWARD] * 8, [CURVE_LEFT] * 8, [CURVE_RIGHT] * 8, [LEFT] * 5 + [FORWARD] * 3, [RIGHT] * 5 + [FORWARD] * 3)
FOLLOWED = (3, 3, 3, 5, 5)  # steps of a course that are played before the next plan
AHEAD = 1.1  # another course is followed only if it leads this much further than the first
MOST = 66.0  # map units; a longer step is a respawn
PREPARE = PrepareOptions(render=render_episode)
MakePolicy = Callable[[Prompt, int, int], Policy]
"""Makes a policy from the prompt, the seed of the game and the number of the life."""


def walker(prompt: Prompt, seed: int, life: int) -> Policy:
    """Hold a random action for 0.3 to 3 seconds, in six of ten cases forward."""
    rng = np.random.default_rng([seed, life, 7])

    def inputs() -> Iterator[NDArray[np.uint8]]:
        while True:
            action = int(rng.choice(5, p=(0.6, 0.1, 0.1, 0.1, 0.1)))
            yield from [ACTIONS.values(action)] * int(rng.integers(8, 30) if action == FORWARD else rng.integers(3, 10))

    return Policy(inputs().__next__)


def planner(engine: Engine, prompt: Prompt, seed: int) -> Policy:
    """Follow the dreamed course on which the reward head predicts the largest distance."""
    session = engine.open(prompt, sampling=Sampling.from_card(engine.model.card), seed=seed)

    def course() -> int:
        forks, distance = [session.fork(seed=number) for number in range(len(COURSES))], np.zeros(len(COURSES))
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


def play(plan: EpisodePlan, make: MakePolicy) -> EpisodeResult:
    """Play one real game."""
    policy = lambda prompt, life: make(prompt, plan.seed, life)  # noqa: E731
    result = play_episode(plan, warmup_steps=DEFAULT_WARMUP, make_policy=policy, versions={})
    assert result is not None, "a life is longer than its scripted start"
    return result


def record(folder: Path, games: int, steps: int) -> None:
    """Record the first training games of `playloom record` in this arena; the walker plays the second half."""
    every = (plan_episode(seed, steps) for seed in count())
    plans = list(islice((plan for plan in every if (plan.variant, plan.split) == (ARENA, "train")), games))
    record_plans(folder, plans[: games // 2])
    for plan in plans[games // 2 :]:
        save_episode(folder, play(plan, walker).episode)


def label(recordings: Path, folder: Path) -> None:
    """Write the codes of recordings with one more column: `reward`, the map units walked in each step."""
    source = load_origin(MODEL)
    assert source.model is not None
    store = tokens_from(recordings, folder.with_name("codes"), PREPARE, source.model.tokenizer, source.name)
    columns, slots = ("reward", *store.state_columns), store.tokens_FN.shape[1]
    writer = TokenDataset.create(folder, len(store), slots=slots, tokenizer=store.tokenizer, state_columns=columns)
    for span in store.spans:
        states = store.states_FS[span.rows]
        x, y, dead = (states[:, STATE_COLUMNS.index(name)] for name in ("x", "y", "dead"))
        walked = np.hypot(np.diff(x), np.diff(y))
        walked[(dead[1:] + dead[:-1] > 0) | (walked > MOST)] = np.nan
        rows = np.column_stack([np.append(walked, np.nan), states]).astype(np.float32)
        meta = {**span.meta, "split": "validation" if span is store.spans[-1] else "train"}
        writer.append_episode(store.tokens_FN[span.rows], store.actions_FA[span.rows], rows, meta)
    writer.finish()


def add_head(data: Path, out: Path, updates: int) -> None:
    """Train the reward head, and print its error on the game that was kept for validation."""
    loop = LoopConfig(steps=updates, batch=256, learning_rate=0.001)
    config = HeadsTrainingConfig(loop=loop, termination=False, states=(), width=64)
    found = run_heads(HeadsJob(source=MODEL, data=data, out=out, config=config, prepare=PREPARE)).validation
    print(f"reward head: {found['reward'] / found['constant_reward']:.2f} of the squared error of a constant")


def main() -> None:
    """Run all stages, and print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/planner"))
    parser.add_argument("--recorded", type=int, default=8, help="recorded games; the last one is for validation")
    parser.add_argument("--recorded-steps", type=int, default=600, help="steps of a recorded game, 0.1 s each")
    parser.add_argument("--updates", type=int, default=400, help="updates of the reward head")
    parser.add_argument("--games", type=int, default=20, help="real games of each player")
    parser.add_argument("--seconds", type=float, default=20, help="length of a real game")
    options = parser.parse_args()
    data, headed = options.out / "data", options.out / "heads"

    if not (data / INDEX).exists():
        record(options.out / "recordings", options.recorded, options.recorded_steps)
        label(options.out / "recordings", data)
    if not (headed / "model").exists():
        add_head(data, headed, options.updates)
    engine = open_engine(str(headed / "model"))

    makers: dict[str, MakePolicy] = {
        "planner": lambda prompt, seed, life: planner(engine, prompt, seed),
        "walker": walker,
        "forward": lambda prompt, seed, life: Policy(lambda: ACTIONS.values(FORWARD)),
    }
    scale = {"seconds": options.seconds, "games": options.games}
    job = ActJob(players=("random", "novice", "model"), videos=0, out=options.out / "games", **scale)
    report = run_act(job)
    for player, make in makers.items():
        plans = job.plans(player, DEFAULT_WARMUP)
        report.games.extend(Game.of(player, play(plan, make), DEFAULT_WARMUP, ()) for plan in plans)
    write_json(options.out / "report.json", report.means())
    for row in (report.head(), *report.lines()):
        print("".join(f"{cell:20}" for cell in row[:5]), *row[8:10])


if __name__ == "__main__":  # the games run in child processes
    main()

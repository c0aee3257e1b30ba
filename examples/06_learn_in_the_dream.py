"""Learn to walk in dreams only, then walk in the real arena.

Needs the extras `train`, `rl` and `game`, and stable-baselines3. `--help` lists the options.

1. Record scripted players in the real game, and the distance that they walk in every step.
2. Train a reward head on the bundled model: its dreams then predict that distance.
3. Train a policy with DQN in dreams. It sees the codes of dreamed frames.
4. Play the real game: the policy, the model's own play (behaviour cloning), scripted players, random input.

Finished stages are kept in `--out`: run it again to continue.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from playloom.data.dataset import INDEX, TokenDataset
from playloom.data.recording import STATE_COLUMNS
from playloom.data.sampler import alive_spans
from playloom.envs import WorldModelVectorEnv, make_action_mapper
from playloom.envs.stable_baselines3 import StableBaselines3VecEnv
from playloom.evaluation.online.metrics import Game
from playloom.evaluation.online.rollout import Policy, play_episode
from playloom.evaluation.online.run import DEFAULT_WARMUP, ActJob, run_act
from playloom.games.arena.env import render_episode
from playloom.games.recorder import EpisodePlan, plan_episode, record_plans
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.types import Prompt
from playloom.json_io import write_json
from playloom.training.artifacts import load_origin
from playloom.training.data_source import PrepareOptions, tokens_from
from playloom.training.heads import HeadsJob, HeadsTrainingConfig, run_heads
from playloom.training.task import LoopConfig

MODEL, ARENA = "arena-live", "plaza"
ACTIONS = ["forward", "turn_left", "turn_right"]
FULL_SPEED = 33.0
"""Map units of a step at full speed."""
PREPARE = PrepareOptions(render=render_episode)
Choose = Callable[[NDArray[np.uint8], np.random.Generator], int]
"""Returns the number of an action after a frame, uint8 [H, W, 3]."""


def plans(games: int, steps: int) -> list[EpisodePlan]:
    """Return the first training games of `playloom record` that are played in this arena."""
    every = (plan_episode(seed, steps) for seed in count())
    return list(islice((plan for plan in every if (plan.variant, plan.split) == (ARENA, "train")), games))


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
        walked[(dead[1:] + dead[:-1] > 0) | (walked > 2 * FULL_SPEED)] = np.nan  # a death or a respawn
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


def prompts(store: TokenDataset, engine: Engine, number: int) -> list[Prompt]:
    """Return windows of the recordings, spread evenly. The model reads codes; the last frame stands for all frames."""
    steps = engine.model.config.transformer.context_steps
    spans = alive_spans(store.spans, store.column("dead"))
    starts = np.array([first for span in spans for first in range(span.start, span.rows.stop - steps + 1)])
    chosen = starts[np.linspace(0, len(starts) - 1, number).astype(int)]
    codes = [store.tokens_FN[first : first + steps].astype(np.int64) for first in chosen]
    actions = [np.array(store.actions_FA[first : first + steps - 1]) for first in chosen]
    return [
        Prompt(frames_THWC=engine.frames(codes_TN[-1:]).repeat(steps, 0), actions_TA=actions_TA, codes_TN=codes_TN)
        for codes_TN, actions_TA in zip(codes, actions, strict=True)
    ]


class Embedded(VecEnvWrapper):  # type: ignore[misc]
    """Observations are the codebook vectors of the codes, float32 [N x C]; a reward of 1 is full speed."""

    def __init__(self, envs: VecEnv, codebook_KC: NDArray[np.float32]) -> None:
        size = envs.observation_space.shape[0] * codebook_KC.shape[1]
        super().__init__(envs, gymnasium.spaces.Box(-1, 1, (size,), np.float32))
        self.codebook_KC = codebook_KC

    def embed(self, codes_BN: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return [B, N x C] for codes [B, N]."""
        return self.codebook_KC[codes_BN].reshape(len(codes_BN), -1)

    def reset(self) -> NDArray[np.float32]:
        """Begin all episodes."""
        return self.embed(self.venv.reset())

    def step_wait(self) -> Any:
        """Finish a step."""
        codes_BN, rewards, dones, infos = self.venv.step_wait()
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = self.embed(infos[index]["terminal_observation"][None])[0]
        return self.embed(codes_BN), rewards / FULL_SPEED, dones, infos


def dreams(engine: Engine, starts: list[Prompt], seed: int) -> Embedded:
    """Return eight dreams of 24 steps as one vector environment."""
    settings: dict[str, Any] = {"actions": ACTIONS, "max_steps": 24, "observation": "codes", "render_mode": None}
    vector = StableBaselines3VecEnv(WorldModelVectorEnv(8, engine, starts, autoreset_mode="SameStep", **settings))
    vector.seed(seed)
    return Embedded(vector, engine.model.tokenizer.quantizer.codebook_KC.detach().numpy())


def learn(envs: Embedded, steps: int, seed: int) -> DQN:
    """Train a policy with DQN: three-step returns, two updates for each dreamed step."""
    settings = {"learning_rate": 5e-4, "gamma": 0.9, "n_steps": 3, "batch_size": 128, "buffer_size": 2 * steps}
    settings |= {"learning_starts": min(128, steps // 4), "target_update_interval": 32, "gradient_steps": 16}
    settings |= {"exploration_fraction": min(1, 600 / steps), "exploration_final_eps": 0.1, "train_freq": 1}
    return DQN("MlpPolicy", envs, policy_kwargs={"net_arch": [64]}, seed=seed, device="cpu", **settings).learn(steps)


def play(player: str, choose: Choose, job: ActJob) -> list[Game]:
    """Play all games of a job with a policy that sees one frame."""
    mapper, games = make_action_mapper(ACTIONS), []
    for plan in job.plans(player, DEFAULT_WARMUP):

        def make_policy(prompt: Prompt, life: int, seed: int = plan.seed) -> Policy:
            rng, seen = np.random.default_rng([seed, life]), [prompt.frames_THWC[-1]]
            return Policy(lambda: mapper.values(choose(seen[-1], rng)), seen.append)

        result = play_episode(plan, warmup_steps=DEFAULT_WARMUP, make_policy=make_policy, versions={})
        games += [] if result is None else [Game.of(player, result, DEFAULT_WARMUP, ())]
    return games


def main() -> None:
    """Run all stages, and print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/walker"))
    parser.add_argument("--recorded", type=int, default=6, help="recorded games; the last one is for validation")
    parser.add_argument("--recorded-steps", type=int, default=600, help="steps of a recorded game, 0.1 s each")
    parser.add_argument("--updates", type=int, default=300, help="updates of the reward head")
    parser.add_argument("--steps", type=int, default=600, help="dreamed steps to learn from")
    parser.add_argument("--games", type=int, default=20, help="real games of each player")
    parser.add_argument("--seconds", type=float, default=20, help="length of a real game")
    parser.add_argument("--seed", type=int, default=0, help="seed of the learner")
    options = parser.parse_args()
    data, headed, policy = options.out / "data", options.out / "heads", options.out / "policy.zip"

    if not (data / INDEX).exists():
        record_plans(options.out / "recordings", plans(options.recorded, options.recorded_steps))
        label(options.out / "recordings", data)
    if not (headed / "model").exists():
        add_head(data, headed, options.updates)
    engine = open_engine(str(headed / "model"), backend="torch")  # the policy reads the codebook
    envs = dreams(engine, prompts(TokenDataset.open(data), engine, 24), options.seed)
    if not policy.exists():
        learn(envs, options.steps, options.seed).save(policy)
    agent = DQN.load(policy, n_steps=1)  # to play only: the saved buffer of n steps would warn

    def learned(frame_HWC: NDArray[np.uint8], rng: np.random.Generator) -> int:
        still = Prompt(frames_THWC=frame_HWC[None], actions_TA=np.zeros((0, 16), np.uint8))
        return int(agent.predict(envs.embed(engine.codes(still)), deterministic=True)[0][0])

    players: dict[str, Choose] = {
        "learned in dreams": learned,
        "forward": lambda frame_HWC, rng: 0,
        "random of the three": lambda frame_HWC, rng: int(rng.integers(len(ACTIONS))),
    }
    folder, scale = options.out / "games", {"seconds": options.seconds, "games": options.games}
    job = ActJob(players=("random", "novice", "model"), videos=0, out=folder, **scale)
    report = run_act(job)
    for player, choose in players.items():
        report.games.extend(play(player, choose, job))
    write_json(options.out / "report.json", report.means())
    for row in (report.head(), *report.lines()):
        print("".join(f"{cell:20}" for cell in row[:5]), *row[8:10])


if __name__ == "__main__":  # the games run in child processes
    main()

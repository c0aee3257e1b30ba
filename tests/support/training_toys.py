"""Small true things for the training tests: a scrolling world whose speed is the right stick."""

import json
from pathlib import Path

import numpy as np

from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.data.recording import STATE_COLUMNS, Episode, EpisodeMeta
from playloom.models.presets import preset
from playloom.training.loop import Loop
from playloom.training.task import LoopConfig, TrainingResult
from playloom.training.tokenizer import TokenizerTrainingConfig
from playloom.training.world_model import WorldConfig, WorldTask

TINY = preset("tiny")
SLOTS = TINY.layout.image_slots
RIGHT_X = 14
HEIGHT, WIDTH = TINY.tokenizer.frame_height, TINY.tokenizer.frame_width


def stick_actions(steps, seed):
    """A right stick that wanders smoothly; everything else at rest."""
    random = np.random.default_rng(seed)
    actions = np.tile(REST_VALUES, (steps, 1))
    speed = 0.0
    for step in range(steps):
        speed = 0.8 * speed + 0.6 * random.normal()
        actions[step, RIGHT_X] = np.clip(round(5 + 5 * speed), 0, 10)
    return actions


def places(actions_TA):
    """Where the world stands at each frame: the action of step t moves frame t + 1."""
    moves = actions_TA[:-1, RIGHT_X].astype(int) - 5
    return np.concatenate([[0], np.cumsum(moves)])


def scroll(actions_TA, height=HEIGHT, width=WIDTH, pixels=1):
    """Pictures [T, H, W, 3] of a fixed random panorama that slides under the camera."""
    return panorama_at(places(actions_TA) * pixels, height, width)


def panorama_at(places_T, height=HEIGHT, width=WIDTH):
    """Pictures [T, H, W, 3] of the panorama from these columns on."""
    random = np.random.default_rng(99)
    panorama = random.integers(0, 256, (height // 4 + 1, 200, 3)).repeat(4, 0).repeat(4, 1)[:height].astype(np.uint8)
    return np.stack([np.roll(panorama, -int(x), axis=1)[:, :width] for x in places_T])


def token_dataset(folder: Path, episodes=4, steps=30) -> TokenDataset:
    """Codes that follow the stick, so that there is something to learn; the first episode validates."""
    writer = TokenDataset.create(folder, episodes * steps, slots=SLOTS, tokenizer="toy", state_columns=("x", "dead"))
    for seed in range(episodes):
        actions = stick_actions(steps, seed)
        tokens = (places(actions)[:, None] + 3 * np.arange(SLOTS)) % TINY.tokenizer.codebook_size
        split = "train" if seed else "validation"
        states = np.zeros((steps, 2), np.float32)
        writer.append_episode(tokens.astype(np.uint16), actions, states, {"split": split, "seed": seed})
    writer.finish()
    return TokenDataset.open(folder)


def frame_dataset(folder: Path, episodes=3, steps=12) -> FrameDataset:
    """The scrolling pictures; the first episode validates."""
    writer = FrameDataset.create(folder, episodes * steps, height=HEIGHT, width=WIDTH, state_columns=("x", "dead"))
    for seed in range(episodes):
        actions = stick_actions(steps, seed)
        split = "train" if seed else "validation"
        writer.append_episode(scroll(actions), actions, np.zeros((steps, 2), np.float32), {"split": split})
    writer.finish()
    return FrameDataset.open(folder)


def episode(seed: int, steps: int = 12) -> Episode:
    """A recording whose pictures `render` gives."""
    split = "train" if seed else "validation"
    meta = EpisodeMeta(
        game="scroll", variant="", mode="ffa", style="", seed=seed, split=split, steps=steps, frame_hash=""
    )
    states = np.arange(steps * len(STATE_COLUMNS), dtype=np.float32).reshape(steps, -1)
    states[:, STATE_COLUMNS.index("dead")] = 0
    return Episode(meta, stick_actions(steps, seed), states)


def render(recording: Episode):
    """The recording's pictures, one after the other, in a buffer that is used again."""
    buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for frame in scroll(recording.actions_TA):
        buffer[:] = frame
        yield buffer


def loop(**settings) -> LoopConfig:
    """A short deterministic run on one CPU thread, in float32 on every processor."""
    short = {"steps": 20, "batch": 4, "log_steps": 1, "device": "cpu", "threads": 1, "warmup_steps": 5}
    return LoopConfig(**{**short, "precision": "32-true", **settings})


def world_config(**settings) -> WorldConfig:
    """A world training on windows of five steps; loop settings may be mixed in."""
    own = {name: settings.pop(name) for name in list(settings) if name in WorldConfig.__dataclass_fields__}
    return WorldConfig(loop=loop(**settings), **{"window_steps": 5, "validation_windows": 4, **own})


def tokenizer_config(**settings) -> TokenizerTrainingConfig:
    """A tokenizer training; loop settings may be mixed in."""
    own = {name: settings.pop(name) for name in list(settings) if name in TokenizerTrainingConfig.__dataclass_fields__}
    return TokenizerTrainingConfig(loop=loop(**settings), **{"validation_pictures": 8, **own})


def train_world(model, config: WorldConfig, store: TokenDataset, out: Path, report=None) -> TrainingResult:
    """Train or resume a transformer in the folder `out`."""
    return Loop(WorldTask(model, config, store), config.loop, out, report).run()


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]

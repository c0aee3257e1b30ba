"""Recorded episodes, and datasets of them.

An episode is `<key>.npz` (arrays `actions` and `states`) and `<key>.json` (metadata, written last). It holds no
pictures: seed and actions render them again, into a `FrameDataset`, whose pictures are encoded into a `TokenDataset`.
Renderer and encoder are arguments. Rendering processes write files, so no picture crosses a pipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, check_values, mirror_values
from playloom.data.dataset import DatasetWriter, FrameDataset, Progress, TokenDataset
from playloom.data.parallel import map_ordered, scratch_folder, write_rows
from playloom.errors import ConfigError, RecordingError
from playloom.json_io import from_mapping, read_json, write_json
from playloom.media.clips import read_npz, write_npz

Mode = Literal["ffa", "4v4"]
Split = Literal["train", "validation", "test", "heldout"]

STATE_COLUMNS = ("x", "y", "z", "yaw", "pitch", "health", "dead", "weapon", "frags")
"""Columns of a state row.

Map units; degrees (yaw positive clockwise, pitch positive up); dead 0 or 1; the engine's numbers.
"""


@dataclass(frozen=True, kw_only=True)
class EpisodeMeta:
    """Origin of an episode; with the actions it decides every pixel."""

    game: str
    """Name of the game, such as `arena`."""
    variant: str
    """Name of the arena."""
    mode: Mode
    """Free for all, or two teams of four."""
    style: str
    """The scripted player's style, `human`, or `model-NAME` for a model."""
    seed: int
    """Seed of the engine and of the player."""
    split: Split
    steps: int
    """Number of steps, T."""
    frame_hash: str
    """BLAKE2b (32 bytes, hexadecimal) of all frames' bytes in order."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of playloom and the engine."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RecordingError(f"an episode is empty: got {self.steps} steps, expected at least 1")


@dataclass(frozen=True)
class Episode:
    """Steps of play: frame t was seen in state t, then action t was taken."""

    meta: EpisodeMeta
    actions_TA: NDArray[np.uint8]
    """Action values [T, 16] in slot order; action t changes frame t + 1, never frame t."""
    states: NDArray[np.float32]
    """State rows [T, 9], measured when frame t is seen; see `STATE_COLUMNS`."""

    def __post_init__(self) -> None:
        for array, width in ((self.actions_TA, ACTION_SLOTS), (self.states, len(STATE_COLUMNS))):
            if array.shape != (self.meta.steps, width):
                expected = (self.meta.steps, width)
                raise RecordingError(f"an array of the episode has shape {array.shape}; expected {expected}")


Render = Callable[[Episode], Iterator[NDArray[np.uint8]]]
"""Renders an episode's frames, uint8 RGB [H, W, 3] each, from its first. Module-level where workers call it."""


Encode = Callable[[NDArray[np.uint8]], NDArray[np.uint16]]
"""Encodes pictures uint8 [B, H, W, 3] to codes [B, N]."""
_BATCH = 32  # pictures in a call of an encoder, at most
_Convert = Callable[[NDArray[np.uint8]], Iterator[NDArray[Any]]]


def episode_key(meta: EpisodeMeta) -> str:
    """Return the file name without its ending: readable, one per seed."""
    return f"{meta.game}-{meta.seed:08d}"


def save_episode(folder: Path, episode: Episode) -> Path:
    """Write an episode into `folder` (made if needed), the JSON last; return the path of its `.npz`."""
    path = Path(folder) / f"{episode_key(episode.meta)}.npz"
    write_npz(path, {"actions": episode.actions_TA, "states": episode.states})
    write_json(path.with_suffix(".json"), dataclasses.asdict(episode.meta))
    return path


def load_episode(path: Path) -> Episode:
    """Read an episode from its `.npz` or `.json` path."""
    meta = load_meta(path)
    arrays = Path(path).with_suffix(".npz")
    found = read_npz(arrays, ("actions", "states"))
    try:
        return Episode(meta, check_values(found["actions"]), found["states"].astype(np.float32))
    except ValueError as error:
        raise RecordingError(f"{arrays} is damaged ({error}); record the episode again") from error


def load_meta(path: Path) -> EpisodeMeta:
    """Read only the metadata of an episode, from its `.json` or `.npz` path."""
    path = Path(path).with_suffix(".json")
    content = read_json(path, RecordingError, "give the .npz or .json of a recorded episode")
    try:
        return from_mapping(EpisodeMeta, content, "an episode's metadata")
    except ConfigError as error:
        raise RecordingError(f"{path} is damaged: {error}; record the episode again") from error


def list_episodes(folder: Path) -> list[Path]:
    """Return the `.npz` paths of every complete episode in `folder`, sorted."""
    if not folder.is_dir():
        raise RecordingError(f"{folder} is not a folder; make one with: playloom record --out {folder}")
    paths = (p for p in folder.glob("*.npz") if not p.name.startswith("."))
    return sorted(p for p in paths if p.with_suffix(".json").is_file())


def build_frame_dataset(
    folder: Path | str, episodes: Sequence[Path], render: Render, *, workers: int = 0, progress: Progress | None = None
) -> FrameDataset:
    """Render recordings into a frame dataset, in `workers` processes (0: this one); resumes an interrupted call.

    `progress` is called after each episode.
    """
    jobs = _load(episodes, render)
    height, width = _picture_size(jobs)
    total = sum(job.episode.meta.steps for job in jobs)
    writer = FrameDataset.create(folder, total, height=height, width=width, state_columns=STATE_COLUMNS)
    _fill(writer, jobs, iter, workers, progress)
    return FrameDataset.open(folder)


def tokenise_recordings(
    folder: Path | str,
    episodes: Sequence[Path],
    render: Render,
    encode: Encode,
    *,
    fingerprint: str,
    edited: Sequence[Path] = (),
    render_edited: Render | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> TokenDataset:
    """Render and encode episode by episode, so that the pictures of a long dataset are never all on disk.

    `edited` are recordings added once more, rendered by `render_edited`, with `edited` true in their metadata. Other
    arguments as in `build_frame_dataset` and `tokenise_frames`.
    """
    jobs = _load(episodes, render)
    slots = encode(np.zeros((1, *_picture_size(jobs), 3), np.uint8)).shape[1]
    if render_edited is not None:
        jobs += [job._replace(meta={**job.meta, "edited": True}) for job in _load(edited, render_edited)]
    total = sum(job.episode.meta.steps for job in jobs)
    writer = TokenDataset.create(folder, total, slots=slots, tokenizer=fingerprint, state_columns=STATE_COLUMNS)
    _fill(writer, jobs, partial(encode_rows, encode), workers, progress)
    return TokenDataset.open(folder)


def tokenise_frames(
    folder: Path | str,
    frames: FrameDataset,
    encode: Encode,
    *,
    fingerprint: str,
    mirror: bool = False,
    progress: Progress | None = None,
) -> TokenDataset:
    """Encode every picture of a frame dataset once; resumes an interrupted call.

    `fingerprint` is the tokenizer's. `mirror` also adds each episode of the split "train" mirrored, pictures and
    controller together.
    """
    mirrored = [span for span in frames.spans if mirror and span.meta.get("split") == "train"]
    total = len(frames) + sum(span.length for span in mirrored)
    slots = encode(np.array(frames.frames_FHWC[:1])).shape[1]
    writer = TokenDataset.create(folder, total, slots=slots, tokenizer=fingerprint, state_columns=frames.state_columns)
    start = 0
    for span in (*frames.spans, *mirrored):
        flip = start >= len(frames)
        meta = {**span.meta, "mirrored": True} if flip else span.meta
        if not writer.has(start, span.length, meta):
            pictures = frames.frames_FHWC[span.rows]
            actions, states = frames.actions_FA[span.rows], frames.states_FS[span.rows]
            if flip:
                signs_S = np.array([-1 if name in ("y", "yaw") else 1 for name in frames.state_columns], np.float32)
                pictures, actions, states = pictures[:, :, ::-1], mirror_values(actions), states * signs_S
            writer.append_episode(encode_rows(encode, pictures), actions, states, meta, start=start)
            if progress is not None:
                progress(writer.done, writer.total)
        start += span.length
    writer.finish()
    return TokenDataset.open(folder)


def choose_edited(episodes: Sequence[Path], share: float) -> list[Path]:
    """Choose a share of the training episodes, [0, 1], to be added once more in edited form; always the same ones."""
    if not 0 <= share <= 1:
        raise RecordingError(f"the share of edited episodes is out of range: got {share}, expected 0 to 1")
    train = [path for path in episodes if share and load_meta(path).split == "train"]
    # Not every n-th: arenas and modes of recordings repeat with their seeds.
    chosen = np.random.default_rng(0).permutation(len(train))[: round(share * len(train))]
    return [train[index] for index in sorted(chosen.tolist())]


class _Job(NamedTuple):
    episode: Episode
    render: Render
    meta: dict[str, Any]


def _load(paths: Sequence[Path], render: Render) -> list[_Job]:
    return [_Job(episode, render, dataclasses.asdict(episode.meta)) for episode in map(load_episode, paths)]


def _picture_size(jobs: Sequence[_Job]) -> tuple[int, int]:
    if not jobs:
        raise RecordingError("no recordings were found; record some first")
    frames = jobs[0].render(jobs[0].episode)
    height, width = next(iter(frames)).shape[:2]
    if hasattr(frames, "close"):
        frames.close()  # a generator may hold a game process
    return height, width


def _fill(writer: DatasetWriter, jobs: list[_Job], convert: _Convert, workers: int, progress: Progress | None) -> None:
    starts = np.cumsum([0, *(job.episode.meta.steps for job in jobs)]).tolist()
    pairs = zip(starts, jobs, strict=False)
    todo = [(start, job) for start, job in pairs if not writer.has(start, job.episode.meta.steps, job.meta)]
    with scratch_folder(writer.folder) as scratch:
        calls = ((job.episode, job.render, scratch / f"{start}.npy") for start, job in todo)
        files = map_ordered(render_file, calls, workers=workers)
        for (start, (episode, _, meta)), path in zip(todo, files, strict=True):
            data = convert(np.load(path, mmap_mode="r", allow_pickle=False))
            writer.append_episode(data, episode.actions_TA, episode.states, meta, start=start)
            path.unlink()
            if progress is not None:
                progress(writer.done, writer.total)
    writer.finish()


def render_file(episode: Episode, render: Render, path: Path) -> Path:
    """Render an episode into its own `.npy` file. Runs in a worker."""
    steps = episode.meta.steps
    if (count := write_rows(path, render(episode), steps)) != steps:
        raise RecordingError(f"the recording with seed {episode.meta.seed} rendered {count} pictures; expected {steps}")
    return path


def encode_rows(encode: Encode, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint16]]:
    """Give the codes [N] of every picture, encoded in batches."""
    left = iter(frames)
    while batch := list(islice(left, _BATCH)):
        yield from encode(np.stack(batch))

"""From recordings to datasets: render episodes into a `FrameDataset`, encode pictures into a `TokenDataset`.

Renderer and encoder are arguments. Rendering processes write into the memory map, so no picture crosses a pipe.

    >>> build_frame_store(out, list_episodes(recordings), render_episode, workers=2)
    >>> tokenise_store(tokens, FrameDataset.open(out), tokenizer.encode, fingerprint="...")
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import DatasetWriter, FrameDataset, TokenDataset
from playloom.data.recording import STATE_COLUMNS, Episode, load_episode
from playloom.data.sampler import mirror_states, mirror_step
from playloom.errors import RecordingError

if TYPE_CHECKING:
    from torch import Tensor

Render = Callable[[Episode], Iterator[NDArray[np.uint8]]]
"""Renders an episode's pictures, uint8 RGB [H, W, 3] each. Module-level, so that it can be sent to workers."""
Encode = Callable[["Tensor"], "Tensor"]
"""Encodes pictures uint8 [B, H, W, 3] to codes int64 [B, N]."""
Progress = Callable[[int, int], None]
"""Progress callback: frames done, frames in all."""


def build_frame_store(
    folder: Path | str,
    episodes: Sequence[Path],
    render: Render,
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> FrameDataset:
    """Render recordings into a frame dataset; resumes an interrupted call.

    Args:
        folder: where the store will lie.
        episodes: recording files, as `list_episodes` gives them.
        render: gives the pictures of an episode.
        workers: rendering processes; 0 renders in this one.
        progress: told after each episode.

    Raises:
        RecordingError: when there are no episodes, or a recording does not render to its length.
    """
    jobs = _jobs(episodes)
    height, width = picture_size(jobs[0][1], render)
    total = sum(episode.meta.steps for _, episode in jobs)
    writer = FrameDataset.create(folder, total, height=height, width=width, state_columns=STATE_COLUMNS)
    todo = [job for job in jobs if not writer.has(job[0], job[1].meta.steps, _meta(job[1]))]
    with _pool(workers) as executor:
        tasks = (
            (start, episode, executor.submit(render_rows, episode, render, writer.part("frames"), start))
            for start, episode in todo
        )
        for start, episode, future in _ahead(tasks, max(2 * workers, 1)):
            future.result()
            writer.record(start, episode.actions_TA, episode.states, _meta(episode), length=episode.meta.steps)
            _tell(progress, writer)
    writer.finish()
    return FrameDataset.open(folder)


def tokenise_store(
    folder: Path | str,
    frames: FrameDataset,
    encode: Encode,
    *,
    fingerprint: str,
    batch: int = 32,
    device: str = "cpu",
    mirror: bool = False,
    progress: Progress | None = None,
) -> TokenDataset:
    """Encode every picture of a frame dataset once.

    Args:
        folder: where the token store will lie.
        frames: the pictures.
        encode: the tokenizer's encoder, on `device`.
        fingerprint: says which tokenizer made the codes.
        batch: pictures a pass.
        device: where `encode` wants its pictures.
        mirror: also add each episode of the "train" split mirrored, pictures and controller together.
        progress: told after each episode.
    """
    spans = frames.spans
    mirrored = [span for span in spans if mirror and span.meta.get("split") == "train"]
    total = len(frames) + sum(span.length for span in mirrored)
    encoder = _Encoder(encode, batch, device)
    writer = TokenDataset.create(
        folder,
        total,
        slots=encoder.slots(frames.frames_FHWC[:1]),
        tokenizer=fingerprint,
        state_columns=frames.state_columns,
    )
    for start, span in _placed([*spans, *mirrored]):
        flipped = start >= len(frames)
        meta = {**span.meta, "mirrored": True} if flipped else dict(span.meta)
        if writer.has(start, span.length, meta):
            continue
        actions, states = frames.actions_FA[span.rows], frames.states_FS[span.rows]
        if flipped:
            _, actions = mirror_step(frames.frames_FHWC[:0], actions)
            states = mirror_states(states, frames.state_columns)
        tokens = encoder.codes(frames.frames_FHWC[span.rows], flipped=flipped)
        writer.append_episode(tokens, actions, states, meta)
        _tell(progress, writer)
    writer.finish()
    return TokenDataset.open(folder)


def tokenise_recordings(
    folder: Path | str,
    episodes: Sequence[Path],
    render: Render,
    encode: Encode,
    *,
    fingerprint: str,
    batch: int = 32,
    device: str = "cpu",
    workers: int = 0,
    progress: Progress | None = None,
) -> TokenDataset:
    """Render and encode episode by episode, so that the pictures of a long dataset are never all on disk.

    Arguments as in `build_frame_store` and `tokenise_store`.
    """
    jobs = _jobs(episodes)
    size = picture_size(jobs[0][1], render)
    encoder = _Encoder(encode, batch, device)
    writer = TokenDataset.create(
        folder,
        sum(episode.meta.steps for _, episode in jobs),
        slots=encoder.slots(np.zeros((1, *size, 3), np.uint8)),
        tokenizer=fingerprint,
        state_columns=STATE_COLUMNS,
    )
    todo = [job for job in jobs if not writer.has(job[0], job[1].meta.steps, _meta(job[1]))]
    with _pool(workers) as executor, tempfile.TemporaryDirectory(dir=folder, prefix=".frames-") as scratch:
        tasks = (
            (start, episode, executor.submit(render_file, episode, render, Path(scratch) / f"{start}.npy", size))
            for start, episode in todo
        )
        for _, episode, future in _ahead(tasks, max(2 * workers, 1)):
            path = future.result()
            tokens = encoder.codes(np.load(path, mmap_mode="r", allow_pickle=False))
            path.unlink()
            writer.append_episode(tokens, episode.actions_TA, episode.states, _meta(episode))
            _tell(progress, writer)
    writer.finish()
    return TokenDataset.open(folder)


def picture_size(episode: Episode, render: Render) -> tuple[int, int]:
    """Return height and width of an episode's pictures, from the first one."""
    frames = render(episode)
    first = next(iter(frames))
    if hasattr(frames, "close"):
        frames.close()  # a generator may hold a game process
    return int(first.shape[0]), int(first.shape[1])


def render_rows(episode: Episode, render: Render, path: Path, start: int) -> int:
    """Fill rows of a `.npy` memory map with an episode's pictures and return their number. Runs in a worker."""
    target = np.lib.format.open_memmap(path, mode="r+")
    count = _fill(target[start : start + episode.meta.steps], episode, render)
    target.flush()
    return count


def render_file(episode: Episode, render: Render, path: Path, size: tuple[int, int]) -> Path:
    """Render an episode into its own `.npy` file. Runs in a worker."""
    shape = (episode.meta.steps, *size, 3)
    _fill(np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape), episode, render)
    return path


def _fill(target_THWC: NDArray[np.uint8], episode: Episode, render: Render) -> int:
    """Copy each picture at once (a renderer may reuse its buffer), and check their number."""
    count = 0
    for frame in render(episode):
        if count < len(target_THWC):
            target_THWC[count] = frame
        count += 1
    if count != len(target_THWC):
        raise RecordingError(
            f"the recording with seed {episode.meta.seed} gave {count} pictures; it says {len(target_THWC)} steps"
        )
    return count


class _Encoder:
    def __init__(self, encode: Encode, batch: int, device: str) -> None:
        self._encode, self._batch, self._device = encode, batch, device

    def slots(self, frames_1HWC: NDArray[np.uint8]) -> int:
        return int(self.codes(frames_1HWC).shape[1])

    def codes(self, frames_THWC: NDArray[np.uint8], *, flipped: bool = False) -> NDArray[np.uint16]:
        """Codes uint16 [T, N] of pictures uint8 [T, H, W, 3]."""
        import torch

        parts = []
        with torch.inference_mode():
            for first in range(0, len(frames_THWC), self._batch):
                pictures = np.array(frames_THWC[first : first + self._batch])
                if flipped:
                    pictures = np.ascontiguousarray(pictures[:, :, ::-1])
                codes = self._encode(torch.from_numpy(pictures).to(self._device))
                parts.append(codes.cpu().numpy().astype(np.uint16))
        return np.concatenate(parts)


class _Inline(Executor):
    """Executor that works in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _pool(workers: int) -> Executor:
    if workers < 1:
        return _Inline()
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _ahead(tasks: Iterable[tuple[int, Episode, Future[Any]]], depth: int) -> Iterator[tuple[int, Episode, Future[Any]]]:
    """The tasks in order, with `depth` of them submitted: bounded memory, busy workers."""
    queue: list[tuple[int, Episode, Future[Any]]] = []
    for task in tasks:
        queue.append(task)
        if len(queue) >= depth:
            yield queue.pop(0)
    yield from queue


def _jobs(episodes: Sequence[Path]) -> list[tuple[int, Episode]]:
    loaded = [load_episode(path) for path in episodes]
    if not loaded:
        raise RecordingError("no recordings were found; record some first")
    starts = np.cumsum([0, *(episode.meta.steps for episode in loaded)])
    return [(int(start), episode) for start, episode in zip(starts, loaded, strict=False)]


def _placed(spans: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    start = 0
    for span in spans:
        yield start, span
        start += span.length


def _meta(episode: Episode) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(episode.meta)


def _tell(progress: Progress | None, writer: DatasetWriter) -> None:
    if progress is not None:
        progress(writer.done, writer.total)

"""Export of frame datasets, recordings and dreams to datasets of other programs: LeRobot v3.0 and Minari.

Actions are the sixteen controls as float32, in the order and with the signs of the `named` schema. There are ten rows a
second. Sources: huggingface.co/docs/lerobot (dataset format v3.0), minari.farama.org (dataset format).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import values_to_rows
from playloom.actions.controller import CONTROLS
from playloom.atomic_io import atomic_folder
from playloom.data.dataset import INDEX, OUTCOMES, FrameDataset, Progress
from playloom.data.recording import STATE_COLUMNS, Render, list_episodes, load_episode
from playloom.errors import RecordingError, import_extra
from playloom.json_io import write_json
from playloom.media.clips import DREAM_NAMES, clips_below, npz_names, read_clip, read_dream_clip
from playloom.media.video import write_mp4

Format = Literal["lerobot", "minari"]
RATE = 10
_CAMERA = "observation.images.screen"
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_CHUNK = 1000  # files in one folder


class ExportEpisode(NamedTuple):
    """Frames of one episode, with actions and states."""

    frames_THWC: NDArray[np.uint8]
    actions_TA: NDArray[np.float32]
    states: Mapping[str, NDArray[np.float32]]  # state columns by name, [T] each

    def outcome(self, name: str) -> NDArray[np.float32]:
        """Return a column of `OUTCOMES`, 0 where it is unknown."""
        return np.nan_to_num(self.states.get(name, np.zeros(len(self.actions_TA), np.float32)))

    @property
    def numbers(self) -> dict[str, NDArray[np.float32]]:
        """The other state columns."""
        return {name: values for name, values in self.states.items() if name not in OUTCOMES}


def export_episodes(
    source: Path | str, out: Path | str, form: Format, render: Render, progress: Progress | None = None
) -> int:
    """Write the episodes of a source into a new folder and return their number.

    `source` is a frame dataset, a folder of recordings, which `render` draws, or a clip, a dream or a folder of them.
    Episodes are read one at a time; those of one frame are left out. `progress` is called with the episodes done.
    """
    with atomic_folder(out) as folder:
        writer = _LeRobot(folder) if form == "lerobot" else _Minari(folder)
        for done, (total, episode) in enumerate(_episodes(Path(source), render)):
            if progress is not None:
                progress(done, total)
            writer.shape = writer.shape or episode.frames_THWC.shape[1:]
            if episode.frames_THWC.shape[1:] != writer.shape:
                raise RecordingError(f"the pictures of {source} differ in size; export those of one size")
            if len(episode.actions_TA) > 1:
                writer.add(episode)
                writer.lengths.append(len(episode.actions_TA))
        if not writer.lengths:
            raise RecordingError(f"{source} has no frame dataset, recording, clip or dream of two or more frames")
        writer.finish()
    return len(writer.lengths)


def _episodes(source: Path, render: Render) -> Iterator[tuple[int, ExportEpisode]]:
    if (source / INDEX).exists():
        dataset = FrameDataset.open(source)
        for span in dataset.spans:
            states = {name: dataset.column(name)[span.rows] for name in dataset.state_columns}
            actions_TA = values_to_rows(dataset.actions_FA[span.rows], "named")
            yield len(dataset.spans), ExportEpisode(dataset.frames_FHWC[span.rows], actions_TA, states)
    elif source.is_dir() and (paths := list_episodes(source)):
        for path in paths:
            episode = load_episode(path)
            frames_THWC = np.stack([frame_HWC.copy() for frame_HWC in render(episode)])
            states = dict(zip(STATE_COLUMNS, episode.states.T, strict=True))
            yield len(paths), ExportEpisode(frames_THWC, values_to_rows(episode.actions_TA, "named"), states)
    else:
        clips = clips_below(source) if source.is_dir() else [source]
        for path in clips:
            clip = read_dream_clip(path) if set(DREAM_NAMES) <= set(npz_names(path)) else read_clip(path)
            generated_T = np.zeros(len(clip.actions_TA)) if clip.dreamed_T is None else clip.dreamed_T
            states = {"generated": generated_T.astype(np.float32)}
            yield len(clips), ExportEpisode(clip.frames_THWC, values_to_rows(clip.actions_TA, "named"), states)


class _Writer:
    def __init__(self, folder: Path) -> None:
        self.folder, self.lengths = folder, list[int]()
        self.shape: tuple[int, ...] = ()
        self.features: dict[str, dict[str, Any]] = {}


class _Minari(_Writer):
    """Writer of Minari: observations are the pictures, T + 1 for T steps; numbers go to `infos`."""

    def add(self, episode: ExportEpisode) -> None:
        h5py = import_extra("h5py", "import")
        terminated, truncated = (episode.outcome(name)[:-1] > 0 for name in OUTCOMES[1:])
        truncated[-1] |= not terminated[-1]  # an episode ends with its last step
        with h5py.File(self.folder / "main_data.hdf5", "a", track_order=True) as file:
            group = file.create_group(f"episode_{len(self.lengths)}")
            group.attrs.update({"id": len(self.lengths), "total_steps": len(truncated)})
            chunks = (1, *self.shape)
            group.create_dataset("observations", data=episode.frames_THWC, chunks=chunks, compression="gzip")
            group["actions"], group["rewards"] = episode.actions_TA[:-1], episode.outcome("reward")[:-1].astype(float)
            group["terminations"], group["truncations"] = terminated, truncated
            for name, values_T in episode.numbers.items():
                group[f"infos/{name}"] = values_T

    def finish(self) -> None:
        black, low = np.zeros(self.shape, int), [control.low for control in CONTROLS]
        screen = {"type": "Box", "dtype": "uint8", "shape": self.shape}
        pad = {"type": "Box", "dtype": "float32", "shape": (len(low),), "low": low, "high": [1.0] * len(low)}
        content = {
            "total_episodes": len(self.lengths),
            "total_steps": sum(self.lengths) - len(self.lengths),
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": json.dumps({**screen, "low": black.tolist(), "high": (black + 255).tolist()}),
            "action_space": json.dumps(pad),
            "dataset_id": "playloom/export-v0",
            "minari_version": "0.5.4",
            "requirements": [],
        }
        write_json(self.folder / "metadata.json", content)


class _LeRobot(_Writer):
    """Writer of LeRobot: one video and one table an episode, without statistics."""

    def add(self, episode: ExportEpisode) -> None:
        number, frames = len(self.lengths), np.arange(len(episode.actions_TA))
        columns: dict[str, NDArray[Any]] = {
            "action": episode.actions_TA,
            "timestamp": (frames / RATE).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(len(frames), number),
            "index": frames + sum(self.lengths),
            "task_index": np.zeros(len(frames), int),
        }
        for name, key in zip(OUTCOMES, ("next.reward", "next.done", "next.truncated"), strict=True):
            if name in episode.states:
                columns[key] = episode.outcome(name) if name == "reward" else episode.outcome(name) > 0
        if episode.numbers:
            columns["observation.state"] = np.stack([*episode.numbers.values()], axis=1)
        names = {"action": [control.name for control in CONTROLS], "observation.state": [*episode.numbers]}
        self.features = {
            name: {"dtype": str(values.dtype), "shape": values.shape[1:] or (1,), "names": names.get(name)}
            for name, values in columns.items()
        }
        file = _FILE.format(chunk_index=number // _CHUNK, file_index=number % _CHUNK)
        _write_table(self.folder / f"data/{file}.parquet", columns)
        video = self.folder / f"videos/{_CAMERA}/{file}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(video, iter(episode.frames_THWC), frames_per_second=RATE)

    def finish(self) -> None:
        numbers, stops = np.arange(len(self.lengths)), np.cumsum(self.lengths)
        camera, meta = f"videos/{_CAMERA}", self.folder / "meta"
        episodes = {
            "episode_index": numbers,
            "tasks": [["play"]] * len(numbers),
            "length": np.array(self.lengths),
            "dataset_from_index": stops - self.lengths,
            "dataset_to_index": stops,
            **{f"{place}/chunk_index": numbers // _CHUNK for place in ("data", camera)},
            **{f"{place}/file_index": numbers % _CHUNK for place in ("data", camera)},
            f"{camera}/from_timestamp": np.zeros(len(numbers)),
            f"{camera}/to_timestamp": np.array(self.lengths) / RATE,
        }
        _write_table(meta / f"episodes/{_FILE.format(chunk_index=0, file_index=0)}.parquet", episodes)
        _write_table(meta / "tasks.parquet", {"task_index": np.zeros(1, int), "__index_level_0__": ["play"]})
        height, width = (size + size % 2 for size in self.shape[:2])  # as in the video
        video = {"video.fps": RATE, "video.codec": "h264", "video.pix_fmt": "yuv420p", "has_audio": False}
        names = ["height", "width", "channels"]
        content = {
            "codebase_version": "v3.0",
            "robot_type": "gamepad",
            "total_episodes": len(numbers),
            "total_frames": int(stops[-1]),
            "total_tasks": 1,
            "chunks_size": _CHUNK,
            "fps": RATE,
            "splits": {"train": f"0:{len(numbers)}"},
            "data_path": f"data/{_FILE}.parquet",
            "video_path": f"videos/{{video_key}}/{_FILE}.mp4",
            "features": {
                _CAMERA: {"dtype": "video", "shape": (height, width, 3), "names": names, "info": video},
                **self.features,
            },
        }
        write_json(meta / "info.json", content)


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    pa, parquet = (import_extra(name, "import") for name in ("pyarrow", "pyarrow.parquet"))
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(list(values) if np.ndim(values) == 2 else values) for name, values in columns.items()}
    parquet.write_table(pa.table(arrays), path)

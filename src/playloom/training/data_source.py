"""Data of a training: recordings, frames or tokens, each turned into the next once, in a cache folder of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playloom.data.dataset import INDEX, FrameDataset, Progress, TokenDataset
from playloom.data.recording import (
    Render,
    build_frame_dataset,
    choose_edited,
    list_episodes,
    load_meta,
    tokenise_frames,
    tokenise_recordings,
)
from playloom.errors import ConfigError, RecordingError
from playloom.json_io import plain, read_json
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.artifacts import array_encoder
from playloom.training.distributed import dist_info


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options of data preparation; `ConfigError` for edited recordings without their renderer."""

    render: Render
    """Renders a recording."""
    workers: int = 0
    """Rendering processes; 0: none."""
    progress: Progress | None = None
    """Progress callback: frames done, frames in all."""
    edited: float = 0.0
    """Share of the training recordings added once more with foreign objects, to codes only; [0, 1]."""
    render_edited: Render | None = None
    """Renders a recording with foreign objects."""
    mirror: bool = False
    """Add the training episodes of a frame dataset mirrored, to codes only."""

    def __post_init__(self) -> None:
        if self.edited and self.render_edited is None:
            raise ConfigError(f"edited recordings have no renderer: got edited {self.edited:g}; give render_edited too")


def frames_from(data: Path, cache: Path, options: PrepareOptions) -> FrameDataset:
    """Open the frame dataset at `data`, or render the recordings there into `cache`."""
    kind = detect_dataset_kind(data)
    if kind == "frames":
        return FrameDataset.open(data)
    if kind == "tokens":
        raise RecordingError(f"{data} is a token dataset; a tokenizer learns from recordings or a frame dataset")
    paths = _episodes(data)
    if (cache / INDEX).exists():
        dataset = FrameDataset.open(cache)
        if [span.meta for span in dataset.spans] == _metas(paths):
            return dataset
    _require_one_process(cache)
    return build_frame_dataset(cache, paths, options.render, workers=options.workers, progress=options.progress)


def tokens_from(
    data: Path, cache: Path, options: PrepareOptions, tokenizer: FrameTokenizer | None, fingerprint: str | None
) -> TokenDataset:
    """Open the token dataset at `data`, or make one in `cache` from the frames or recordings there."""
    kind = detect_dataset_kind(data)
    if options.edited and kind != "recordings":
        raise RecordingError(f"{data} holds {kind}; only recordings of the arena can be edited, so leave out --edited")
    if options.mirror and kind != "frames":
        raise RecordingError(f"{data} holds {kind}; only a frame dataset can be mirrored, so leave out mirror")
    if kind == "tokens":
        dataset = TokenDataset.open(data)
        if fingerprint not in (None, dataset.tokenizer):
            raise RecordingError(
                f"{data} was made by another tokenizer: got {dataset.tokenizer}, expected {fingerprint}; tokenise again"
            )
        return dataset
    if (cache / INDEX).exists():
        dataset = TokenDataset.open(cache)
        if fingerprint in (None, dataset.tokenizer):
            _check_same_data(dataset, data, kind, options)
            return dataset
    _require_one_process(cache)
    if tokenizer is None or fingerprint is None:
        raise RecordingError(f"{data} holds {kind}; to tokenise it, give the tokenizer's folder with --tokenizer")
    shared: dict[str, Any] = {"fingerprint": fingerprint, "progress": options.progress}
    encode = array_encoder(tokenizer)
    if kind == "frames":
        return tokenise_frames(cache, FrameDataset.open(data), encode, mirror=options.mirror, **shared)
    paths = _episodes(data)
    shared |= {"workers": options.workers, "render_edited": options.render_edited}
    shared["edited"] = choose_edited(paths, options.edited)
    return tokenise_recordings(cache, paths, options.render, encode, **shared)


def detect_dataset_kind(data: Path) -> str:
    """Return the kind of a data folder: "frames", "tokens" or "recordings"."""
    index = data / INDEX
    if index.exists():
        kind = read_json(index, RecordingError, "prepare the dataset again").get("kind")
        if kind not in ("frames", "tokens"):
            raise RecordingError(f"{index} is damaged: got kind {kind!r}, expected frames or tokens; prepare it again")
        return str(kind)
    if data.is_dir() and list_episodes(data):
        return "recordings"
    if not data.exists():
        raise RecordingError(f"there is no {data}; give a folder of recordings, see: playloom record --help")
    raise RecordingError(f"{data} holds neither recordings nor a prepared dataset; see: playloom record --help")


def _check_same_data(dataset: TokenDataset, data: Path, kind: str, options: PrepareOptions) -> None:
    if kind == "frames":
        frames = FrameDataset.open(data)
        mirrored = frames.of_split("train") if options.mirror else ()
        expected = [dict(span.meta) for span in frames.spans] + [{**span.meta, "mirrored": True} for span in mirrored]
        total = sum(span.length for span in (*frames.spans, *mirrored))
    else:
        paths = _episodes(data)
        edited = _metas(choose_edited(paths, options.edited))
        expected = _metas(paths) + [{**meta, "edited": True} for meta in edited]
        total = sum(meta["steps"] for meta in expected)
    if [span.meta for span in dataset.spans] != expected or len(dataset) != total:
        found = (
            "other episodes, expected those" if len(dataset) == total else f"{len(dataset)} frames, expected {total}"
        )
        raise RecordingError(
            f"{dataset.folder} holds codes of other data: got {found} of {data}; choose another --out, or remove that "
            "folder"
        )


def _episodes(data: Path) -> list[Path]:
    return [path for path in list_episodes(data) if load_meta(path).split in ("train", "validation")]


def _metas(paths: Sequence[Path]) -> list[dict[str, Any]]:
    return [plain(asdict(load_meta(path))) for path in paths]


def _require_one_process(cache: Path) -> None:
    if dist_info()[1] > 1:
        raise RecordingError(
            f"{cache} is not prepared, and {dist_info()[1]} processes cannot prepare it together; run the same command "
            "once without torchrun and with --prepare-only"
        )

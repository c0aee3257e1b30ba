"""The data folder of a training command: recordings, a frame dataset or a token dataset.

Each is turned into the next, once, in a cache folder of the run. The renderer is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from playloom.data.dataset import FrameDataset, Progress, TokenDataset
from playloom.data.prepare import build_frame_store, tokenise_recordings, tokenise_store
from playloom.data.recording import Render, list_episodes, load_meta
from playloom.errors import RecordingError
from playloom.json_io import read_json
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.distributed import dist_info


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Options of data preparation."""

    render: Render
    """Renders a recording."""
    workers: int = 0
    """Rendering processes; 0: none."""
    batch: int = 32
    """Pictures per tokenizer batch."""
    mirror: bool = False
    """Add each training episode mirrored (from a frame dataset only)."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits of recordings to render."""
    progress: Progress | None = None
    """Progress callback: frames done, frames in all."""


def frames_from(data: Path, cache: Path, how: Preparation) -> FrameDataset:
    """Open the frame dataset at `data`, or render the recordings there into `cache`.

    Raises:
        RecordingError: when `data` is neither.
    """
    kind = detect_dataset_kind(data)
    if kind == "frames":
        return FrameDataset.open(data)
    if kind == "recordings":
        return _cached_frames(data, cache, how)
    raise RecordingError(f"{data} is a token store; a tokenizer learns from recordings or a frame store")


def tokens_from(
    data: Path, cache: Path, how: Preparation, tokenizer: FrameTokenizer | None, fingerprint: str | None
) -> TokenDataset:
    """Open the token dataset at `data`, or make one in `cache` from the frames or recordings there.

    Raises:
        RecordingError: when a tokenizer is needed and not given, or the store was made by another one, or the cache of
            other data.
    """
    kind = detect_dataset_kind(data)
    if kind == "tokens" or _finished(cache):
        store = TokenDataset.open(data if kind == "tokens" else cache)
        if fingerprint is None or store.tokenizer == fingerprint:
            if kind != "tokens":
                _check_same_data(store, data, how)
            return store
        if kind == "tokens":
            raise RecordingError(
                f"{data} was made by tokenizer {store.tokenizer}; the one given is {fingerprint}: tokenise again"
            )
    _alone(cache)
    if tokenizer is None or fingerprint is None:
        raise RecordingError(f"{data} holds {kind}; to tokenise it, give the tokenizer's folder with --tokenizer")
    device = str(tokenizer.last_layer.device)
    if kind == "frames":
        return tokenise_store(
            cache,
            FrameDataset.open(data),
            tokenizer.encode,
            fingerprint=fingerprint,
            batch=how.batch,
            device=device,
            mirror=how.mirror,
            progress=how.progress,
        )
    return tokenise_recordings(
        cache,
        _episodes(data, how),
        how.render,
        tokenizer.encode,
        fingerprint=fingerprint,
        batch=how.batch,
        device=device,
        workers=how.workers,
        progress=how.progress,
    )


def detect_dataset_kind(data: Path) -> str:
    """Return the kind of a data folder: "frames", "tokens" or "recordings".

    Raises:
        RecordingError: when it is none of them.
    """
    index = data / "index.json"
    if index.exists():
        kind = read_json(index, RecordingError, "prepare the data set again").get("kind")
        if kind not in ("frames", "tokens"):
            raise RecordingError(f"{index} is damaged: got kind {kind!r}, expected frames or tokens; prepare it again")
        return str(kind)
    if data.is_dir() and list_episodes(data):
        return "recordings"
    if not data.exists():
        raise RecordingError(f"there is no {data}; give a folder of recordings, see: playloom record --help")
    raise RecordingError(f"{data} holds neither recordings nor a prepared data set; see: playloom record --help")


def _check_same_data(store: TokenDataset, data: Path, how: Preparation) -> None:
    """Refuse cached codes of other data, as far as lengths tell."""
    if detect_dataset_kind(data) == "frames":
        frames = len(FrameDataset.open(data))
    else:
        frames = sum(load_meta(path).steps for path in _episodes(data, how))
    own = sum(span.length for span in store.spans if not span.meta.get("mirrored"))
    if own != frames:
        raise RecordingError(
            f"{store.folder} holds the codes of {own} frames; {data} has {frames}: other data needs another --out (or "
            "remove that folder)"
        )


def _cached_frames(data: Path, cache: Path, how: Preparation) -> FrameDataset:
    paths = _episodes(data, how)
    if _finished(cache):
        store = FrameDataset.open(cache)
        if len(store.spans) == len(paths):
            return store
    _alone(cache)
    return build_frame_store(cache, paths, how.render, workers=how.workers, progress=how.progress)


def _episodes(data: Path, how: Preparation) -> list[Path]:
    return [path for path in list_episodes(data) if load_meta(path).split in how.splits]


def _alone(cache: Path) -> None:
    if dist_info()[1] > 1:
        raise RecordingError(
            f"{cache} is not prepared, and {dist_info()[1]} processes would do it at once; run the same command once "
            "without torchrun and with --prepare-only"
        )


def _finished(cache: Path) -> bool:
    return (cache / "index.json").exists()

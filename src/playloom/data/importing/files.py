"""Content of files: pictures of a video with their times, by PyAV, and rows of CSV, JSONL and Parquet files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.errors import PictureError, PlayloomError, RecordingError, import_extra
from playloom.media.action_table import csv_rows
from playloom.media.images import read_picture

Load = Callable[[], NDArray[np.uint8]]
Frame = tuple[float, Load]
"""Time of a picture in seconds, and a function that returns its RGB values [H, W, 3]."""
Times = NDArray[np.float64]
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov")
"""Endings of videos that are read; any codec of FFmpeg's."""
_BEFORE = 2e-3  # Matroska rounds times to milliseconds
_BLOCK = 1 << 20  # bytes
_LEAD = 2.0  # seconds decoded before the first wanted picture: the first ones after a seek may be missing
ACTIONS_FILE = "actions.csv"
"""Optional table in a folder of pictures: one row per picture but the last, or more."""
TABLE_ENDINGS = (".csv", ".jsonl", ".parquet")
"""Endings of tables that are read."""


def files_hash(paths: Iterable[Path]) -> str:
    """Return a hash of the files that exist: of their content, but of a video only its size, beginning and end."""
    files = [(path, path.stat()) for path in paths if path.is_file()]
    return hashlib.blake2b(b"".join(_hash(p, s.st_size, s.st_mtime_ns) for p, s in files), digest_size=8).hexdigest()


@lru_cache(maxsize=4096)  # episodes share files
def _hash(path: Path, size: int, modified: int) -> bytes:
    digest, video = hashlib.blake2b(str(size).encode()), path.suffix.lower() in VIDEO_ENDINGS
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if video:
                file.seek(max(file.tell(), size - _BLOCK))
    return digest.digest()


@contextmanager
def reading(place: Path | str) -> Iterator[None]:
    """Turn what damaged content raises into a RecordingError that names the place."""
    try:
        yield
    except PlayloomError:
        raise
    except Exception as error:  # damage raises any error, depending on the part that was read
        what = error if isinstance(error, OSError | ValueError) else repr(error)
        raise RecordingError(f"{place} cannot be read ({what!s:.120}); is it damaged or cut short?") from error


def video_times(path: Path, *, start: float | None = None) -> NDArray[np.float64]:
    """Return the sorted times of the pictures that `video_pictures` gives, in seconds, without decoding them."""
    with _opened(path) as (container, stream):
        packets = (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)
        pts = [packet.pts for packet in packets if packet.pts is not None]
        times_F = np.sort(np.array(pts, np.float64)) * float(stream.time_base)
    if not len(times_F):
        raise RecordingError(f"{path} holds no picture; record it again")
    times_F -= times_F[0] if start is None else start
    return times_F[times_F >= -_BEFORE]


def video_size(path: Path) -> tuple[int, int]:
    """Return width and height of the pictures in pixels."""
    with _opened(path) as (_, stream):
        return stream.codec_context.width, stream.codec_context.height


def video_pictures(path: Path, *, start: float | None = None, wanted_F: Times | None = None) -> Iterator[Frame]:
    """Decode the pictures one at a time; the time of the first is 0.

    With `start`, that presentation time in seconds is 0, and pictures before it are left out. With `wanted_F`, sorted
    times, others may be left out: those that no other picture refers to, and those long before the first, are not
    decoded. RecordingError when the video is damaged; its earlier pictures are given before.
    """
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()  # takes a while to prepare for a size
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        unit = float(stream.time_base)
        zero = None if start is None else start / unit
        skipped = 0.0 if wanted_F is None else max(0.0, wanted_F[0] - _LEAD) / unit
        if zero is not None and zero + skipped > 0:
            container.seek(int(zero + skipped), stream=stream)
        for packet in container.demux(stream):
            if wanted_F is not None and zero is not None and packet.pts is not None:
                time = (packet.pts - zero) * unit
                first, stop = np.searchsorted(wanted_F, [time - _BEFORE, time + _BEFORE])
                stream.codec_context.skip_frame = "DEFAULT" if first < stop else "NONREF"
            for frame in packet.decode():
                if frame.pts is None:
                    continue
                if zero is None:
                    zero = frame.pts
                    if skipped:
                        container.seek(int(zero + skipped), stream=stream)
                        break
                time = (frame.pts - zero) * unit
                if time >= -_BEFORE:
                    yield time, VideoPicture(frame, scaler)


@dataclass(frozen=True, eq=False)
class VideoPicture:
    """A decoded picture, not yet converted."""

    frame: Any
    scaler: Any  # common to the pictures of a video

    def __call__(self, crop: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return its RGB values [H, W, 3]; if possible only the middle, in means of areas of that height and width."""
        whole = self.frame.height, self.frame.width
        crop = crop or whole
        scale = max(small / large for small, large in zip(crop, whole, strict=True))
        height, width = (round(scale * large) for large in whole)
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        if scale >= 1 or (2 * top, 2 * left) != (height - crop[0], width - crop[1]):  # half a pixel off the middle
            return np.asarray(self.frame.to_ndarray(format="rgb24"))
        reduced = self.scaler.reformat(self.frame, width, height, "gbrp", interpolation="AREA")
        return np.asarray(reduced.to_ndarray()[top : top + crop[0], left : left + crop[1]])


def load_picture(source: Path | bytes) -> NDArray[np.uint8]:
    """Return the RGB values [H, W, 3] of a picture's file."""
    return read_picture(source).frame_HWC


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    with reading(path), av.open(str(path)) as container:
        if not container.streams.video:
            raise RecordingError(f"{path} has no video stream; expected a video of the game")
        yield container, container.streams.video[0]


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give number, from 1, and cells by lower-case column of every row; RecordingError when it is damaged or empty."""
    number = 0
    read = {".jsonl": _jsonl, ".parquet": parquet_rows}.get(path.suffix.lower(), _csv)
    with reading(path):
        for number, row in enumerate(read(path), 1):
            yield number, {key.strip().lower(): value for key, value in row.items()}
    if not number:
        raise RecordingError(f"{path} holds no row; record it again")


def parquet_rows(
    path: Path, columns: Sequence[str] | None = None, where: Mapping[str, int] | None = None
) -> Iterator[dict[str, Any]]:
    """Give the rows of a Parquet file, of some columns, and only those that have these values in other columns."""
    dataset, parquet = (import_extra(f"pyarrow.{name}", "import") for name in ("dataset", "parquet"))
    chosen = parquet.filters_to_expression([(name, "==", value) for name, value in where.items()]) if where else None
    with reading(path):
        table = dataset.dataset(path, format="parquet")
        for batch in table.to_batches(columns=columns, filter=chosen, batch_size=1024):
            yield from batch.to_pylist()


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                with reading(f"{path} line {number}"):
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"got {line.strip():.40}, expected a JSON object in every line")
                yield row


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    rows = csv_rows(path)
    names = next(rows, [])
    return (dict(zip(names, cells, strict=False)) for cells in rows)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder in natural order: `2.png` before `10.png`; PictureError when there is none."""
    endings = Image.registered_extensions()
    pictures = [p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".")]
    if not pictures:
        episodes = any(path.with_suffix(".npz").is_file() for path in folder.glob("*.json"))
        hint = "it looks like a folder of recordings: name one of them" if episodes else "expected PNG or JPEG files"
        raise PictureError(f"there is no picture in {folder}; {hint}")
    return sorted(pictures, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

"""Decoding of clips: their frames in the size of the dataset, or the codes of these, in this process or a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.files import reading
from playloom.data.importing.recordings import Recording
from playloom.data.importing.resample import Run, last_pictures
from playloom.errors import PlayloomError

Encode = Callable[[NDArray[np.uint8]], NDArray[np.uint16]]
"""Encodes pictures uint8 [B, H, W, 3] to codes [B, N]."""
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ClipEncoder:
    """The tokenizer of an import that stores codes."""

    load: Callable[[], Encode]
    """Returns the encoder; called once in every worker, to which it is pickled."""
    slots: int
    """Codes of a picture: N."""
    fingerprint: str
    """Name of the tokenizer's weights."""


class DecodeJob(NamedTuple):
    """Clips of a recording."""

    recording: Recording
    clips: Sequence[Run]
    encoder: ClipEncoder | None
    """None: give frames."""


def decode(job: DecodeJob) -> Iterator[NDArray[Any]]:
    """Give frames, uint8 [H, W, 3], or codes, uint16 [N], of every step of the clips."""
    frames = _frames(job.recording, job.clips)
    if job.encoder is None:
        yield from frames
        return
    encode = _loaded(job.encoder)
    while batch := list(islice(frames, _BATCH)):
        yield from encode(np.stack(batch))


def decode_file(job: DecodeJob, path: Path) -> Path | PlayloomError:
    """Write the rows of `decode` into a `.npy` file; return a fault, as other recordings do not depend on it."""
    count, target = sum(clip.steps for clip in job.clips), None
    try:
        with reading(job.recording.path):
            for number, row in enumerate(decode(job)):
                if target is None:
                    target = np.lib.format.open_memmap(path, mode="w+", dtype=row.dtype, shape=(count, *row.shape))
                target[number] = row
    except PlayloomError as error:
        return error
    return path


@lru_cache(maxsize=1)
def _loaded(encoder: ClipEncoder) -> Encode:
    return encoder.load()


def _frames(recording: Recording, clips: Sequence[Run]) -> Iterator[NDArray[np.uint8]]:
    load, reduced_HWC = None, np.empty(0, np.uint8)
    for latest in last_pictures(recording.pictures(), clips) if clips else ():
        if latest is not load:
            load, (reduced_HWC, _) = latest, recording.options.reduce(latest(), recording.masks)
        yield reduced_HWC

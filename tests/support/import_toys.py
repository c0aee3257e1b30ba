"""Small videos whose pictures say when they are."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.importing.build import import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import RecordingError


def video_at(
    path: Path, times: Sequence[float], levels: Sequence[Any], size: tuple[int, int] = (48, 64), codec: str = "libx264"
) -> Path:
    """Write one picture, of one grey level (0 to 255) or its values, for each time in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=60, options={"threads": "1"})
        stream.height, stream.width = size
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, level in zip(times, levels, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def check_a_change_is_noticed(files: Sequence[Path], folder: Path, out: Path, options: ImportOptions) -> None:
    """A finished import is refused, and stays as it was, after a change of any of the files."""
    index = (out / "index.json").read_bytes()
    for file in files:
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(RecordingError, match="has changed since"):
            import_recordings(folder, out, options)
        file.write_bytes(before)
        import_recordings(folder, out, options)
        assert (out / "index.json").read_bytes() == index


def levels_of(frames_FHWC: np.ndarray) -> list[int]:
    """The grey level of every picture."""
    return [round(float(frame.mean())) for frame in frames_FHWC]


def named_controls(dataset) -> dict[str, list[float]]:
    """Values in every row of the controls that are used."""
    state = decode_values(dataset.actions_FA)
    return {c.name: state[:, index].tolist() for index, c in enumerate(CONTROLS) if state[:, index].any()}

"""Read back what `playloom.media.video` wrote."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from playloom.provenance import Manifest


def read_frames(path: Path | str) -> np.ndarray:
    """All frames of a video or GIF, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_manifest(path: Path | str) -> Manifest | None:
    """The manifest in the comment of an MP4 or GIF; None when there is none of playloom."""
    if Path(path).read_bytes()[:4] == b"GIF8":  # FFmpeg drops a GIF's comment, Pillow keeps it
        with Image.open(path) as image:
            comment = bytes(image.info.get("comment", b"")).decode()
    else:
        with av.open(str(path)) as container:
            comment = container.metadata.get("comment", "")
    return Manifest.from_json(comment) if comment.startswith("{") and '"generator"' in comment else None

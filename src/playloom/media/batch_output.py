"""One dream of a batch as two files beside each other: `NAME.npz` for programs and `NAME.mp4` for people.

Owns the pair, in the form the reference's batch dreaming leaves behind. Knows nothing of how a batch is run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from playloom.media.animation import write_mp4
from playloom.media.clips import write_dream_clip
from playloom.media.dream_folder import DreamedStep, film_moments, seen_tiles
from playloom.media.sheet import film_frames, title_of
from playloom.provenance import Manifest

_FILM = 2  # times the frames' own width


def write_batch_dream(
    stem: Path | str,
    *,
    context_THWC: NDArray[np.uint8],
    dreamed_SHWC: NDArray[np.uint8],
    actions_TA: NDArray[np.uint8],
    given_T: NDArray[np.bool_],
    manifest: Manifest,
    reconstructed_THWC: NDArray[np.uint8] | None = None,
    true_SHWC: NDArray[np.uint8] | None = None,
) -> tuple[Path, Path]:
    """Write the arrays and the video of one clip; files of those names are replaced, each when it is whole.

    Args:
        stem: the path without an ending; folders above it are made. A dot in the name stays part of it.
        context_THWC: the real frames, uint8 [ctx, H, W, 3].
        dreamed_SHWC: the dreamed frames, unmarked, uint8 [S, H, W, 3]; the video shows them marked, with their input.
        actions_TA: see `playloom.media.clips.write_dream_clip`, as for the rest.
        given_T: whether each action was given.
        manifest: what made the dream.
        reconstructed_THWC: the true frames through the tokenizer, if they are known.
        true_SHWC: what really followed with the same actions, for the video.

    Returns:
        The paths of the `.npz` and of the `.mp4`.

    Raises:
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    arrays, video = Path(f"{stem}.npz"), Path(f"{stem}.mp4")
    write_dream_clip(
        arrays,
        context_THWC=context_THWC,
        dreamed_SHWC=dreamed_SHWC,
        actions_TA=actions_TA,
        given_T=given_T,
        manifest=manifest,
        reconstructed_THWC=reconstructed_THWC,
    )
    seen = len(context_THWC)
    tiles = seen_tiles(context_THWC, actions_TA[: seen - 1])
    steps = map(DreamedStep, dreamed_SHWC, actions_TA[seen - 1 :], given_T[seen - 1 :])
    shown = film_moments(tiles, steps, context_THWC[:0] if true_SHWC is None else true_SHWC)
    film = film_frames(shown, kinds=["real", "dreamed"], title=title_of(manifest), enlarged=_FILM)
    write_mp4(video, film, manifest=manifest)
    return arrays, video

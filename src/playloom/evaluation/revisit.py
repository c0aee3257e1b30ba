"""Memory of places: the frame after turning away and back, or once around, against the frame at the start.

M segments, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import encode_named
from playloom.errors import ConfigError, GameError, MissingExtraError
from playloom.evaluation.control import held_state, is_arena, play_from
from playloom.evaluation.persistency import CANDIDATES, static_segments
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import (
    EvaluationContext,
    frames_after,
    reconstruct,
    rollout_frames,
    segment_episodes,
    with_codes,
)
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr

PATHS: Mapping[str, tuple[str, ...]] = {
    "there and back": ("right",) * 10 + ("left",) * 10,
    "full circle": ("right",) * 40,
}
"""Inputs, see `control.INPUTS`, that end with the view of the start; the view after half of them is another one.

The game turns by 9 degrees a step.
"""


def evaluate(run: EvaluationContext) -> None:
    """Measure the return to the view of the start in the arena; the turning speed of other games is unknown."""
    s = run.settings
    if not s.revisit_segments or not is_arena(run):
        return
    # From a player at rest: momentum would lead away from the start.
    segments = static_segments(run.dataset, run.segments(CANDIDATES * s.revisit_segments, 1), s.revisit_segments)
    prompts = with_codes(run.model, [segment.prompt(run.dataset) for segment in segments])
    start = frames_after(run.dataset, segments, 0)
    again, episodes_M = reconstruct(run.model, start, s.batch), segment_episodes(run.dataset, segments)
    for name, path in PATHS.items():
        actions = np.stack([encode_named(held_state(held)) for held in path])
        frames = rollout_frames(run.engine, prompts, [actions] * len(prompts), s)
        run.progress(f"revisit, {name}")
        real = []
        # Only a baseline: without it all other rows are still worth having.
        with suppress(MissingExtraError, GameError, ConfigError):
            for segment in segments[: s.game_segments]:
                seen, alive = play_from(run.dataset, segment, actions)
                real += [float(psnr(seen[-1:], seen[:1], PSNR_CAP)[0])] if alive else []
                run.progress(f"revisit, {name}, real game")
        run.rows.append(revisit_row(f"{name} ({len(path)} steps)", start, again, frames, real, episodes_M))
    run.counts["revisit_segments"] = len(segments)


def revisit_row(
    name: str,
    start: NDArray[np.uint8],
    again: NDArray[np.uint8],
    frames: NDArray[np.uint8],
    real: Sequence[float],
    episodes_M: NDArray[np.int64],
) -> Row:
    """Return the report row of a path.

    `start` and `again` are the frames before it and their reconstructions, uint8 [M, H, W, 3], `frames` the generated
    ones, uint8 [M, S, H, W, 3]. `real` has the PSNR of the same path in the real game.

    A frozen frame and a mean frame are the same at the end and halfway, so they miss the bar.
    """
    another = np.roll(start, len(start) // 2, axis=0)
    seen = (frames[:, -1], frames[:, frames.shape[1] // 2 - 1], another, again)
    end_M, halfway_M, another_M, again_M = (psnr(x, start, PSNR_CAP).double().numpy() for x in seen)
    beside = {"halfway": halfway_M.mean(), "another segment": another_M.mean(), "tokenizer": again_M.mean()}
    beside |= {"real game": np.mean(real)} if real else {}
    passed = all(is_significant(end_M - other_M, episodes_M) for other_M in (halfway_M, another_M))
    title, bar = f"PSNR of the start after {name}", "> halfway, > another, by 2 SE"
    return Row.of("revisit", title, end_M, "dB", beside, bar, passed, episodes_M=episodes_M)

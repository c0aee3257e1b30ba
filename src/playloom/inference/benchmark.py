"""Measure the speed of a model on this machine: frames per second, latency, first frame, batches of several dreams.

World mode, context full, real inputs, frames decoded to pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import playloom
from playloom.data.prompts import find_prompt, list_prompts, load_prompt_file, prompt_folder
from playloom.device import machine
from playloom.errors import BadInputError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import GenerationRequest, Prompt
from playloom.media.images import fit_picture
from playloom.models.folder import ModelDescription

BATCH_SIZES = (1, 2, 4, 8)  # numbers of dreams that advance as one batch


def benchmark(
    engine: Engine,
    *,
    frames: int = 300,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure an engine from its first prompt with its card's sampling; returns JSON values."""
    model, sampling = engine.model, Sampling.from_card(engine.model.card)
    prompt, played = first_prompt(model)
    progress(f"{frames} frames")
    time_frames(engine, prompt, played, min(frames, 3), sampling=sampling)  # the first calls choose kernels
    times = time_frames(engine, prompt, played, frames, sampling=sampling)[1:]
    progress("first frame")
    firsts = [time_frames(engine, prompt, played, 0, sampling=sampling)[0] for _ in range(min(5, frames))]
    known = replace(prompt, codes_TN=engine.codes(prompt))
    batches, session_bytes = [], 0
    for size in batch_sizes:
        progress(f"batch of {size}")
        rate, session_bytes = time_batch(engine, known, played, size, min(10, frames), sampling=sampling)
        batches.append({"dreams": size, "frames_per_second": rate})
    row_delay = engine.schedule.row_delay
    return {
        "playloom": playloom.__version__,
        "model": model.config.name,
        "fingerprint": model.fingerprint,
        "machine": machine(engine.device),
        "backend": engine.backend.name,
        "dtype": str(engine.decoder.rows.memory.dtype).removeprefix("torch."),
        "row_delay": None if row_delay == model.config.layout.grid_width else row_delay,
        "frames": frames,
        "frames_per_second": frames / float(times.sum()),
        "latency_ms": {f"p{share}": 1e3 * float(np.percentile(times, share)) for share in (50, 95, 99)},
        "first_frame_ms": 1e3 * float(np.median(firsts)),
        "batches": batches,
        "session_mib": session_bytes / 2**20,
    }


def time_frames(
    engine: Engine, prompt: Prompt, actions_TA: NDArray[np.uint8], frames: int, *, sampling: Sampling, seed: int = 0
) -> NDArray[np.float64]:
    """Return seconds of a dream's first frame, from the prompt on, and of `frames` more; the actions are repeated."""
    device = engine.device
    held = actions_TA[np.arange(frames + 1) % len(actions_TA)]
    stamps = [synchronized_time(device)]
    for _ in engine.dream(prompt, steps=frames + 1, actions_SA=held, sampling=sampling, seed=seed):
        stamps.append(synchronized_time(device))
    return np.diff(stamps)


def time_batch(
    engine: Engine,
    prompt: Prompt,
    actions_TA: NDArray[np.uint8],
    size: int,
    rounds: int,
    *,
    sampling: Sampling,
    warmup: int = 1,
) -> tuple[float, int]:
    """Time `size` dreams in one batch after `warmup` steps; returns frames per second of all, bytes of one cache."""
    steps = warmup + rounds
    # each dream starts at another action, as equal inputs would give equal dreams
    rows_NS = (7 * np.arange(size)[:, None] + np.arange(steps)) % len(actions_TA)
    requests = [
        GenerationRequest(prompt=prompt, steps=steps, actions_SA=actions_TA[rows_S], sampling=sampling, seed=seed)
        for seed, rows_S in enumerate(rows_NS)
    ]
    started = synchronized_time(engine.device)
    for done, _ in enumerate(engine.dream_batch(requests), 1):
        if done == warmup:
            started = synchronized_time(engine.device)
    return size * rounds / (synchronized_time(engine.device) - started), engine.bytes_per_session


def first_prompt(model: ModelDescription) -> tuple[Prompt, NDArray[np.uint8]]:
    """Load the model's first prompt, cut and fitted to it, and the actions of all its prompts, uint8 [T, 16]."""
    folder = prompt_folder(model.folder)
    clips = [load_prompt_file(find_prompt(name, folder)) for name in list_prompts(folder)]
    if not clips:
        raise BadInputError("this installation has no bundled prompt; install the whole package")
    steps = model.config.transformer.context_steps
    size = (model.config.tokenizer.frame_height, model.config.tokenizer.frame_width)
    frames_THWC = np.stack([fit_picture(frame_HWC, size)[0] for frame_HWC in clips[0].frames_THWC[:steps]])
    prompt = Prompt(frames_THWC=frames_THWC, actions_TA=clips[0].actions_TA[: len(frames_THWC) - 1])
    return prompt, np.concatenate([clip.actions_TA for clip in clips])


def synchronized_time(device: object) -> float:
    """Seconds on the clock after all work queued on the device is done."""
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.synchronize(str(device))
    return time.perf_counter()

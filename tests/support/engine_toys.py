"""Prompts and actions for the tiny model, random and repeatable, and an engine that decodes frames in a thread."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from playloom.actions.codec import SLOT_SIZES
from playloom.inference.engine import Engine
from playloom.inference.session import Prompt


def prompt_of(steps: int, seed: int = 0) -> Prompt:
    source = np.random.default_rng(seed)
    actions = np.stack([source.integers(0, n, steps - 1, dtype=np.uint8) for n in SLOT_SIZES], axis=1)
    return Prompt(frames_THWC=source.integers(0, 256, (steps, 16, 24, 3), dtype=np.uint8), actions_TA=actions)


def action(seed: int) -> np.ndarray:
    source = np.random.default_rng(seed)
    return np.array([source.integers(0, n) for n in SLOT_SIZES], np.uint8)


class ThreadedEngine(Engine):
    """Decodes frames in a thread of their own, as with onnxruntime; with `permits` each takes one first."""

    def __init__(self, model, **options):  # type: ignore[no-untyped-def]
        super().__init__(model, **options)
        self._threads = 8
        self.permits: threading.Semaphore | None = None
        true_decode = self.backend.decode

        def decode(codes_TN):  # type: ignore[no-untyped-def]
            assert self.permits is None or self.permits.acquire(timeout=20)
            return true_decode(codes_TN)

        self.backend.decode = decode  # type: ignore[method-assign]

    def executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    def hold_frames(self, steps: int) -> None:
        """Let each frame of `steps` steps wait until the next step has begun."""
        self.permits = permits = threading.Semaphore(0)
        true_step, begun = self.step_async, 0

        def step_async(inputs, **options):  # type: ignore[no-untyped-def]
            nonlocal begun
            begun += 1
            if begun > 1:
                permits.release()
            if begun == steps:
                permits.release()
            return true_step(inputs, **options)

        self.step_async = step_async  # type: ignore[method-assign]

"""Inference service: the model, its scheduler, the request limits and the thread pools that all routes share.

Images are decoded and encoded in the I/O pool; the model runs in the scheduler's thread only.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import anyio
import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.data.prompts import find_prompt, list_prompts, load_prompt, load_prompt_file, prompt_folder
from playloom.device import run_in_temporary_thread
from playloom.errors import BadInputError
from playloom.inference.generate import build_manifest, open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, StepResult
from playloom.media.images import encode_png, from_base64, read_frame
from playloom.provenance import Manifest, frames_hash, stamp
from playloom.server.errors import service_unavailable
from playloom.server.scheduler import Frame, Handle, Progress, Scheduler
from playloom.server.settings import Settings

_T = TypeVar("_T")
_WEIGHT = 0.2  # of the newest request in the running mean of durations
_CACHED_PROMPTS = 8
SEED_END = 2**63  # seeds of requests are below


class RequestLimiter:
    """Limits concurrent requests, first come, first served. Used from one event loop."""

    def __init__(self, slots: int, queue: int, seconds: float) -> None:
        self.slots, self.queue, self.seconds = slots, queue, seconds
        self.running = self.waiting = 0
        self.draining = False  # True while the server is stopping and accepts no new work
        self._free = asyncio.Semaphore(slots)
        self._mean_seconds = 1.0
        self._scopes: set[anyio.CancelScope] = set()
        self._ended = False

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the slots; raise a 503 at once if the queue is full or the server is stopping."""
        self.check_open()
        if self._free.locked() and self.waiting >= self.queue:
            seconds = min(60, math.ceil(self._mean_seconds * max(1, self.waiting) / self.slots))
            raise service_unavailable(f"{self.waiting} requests are waiting already; try again in a while", seconds)
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.running -= 1
            self._mean_seconds += _WEIGHT * (time.monotonic() - began - self._mean_seconds)
            self._free.release()

    @asynccontextmanager
    async def in_time(self, request: Request | None = None) -> AsyncIterator[None]:
        """Cancel the work of a request after a timeout, when its client disconnects, or at `abort_all`."""
        disconnect = asyncio.Event().wait() if request is None else request.receive()  # it comes after the body
        with anyio.move_on_after(self.seconds) as scope:
            watch = asyncio.ensure_future(disconnect)
            watch.add_done_callback(lambda done: None if done.cancelled() else scope.cancel())
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
                disconnected = not watch.cancel()
        if not scope.cancelled_caught:
            return
        if self._ended:
            raise service_unavailable("the server stopped before this was done; try again in a while", 10)
        if disconnected:
            raise HTTPException(499, "the client has disconnected")
        raise HTTPException(504, f"this took longer than {self.seconds:g} seconds; request fewer steps at once")

    def abort_all(self) -> None:
        """Cancel all running requests with a 503."""
        self.draining = self._ended = True
        for scope in self._scopes:
            scope.cancel()

    def check_open(self) -> None:
        """Raise an `HTTPException` 503 if the server accepts no new work."""
        if self.draining:
            raise service_unavailable("the server is stopping and accepts no new work; try again in a while", 10)


class SentImageCache:
    """Tokens and manifests of the newest images sent, by pixel hash; used in the I/O thread only.

    Clients of the hosted endpoint send our images back without tokens; encoding them again would drift and put the
    visible watermark into the context.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._known: OrderedDict[str, tuple[NDArray[np.int32], Manifest]] = OrderedDict()

    def keep(self, marked_HWC: NDArray[np.uint8], codes_N: NDArray[np.int64], manifest: Manifest) -> None:
        """Store an image's tokens and manifest; the least recently used image is dropped above the limit."""
        name = frames_hash(marked_HWC)
        self._known[name] = codes_N.astype(np.int32), manifest
        self._known.move_to_end(name)
        while len(self._known) > self._images:
            self._known.popitem(last=False)

    def find(self, frame_HWC: NDArray[np.uint8]) -> tuple[NDArray[np.int64] | None, Manifest | None]:
        """Return the tokens, int64 [N], and the manifest of an image that was sent; (None, None) for any other."""
        name = frames_hash(frame_HWC)
        if name not in self._known:
            return None, None
        self._known.move_to_end(name)
        codes_N, manifest = self._known[name]
        return codes_N.astype(np.int64), manifest


@dataclass(frozen=True, eq=False)
class ContextStep:
    """One context step of a request: an image, the action after it, and its tokens where they were sent."""

    picture: bytes | str  # a file, or its base64
    where: str  # name of the image in error messages
    action_A: NDArray[np.uint8] | None = None  # None in the last step: sampled
    tokens: Sequence[int] | None = None  # none or empty: not known


class InferenceService:
    """A loaded model with its scheduler, thread pools and limits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = run_in_temporary_thread(
            lambda: open_engine(
                settings.model, device=settings.device, decode_order=settings.decode_order, backend=settings.backend
            )
        )
        self.model, config = self.engine.model, self.engine.model.config
        self.size = config.tokenizer.frame_height, config.tokenizer.frame_width  # (H, W) of the frames
        self.context = config.transformer.context_steps
        # A live session that restarts opens its new session before it closes the old one, hence twice.
        capacity = 2 * settings.max_sessions + settings.max_requests + settings.max_jobs + settings.max_branches
        self.scheduler = Scheduler(self.engine, sessions=capacity, batch=settings.batch)
        self.limiter = RequestLimiter(settings.max_requests, settings.queue, settings.request_seconds)
        self.sent_images = SentImageCache(settings.token_cache_size)
        self.io_pool = ThreadPoolExecutor(1, "playloom-io")
        self.encode_pool = ThreadPoolExecutor(1, "playloom-encode")  # for encodings of seconds
        self.live_pool = ThreadPoolExecutor(1, "playloom-live")  # for encodings of milliseconds, in order
        self._prompts = prompt_folder(self.model.folder)
        self.prompts = list_prompts(self._prompts)
        self.named_prompt = lru_cache(_CACHED_PROMPTS)(self._named_prompt)
        self.prompt_image = lru_cache(_CACHED_PROMPTS)(self._prompt_image)

    def sampling(self, **requested: float | None) -> Sampling:
        """Return sampling parameters: the request's, else the model card's, else the defaults."""
        return Sampling.from_card(self.model.card, **requested)

    def resolve_prompt(self, name: str | None) -> str:
        """Return the name of a prompt of this model, or the first one for None."""
        return self.prompts[0] if name is None else find_prompt(name, self._prompts).stem

    async def prompt(self, context: Sequence[ContextStep], *, stretch: bool = False) -> Prompt:
        """Build a prompt from the last steps that fit the model's context."""
        used = context[-self.context :]
        actions = [step.action_A for step in used[:-1] if step.action_A is not None]
        if len(actions) < len(used) - 1:
            name = next(step.where for step in used if step.action_A is None)
            raise BadInputError(f"{name} has no action; only the last one may leave it to the model")
        frames_THWC, known = await self.decode(used, stretch=stretch)
        codes_TN = await self.known_codes(frames_THWC, known)
        actions_TA = np.stack(actions) if actions else np.zeros((0, len(REST_VALUES)), np.uint8)
        return Prompt(frames_THWC=frames_THWC, actions_TA=actions_TA, codes_TN=codes_TN)

    async def decode(
        self, steps: Sequence[ContextStep], *, stretch: bool = False
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.int64] | None]]:
        """Decode the images of steps as frames, uint8 [T, H, W, 3]; also return the codes that are known of them."""
        decoded = await run_in(self.io_pool, lambda: [self._decode(step, stretch) for step in steps])
        return np.stack([frame_HWC for frame_HWC, _ in decoded]), [known_N for _, known_N in decoded]

    async def known_codes(
        self, frames_THWC: NDArray[np.uint8], known: Sequence[NDArray[np.int64] | None]
    ) -> NDArray[np.int64]:
        """Return the codes of frames, int64 [T, N]; encode those that are None in `known` as one batch."""
        unknown = [index for index, codes_N in enumerate(known) if codes_N is None]
        new = iter(await self.codes(frames_THWC[unknown]) if unknown else ())
        return np.stack([next(new) if codes_N is None else codes_N for codes_N in known])

    async def codes(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Encode frames, uint8 [T, H, W, 3], as one batch on the scheduler thread; return codes, int64 [T, N]."""
        return await await_future(self._encode(frames_THWC))

    async def frame(self, codes_N: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode codes, int64 [N], into a frame, uint8 [H, W, 3], on the scheduler thread."""
        return await await_future(self.scheduler.run(lambda: self.engine.frames(codes_N[None])[0]))

    async def dream(
        self, prompt: Prompt, inputs: Sequence[tuple[NDArray[np.uint8] | None, Frame]], sampling: Sampling, seed: int
    ) -> AsyncGenerator[StepResult, None]:
        """Generate the steps of one session, batched with others; closing the iterator closes the session.

        One step is requested ahead, so that the next frame is generated while the last one is encoded as an image.
        """
        handle = await self.open(prompt, sampling, seed)
        ahead: Future[StepResult] | None = None
        try:
            for action_A, frame in inputs:
                before, ahead = ahead, handle.submit(action_A, frame)
                if before is not None:
                    yield await await_future(before)
            if ahead is not None:
                yield await await_future(ahead)
        finally:
            handle.close()

    async def open(
        self, prompt: Prompt, sampling: Sampling, seed: int, progress: Progress = lambda seen, steps: None
    ) -> Handle:
        """Open a session; a cancelled call closes it."""
        future = self.scheduler.open(prompt, sampling=sampling, seed=seed, progress=progress)
        try:
            return await await_future(future)
        except asyncio.CancelledError:
            if not future.cancel():
                future.add_done_callback(lambda done: None if done.exception() else done.result().close())
            raise

    def manifest(self, prompt: Prompt, sampling: Sampling, seed: int, mode: str) -> Manifest:
        """Build the manifest of a session."""
        return build_manifest(self.engine, prompt.frames_THWC, mode=mode, sampling=sampling, seed=seed, timestamp=True)

    async def png(self, step: StepResult, manifest: Manifest) -> bytes:
        """Encode a step's frame as watermarked PNG and store its tokens in the cache."""
        frame_HWC, codes_N = step.frame_HWC, step.codes_N
        assert frame_HWC is not None and codes_N is not None, "only steps with a frame are encoded"

        def encode() -> bytes:
            made = manifest.at_step(step.index + 1)
            marked_HWC = stamp(frame_HWC)
            png = encode_png(marked_HWC, made)
            self.sent_images.keep(marked_HWC, codes_N, made)
            return png

        return await run_in(self.io_pool, encode)

    def check_steps(self, steps: int) -> None:
        """Raise a `BadInputError` if a request has too many steps."""
        if steps > self.settings.max_steps:
            raise BadInputError(f"too many steps: got {steps:,}, expected at most {self.settings.max_steps} at once")

    def close(self, timeout: float) -> None:
        """Finish running work and accept nothing new."""
        self.scheduler.close(timeout)
        for pool in (self.io_pool, self.encode_pool, self.live_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, step: ContextStep, stretch: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        picture = from_base64(step.picture, step.where) if isinstance(step.picture, str) else step.picture
        pixels = self.settings.picture_pixels
        frame_HWC = read_frame(picture, self.size, where=step.where, pixels=pixels, stretch=stretch)
        known_N = np.array(step.tokens, np.int64) if step.tokens else self.sent_images.find(frame_HWC)[0]
        if known_N is not None:
            slots, codebook = self.model.config.layout.image_slots, self.model.config.layout.vocab.codebook_size
            if len(known_N) != slots or known_N.min() < 0 or known_N.max() >= codebook:
                raise BadInputError(
                    f"the tokens of {step.where} are not of this model: expected {slots} of 0 to {codebook - 1}"
                )
        return frame_HWC, known_N

    def _encode(self, frames_THWC: NDArray[np.uint8]) -> Future[NDArray[np.int64]]:
        rest_TA = np.zeros((len(frames_THWC) - 1, len(REST_VALUES)), np.uint8)
        prompt = Prompt(frames_THWC=frames_THWC, actions_TA=rest_TA)
        return self.scheduler.run(lambda: self.engine.codes(prompt))

    def _named_prompt(self, name: str) -> tuple[Prompt, NDArray[np.uint8], NDArray[np.uint8]]:
        """Load a prompt with the true frames and actions that follow. Runs in the I/O thread."""
        data = load_prompt(find_prompt(name, self._prompts), context=self.context, frame_size=self.size)
        codes_TN = self._encode(data.frames_THWC).result()
        prompt = Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN)
        return prompt, data.true_next_frames_SHWC, data.true_next_actions_SA

    def _prompt_image(self, name: str) -> bytes:
        return encode_png(load_prompt_file(find_prompt(name, self._prompts)).frames_THWC[: self.context][-1])


def run_in(pool: Executor, work: Callable[..., _T], *args: Any) -> Awaitable[_T]:
    """Run in a thread of a pool."""
    return asyncio.get_running_loop().run_in_executor(pool, work, *args)


def resolve_seed(seed: int | None) -> int:
    """Return the seed, or a random one for None."""
    return secrets.randbelow(2**31) if seed is None else seed


async def await_future(future: Future[_T]) -> _T:
    """Await a future of another thread; cancellation leaves that thread's work running."""
    inner = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(inner)
    except asyncio.CancelledError:
        inner.add_done_callback(lambda done: done.cancelled() or done.exception())  # marks the exception as retrieved
        raise

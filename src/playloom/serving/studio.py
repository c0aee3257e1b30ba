"""What all routes share: the model, the broker before it, the limits, and the way from what was sent to a dream.

Owns that nothing slow happens in the event loop, and that one thread alone computes: picture files are read and written
in a side thread, everything of the model's happens in the broker's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.actions import REST_VALUES
from playloom.checkpoint import load_model, model_folder
from playloom.data.moments import find_moment, list_moments, load_moment
from playloom.data.prompts import load_prompt
from playloom.engine import Dreamer, DreamStep, Prompt, Sampling
from playloom.errors import BadInputError
from playloom.media.pictures import encode_png
from playloom.provenance import Manifest
from playloom.provenance.manifest import created_at, frames_hash
from playloom.runtime import in_passing, pick_device
from playloom.serving.broker import Broker, BrokerLimits, Frame, Handle, Progress
from playloom.serving.gate import Gate
from playloom.serving.pictures import marked_png, read_frame
from playloom.serving.remembered import Remembered
from playloom.serving.settings import Settings

_T = TypeVar("_T")
_MOMENTS_KEPT = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One step of a context as it was sent."""

    picture: bytes
    """PNG or JPEG."""
    where: str
    """What to call it in messages."""
    codes_N: NDArray[np.int64] | None = None
    """Its tokens, where they came with it: used in place of encoding the picture."""


class Studio:
    """A model ready to serve."""

    def __init__(self, settings: Settings) -> None:
        """Load the model and start the broker.

        Raises:
            PlayloomError: when the model or the device cannot be used.
        """
        self.settings = settings
        self.dreamer = in_passing(lambda: _dreamer(settings))
        self.model = self.dreamer.model
        # A live session that starts over opens its new dream before it gives up the old one, hence twice.
        room = 2 * settings.sessions + settings.requests + settings.jobs + settings.branches
        self.broker = Broker(self.dreamer, BrokerLimits(sessions=room, batch=settings.batch))
        self.gate = Gate(settings.requests, settings.queue)
        self.remembered = Remembered(settings.remembered_frames)
        self._side = ThreadPoolExecutor(1, "playloom-pictures")
        self._films = ThreadPoolExecutor(1, "playloom-films")
        self._waiters = ThreadPoolExecutor(2 * settings.sessions + 4, "playloom-wait")
        self.moment = lru_cache(_MOMENTS_KEPT)(self._moment)
        self.moment_picture = lru_cache(_MOMENTS_KEPT)(self._moment_picture)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the model's frames."""
        sizes = self.model.config.tokenizer
        return sizes.frame_height, sizes.frame_width

    @property
    def context(self) -> int:
        """Steps the model sees."""
        return self.model.config.transformer.context_steps

    def sampling(
        self, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
    ) -> Sampling:
        """What was asked for, over the model's card, over the defaults."""
        return Sampling.of_card(self.model.card, temperature=temperature, top_k=top_k, top_p=top_p)

    async def side(self, work: Callable[[], _T]) -> _T:
        """Do it in the side thread, after what was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._side, work)

    async def film(self, work: Callable[[], _T]) -> _T:
        """Do what takes seconds, one at a time, beside the side thread."""
        return await asyncio.get_running_loop().run_in_executor(self._films, work)

    async def wait_for(self, work: Callable[[], _T]) -> _T:
        """Do what mostly waits (for the broker, for a session's turn) without holding anything up."""
        return await asyncio.get_running_loop().run_in_executor(self._waiters, work)

    async def prompt(
        self, seen: Sequence[Seen], actions_TA: Sequence[NDArray[np.uint8]], *, stretch: bool = False, steps: int = 10
    ) -> Prompt:
        """A prompt of the last `steps` of what was sent, as far as the model's context goes.

        Args:
            seen: all steps sent, in order.
            actions_TA: the actions between them, one less.
            stretch: see `playloom.serving.pictures.read_frame`.
            steps: how many of them count.

        Raises:
            PictureError: when one of those used is no picture.
            BadInputError: when tokens are none of this model's.
        """
        used = min(steps, self.context, len(seen))
        seen, actions_TA = seen[len(seen) - used :], actions_TA[len(actions_TA) - used + 1 :]
        frames: list[NDArray[np.uint8]] = []
        codes: list[NDArray[np.int64]] = []
        for step in seen:  # one at a time, so that requests take turns
            frame_HWC, known_N = await self.side(lambda step=step: self._look(step, stretch))  # type: ignore[misc]
            frames.append(frame_HWC)
            codes.append(await self.codes(frame_HWC) if known_N is None else known_N)
        actions = np.stack(actions_TA) if actions_TA else np.zeros((0, len(REST_VALUES)), np.uint8)
        return Prompt(frames_THWC=np.stack(frames), actions_TA=actions, codes_TN=np.stack(codes))

    async def codes(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """A frame's tokens, int64 [N]; encoded between two frames of others' dreams."""
        return await waited(self._encode(frame_HWC))

    async def frame(self, codes_N: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frame that tokens stand for, uint8 [H, W, 3]; decoded between two frames of others' dreams."""
        return await waited(self.broker.run(lambda: self.dreamer.frames(codes_N[None])[0]))

    async def dream(
        self,
        prompt: Prompt,
        turns: Sequence[tuple[NDArray[np.uint8] | None, Frame]],
        sampling: Sampling,
        seed: int,
    ) -> AsyncGenerator[DreamStep, None]:
        """Steps of one dream, batched with everybody's; its session is given back when the iterator is closed.

        One step is asked for ahead, so that the next frame is dreamed while what came is written as a picture.
        """
        handle = await self.open(prompt, sampling, seed)
        ahead: Future[DreamStep] | None = None
        try:
            for action_A, frame in turns:
                before, ahead = ahead, handle.submit(action_A, frame)
                if before is not None:
                    yield await waited(before)
            if ahead is not None:
                yield await waited(ahead)
        finally:
            handle.close()

    async def open(
        self, prompt: Prompt, sampling: Sampling, seed: int, progress: Progress = lambda seen, steps: None
    ) -> Handle:
        """A session of the broker; given back when nobody waits for it any more."""
        future = self.broker.open_async(prompt, sampling=sampling, seed=seed, progress=progress)
        try:
            return await waited(future)
        except asyncio.CancelledError:
            if not future.cancel():
                future.add_done_callback(_give_back)
            raise

    def manifest(self, prompt: Prompt, sampling: Sampling, seed: int, mode: str) -> Manifest:
        """What every picture of a dream says about itself."""
        lag = self.dreamer.schedule.lag
        return Manifest(
            model=self.model.config.name,
            weights=self.model.fingerprint,
            seed=seed,
            mode=mode,
            sampling=sampling.to_dict(),
            order="raster" if lag == self.model.config.layout.grid_width else f"row lag {lag}",
            parent=frames_hash(prompt.frames_THWC),
            created=created_at(),
        )

    async def png(self, step: DreamStep, manifest: Manifest, number: int) -> bytes:
        """A step's frame as a marked PNG, remembered for when it comes back."""
        frame_HWC, codes_N = step.frame_HWC, step.codes_N
        assert frame_HWC is not None and codes_N is not None, "called for steps that dreamed a frame"

        def encode() -> bytes:
            made = manifest.at_step(number)
            png, marked_HWC = marked_png(frame_HWC, made)
            self.remembered.keep(marked_HWC, codes_N, made)
            return png

        return await self.side(encode)

    async def in_time(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What a request's work gives, within the time that a request may take.

        Raises:
            Refusal: 504 when it takes longer, 503 when the server ends first.
        """
        return await self.gate.within(work, self.settings.request_seconds)

    def check_steps(self, steps: int) -> None:
        """Refuse more steps than one request may ask for.

        Raises:
            BadInputError: names the limit.
        """
        if steps > self.settings.steps:
            raise BadInputError(f"{steps:,} steps were asked for; at most {self.settings.steps} at once")

    def close(self, timeout: float) -> None:
        """Finish what the broker has begun, take nothing new."""
        self.broker.close(timeout)
        for pool in (self._side, self._films, self._waiters):
            pool.shutdown(wait=False, cancel_futures=True)

    def _look(self, step: Seen, stretch: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """In the side thread: a step's frame, and its tokens where they are known."""
        limit = self.settings.picture_pixels
        frame_HWC = read_frame(step.picture, self.size, where=step.where, pixels=limit, stretch=stretch)
        known_N = step.codes_N if step.codes_N is not None else self.remembered.codes(frame_HWC)
        if known_N is None:
            return frame_HWC, None
        layout = self.model.config.layout
        slots, codebook = layout.grid_height * layout.grid_width, layout.vocab.codebook_size
        if len(known_N) != slots or known_N.min() < 0 or known_N.max() >= codebook:
            raise BadInputError(
                f"the tokens of {step.where} are none of this model's; expected {slots} of 0 to {codebook - 1}"
            )
        return frame_HWC, known_N

    def _encode(self, frame_HWC: NDArray[np.uint8]) -> Future[NDArray[np.int64]]:
        """A future of a frame's tokens, int64 [N]; encoded between two frames of others' dreams."""
        alone = Prompt(frames_THWC=frame_HWC[None], actions_TA=np.zeros((0, len(REST_VALUES)), np.uint8))
        return self.broker.run(lambda: self.dreamer.codes(alone)[0])

    def _moment(self, name: str) -> tuple[Prompt, NDArray[np.uint8], NDArray[np.uint8]]:
        """In the side thread: a bundled moment as a prompt, then the true frames and actions that follow."""
        find_moment(name)
        data = load_prompt(f"moment:{name}", context=self.context, frame_size=self.size)
        codes_TN = np.stack([self._encode(frame_HWC).result() for frame_HWC in data.frames_THWC])
        prompt = Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN)
        return prompt, data.true_next_frames_SHWC, data.true_next_actions_SA

    def _moment_picture(self, name: str) -> bytes:
        """In the side thread: the last real frame of a moment's prompt, as PNG."""
        return encode_png(load_moment(find_moment(name)).frames_THWC[self.context - 1])


def _dreamer(settings: Settings) -> Dreamer:
    model = load_model(model_folder(settings.model), pick_device(settings.device))
    return Dreamer(model, lag=settings.lag or model.card.get("lag"))


def pick_seed(asked: int | None) -> int:
    """The seed asked for, or any."""
    return secrets.randbelow(2**31) if asked is None else asked


def pick_moment(name: str | None) -> str:
    """The moment asked for, or the first.

    Raises:
        BadInputError: when none is bundled.
        RecordingError: when there is none of that name.
    """
    names = list_moments()
    if name is None and not names:
        raise BadInputError("this installation bundles no moment; send a picture to begin from")
    chosen = names[0] if name is None else name
    find_moment(chosen)
    return chosen


async def waited(future: Future[_T]) -> _T:
    """What another thread's future gives. Left alone when the one who waits is cancelled: that thread goes on."""
    inner = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(inner)
    except asyncio.CancelledError:
        inner.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else will look at it
        raise


def _give_back(future: Future[Handle]) -> None:
    if future.exception() is None:
        future.result().close()

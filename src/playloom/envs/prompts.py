"""Where episodes may begin: whatever the user points at, as prompts that are read when they are needed.

Owns how a list of such things is taken apart. What one of them is, `data.prompts` says.

Sessions at the start of their episodes, cheaply: each prompt is encoded and seen once, then forked.

Owns the warmed sessions, of which a bounded number is kept: those that were asked for last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import INDEX, FrameDataset
from playloom.data.prompts import BUNDLED_PREFIX, list_prompts, load_prompt
from playloom.data.recording import Episode
from playloom.data.sampler import alive_spans
from playloom.errors import BadInputError, RecordingError
from playloom.inference.engine import Engine, Session
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel

One: TypeAlias = str | Path | Prompt | FrameDataset
"""Anything `load_prompt` knows, a prompt, or a frame store (or its folder), of which every window is one."""
Prompts: TypeAlias = One | Sequence[One] | None
"""One or more of them; None: every bundled prompt."""


class Source(Protocol):
    """A prompt that can be read."""

    def read(self) -> tuple[Prompt, bool]:
        """The prompt, and whether its last frame was dreamed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """A prompt that is there already."""

    prompt: Prompt
    """Where the episode begins."""
    dreamed: bool = False
    """Whether its last frame was dreamed."""

    def read(self) -> tuple[Prompt, bool]:
        """See `Source`."""
        return self.prompt, self.dreamed


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Consecutive steps of a frame store; its pictures stay on disk until they are wanted."""

    store: FrameDataset
    """Where it lies."""
    first: int
    """Its first row."""
    steps: int
    """How many rows."""

    def read(self) -> tuple[Prompt, bool]:
        """See `Source`."""
        rows = slice(self.first, self.first + self.steps)
        frames_THWC: NDArray[np.uint8] = np.array(self.store.frames_FHWC[rows])
        return Prompt(frames_THWC=frames_THWC, actions_TA=np.array(self.store.actions_FA[rows])[:-1]), False


def sources_of(prompts: Prompts, model: WorldModel) -> list[Source]:
    """All beginnings there are, in the order given.

    Raises:
        BadInputError: when there is none.
        PictureError: when pictures are of another size than the model's.
        PlayloomError: when one of them cannot be read.
    """
    if prompts is None:
        prompts = [f"{BUNDLED_PREFIX}{name}" for name in list_prompts()]
    several = prompts if isinstance(prompts, Iterable) and not isinstance(prompts, str) else [prompts]
    found = [source for one in several for source in _sources(one, model)]
    if not found:
        raise BadInputError("there is no prompt to begin from; name a picture, a recording, or a bundled prompt")
    return found


def _sources(one: One, model: WorldModel) -> list[Source]:
    if isinstance(one, Prompt):
        model.tokenizer.check_size(torch.as_tensor(one.frames_THWC))
        return [Ready(prompt=one)]
    if isinstance(one, FrameDataset):
        return _windows(one, model)
    if isinstance(one, str | Path):
        folder = Path(one)
        return _windows(FrameDataset.open(folder), model) if (folder / INDEX).is_file() else [_named(one, model)]
    raise BadInputError(f"a prompt is a name, a path, a Prompt or a FrameStore; got {type(one).__name__}")


def _windows(store: FrameDataset, model: WorldModel) -> list[Source]:
    """Back-to-back windows of the model's context, in every episode; none in which the player is dead."""
    steps = model.config.transformer.context_steps
    model.tokenizer.check_size(torch.zeros((1, *store.frames_FHWC.shape[1:]), dtype=torch.uint8))
    spans = alive_spans(store.spans, store.column("dead")) if "dead" in store.state_columns else store.spans
    found: list[Source] = [
        Window(store=store, first=span.start + offset, steps=steps)
        for span in spans
        for offset in range(0, span.length - steps + 1, steps)
    ]
    if not found:
        raise RecordingError(f"{store.folder} has no episode of {steps} steps or more, which is the model's context")
    return found


def _named(spec: str | Path, model: WorldModel) -> Source:
    sizes = model.config.tokenizer
    data = load_prompt(
        spec,
        context=model.config.transformer.context_steps,
        frame_size=(sizes.frame_height, sizes.frame_width),
        horizon=0,
        render=_render,
    )
    codes_TN = data.codes_TN if data.weights == model.fingerprint else None
    prompt = Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN)
    return Ready(prompt=prompt, dreamed=data.dreamed_T is not None and bool(data.dreamed_T[-1]))


def _render(episode: Episode) -> Iterator[NDArray[Any]]:
    from playloom.games.arena.env import render_episode

    return render_episode(episode)


KEPT = 16
"""Warmed sessions that are kept; each holds a cache of `Engine.bytes_per_session`."""


class InitialState(NamedTuple):
    """A prompt that has been seen."""

    session: Session
    """Only ever forked, never stepped."""
    frame_HWC: NDArray[np.uint8]
    """The prompt's last frame, uint8 [H, W, 3]."""
    codes_N: NDArray[np.int64]
    """Its codes."""
    dreamed: bool
    """Whether that frame was dreamed."""


class Beginnings:
    """Opens dreams on prompts, by number."""

    def __init__(self, dreamer: Engine, sources: Sequence[Source], sampling: Sampling, kept: int = KEPT) -> None:
        self._dreamer, self._sources, self._sampling, self._kept = dreamer, sources, sampling, kept
        self._warm: OrderedDict[int, InitialState] = OrderedDict()
        self._codes: dict[int, NDArray[np.int32]] = {}  # of every prompt that was ever asked for: a few kilobytes each

    def __len__(self) -> int:
        return len(self._sources)

    def begin(self, index: int, seed: int) -> tuple[Session, InitialState]:
        """A session of its own on prompt `index`, with that seed; and the prompt.

        Raises:
            ResourceError: when there is no memory for it.
        """
        found = self._warm.get(index)
        if found is None:
            found = self._warm[index] = self._open(index)
        self._warm.move_to_end(index)
        session = found.session.fork(seed)
        while len(self._warm) > self._kept:
            self._warm.popitem(last=False)[1].session.close()
        return session, found

    def close(self) -> None:
        """Give the memory of all warmed sessions back; they are warmed again when they are asked for."""
        while self._warm:
            self._warm.popitem()[1].session.close()

    def _open(self, index: int) -> InitialState:
        prompt, dreamed = self._sources[index].read()
        prompt = prompt.last(self._dreamer.model.config.transformer.context_steps)
        if index not in self._codes:
            self._codes[index] = self._dreamer.codes(prompt).astype(np.int32)
        codes_TN = self._codes[index].astype(np.int64)
        known = Prompt(frames_THWC=prompt.frames_THWC, actions_TA=prompt.actions_TA, codes_TN=codes_TN)
        session = self._dreamer.open(known, sampling=self._sampling)
        return InitialState(session, prompt.frames_THWC[-1].copy(), codes_TN[-1], dreamed)

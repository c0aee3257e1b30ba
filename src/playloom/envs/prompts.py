"""Initial states of episodes: prompts from any source, and prefilled sessions to fork."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import INDEX, FrameDataset
from playloom.data.prompts import BUNDLED_PREFIX, list_prompts, load_prompt
from playloom.data.recording import Episode
from playloom.data.sampler import alive_spans
from playloom.errors import BadInputError, RecordingError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Session
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel

PromptLike: TypeAlias = str | Path | Prompt | FrameDataset
"""Anything `load_prompt` takes, a prompt, or a frame dataset (or its folder), of which every window is one."""
Prompts: TypeAlias = PromptLike | Sequence[PromptLike] | None
"""One or more of them; None: every bundled prompt."""
KEPT = 16
"""Prefilled sessions in memory; each holds a cache of `Engine.bytes_per_session`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedPrompt:
    """A prompt in memory."""

    prompt: Prompt
    generated: bool = False
    """True if its last frame was generated."""

    def read(self) -> LoadedPrompt:
        """Return itself."""
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Consecutive steps of a frame dataset, read on demand."""

    dataset: FrameDataset
    first: int
    """First row."""
    steps: int
    """Number of rows."""

    def read(self) -> LoadedPrompt:
        """Read the rows as a prompt."""
        rows = slice(self.first, self.first + self.steps)
        frames_THWC: NDArray[np.uint8] = np.array(self.dataset.frames_FHWC[rows])
        return LoadedPrompt(
            prompt=Prompt(frames_THWC=frames_THWC, actions_TA=np.array(self.dataset.actions_FA[rows])[:-1])
        )


PromptSource: TypeAlias = LoadedPrompt | Window


def prompt_sources(prompts: Prompts, model: WorldModel) -> list[PromptSource]:
    """Return all prompts, in the order given."""
    if prompts is None:
        prompts = [f"{BUNDLED_PREFIX}{name}" for name in list_prompts()]
    several = prompts if isinstance(prompts, Iterable) and not isinstance(prompts, str) else [prompts]
    found = [source for one in several for source in _sources(one, model)]
    if not found:
        raise BadInputError("there is no prompt to begin from: name a picture, a recording or a bundled prompt")
    return found


def _sources(one: PromptLike, model: WorldModel) -> Sequence[PromptSource]:
    if isinstance(one, Prompt):
        model.tokenizer.check_size(torch.as_tensor(one.frames_THWC))
        return [LoadedPrompt(prompt=one)]
    if isinstance(one, FrameDataset):
        return _windows(one, model)
    if isinstance(one, str | Path):
        folder = Path(one)
        return _windows(FrameDataset.open(folder), model) if (folder / INDEX).is_file() else [_named(one, model)]
    raise BadInputError(f"the prompt is a {type(one).__name__}: expected a name, a path, a Prompt or a FrameDataset")


def _windows(dataset: FrameDataset, model: WorldModel) -> list[Window]:
    """Back-to-back windows of the model's context, in every episode, without dead steps."""
    steps = model.config.transformer.context_steps
    model.tokenizer.check_size(torch.zeros((1, *dataset.frames_FHWC.shape[1:]), dtype=torch.uint8))
    has_dead = "dead" in dataset.state_columns
    spans = alive_spans(dataset.spans, dataset.column("dead")) if has_dead else dataset.spans
    found = [
        Window(dataset=dataset, first=span.start + offset, steps=steps)
        for span in spans
        for offset in range(0, span.length - steps + 1, steps)
    ]
    if not found:
        raise RecordingError(f"{dataset.folder} has no episode of {steps} steps or more, which is the model's context")
    return found


def _named(spec: str | Path, model: WorldModel) -> LoadedPrompt:
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
    return LoadedPrompt(prompt=prompt, generated=data.dreamed_T is not None and bool(data.dreamed_T[-1]))


def _render(episode: Episode) -> Iterator[NDArray[Any]]:
    from playloom.games.arena.env import render_episode

    return render_episode(episode)


class InitialState(NamedTuple):
    """A prefilled prompt."""

    session: Session
    """Forked, never stepped."""
    frame_HWC: NDArray[np.uint8]
    """The prompt's last frame, uint8 [H, W, 3]."""
    codes_N: NDArray[np.int64]
    """Codes of that frame."""
    generated: bool
    """True if that frame was generated."""


class InitialStates:
    """Sessions on prompts by number. Each prompt is prefilled once, then forked; the last used ones are kept."""

    def __init__(self, engine: Engine, sources: Sequence[PromptSource], sampling: Sampling, kept: int = KEPT) -> None:
        self._engine, self._sources, self._sampling, self._kept = engine, sources, sampling, kept
        self._prefilled: OrderedDict[int, InitialState] = OrderedDict()
        self._codes: dict[int, NDArray[np.int32]] = {}  # of every prompt that was used: a few kilobytes each

    def __len__(self) -> int:
        return len(self._sources)

    def begin(self, index: int, seed: int) -> tuple[Session, InitialState]:
        """Return a new session on prompt `index`, with that seed, and the prompt."""
        state = self._prefilled.get(index) or self._prefill(index)
        self._prefilled[index] = state
        self._prefilled.move_to_end(index)
        session = state.session.fork(seed)
        while len(self._prefilled) > self._kept:
            self._prefilled.popitem(last=False)[1].session.close()
        return session, state

    def close(self) -> None:
        """Free the memory of all prefilled sessions; they are prefilled again on demand."""
        while self._prefilled:
            self._prefilled.popitem()[1].session.close()

    def _prefill(self, index: int) -> InitialState:
        loaded = self._sources[index].read()
        prompt = loaded.prompt.last(self._engine.model.config.transformer.context_steps)
        if index not in self._codes:
            self._codes[index] = self._engine.codes(prompt).astype(np.int32)
        codes_TN = self._codes[index].astype(np.int64)
        session = self._engine.open(replace(prompt, codes_TN=codes_TN), sampling=self._sampling)
        return InitialState(session, prompt.frames_THWC[-1].copy(), codes_TN[-1], loaded.generated)

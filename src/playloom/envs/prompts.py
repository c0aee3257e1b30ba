"""Initial states of episodes: prompts from any source, and prefilled sessions to fork."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import INDEX, FrameDataset
from playloom.data.prompts import check_prompt, find_prompt, list_prompts, load_prompt, prompt_folder
from playloom.data.sampler import alive_spans
from playloom.errors import BadInputError, RecordingError
from playloom.games import render
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, Session
from playloom.models.folder import ModelDescription

PromptLike: TypeAlias = str | Path | Prompt | FrameDataset
"""Anything `load_prompt` takes, a prompt, or a frame dataset (or its folder), of which every window is one."""
Prompts: TypeAlias = PromptLike | Sequence[PromptLike] | None
"""One or more of them; None: the model's own prompts, else the bundled ones."""
KEPT = 16  # prefilled sessions in memory; each holds a cache of `Engine.bytes_per_session`


PromptSource: TypeAlias = Callable[[], tuple[Prompt, bool]]
"""Reads a prompt, and True if its last frame was generated."""


def prompt_sources(prompts: Prompts, model: ModelDescription, split: str | None = None) -> list[PromptSource]:
    """Return all prompts, in the order given; of datasets only the episodes of `split`, if one is named."""
    if prompts is None:
        folder = prompt_folder(model.folder)
        prompts = [find_prompt(name, folder) for name in list_prompts(folder)]
    several = prompts if isinstance(prompts, Iterable) and not isinstance(prompts, str) else [prompts]
    found = [source for one in several for source in _sources(one, model, split)]
    if not found:
        raise BadInputError("there is no prompt to begin from: name a picture, a recording or a bundled prompt")
    return found


def _sources(one: PromptLike, model: ModelDescription, split: str | None) -> Sequence[PromptSource]:
    if isinstance(one, str | Path) and (check_prompt(one, model.folder) / INDEX).is_file():
        one = FrameDataset.open(Path(one))
    if isinstance(one, FrameDataset):
        return _windows(one, model, split)
    if split is not None:
        name = one if isinstance(one, str | Path) else type(one).__name__
        raise BadInputError(f"the prompt {name} is no dataset: expected one, since split is {split!r}")
    if isinstance(one, Prompt):
        model.config.tokenizer.check_size(one.frames_THWC)
        return [lambda: (one, False)]
    if isinstance(one, str | Path):
        return [_named(one, model)]
    raise BadInputError(f"the prompt is a {type(one).__name__}: expected a name, a path, a Prompt or a FrameDataset")


def _windows(dataset: FrameDataset, model: ModelDescription, split: str | None) -> list[PromptSource]:
    """Back-to-back windows of the model's context, in every episode, without dead steps."""
    steps = model.config.transformer.context_steps
    model.config.tokenizer.check_size(dataset.frames_FHWC[:1])
    spans = dataset.spans if split is None else dataset.of_split(split)
    if not spans:
        known = sorted({str(span.meta.get("split")) for span in dataset.spans})
        raise BadInputError(f"{dataset.folder} has no episode of split {split!r}: expected {' or '.join(known)}")
    found: list[PromptSource] = [
        partial(_read_rows, dataset, slice(span.start + offset, span.start + offset + steps))
        for span in alive_spans(dataset, spans)
        for offset in range(0, span.length - steps + 1, steps)
    ]
    if not found:
        raise RecordingError(f"{dataset.folder} has no episode of {steps} steps or more, which is the model's context")
    return found


def _read_rows(dataset: FrameDataset, rows: slice) -> tuple[Prompt, bool]:
    frames_THWC, actions_TA = np.array(dataset.frames_FHWC[rows]), np.array(dataset.actions_FA[rows])
    return Prompt(frames_THWC=frames_THWC, actions_TA=actions_TA[:-1]), False


def _named(spec: str | Path, model: ModelDescription) -> PromptSource:
    sizes = model.config.tokenizer
    data = load_prompt(
        spec,
        context=model.config.transformer.context_steps,
        frame_size=(sizes.frame_height, sizes.frame_width),
        horizon=0,
        render=render,
        model=model.folder,
    )
    codes_TN = data.codes_TN if data.weights == model.fingerprint else None
    prompt = Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN)
    generated = data.dreamed_T is not None and bool(data.dreamed_T[-1])
    return lambda: (prompt, generated)


class InitialState(NamedTuple):
    """A prefilled prompt."""

    session: Session  # forked, never stepped
    frame_HWC: NDArray[np.uint8]  # the prompt's last frame, uint8 [H, W, 3]
    codes_N: NDArray[np.int64]  # codes of that frame
    generated: bool  # true if that frame was generated


class InitialStates:
    """Sessions on prompts by number. Each prompt is prefilled once, then forked; the last used ones are kept."""

    def __init__(self, engine: Engine, sources: Sequence[PromptSource], sampling: Sampling) -> None:
        self._engine, self._sources, self._sampling = engine, sources, sampling
        self._prefilled: OrderedDict[int, InitialState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sources)

    def begin(self, index: int, seed: int) -> tuple[Session, InitialState]:
        """Return a new session on prompt `index`, with that seed, and the prompt."""
        if index not in self._prefilled:
            prompt, generated = self._sources[index]()
            prompt = prompt.last(self._engine.model.config.transformer.context_steps)
            codes_TN = self._engine.codes(prompt)
            prefilled = self._engine.open(replace(prompt, codes_TN=codes_TN), sampling=self._sampling)
            self._prefilled[index] = InitialState(prefilled, prompt.frames_THWC[-1].copy(), codes_TN[-1], generated)
        self._prefilled.move_to_end(index)
        state = self._prefilled[index]
        session = state.session.fork(seed)
        while len(self._prefilled) > KEPT:
            self._prefilled.popitem(last=False)[1].session.close()
        return session, state

    def close(self) -> None:
        """Free the memory of all prefilled sessions; they are prefilled again on demand."""
        while self._prefilled:
            self._prefilled.popitem()[1].session.close()

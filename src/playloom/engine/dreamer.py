"""Dreaming on from a prompt: three modes, one loop over what is given and what is dreamed.

    dreamer = Dreamer(load_model(folder))
    for step in dreamer.dream(prompt, mode="world", steps=10, actions_SA=held):
        show(step.frame_HWC)

Frames leave unmarked: marking is the exits' business, so that the mark never enters a context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.checkpoint import Model
from playloom.engine.context import Context
from playloom.engine.runners import CachedRunner, NaiveRunner
from playloom.engine.sampling import Sampling
from playloom.errors import BadInputError
from playloom.runtime import generator
from playloom.sequence import schedule

Mode = Literal["world", "policy", "full"]
"""`world`: actions given, frames dreamed. `policy`: frames given, actions dreamed. `full`: both dreamed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Real steps to dream on from; the last one is open: seen, not yet answered.

    Raises:
        BadInputError: when there is no frame, or not one action less than frames.
    """

    frames_THWC: NDArray[np.uint8]
    """Frames, uint8 [T, H, W, 3], RGB."""
    actions_TA: NDArray[np.uint8]
    """Action values, uint8 [T - 1, 16]: the action after every frame but the last."""
    codes_TN: NDArray[np.int64] | None = None
    """The frames' codes where they are known (a dreamed frame carries its own); None: encode the frames."""

    def __post_init__(self) -> None:
        frames, actions = len(self.frames_THWC), len(self.actions_TA)
        if frames < 1 or actions != frames - 1:
            raise BadInputError(
                f"a prompt of {frames} frames needs {max(frames - 1, 0)} actions between; got {actions}"
            )
        check_values(np.asarray(self.actions_TA).reshape(actions, -1) if actions else np.zeros((0, 16)))

    def last(self, steps: int) -> Prompt:
        """Only the last `steps` frames and the actions between them."""
        codes = None if self.codes_TN is None else self.codes_TN[-steps:]
        actions = self.actions_TA[len(self.actions_TA) - min(steps, len(self.frames_THWC)) + 1 :]
        return Prompt(frames_THWC=self.frames_THWC[-steps:], actions_TA=actions, codes_TN=codes)


@dataclass(frozen=True, kw_only=True, eq=False)
class DreamRequest:
    """One dream. What is given is given; the rest is dreamed.

    Raises:
        BadInputError: when the mode and what is given do not fit.
    """

    prompt: Prompt
    """Where the dream begins."""
    mode: Mode = "world"
    """What is given and what is dreamed."""
    steps: int = 10
    """How many steps to go on."""
    actions_SA: NDArray[np.uint8] | None = None
    """`world`: the action of every step, uint8 [steps, 16]. `full`: forced actions of the first steps, if any."""
    frames_SHWC: NDArray[np.uint8] | None = None
    """`policy`: the true frames that follow, at least steps - 1 of them."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are drawn."""
    seed: int = 0
    """Same request, same seed: same tokens."""

    def __post_init__(self) -> None:
        if self.mode not in ("world", "policy", "full"):
            raise BadInputError(f"unknown mode {self.mode!r}; choose world, policy or full")
        if self.steps < 1:
            raise BadInputError(f"steps is {self.steps}; expected 1 or more")
        actions = 0 if self.actions_SA is None else len(check_values(self.actions_SA))
        if self.mode == "world" and actions < self.steps:
            raise BadInputError(f"world mode needs an action for each of {self.steps} steps; got {actions}")
        frames = 0 if self.frames_SHWC is None else len(self.frames_SHWC)
        if self.mode == "policy" and frames < self.steps - 1:
            raise BadInputError(
                f"policy mode over {self.steps} steps needs {self.steps - 1} frames that follow; got {frames}"
            )

    def action(self, index: int) -> NDArray[np.uint8] | None:
        """The given action of a step, None where it is to be dreamed."""
        if self.mode == "policy" or self.actions_SA is None or index >= len(self.actions_SA):
            return None
        return self.actions_SA[index]

    def frame(self, index: int) -> NDArray[np.uint8] | None:
        """The given frame that follows a step, None where it is to be dreamed (or, in policy mode, is the last)."""
        if self.mode != "policy" or self.frames_SHWC is None or index >= len(self.frames_SHWC):
            return None
        return self.frames_SHWC[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class DreamStep:
    """One step of a dream: the action taken, and the frame that followed."""

    index: int
    """Step number from 0."""
    action_A: NDArray[np.uint8]
    """Action values, uint8 [16]."""
    action_given: bool
    """Whether the action was given, not dreamed."""
    frame_HWC: NDArray[np.uint8] | None
    """The frame after the action, uint8 [H, W, 3]; None after the last action of policy mode."""
    codes_N: NDArray[np.int64] | None
    """The frame's codes: go on from these, not from the picture."""


class Dreamer:
    """A model that dreams on from prompts."""

    def __init__(self, model: Model, *, lag: int | None = None, naive: bool = False) -> None:
        """A dreamer over a loaded model.

        Args:
            model: see `playloom.checkpoint.load_model`.
            lag: row lag of the decoding order (see `playloom.sequence.schedule`); None: raster.
            naive: decode without a cache; slow, for judging the cached decoder.

        Raises:
            ConfigError: when the model cannot decode in that order.
        """
        self.model, self.naive = model, naive
        self.layout = model.config.layout
        self.schedule = schedule(self.layout, lag)

    def dream(
        self,
        prompt: Prompt,
        *,
        mode: Mode = "world",
        steps: int = 10,
        actions_SA: NDArray[np.uint8] | None = None,
        frames_SHWC: NDArray[np.uint8] | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Iterator[DreamStep]:
        """One dream, step by step; the arguments are the fields of `DreamRequest`."""
        request = DreamRequest(
            prompt=prompt,
            mode=mode,
            steps=steps,
            actions_SA=actions_SA,
            frames_SHWC=frames_SHWC,
            sampling=sampling or Sampling(),
            seed=seed,
        )
        for (step,) in self.dream_batch([request]):
            yield step

    def dream_batch(self, requests: Sequence[DreamRequest]) -> Iterator[list[DreamStep]]:
        """Dreams that advance together, each as it would alone; yields one step of every dream at a time.

        Raises:
            BadInputError: when mode, steps, number of given actions or prompt length differ between the requests.
        """
        shapes = {
            (r.mode, r.steps, r.actions_SA is None or len(r.actions_SA), len(r.prompt.frames_THWC)) for r in requests
        }
        if len(shapes) != 1:
            raise BadInputError("dreams of one batch need the same mode, steps, given actions and prompt length")
        return self._dream(requests)

    @torch.inference_mode()
    def _dream(self, requests: Sequence[DreamRequest]) -> Iterator[list[DreamStep]]:
        context = self._open(requests)
        for index in range(requests[0].steps):
            given = [r.action(index) for r in requests]
            actions_BA = self._act(context, given)
            frames, codes = self._see(context, requests, index)
            yield [
                DreamStep(
                    index=index,
                    action_A=actions_BA[b],
                    action_given=given[b] is not None,
                    frame_HWC=None if frames is None else frames[b],
                    codes_N=None if codes is None else codes[b],
                )
                for b in range(len(requests))
            ]

    def _open(self, requests: Sequence[DreamRequest]) -> Context:
        runner = (
            NaiveRunner(self.model.transformer, self.layout, self.schedule)
            if self.naive
            else CachedRunner(self.model.transformer, self.layout, self.schedule, len(requests))
        )
        context = Context(
            self.model.transformer,
            self.layout,
            self.schedule,
            runner,
            [r.sampling for r in requests],
            [generator(r.seed) for r in requests],
        )
        prompts = [r.prompt.last(self.model.config.transformer.context_steps) for r in requests]
        codes_BTN = torch.stack([torch.as_tensor(self.codes(p)) for p in prompts])
        actions_BTA = torch.as_tensor(np.stack([p.actions_TA for p in prompts]).astype(np.int64))
        for step in range(codes_BTN.shape[1]):
            context.give_frame(codes_BTN[:, step])
            if step < actions_BTA.shape[1]:
                context.give_action(actions_BTA[:, step])
        return context

    @torch.inference_mode()
    def codes(self, prompt: Prompt) -> NDArray[np.int64]:
        """The codes of a prompt's frames, int64 [T, N]: its own where it brings them, else encoded now."""
        if prompt.codes_TN is not None:
            return prompt.codes_TN.astype(np.int64)
        return self.model.tokenizer.encode(torch.as_tensor(np.ascontiguousarray(prompt.frames_THWC))).cpu().numpy()

    def _act(self, context: Context, given: list[NDArray[np.uint8] | None]) -> NDArray[np.uint8]:
        if given[0] is None:
            return context.dream_action().cpu().numpy().astype(np.uint8)
        values_BA = np.stack([action for action in given if action is not None])
        context.give_action(torch.as_tensor(values_BA.astype(np.int64)))
        return values_BA

    def _see(
        self, context: Context, requests: Sequence[DreamRequest], index: int
    ) -> tuple[NDArray[np.uint8] | None, NDArray[np.int64] | None]:
        """Frames and codes after this step's action: given, dreamed, or None at the end of policy mode."""
        if requests[0].mode == "policy":
            given = [r.frame(index) for r in requests]
            if any(frame is None for frame in given):
                return None, None
            frames = np.stack([frame for frame in given if frame is not None])
            codes_BN = self.model.tokenizer.encode(torch.as_tensor(frames)).cpu()
            context.give_frame(codes_BN)
            return frames, codes_BN.numpy()
        codes_BN = context.dream_frame()
        return self.model.tokenizer.decode(codes_BN).cpu().numpy(), codes_BN.cpu().numpy()

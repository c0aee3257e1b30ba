"""The single environment, and the parts that it shares with the batched one: episodes, rewards, batched steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, REST_VALUES
from playloom.device import pick_device
from playloom.envs.actions import Actions, make_action_mapper
from playloom.envs.prompts import InitialStates, Prompts, prompt_sources
from playloom.errors import ActionError, BadInputError, ConfigError
from playloom.inference.backend import BackendName
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Session, StepInput, StepResult
from playloom.models.decode_order import DecodeOrder
from playloom.models.folder import model_folder
from playloom.models.heads import StepPrediction, unknown_prediction
from playloom.provenance import stamp

Info = dict[str, Any]
AnyModel: TypeAlias = str | Path | Engine | None
"""A bundled model's name, a folder, or an engine, which may have other users; None: the first bundled model."""
_ENGINES: WeakValueDictionary[tuple[object, ...], Engine] = WeakValueDictionary()
"""Engines loaded here, shared by environments of the same settings; an entry goes with its last environment."""
PROMPT_OPTION = "prompt"  # option of `reset` that chooses the prompt by its number


@dataclass(frozen=True, kw_only=True, eq=False)
class Transition:
    """One step of an episode. Its arrays are read-only."""

    before_HWC: NDArray[np.uint8]
    """Frame before the step, uint8 [H, W, 3], RGB, without watermark."""
    action_A: NDArray[np.uint8]
    """Action values uint8 [16] in slot order; `playloom.actions.codec.decode_values` gives the controls."""
    after_HWC: NDArray[np.uint8]
    """Frame after the step, uint8 [H, W, 3]."""
    step: int
    """Number of the step in its episode, from 0."""
    entropy: float
    """See `StepResult.entropy`: far above the model's usual values, the episode left what the model knows."""
    prediction: StepPrediction | None = None
    """Predicted reward, termination and states; None: the model has no heads."""


StepOutcome: TypeAlias = tuple[float, bool, bool, Info]
"""Reward, terminated, truncated and info of an episode's step."""


class DreamEpisode:
    """Slot for one episode after another."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.steps = 0  # made in this episode
        self.done = False  # terminated or truncated: no step before the next reset
        self.just_reset = False  # true until its first frame is returned
        self._frame_HWC: NDArray[np.uint8] | None = None
        self._generated = False
        self._info: Info = {}

    @property
    def info(self) -> Info:
        """Copy of the `info` of the current frame."""
        return {name: copy(value) for name, value in self._info.items()}

    @property
    def frame_HWC(self) -> NDArray[np.uint8]:
        """Current frame, uint8 [H, W, 3], without watermark, read-only; raises before the first episode."""
        session = self._begun()
        if self._frame_HWC is None:
            self._set_frame(session.engine.frames(self.codes_N[None])[0], generated=True)
        assert self._frame_HWC is not None
        return self._frame_HWC

    @property
    def codes_N(self) -> NDArray[np.int64]:
        """Copy of the current frame's codes, int64 [N]; raises before the first episode."""
        self._begun()
        codes_N: NDArray[np.int64] = self._info["codes"].copy()
        return codes_N

    def running(self) -> Session:
        """Return the session of an unfinished episode."""
        session = self._begun()
        if self.done:
            raise BadInputError(f"the episode is over after {self.steps} steps: call reset() to begin another")
        return session

    def _begun(self) -> Session:
        if self.session is None:
            raise BadInputError("the environment has no episode yet: call reset() before step()")
        return self.session

    def begin(self, initial_states: InitialStates, rng: np.random.Generator, prompt: int | None = None) -> None:
        """Begin an episode at a prompt, by default a drawn one. The generator also draws the session's seed."""
        drawn, seed = int(rng.integers(len(initial_states))), int(rng.integers(2**31))
        index = drawn if prompt is None else prompt
        session, state = initial_states.begin(index, seed)
        self.close()
        self.session, self.steps, self.done, self.just_reset = session, 0, False, True
        self._set_frame(state.frame_HWC, state.generated)
        heads = session.engine.model.config.heads
        self._info = {"prompt": index, "dream_seed": seed}
        self._set_info(state.codes_N, REST_VALUES, 0.0, None if heads is None else unknown_prediction(heads))

    def reset_info(self) -> Info:
        """Return the `info` of the first frame, once it is to be returned."""
        self.just_reset = False
        return self.info

    def record(self, step: StepResult) -> Transition | None:
        """Take over a step of the session; None if its frame was not decoded."""
        assert step.entropy is not None and step.codes_N is not None, "generated steps have both"
        before_HWC, action_A = None if step.frame_HWC is None else self.frame_HWC, step.action_A.copy()
        action_A.flags.writeable = False
        self._set_frame(step.frame_HWC, generated=True)
        self._set_info(step.codes_N, action_A, step.entropy, step.prediction)
        number, self.steps = self.steps, self.steps + 1
        if before_HWC is None or self._frame_HWC is None:
            return None
        return Transition(
            before_HWC=before_HWC,
            action_A=action_A,
            after_HWC=self._frame_HWC,
            step=number,
            entropy=step.entropy,
            prediction=step.prediction,
        )

    def predicted_end(self, prediction: StepPrediction | None) -> bool:
        """Return True if the episode ends here: drawn with the predicted probability, by seed and step."""
        if prediction is None or prediction.termination is None:
            return False
        return bool(np.random.default_rng([self._info["dream_seed"], self.steps]).random() < prediction.termination)

    def picture(self) -> NDArray[np.uint8] | None:
        """Return a copy of the frame, watermarked if it was generated; None before the first episode."""
        if self.session is None:
            return None
        return stamp(self.frame_HWC) if self._generated else self.frame_HWC.copy()

    def close(self) -> None:
        """Free the session's memory."""
        if self.session is not None:
            self.session.close()
        self.session, self._frame_HWC = None, None

    def _set_info(
        self, codes_N: NDArray[np.int64], action_A: NDArray[np.uint8], entropy: float, prediction: StepPrediction | None
    ) -> None:
        self._info |= {"codes": codes_N, "actions": action_A, "entropy": entropy}
        if prediction is not None and prediction.termination is not None:
            self._info["termination"] = prediction.termination
        if prediction is not None and prediction.states:
            self._info["states"] = dict(prediction.states)

    def _set_frame(self, frame_HWC: NDArray[np.uint8] | None, generated: bool) -> None:
        self._generated, self._frame_HWC = generated, None if frame_HWC is None else frame_HWC.copy()
        if self._frame_HWC is not None:
            self._frame_HWC.flags.writeable = False


class BaseWorldModelEnv:
    """Constructor and step of both environments. The spaces are those of one episode."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)
    _initial_states: InitialStates  # Gymnasium also closes an environment whose constructor failed: it has none
    _episodes: tuple[DreamEpisode, ...] = ()

    def __init__(
        self,
        model: AnyModel = None,
        prompts: Prompts = None,
        *,
        actions: Actions = None,
        reward_fn: Callable[[Transition], float] | None = None,
        terminated_fn: Callable[[Transition], bool] | None = None,
        max_steps: int | None = 600,
        sampling: Sampling | None = None,
        device: str = "auto",
        decode_order: DecodeOrder | None = None,
        backend: BackendName = "auto",
        observation: Literal["frame", "codes"] = "frame",
        split: str | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        """Make the environment; call `reset` first.

        Args:
            model: a bundled model's name, a folder, or an engine that environments may share; None: the first bundled
                model. Environments of one process that name the same model, device, order and backend share its engine.
            prompts: starts of episodes: names, paths, `Prompt`s or frame datasets; None: the model's, or bundled ones.
            actions: a table of held inputs, whose numbers are the actions; None: the whole controller.
            reward_fn: reward of a step; None: the reward that the model's heads expect, without such a head 0.
            terminated_fn: True for a step that ends its episode; None: drawn as a head of the model predicts, or never.
            max_steps: steps until truncation; None: never.
            sampling: how tokens are drawn; None: as the model's card recommends.
            device: device of a model that is loaded here.
            decode_order: `raster`, or the row delay of the decoding order; None: the model card's, else raster.
            backend: what runs a model that is loaded here; see `playloom.load`.
            observation: `frame`, or `codes`: MultiDiscrete [N], the frame's codes in raster order. Then frames are only
                decoded for `reward_fn`, `terminated_fn` and `render`.
            split: the prompts are those of this split of the dataset; None: of all splits.
            render_mode: `rgb_array`, or None.
        """
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"unknown render mode {render_mode!r}: expected rgb_array or None")
        if max_steps is not None and not (isinstance(max_steps, int | np.integer) and max_steps >= 1):
            raise ConfigError(f"max_steps is {max_steps!r}: expected a whole number from 1, or None for no truncation")
        if observation not in ("frame", "codes"):
            raise ConfigError(f"unknown observation {observation!r}: expected frame or codes")
        if not isinstance(sampling, Sampling | None):
            raise ConfigError(f"sampling is {sampling!r:.60}: expected a Sampling, as Sampling(temperature=0.5)")
        self.render_mode, self.max_steps, self.observation = render_mode, max_steps, observation
        self.reward_fn, self.terminated_fn = reward_fn, terminated_fn
        self.action_mapper = make_action_mapper(actions)
        """Maps actions: `values` for the engine, `state` for the real arena."""
        self.engine = _load_engine(model, device, decode_order, backend)
        """Runs the sessions; steps many of them at once."""
        loaded = self.engine.model
        sources, sampling = prompt_sources(prompts, loaded, split), sampling or Sampling.from_card(loaded.card)
        self._initial_states = InitialStates(self.engine, sources, sampling)
        sizes = loaded.config.tokenizer
        shape = (sizes.frame_height, sizes.frame_width, 3)
        self.observation_space: gym.Space[Any] = gym.spaces.Box(0, 255, shape, np.uint8)
        if observation == "codes":
            self.observation_space = gym.spaces.MultiDiscrete([sizes.codebook_size] * sizes.image_slots)
        self.action_space: gym.Space[Any] = self.action_mapper.space
        self._episodes = (DreamEpisode(),)

    def _observe(self, episode: DreamEpisode) -> NDArray[Any]:
        return episode.codes_N if self.observation == "codes" else episode.frame_HWC.copy()

    def _advance(self, episodes: Sequence[DreamEpisode], values_NA: NDArray[np.uint8]) -> list[StepOutcome]:
        """Step the episodes as one batch; if a function of the user raises, all of them have made the step."""
        inputs = [StepInput(episode.running(), values_A) for episode, values_A in zip(episodes, values_NA, strict=True)]
        called = self.reward_fn is not None or self.terminated_fn is not None
        steps = self.engine.step(inputs, entropy=True, decode=called or self.observation == "frame")
        transitions = [episode.record(step) for episode, step in zip(episodes, steps, strict=True)]
        for episode in episodes:
            episode.done = self.max_steps is not None and episode.steps >= self.max_steps
        outcomes = []
        for episode, step, transition in zip(episodes, steps, transitions, strict=True):
            predicted = step.prediction
            if self.reward_fn is not None and transition is not None:
                reward = float(self.reward_fn(transition))
            else:
                reward = 0.0 if predicted is None or predicted.reward is None else predicted.reward
            if self.terminated_fn is not None and transition is not None:
                terminated = bool(self.terminated_fn(transition))
            else:
                terminated = episode.predicted_end(predicted)
            truncated, episode.done = episode.done, episode.done or terminated
            outcomes.append((reward, terminated, truncated, episode.info))
        return outcomes

    def _prompt_option(self, options: Info | None) -> int | None:
        """Return the prompt chosen by the options of a `reset`; raises a BadInputError for any other option."""
        options = options or {}
        unknown = [name for name in options if name != PROMPT_OPTION]
        if unknown:
            raise BadInputError(f"unknown reset option {unknown[0]!r}: expected {PROMPT_OPTION!r}")
        index, count = options.get(PROMPT_OPTION), len(self._initial_states)
        if index is None:
            return None
        if not isinstance(index, int | np.integer) or not 0 <= index < count:
            raise BadInputError(f"the prompt is {index!r}: expected a whole number 0 to {count - 1}")
        return int(index)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the memory of all sessions."""
        for episode in self._episodes:
            episode.close()
        if hasattr(self, "_initial_states"):
            self._initial_states.close()


class WorldModelEnv(BaseWorldModelEnv, gym.Env[NDArray[Any], Any]):
    """A Gymnasium environment whose frames a world model generates; a step is 0.1 s.

    Observation: uint8 [H, W, 3] RGB, without watermark, or the frame's codes, int64 [N]; the first of an episode is the
    prompt's last frame. Action: the whole controller, float32 [16] in [-1, 1], as of
    `playloom.games.arena.env.ArenaEnv`, or the number of an entry of `actions`.

    `info` of resets and steps: `prompt` (its number), `dream_seed`, `codes` (of the frame, int64 [N]), `actions`
    (values uint8 [16]; rest after a reset) and `entropy` (see `StepResult.entropy`; 0.0 after a reset, whose frame is
    given). With heads also `termination`, the predicted probability, and `states`, a dict of predicted scalars; both
    NaN after a reset. Methods raise an ActionError for an action outside the space, and a BadInputError before the
    first reset, after an episode's end and for other options.
    """

    @property
    def session(self) -> Session:
        """The current session. Fork it to look ahead; do not step it."""
        return self._episodes[0].running()

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[NDArray[Any], Info]:
        """Begin an episode: same seed, same prompt, same frames.

        Args:
            seed: of this and all later episodes; None: continue drawing.
            options: `{"prompt": 3}` begins at that prompt instead of a drawn one.
        """
        super().reset(seed=seed)
        (episode,) = self._episodes
        episode.begin(self._initial_states, self.np_random, self._prompt_option(options))
        return self._observe(episode), episode.reset_info()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, Info]:
        """Hold an action for one step. Errors of `reward_fn` and `terminated_fn` propagate after the step is made."""
        (episode,) = self._episodes
        values_A = self.action_mapper.values(action)
        if values_A.shape != (ACTION_SLOTS,):
            raise ActionError(f"the actions have shape {np.shape(action)}: expected one action")
        (outcome,) = self._advance([episode], values_A[None])
        return self._observe(episode), *outcome

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current frame, uint8 [H, W, 3], watermarked if generated. None before the first reset."""
        return None if self.render_mode is None else self._episodes[0].picture()

    def close(self) -> None:
        """Free the memory of all sessions; a reset begins anew."""
        self.close_extras()


def _load_engine(model: AnyModel, device: str, decode_order: DecodeOrder | None, backend: BackendName) -> Engine:
    if not isinstance(model, str | Path | Engine | None):
        raise ConfigError(f"the model is a {type(model).__name__}: expected a name, a folder or an Engine")
    if not isinstance(model, Engine):
        folder, device = model_folder(None if model is None else str(model)), pick_device(device)
        # An engine's threads do not survive a fork. A folder trained anew has other fingerprints in its model.json.
        content = (folder / "model.json").read_bytes()
        key = (os.getpid(), folder.resolve(), content, device, repr(decode_order), backend)
        engine = _ENGINES.get(key)
        if engine is None:
            engine = _ENGINES[key] = open_engine(str(folder), device=device, decode_order=decode_order, backend=backend)
        return engine
    if device != "auto" or decode_order is not None or backend != "auto":
        raise ConfigError("device, decode_order and backend belong to the given engine: set them where it is made")
    return model

"""From what a user names to what a dream begins with: the dreamer, the prompt, and what its pictures say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.checkpoint import Model, load_model, model_folder
from playloom.data.moments import list_moments
from playloom.data.prompts import PromptData, load_prompt
from playloom.engine.dreamer import Dreamer
from playloom.engine.requests import Prompt
from playloom.engine.sampling import Sampling
from playloom.errors import BadInputError
from playloom.provenance import Manifest
from playloom.provenance.manifest import created_at, frames_hash
from playloom.runtime import pick_device

Render = Callable[..., Iterator[NDArray[np.uint8]]]
"""Gives a recording its pictures back (see `playloom.games`)."""


def open_dreamer(model: str | None = None, *, device: str = "auto", lag: int | None = None) -> Dreamer:
    """A dreamer over a bundled model's name or a folder.

    Args:
        model: None: the first bundled one.
        device: see `playloom.runtime.pick_device`.
        lag: row lag of the decoding order; None: what the model's card says, else raster.

    Raises:
        PlayloomError: when the model cannot be loaded there, or not decode in that order.
    """
    loaded = load_model(model_folder(model), pick_device(device))
    return Dreamer(loaded, lag=lag or loaded.card.get("lag"))


def read_prompt(model: Model, spec: str | None, *, context: int, **how: Any) -> tuple[Prompt, PromptData]:
    """The prompt of whatever a user names, and all that is known of it.

    Args:
        model: decides the frames' size, and whether the codes a dream kept are its own.
        spec: see `playloom.data.prompts`; None: the first bundled moment.
        context: real steps that are wanted; the model's context is the most.
        how: the other arguments of `playloom.data.prompts.load_prompt`.

    Raises:
        BadInputError: when it cannot be used, or nothing is named and no moment is bundled.
    """
    moments = list_moments()
    if spec is None and not moments:
        raise BadInputError("this installation bundles no moment; say --prompt PICTURE, FOLDER or RECORDING")
    sizes = model.config.tokenizer
    data = load_prompt(
        f"moment:{moments[0]}" if spec is None else spec,
        context=min(context, model.config.transformer.context_steps),
        frame_size=(sizes.frame_height, sizes.frame_width),
        **how,
    )
    codes_TN = data.codes_TN if data.weights == model.fingerprint else None
    return Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN), data


def manifest_of(
    dreamer: Dreamer,
    frames_THWC: NDArray[np.uint8],
    *,
    mode: str,
    sampling: Sampling,
    seed: int,
    timestamp: bool = True,
) -> Manifest:
    """What every picture of a dream says about itself.

    Args:
        dreamer: its weights and decoding order.
        frames_THWC: the frames it begins with.
        mode: what was given and what was dreamed.
        sampling: how tokens were drawn.
        seed: of the dream.
        timestamp: whether it carries the time; without it equal dreams give equal files.
    """
    model, lag = dreamer.model, dreamer.schedule.lag
    return Manifest(
        model=model.config.name,
        weights=model.fingerprint,
        seed=seed,
        mode=mode,
        sampling={"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p},
        order="raster" if lag == model.config.layout.grid_width else f"row lag {lag}",
        parent=frames_hash(frames_THWC),
        created=created_at() if timestamp else None,
    )

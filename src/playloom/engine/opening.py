"""From what a user names to what a dream begins with: the dreamer, the prompt, and what its pictures say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions import Schema
from playloom.checkpoint import Model, load_model, model_folder
from playloom.data.moments import list_moments
from playloom.data.prompt_cut import PromptData
from playloom.data.prompts import load_prompt
from playloom.engine.dreamer import Dreamer
from playloom.engine.requests import Prompt
from playloom.engine.sampling import Sampling
from playloom.errors import BadInputError
from playloom.media.pictures import Fit
from playloom.provenance import Manifest
from playloom.provenance.manifest import created_at, frames_hash
from playloom.runtime import pick_device
from playloom.tokenizer.quality import contrast_gain

UNFAMILIAR_DB = 4.0
"""Pictures that the tokenizer keeps worse than usual by more than this are not of the model's game."""
Render = Callable[..., Iterator[NDArray[np.uint8]]]
"""Gives a recording its pictures back (see `playloom.games`)."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """All that a user can say of how a dream begins; what is to become of it is said by those who build on this."""

    model: str | None = None
    """A bundled model's name or a folder; None: the first bundled one."""
    prompt: str | None = None
    """See `playloom.data.prompts`; None: the first bundled moment."""
    schema: Schema | Literal["auto"] = "named"
    """Of CSV files."""
    context: int = 10
    """Real steps the model sees first; its context is the most."""
    at: int | None = None
    """The step of the prompt to go on from."""
    fit: Fit = "crop"
    """How pictures of another shape are fitted."""
    temperature: float | None = None
    """Divides the logits, 0 is greedy; None: what the model's card says, else 0.9."""
    top_k: int | None = None
    """Only the k most likely tokens."""
    top_p: float | None = None
    """Only the likeliest tokens that reach p together."""
    action_temperature: float | None = None
    """The same for dreamed inputs; None: what was asked for pictures, else what the card says."""
    seed: int = 0
    """Of every random draw; all the same and the same seed: the same pictures."""
    lag: int | None = None
    """Row lag of the decoding order; None: what the model's card says, else raster."""
    device: str = "auto"
    """Where to compute."""
    timestamp: bool = False
    """Whether manifests carry the time; without it equal jobs give equal files."""

    def dreamer(self) -> Dreamer:
        """See `open_dreamer`."""
        return open_dreamer(self.model, device=self.device, lag=self.lag)

    def sampling(self, model: Model) -> Sampling:
        """How tokens are drawn: as asked for, else as the model's card recommends."""
        return Sampling.of_card(
            model.card,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            action_temperature=self.action_temperature,
        )

    def cut(self, model: Model) -> tuple[str, ...]:
        """A note where more context was asked for than the model has."""
        most = model.config.transformer.context_steps
        if self.context <= most:
            return ()
        return (f"the model sees at most {most} steps, so a context of {self.context} is cut to that",)

    def read_prompt(self, model: Model, *, horizon: int | None, render: Render | None) -> tuple[Prompt, PromptData]:
        """The prompt of whatever `prompt` names, and all that is known of it.

        Args:
            model: decides the frames' size, and whether the codes a dream kept are its own.
            horizon: true steps that are wanted after the prompt; None: all there are.
            render: needed where the prompt is a recording.

        Raises:
            BadInputError: when it cannot be used, or nothing is named and no moment is bundled.
        """
        moments = list_moments()
        if self.prompt is None and not moments:
            raise BadInputError("this installation bundles no moment; say --prompt PICTURE, FOLDER or RECORDING")
        sizes = model.config.tokenizer
        data = load_prompt(
            f"moment:{moments[0]}" if self.prompt is None else self.prompt,
            context=min(self.context, model.config.transformer.context_steps),
            frame_size=(sizes.frame_height, sizes.frame_width),
            schema=self.schema,
            fit=self.fit,
            at=self.at,
            horizon=horizon,
            render=render,
        )
        notes = [] if self.prompt is not None else [f"no prompt was given, so the dream begins at {data.name}"]
        unfamiliar = picture_warning(model, data.frames_THWC) if data.kind == "given" else None
        notes += [] if unfamiliar is None else [unfamiliar]
        data = replace(data, notes=(*notes, *data.notes))
        codes_TN = data.codes_TN if data.weights == model.fingerprint else None
        return Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN), data


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
    return Dreamer(loaded, lag=loaded.card.get("lag") if lag is None else lag)


@torch.inference_mode()
def picture_warning(model: Model, frames_THWC: NDArray[np.uint8]) -> str | None:
    """A sentence where pictures do not look like the model's game, else None.

    Args:
        model: its card says what is usual; without that figure there is no warning.
        frames_THWC: uint8 [T, H, W, 3] of the model's size; the last one is judged, from which a dream goes on.
    """
    rows = model.card.get("evaluation", {}).get("rows", ())
    usual = [row["value"] - row["baselines"]["mean frame"] for row in rows if row["name"] == "PSNR of reconstructions"]
    if not usual:
        return None
    truth_BHWC = torch.as_tensor(frames_THWC[-1:])
    again_BHWC = model.tokenizer.decode(model.tokenizer.encode(truth_BHWC)).cpu()
    gain = float(contrast_gain(again_BHWC, truth_BHWC))
    if gain >= usual[0] - UNFAMILIAR_DB:
        return None
    kept, known = (max(0.0, 1 - 10 ** (-decibels / 10)) for decibels in (gain, usual[0]))
    return (
        f"the picture does not look like the game of {model.config.name}: its tokenizer keeps {kept:.0%} of the "
        f"picture's contrast, usually {known:.0%}; expect the dream to turn into that game"
    )


def manifest_of(
    dreamer: Dreamer,
    frames_THWC: NDArray[np.uint8],
    *,
    mode: str,
    sampling: Sampling,
    seed: int,
    timestamp: bool = False,
    prompt: PromptData | None = None,
) -> Manifest:
    """What every picture of a dream says about itself.

    Args:
        dreamer: its weights and decoding order.
        frames_THWC: the frames it begins with.
        mode: what was given and what was dreamed.
        sampling: how tokens were drawn.
        seed: of the dream.
        timestamp: whether it carries the time; without it equal dreams give equal files.
        prompt: names where it begins; None: that is not known.
    """
    model, lag = dreamer.model, dreamer.schedule.lag
    return Manifest(
        model=model.config.name,
        weights=model.fingerprint,
        seed=seed,
        mode=mode,
        sampling=sampling.to_dict(),
        order="raster" if lag == model.config.layout.grid_width else f"row lag {lag}",
        prompt=prompt.name if prompt else None,
        prompt_kind=prompt.kind if prompt else None,
        parent=frames_hash(frames_THWC),
        created=created_at() if timestamp else None,
    )

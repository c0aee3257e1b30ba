"""Preview pictures of a world training: recorded frames above, generated frames below, watermarked."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, TokenDataset
from playloom.data.sampler import alive_spans
from playloom.inference.engine import Engine
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel
from playloom.provenance import stamp
from playloom.training.logger import strip

_FRAMES = 6


@torch.inference_mode()
def dream_preview(model: WorldModel, store: TokenDataset) -> NDArray[np.uint8] | None:
    """Return reconstructed frames above generated ones, uint8 [H, W, 3]; None without an episode of enough steps."""
    context = model.config.transformer.context_steps
    span = _first_long_span(store, context + _FRAMES)
    if span is None:
        return None
    codes_TN = store.tokens_FN[span.rows].astype(np.int64)
    actions_TA = np.array(store.actions_FA[span.rows])
    true_THWC = model.tokenizer.decode(torch.from_numpy(codes_TN)).cpu().numpy()
    prompt = Prompt(frames_THWC=true_THWC[:context], actions_TA=actions_TA[: context - 1], codes_TN=codes_TN[:context])
    engine = Engine(model, lag=1 if model.config.rows else None)
    steps = engine.dream(prompt, mode="world", steps=_FRAMES, actions_SA=actions_TA[context - 1 : -1])
    frames = [stamp(step.frame_HWC) for step in steps if step.frame_HWC is not None]
    return strip([true_THWC[context - 1 :], np.stack([true_THWC[context - 1], *frames])])


def _first_long_span(store: TokenDataset, steps: int) -> EpisodeSlice | None:
    """The first stretch of the validation split (else of any) that is long enough and without a death."""
    spans = store.of_split("validation") or store.spans
    if "dead" in store.state_columns:
        spans = alive_spans(spans, store.column("dead"))
    long = [span for span in spans if span.length >= steps]
    return EpisodeSlice(start=long[0].start, length=steps, meta=long[0].meta) if long else None

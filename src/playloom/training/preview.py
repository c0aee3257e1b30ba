"""Preview pictures of a world training: recorded frames above, generated frames below, marked."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, TokenDataset
from playloom.data.sampler import alive_spans
from playloom.inference.engine import Engine
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.transformer import Transformer
from playloom.models.world_model import ModelConfig
from playloom.provenance import stamp
from playloom.training.logger import strip
from playloom.training.world_model import Preview

_SHOWN = 6


def dream_preview(config: ModelConfig, tokenizer: FrameTokenizer, store: TokenDataset) -> Preview:
    """Return the preview callback of a world training: reconstructed frames above, generated ones below.

    Args:
        config: sizes of the model that is trained.
        tokenizer: decodes the store's codes.
        store: its validation split, else any, gives the context.
    """
    span = _moment(store, config.transformer.context_steps + _SHOWN)

    def preview(transformer: Transformer) -> NDArray[np.uint8] | None:
        if span is None:
            return None
        return _strip(WorldModel(config=config, tokenizer=tokenizer, transformer=transformer), store, span)

    return preview


@torch.inference_mode()
def _strip(model: WorldModel, store: TokenDataset, span: EpisodeSlice) -> NDArray[np.uint8]:
    codes_TN = store.tokens_FN[span.rows].astype(np.int64)
    actions_TA = np.array(store.actions_FA[span.rows])
    true_THWC = model.tokenizer.decode(torch.from_numpy(codes_TN)).cpu().numpy()
    seen = model.config.transformer.context_steps
    prompt = Prompt(frames_THWC=true_THWC[:seen], actions_TA=actions_TA[: seen - 1], codes_TN=codes_TN[:seen])
    dreamer = Engine(model, row_delay=1 if model.config.rows else None)
    held = actions_TA[seen - 1 : seen - 1 + _SHOWN]
    dreamed = [step.frame_HWC for step in dreamer.dream(prompt, mode="world", steps=_SHOWN, actions_SA=held)]
    frames = [stamp(frame) for frame in dreamed if frame is not None]
    last_seen = true_THWC[seen - 1 : seen]
    return strip([true_THWC[seen - 1 : seen + _SHOWN], np.concatenate([last_seen, np.stack(frames)])])


def _moment(store: TokenDataset, steps: int) -> EpisodeSlice | None:
    """The first stretch of the validation split (else of any) that is long enough and without a death."""
    spans = store.of_split("validation") or store.spans
    if "dead" in store.state_columns:
        spans = alive_spans(spans, store.column("dead"))
    long = [span for span in spans if span.length >= steps]
    if not long:
        return None
    return EpisodeSlice(start=long[0].start, length=steps, meta=long[0].meta)

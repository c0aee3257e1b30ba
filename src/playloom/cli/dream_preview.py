"""The preview strip of a world training: what followed in the recording, above what the model dreams.

Lives here because training knows no dreaming. The dreamed frames carry the mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playloom.data.stores import Span, TokenStore
    from playloom.model import Transformer
    from playloom.presets import ModelConfig
    from playloom.tokenizer.frame_tokenizer import FrameTokenizer
    from playloom.training.world import Preview
    from playloom.training.world_job import PreviewOf

_CONTEXT, _DREAMED = 4, 6


def dream_preview(config: ModelConfig) -> PreviewOf:
    """Makes, for a tokenizer and a store, the callback that dreams on from a moment of the validation split."""

    def preview_of(tokenizer: FrameTokenizer, store: TokenStore) -> Preview:
        spans = [s for s in store.of_split("validation", "train") if s.length >= _CONTEXT + _DREAMED]
        chosen = sorted(spans, key=lambda span: span.meta.get("split") != "validation")[:1]
        return lambda transformer: _strip(config, tokenizer, store, chosen[0], transformer) if chosen else None

    return preview_of


def _strip(
    config: ModelConfig, tokenizer: FrameTokenizer, store: TokenStore, span: Span, transformer: Transformer
) -> NDArray[np.uint8]:
    """Both rows begin with the same context; the second goes on dreaming with the recorded actions."""
    from playloom.checkpoint import Model
    from playloom.engine import Dreamer, Prompt, Sampling
    from playloom.provenance import stamp
    from playloom.training.journal import strip

    # Moments in the middle of an episode show more than its start.
    first = span.start + (span.length - _CONTEXT - _DREAMED) // 2
    rows = slice(first, first + _CONTEXT + _DREAMED)
    codes, actions = store.tokens_FN[rows].astype(np.int64), np.asarray(store.actions_FA[rows])
    true = tokenizer.decode(torch.from_numpy(codes)).cpu().numpy()
    prompt = Prompt(frames_THWC=true[:_CONTEXT], actions_TA=actions[: _CONTEXT - 1], codes_TN=codes[:_CONTEXT])
    dreamer = Dreamer(Model(config=config, tokenizer=tokenizer, transformer=transformer))
    given = actions[_CONTEXT - 1 : -1]
    steps = dreamer.dream(prompt, steps=_DREAMED, actions_SA=given, sampling=Sampling(temperature=0.9))
    dreamed = [stamp(step.frame_HWC) for step in steps if step.frame_HWC is not None]
    return strip([true, np.concatenate([true[:_CONTEXT], np.stack(dreamed)])])

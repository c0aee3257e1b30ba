"""The heads' input for recorded play: the transformer over windows of codes and actions, as decoding would see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from playloom.data.dataset import EpisodeSlice
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import schedule
from playloom.models.heads_network import pool
from playloom.models.sequence import NO_TOKEN
from playloom.models.transformer.transformer import interleave, position_inputs

_CONTEXTS = 4  # length of a window in contexts, where positions allow more than one


@torch.inference_mode()
def recorded_features(
    model: WorldModel,
    codes_FN: NDArray[np.integer],
    actions_FA: NDArray[np.uint8],
    spans: Sequence[EpisodeSlice],
    *,
    row_delay: int | None,
    skip: Callable[[NDArray[np.int64]], bool] = lambda _: False,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield rows [M] and the features float32 [M, F] of their steps: those of the frame in the row after.

    Every row of the spans but their last is yielded once. Features see at least a full context, or half of it with
    absolute positions, except near the start of a span. `skip` leaves out a window by its rows.
    """
    context, order = model.config.transformer.context_steps, schedule(model.config.layout, row_delay)
    frame_Q = order.positions_of(0, order.image_passes)
    absolute = model.config.transformer.positions == "absolute"
    steps, past = (context, context // 2) if absolute else (_CONTEXTS * context, context - 1)
    for first, kept, stop in (window for span in spans for window in _windows(span, steps, past)):
        rows_M = np.arange(kept - 1, stop - 1)
        if not skip(rows_M):  # one at a time: the scores of several windows leave a CPU's cache
            part = slice(first, stop)
            (hidden_TPD,) = hidden_states(model, codes_FN[None, part], actions_FA[None, part], row_delay)
            yield rows_M, pool(hidden_TPD[kept - first :, frame_Q]).cpu().numpy()


def _windows(span: EpisodeSlice, steps: int, past: int) -> Iterator[tuple[int, int, int]]:
    """First row, first row of the features' frames, and end of each window; full windows wherever the span is long."""
    kept, end = span.start + 1, span.rows.stop
    while kept < end:
        first = max(span.start, min(kept - past, end - steps))
        stop = min(first + steps, end)
        yield first, kept, stop
        kept = stop


@torch.inference_mode()
def hidden_states(
    model: WorldModel, codes_BTN: NDArray[np.integer], actions_BTA: NDArray[np.uint8], row_delay: int | None
) -> Tensor:
    """Return hidden states [B, T, P, D] of recorded steps, teacher-forced."""
    layout = model.config.layout
    codes, values = (torch.from_numpy(x.astype(np.int64)).to(model.device) for x in (codes_BTN, actions_BTA))
    tokens_BTK = interleave(layout, codes, values)
    previous_BTA = F.pad(tokens_BTK[:, :-1, layout.image_slots :], (0, 0, 1, 0), value=NO_TOKEN)
    own_PP = torch.as_tensor(schedule(layout, row_delay).visible_PP, device=model.device)
    hidden_BTPD: Tensor = model.transformer(position_inputs(layout, tokens_BTK), own_PP, previous_BTA)
    return hidden_BTPD

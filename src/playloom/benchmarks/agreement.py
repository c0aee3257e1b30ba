"""Does the fast path compute what the slow one does? Cached against naive decoding, bf16 against float32.

Cached against naive: the cached decoder dreams frames greedily and its logits are kept; the naive decoder goes through
the same frames pass by pass, each slot unknown until its pass, and its likeliest tokens and logits are compared. bf16:
the share of image slots whose likeliest code is the same with bf16 weights, real play given. On a GPU also: frames that
are captured and replayed against the same frames run plainly. Owns the comparison, no bar: what tests hold the decoders
to is their business.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from playloom.benchmarks.about import about
from playloom.benchmarks.rows import BenchReport, aligned
from playloom.benchmarks.settings import BenchSettings
from playloom.benchmarks.stream import Tick, bundled_prompt
from playloom.errors import BadInputError
from playloom.evaluation.likelihood import likeliest_codes, order_name
from playloom.evaluation.suite import LAGS
from playloom.inference.cuda_graphs import Capture, FrameGraphs, cuda_capture
from playloom.inference.decoder import CachedDecoder
from playloom.inference.engine import Engine
from playloom.inference.reference_decoder import ReferenceDecoder
from playloom.inference.sampling import BatchSampler, Sampling
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel, load_model, model_folder
from playloom.models.sequence import NO_TOKEN

_HEAD = ("compared", "order", "frames", "tokens", "equal greedy tokens", "largest logit difference", "largest logit")
_GREEDY = Sampling(temperature=0.0)
REPLAYED = 6
"""Frames over which captured ones are compared: the first is run, the second captured, the others only replayed."""


@dataclass(frozen=True, kw_only=True)
class AgreementRow:
    """One comparison in one order."""

    compared: str
    """What with what."""
    order: str
    """`raster` or the row lag."""
    frames: int
    """Frames that were compared."""
    tokens: int
    """Image tokens that were compared."""
    equal: int
    """How many of them have the same likeliest code."""
    largest_difference: float | None = None
    """Of any logit; None where only tokens were compared."""
    largest_logit: float | None = None
    """Magnitude of the largest logit, to judge the difference by."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """The texts of a table line."""
        share = f"{self.equal} ({100 * self.equal / self.tokens:.2f} %)"
        difference = "" if self.largest_difference is None else f"{self.largest_difference:.1e}"
        largest = "" if self.largest_logit is None else f"{self.largest_logit:.1f}"
        return (self.compared, self.order, str(self.frames), str(self.tokens), share, difference, largest)


class KeptDraws(BatchSampler):
    """Greedy draws of one dream that keep the logits they were asked about, by slot."""

    def __init__(self, slots: int, choices: int, device: torch.device) -> None:
        super().__init__([_GREEDY], torch.zeros(1, slots, choices, device=device))
        self.logits_NC = torch.full((slots, choices), torch.nan, device=device)
        """Logits of every slot that was drawn; NaN for the others."""

    def pick(self, logits_BRC: Tensor, slots_R: Tensor) -> Tensor:
        """See `BatchSampler.pick`."""
        self.logits_NC[slots_R] = logits_BRC[0].float()
        return super().pick(logits_BRC, slots_R)


def agreement(settings: BenchSettings, tick: Tick = lambda _: None) -> BenchReport:
    """Compare decoders and number types on a bundled moment; float32, on the CPU unless a GPU is asked for.

    Args:
        settings: the model and how much: one frame in a short look, else two, at most `frames`.
        tick: told what is being compared.

    Raises:
        BadInputError: when no moment is bundled.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = settings.model_device
    model = load_model(model_folder(settings.model), device)
    prompt, played = bundled_prompt(model)
    layout = model.config.layout
    lags = (None, *(row_delay for row_delay in LAGS if layout.rows and row_delay < layout.grid_width))
    rows = []
    for row_delay in lags:
        tick(f"{order_name(row_delay)}: cached against naive")
        rows.append(cached_against_naive(model, row_delay, prompt, played[: settings.count(2, 1)]))
    capture = cuda_capture(device)
    if capture is not None:
        tick("captured against plain frames")
        rows += [captured_against_plain(model, row_delay, prompt, played[:REPLAYED], capture) for row_delay in lags]
    tick("bf16 against float32")
    narrow = load_model(model_folder(settings.model)).to(device, torch.bfloat16)
    rows += [bf16_against_float32(model, narrow, row_delay, prompt) for row_delay in lags]
    return BenchReport(
        kind="agreement",
        rows=rows,
        table=aligned(_HEAD, [row.cells() for row in rows]),
        run=about(settings, device, model=model.config.name, fingerprint=model.fingerprint),
        notes=("Greedy tokens; what came before is the same on both sides, so one difference makes no others.",),
    )


@torch.inference_mode()
def cached_against_naive(
    model: WorldModel, row_delay: int | None, prompt: Prompt, actions_TA: NDArray[np.uint8]
) -> AgreementRow:
    """Dream a frame per action with the cache, and go through the same frames without."""
    layout = model.config.layout
    fast, slow = Engine(model, row_delay=row_delay), Engine(model, row_delay=row_delay, naive=True)
    assert isinstance(fast.decoder, CachedDecoder) and isinstance(slow.decoder, ReferenceDecoder)
    fast.decoder.graphs = FrameGraphs(None)  # a replayed frame would not come by to have its logits kept
    fast_state, slow_state = fast.open(prompt).state, slow.open(prompt).state
    equal, difference, largest = 0, 0.0, 0.0
    for action_A in actions_TA:
        values_1A = torch.as_tensor(action_A.astype(np.int64))[None]
        for decoder, state in ((fast.decoder, fast_state), (slow.decoder, slow_state)):
            decoder.arrange([state])
            decoder.give_action([state], values_1A)
        draws = KeptDraws(layout.image_slots, layout.vocab.codebook_size, model.device)
        codes_N = fast.decoder.dream_frame([fast_state], draws)[0]
        slow.decoder.give_frame([slow_state], torch.full((1, layout.image_slots), NO_TOKEN))
        for index in range(slow.schedule.image_passes):
            logits_RC, slot_R = slow.decoder.logits(slow_state, index, layout.image_group)
            equal += int((logits_RC.argmax(-1) == codes_N[slot_R]).sum())
            # numpy's maximum, for NaN must not look like agreement
            difference = float(np.maximum(difference, (logits_RC - draws.logits_NC[slot_R]).abs().max().item()))
            largest = float(np.maximum(largest, logits_RC.abs().max().item()))
            slow_state.window[-1][slot_R] = codes_N[slot_R]
    return AgreementRow(
        compared="cached, naive decoder",
        order=order_name(row_delay),
        frames=len(actions_TA),
        tokens=len(actions_TA) * layout.image_slots,
        equal=equal,
        largest_difference=difference,
        largest_logit=largest,
    )


def captured_against_plain(
    model: WorldModel, row_delay: int | None, prompt: Prompt, actions_TA: NDArray[np.uint8], capture: Capture
) -> AgreementRow:
    """Dream a frame per action with the default settings' noise, once with captures and once without."""
    found: list[NDArray[np.int64]] = []
    for graphs in (FrameGraphs(capture), FrameGraphs(None)):
        dreamer = Engine(model, row_delay=row_delay)
        assert isinstance(dreamer.decoder, CachedDecoder)
        dreamer.decoder.graphs = graphs
        session = dreamer.open(prompt)
        steps = [session.step(action_A) for action_A in actions_TA]
        found.append(np.stack([step.codes_N for step in steps if step.codes_N is not None]))
        session.close()
    return AgreementRow(
        compared="captured, plain frames",
        order=order_name(row_delay),
        frames=len(actions_TA),
        tokens=found[0].size,
        equal=int((found[0] == found[1]).sum()),
    )


def bf16_against_float32(model: WorldModel, narrow: WorldModel, row_delay: int | None, prompt: Prompt) -> AgreementRow:
    """Likeliest codes of the prompt's frames under both models, the first frame's left out: it has no past."""
    if len(prompt.frames_THWC) < 2:
        raise BadInputError("comparing number types needs two frames or more; take a model with a longer context")
    codes_1TN = Engine(model).codes(prompt)[None]
    last_1A = np.zeros_like(prompt.actions_TA[:1])  # the action after the last frame: nothing that is compared sees it
    actions_1TA = np.concatenate([prompt.actions_TA, last_1A])[None]
    judged = [likeliest_codes(each, codes_1TN, actions_1TA, row_delay) for each in (model, narrow)]
    return AgreementRow(
        compared="bf16, float32 weights",
        order=order_name(row_delay),
        frames=judged[0].shape[1],
        tokens=judged[0].size,
        equal=int((judged[0] == judged[1]).sum()),
    )

"""Parity of fast and slow paths: bf16 and float32, CUDA graphs and plain frames, onnxruntime and torch.

    python benchmarks/parity.py --model arena-live
    python benchmarks/parity.py --device cuda          # CUDA graphs too

For bf16 the figure is the share of image codes with the same argmax, recorded play given. onnxruntime and torch decode
the frames of all prompts, each code given after it was predicted; the note has the difference of their cross-entropies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from _harness import options, parse, progress, report, run
from playloom.cli.common import text_table
from playloom.data.prompts import find_prompt, list_prompts, load_prompt_file, prompt_folder
from playloom.device import pick_device
from playloom.errors import BadInputError
from playloom.evaluation.likelihood import ROW_DELAYS, order_name
from playloom.inference.backend import BackendName
from playloom.inference.benchmark import first_prompt
from playloom.inference.cuda_graphs import Capture, FrameGraphs, cuda_capture
from playloom.inference.engine import Engine
from playloom.inference.features import hidden_states
from playloom.inference.session import Prompt
from playloom.inference.torch_backend import CachedDecoder
from playloom.models.checkpoint import WorldModel, load_model
from playloom.models.decode_order import card_row_delay
from playloom.models.folder import model_folder
from playloom.models.onnx import DESCRIPTION

_HEAD = ("compared", "order", "frames", "tokens", "equal tokens", "largest logit difference", "largest logit")
REPLAYED = 6  # the first frame runs plainly, the second is captured, the others are replayed


@dataclass(frozen=True, kw_only=True)
class Parity:
    """One comparison in one decoding order; logits are None where only tokens were compared."""

    compared: str
    order: str
    frames: int
    tokens: int
    equal: int
    largest_difference: float | None = None
    largest_logit: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the texts of a table line."""
        share = f"{self.equal} ({100 * self.equal / self.tokens:.2f} %)"
        difference = "" if self.largest_difference is None else f"{self.largest_difference:.1e}"
        largest = "" if self.largest_logit is None else f"{self.largest_logit:.1f}"
        return (self.compared, self.order, str(self.frames), str(self.tokens), share, difference, largest)


def graphs_and_plain(
    model: WorldModel, row_delay: int | None, prompt: Prompt, actions_TA: NDArray[np.uint8], capture: Capture
) -> Parity:
    """Compare a frame per action with captured graphs and without, same noise."""
    found: list[NDArray[np.int64]] = []
    for graphs in (FrameGraphs(capture), FrameGraphs(None)):
        engine = Engine(model, row_delay=row_delay)
        assert isinstance(engine.decoder, CachedDecoder)
        engine.decoder.graphs = graphs
        session = engine.open(prompt)
        steps = [session.step(action_A) for action_A in actions_TA]
        found.append(np.stack([step.codes_N for step in steps if step.codes_N is not None]))
        session.close()
    return Parity(
        compared="CUDA graphs, plain frames",
        order=order_name(row_delay),
        frames=len(actions_TA),
        tokens=found[0].size,
        equal=int((found[0] == found[1]).sum()),
    )


def bf16_and_float32(model: WorldModel, narrow: WorldModel, row_delay: int | None, prompt: Prompt) -> Parity:
    """Compare argmax codes of the prompt's frames, without the first frame, which has no past."""
    if len(prompt.frames_THWC) < 2:
        raise BadInputError("the context is too short: got 1 frame, expected 2 or more; choose another model")
    codes_1TN = Engine(model).codes(prompt)[None]
    last_1A = np.zeros_like(prompt.actions_TA[:1])  # follows the last frame, so no compared token depends on it
    actions_1TA = np.concatenate([prompt.actions_TA, last_1A])[None]
    group, found = model.config.layout.image_group, []
    for each in (model, narrow):
        hidden_1TPD = hidden_states(each, codes_1TN, actions_1TA, row_delay)[:, 1:, list(group.positions)]
        found.append(each.transformer.logits(hidden_1TPD, group.first_id, group.last_id).argmax(-1))
    return Parity(
        compared="bf16, float32 weights",
        order=order_name(row_delay),
        frames=found[0].shape[1],
        tokens=found[0].numel(),
        equal=int((found[0] == found[1]).sum()),
    )


class GivenDraws:
    """Draws that return given codes, and keep the logits of every slot."""

    entropy_BS = None

    def __init__(self, codes_N: NDArray[np.int64], choices: int) -> None:
        self.codes_N, self.logits_NC = codes_N, np.full((len(codes_N), choices), np.nan, np.float32)

    def sample(self, logits_BRC: Any, slots_R: Any) -> Any:
        """Return the given codes of the slots, [1, R], as the kind of array that came in."""
        slots = np.asarray(slots_R)
        self.logits_NC[slots] = np.asarray(logits_BRC)[0]
        codes_1R = self.codes_N[None, slots]
        return torch.from_numpy(codes_1R) if isinstance(logits_BRC, Tensor) else codes_1R


@torch.inference_mode()
def predicted_logits(engine: Engine, clips: Sequence[Prompt]) -> NDArray[np.float32]:
    """Return the logits of all codes of recorded frames but each clip's first, [T, N, C]."""
    decoder: Any = engine.decoder  # whose draws are `GivenDraws`
    found = []
    for clip in clips:
        state, codes_TN = decoder.begin(), engine.codes(clip)
        for index, codes_N in enumerate(codes_TN):
            decoder.arrange([state])
            draws = GivenDraws(codes_N, engine.layout.vocab.codebook_size)
            decoder.dream_frame([state], draws)
            found += [draws.logits_NC] * (index > 0)
            if index < len(clip.actions_TA):
                decoder.give_action([state], clip.actions_TA[index : index + 1].astype(np.int64))
        decoder.close(state)
    return np.stack(found)


def onnx_and_torch(model: WorldModel, backend: BackendName, clips: Sequence[Prompt]) -> tuple[Parity, str]:
    """Compare a backend of onnxruntime with torch on recorded play, in the card's order; returns a note too."""
    row_delay = card_row_delay(model.card)
    engines = [Engine(model, row_delay=row_delay, backend=name) for name in ("torch", backend)]
    codes_TN = np.concatenate([engines[0].codes(clip)[1:] for clip in clips])
    exact, other = (predicted_logits(engine, clips) for engine in engines)
    nats_T = [
        -np.take_along_axis(log_softmax(logits, axis=-1), codes_TN[..., None], -1).mean((1, 2))
        for logits in (exact, other)
    ]
    differences_T = nats_T[1] - nats_T[0]
    error = differences_T.std(ddof=1) / len(differences_T) ** 0.5
    parity = Parity(
        compared=f"{backend}, torch",
        order=order_name(row_delay),
        frames=len(codes_TN),
        tokens=codes_TN.size,
        equal=int((exact.argmax(-1) == other.argmax(-1)).sum()),
        largest_difference=float(np.abs(exact - other).max()),
        largest_logit=float(np.abs(exact).max()),
    )
    means = f"{nats_T[1].mean():.5f} against torch's {nats_T[0].mean():.5f} nats"
    return parity, f"{backend}: cross-entropy {means}, difference {differences_T.mean():.5f} +- {error:.5f}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all orders and print one table."""
    parser = options(__doc__, "model")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    given = parse(parser, arguments)
    device = torch.device(pick_device(given.device))
    model = load_model(model_folder(given.model), device)
    prompt, played = first_prompt(model)
    layout, rows = model.config.layout, list[Parity]()
    row_delays = (None, *(row_delay for row_delay in ROW_DELAYS if layout.rows and row_delay < layout.grid_width))
    if (capture := cuda_capture(device)) is not None:
        progress("CUDA graphs and plain frames")
        rows += [graphs_and_plain(model, row_delay, prompt, played[:REPLAYED], capture) for row_delay in row_delays]
    progress("bf16 and float32")
    narrow = load_model(model_folder(given.model)).to(device, torch.bfloat16)
    rows += [bf16_and_float32(model, narrow, row_delay, prompt) for row_delay in row_delays]
    notes = ["Greedy tokens. Both sides get the same past, so one difference causes no others."]
    if device.type == "cpu" and model.folder is not None and (model.folder / DESCRIPTION).is_file():
        folder = prompt_folder(model.folder)
        prompts = [load_prompt_file(find_prompt(name, folder)) for name in list_prompts(folder)]
        clips = [
            Prompt(frames_THWC=one.frames_THWC, actions_TA=one.actions_TA[: len(one.frames_THWC) - 1])
            for one in prompts
        ]
        for backend in ("onnx", "onnx-int8"):
            progress(f"{backend} and torch")
            row, note = onnx_and_torch(model, backend, clips)
            rows.append(row)
            notes.append(note)
    text, names = text_table(_HEAD, [row.cells() for row in rows]), (model.config.name, model.fingerprint)
    report(given, [asdict(row) for row in rows], text, device, notes, model=names[0], fingerprint=names[1])


if __name__ == "__main__":
    run(main)

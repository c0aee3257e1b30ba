"""Baseline: GPT-2 of `transformers` with the same shape and random weights, generating token by token.

Layers, width, heads, vocabulary and context length in tokens are equal, and its cache is static. The prompt fills the
context but for one frame. Then one frame's tokens are drawn and timed as they arrive. GPT-2 has neither grouped heads
nor local layers, and its positions do not roll: for the next frame its user would prefill again. The prefill is
measured apart.
"""

from __future__ import annotations

import statistics
import time
import warnings
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from _harness import reason
from playloom.models.config import ModelConfig


class Baseline(NamedTuple):
    """Times in seconds, and a sentence about them."""

    note: str
    frame: float | None = None
    """All tokens of a frame but the first, which ends the prefill; None where fewer were drawn: nothing is guessed."""
    prefill: float | None = None


def measure_baseline(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Baseline:
    """Time GPT-2; after any error return only the reason, because another library must not cost our figures."""
    try:
        return time_gpt2(config, device, dtype)
    except ImportError:
        return Baseline("baseline: not measured: pip install transformers")
    except Exception as error:
        return Baseline(f"baseline: not measured: {reason(error)}")


def time_gpt2(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, *, budget: float = 120.0, warmup: bool = True
) -> Baseline:
    """Time one frame's tokens.

    Args:
        config: gives the shape.
        device: where it runs.
        dtype: of weights and cache.
        budget: seconds after which drawing stops.
        warmup: draw eight tokens first, so that compilation is not counted.

    Raises:
        ImportError: when `transformers` is not installed.
    """
    import transformers

    # Weights and draws come from the global generator, which is restored afterwards.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            return _time(config, device, dtype, budget, warmup, f"transformers {transformers.__version__}")
        finally:
            if device.type == "cuda":  # compiled graphs keep weights and caches alive
                torch.compiler.reset()
                torch.cuda.empty_cache()


def _time(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, budget: float, warmup: bool, library: str
) -> Baseline:
    frame = config.layout.image_slots
    context = config.transformer.context_steps * config.layout.slots
    model = _gpt2(config, context).to(device, dtype).eval()
    prompt_1S = torch.randint(0, config.layout.vocab.size, (1, context - frame - 1), device=device)
    how: dict[str, Any] = {}
    if warmup:
        try:
            _generate(model, prompt_1S, frame + 1, budget, stop_after=8)
        except Exception:  # without a compiler, say, the plain form still runs
            how = {"disable_compile": True}
            _generate(model, prompt_1S, frame + 1, budget, stop_after=8, **how)
    started = time.perf_counter()
    stamps, cache = _generate(model, prompt_1S, frame + 1, budget, **how)
    seconds, tokens, prefill = stamps[-1] - stamps[0], len(stamps) - 1, stamps[0] - started
    token_ms = 1e3 * statistics.median(later - earlier for earlier, later in pairwise(stamps))
    drawn = f"all {frame} tokens of a frame" if tokens == frame else f"the first {tokens} of {frame} tokens"
    note = (
        f"baseline: {library} GPT-2, same shape, generate with {cache}{', not compiled' if how else ''}, {drawn} in "
        f"{seconds:.3g} s (median {token_ms:.3g} ms per token); no pixels; prefill {prefill:.3g} s apart"
    )
    return Baseline(note, seconds if tokens == frame else None, prefill)


def _gpt2(config: ModelConfig, context: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    net = config.transformer
    shape = GPT2Config(
        vocab_size=config.layout.vocab.size,
        n_positions=context,
        n_embd=net.width,
        n_layer=net.layers,
        n_head=net.heads,
        n_inner=net.mlp_ratio * net.width,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(shape)


class _Stamps:
    """A streamer that keeps the arrival time of every token."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        self.seconds.append(time.perf_counter())

    def end(self) -> None:
        pass


def _generate(
    model: Any, prompt_1S: torch.Tensor, tokens: int, budget: float, stop_after: int | None = None, **how: Any
) -> tuple[list[float], str]:
    """Arrival times of the tokens, and the cache's class. The cache's length does not depend on `stop_after`."""
    from transformers import StoppingCriteriaList

    stamps, begun = _Stamps(), time.perf_counter()

    def enough(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        done = ids.shape[1] - prompt_1S.shape[1] >= (stop_after or tokens)
        late = len(stamps.seconds) > 2 and time.perf_counter() - begun > budget
        return torch.full((len(ids),), done or late, device=ids.device)

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        result = model.generate(
            prompt_1S,
            attention_mask=torch.ones_like(prompt_1S),
            max_new_tokens=tokens,
            do_sample=True,
            top_k=0,
            cache_implementation="static",
            stopping_criteria=StoppingCriteriaList([enough]),
            streamer=stamps,
            return_dict_in_generate=True,
            **how,
        )
    return stamps.seconds[1:], type(result.past_key_values).__name__  # the prompt is put first

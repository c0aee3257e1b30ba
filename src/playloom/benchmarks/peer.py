"""What a user would otherwise take: the same shape in `transformers` GPT-2 (random weights), `generate` token by token.

Layers, width, heads, vocabulary and context length in tokens are those of the model beside it; the cache is static. The
prompt fills the context but for one frame, then one frame's tokens are drawn, timed as they arrive. GPT-2 has neither
grouped heads nor local layers, and its positions do not roll: for the next frame its user would prefill again. The
prefill is kept apart and is not part of the frame.
"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from playloom.benchmarks.attempt import reason
from playloom.errors import MissingExtraError
from playloom.models.world_model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class PeerFrame:
    """One frame's tokens as GPT-2 gives them."""

    seconds: float
    """Time of the tokens that were drawn, the first one not counted: it ends the prefill."""
    tokens: int
    """How many tokens that are."""
    asked: int
    """Tokens of a whole frame."""
    prefill_seconds: float
    """From the call to the first token."""
    median_token_seconds: float
    """Of one token."""
    cache: str
    """The cache that was used, as the library calls it; says so if its graph could not be compiled."""
    version: str
    """Of `transformers`."""

    @property
    def frame_seconds(self) -> float | None:
        """Time of a whole frame's tokens; None where not all were drawn, for nothing is extrapolated."""
        return self.seconds if self.tokens == self.asked else None

    @property
    def note(self) -> str:
        """What was run, in one sentence."""
        which = (
            f"all {self.asked} tokens of a frame" if self.tokens == self.asked else f"the first {self.tokens} tokens"
        )
        return (
            f"beside: transformers {self.version} GPT-2, same shape, generate with {self.cache}, {which} in "
            f"{self.seconds:.3g} s (median {1e3 * self.median_token_seconds:.3g} ms a token); no pixels; prefill "
            f"{self.prefill_seconds:.3g} s apart"
        )


@dataclass
class _Stamps:
    """Takes the place of a streamer: keeps the time at which each token arrived."""

    seconds: list[float] = field(default_factory=list)

    def put(self, _: torch.Tensor) -> None:
        self.seconds.append(time.perf_counter())

    def end(self) -> None:
        pass


def measure_peer(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    budget_seconds: float = 120.0,
    warm: bool = True,
) -> PeerFrame:
    """Time GPT-2 of a model's shape over one frame's tokens.

    Args:
        config: whose shape to take.
        device: where.
        dtype: of weights and cache.
        budget_seconds: tokens that come later than this after the call are not waited for.
        warm: draw some tokens before the clock starts, so that one-time compilation is not counted.

    Raises:
        MissingExtraError: when `transformers` is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError.of("transformers", "bench") from error
    # Both libraries draw from the global generator here; it is put back afterwards.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            return _measure(config, device, dtype, budget_seconds, warm, transformers.__version__)
        finally:
            if device.type == "cuda":  # compiled graphs keep weights and caches alive
                torch.compiler.reset()
                torch.cuda.empty_cache()


def _measure(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, budget_seconds: float, warm: bool, version: str
) -> PeerFrame:
    frame = config.layout.image_slots
    context = config.transformer.context_steps * config.layout.slots
    model = _gpt2(config, context).to(device, dtype).eval()
    prompt_1S = torch.randint(0, config.layout.vocab.size, (1, context - frame - 1), device=device)
    how: dict[str, Any] = {}
    if warm:
        try:
            _generate(model, prompt_1S, frame + 1, budget_seconds, stop_after=8)
        except Exception:  # whatever stops the compiler here (none installed, say), the plain form still runs
            how = {"disable_compile": True}
            _generate(model, prompt_1S, frame + 1, budget_seconds, stop_after=8, **how)
    started = time.perf_counter()
    stamps, cache = _generate(model, prompt_1S, frame + 1, budget_seconds, **how)
    return PeerFrame(
        seconds=stamps[-1] - stamps[0],
        tokens=len(stamps) - 1,
        asked=frame,
        prefill_seconds=stamps[0] - started,
        median_token_seconds=statistics.median(b - a for a, b in pairwise(stamps)),
        cache=cache + (", which could not be compiled here" if how else ""),
        version=version,
    )


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


def _generate(
    model: Any,
    prompt_1S: torch.Tensor,
    tokens: int,
    budget_seconds: float,
    stop_after: int | None = None,
    **how: Any,
) -> tuple[list[float], str]:
    """Arrival times of the tokens, and the name of the cache. The cache's length does not depend on `stop_after`."""
    from transformers import StoppingCriteriaList

    stamps = _Stamps()
    begun = time.perf_counter()

    def enough(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        done = ids.shape[1] - prompt_1S.shape[1] >= (stop_after or tokens)
        late = len(stamps.seconds) > 2 and time.perf_counter() - begun > budget_seconds
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
    return stamps.seconds[1:], type(result.past_key_values).__name__  # the first thing put is the prompt


def peer_or_note(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, **how: Any
) -> tuple[PeerFrame | None, str]:
    """The measurement and its sentence; or None and why there is none."""
    try:
        frame = measure_peer(config, device, dtype, **how)
    except MissingExtraError:
        return None, "beside: not measured: pip install 'playloom[bench]'"
    except torch.OutOfMemoryError:
        return None, "beside: not measured: GPT-2 of this shape does not fit in the device's memory"
    except Exception as error:  # another library's trouble must not cost our own figures
        return None, f"beside: not measured: {reason(error)}"
    return frame, frame.note

"""Sizes of the transformer (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from playloom.errors import ConfigError, check_whole

# A damaged file must not allocate all memory.
_MOST = {"layers": 512, "width": 65_536, "heads": 1024, "kv_heads": 1024, "mlp_ratio": 64}
_MOST |= {"context_steps": 4096, "local_steps": 4096, "keyframe_every": 4096, "global_every": 512}


@dataclass(frozen=True, kw_only=True)
class Window:
    """Steps that a layer attends to: the newest ones, and before them some keyframes."""

    steps: int  # newest steps, the current one included: w
    keyframes: int = 0  # earlier steps: the newest multiples of `every`
    every: int = 1  # steps from one keyframe to the next

    def past(self, step: int) -> list[int]:
        """Return the complete steps that step `step` (from 0) attends to, in ascending order."""
        first = max(0, step - self.steps + 1)
        early = range(0, first, self.every)
        return [*early[max(0, len(early) - self.keyframes) :], *range(first, step)]

    def past_count(self, step: int) -> int:
        """Return the length of `past`."""
        early = -(-max(0, step - self.steps + 1) // self.every)
        return min(self.keyframes, early) + min(step, self.steps - 1)

    @property
    def capacity(self) -> int:
        """Most complete steps that a step attends to."""
        return self.keyframes + self.steps - 1

    @property
    def full_from(self) -> int:
        """First step that attends to `capacity` complete steps."""
        return self.steps + (self.keyframes - 1) * self.every if self.keyframes else self.steps - 1


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the transformer; `ConfigError` for values that do not fit together."""

    layers: int
    """Blocks."""
    width: int
    """Residual width: D."""
    heads: int
    """Query heads: M."""
    kv_heads: int | None = None
    """Key/value heads (grouped-query attention, Ainslie et al. 2023); None: as many as `heads`."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over D."""
    context_steps: int = 10
    """Steps a layer with full context attends to, the current one included."""
    local_steps: int | None = None
    """Steps the local layers attend to; None: every layer has the full context."""
    global_every: int = 1
    """With `local_steps`: every n-th layer has the full context, the others are local."""
    keyframes: int = 0
    """Steps before the context that its layers also attend to: every `keyframe_every`-th, the newest ones."""
    keyframe_every: int = 5
    """Steps from one keyframe to the next."""
    positions: Literal["absolute", "rolling"] = "rolling"
    """`absolute`: an embedding per position of the context (published). `rolling`: one per position of the step, and
    rotary angles of step, row and column, so that cached keys never go stale."""
    action_condition: bool = False
    """Add an embedding of the previous step's action to the input of every image position."""
    parallel: bool = False
    """Attention and MLP of a block both read its input, behind one norm (GPT-J; PaLM, Chowdhery et al. 2022)."""
    qk_norm: bool = False
    """Normalise queries and keys per head (Dehghani et al. 2023), for stable training at high learning rates."""
    dropout: float = 0.0
    """Share of values dropped in training after the embeddings, each attention and each MLP; not inside attention."""

    def __post_init__(self) -> None:
        check_whole("the transformer's keyframes", self.keyframes, 0, _MOST["context_steps"])
        if self.keyframes and (self.positions == "absolute" or self.context_steps < 2):
            raise ConfigError("keyframes need rolling positions and a context of 2 steps or more")
        for name, most in _MOST.items():
            if getattr(self, name) is not None or name not in ("kv_heads", "local_steps"):
                check_whole(f"the transformer's {name}", getattr(self, name), 1, most)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"the transformer's dropout is out of range: got {self.dropout}, expected 0 to below 1")
        if self.width % (2 * self.heads):
            raise ConfigError(f"width {self.width} does not split into {self.heads} heads of even width")
        if self.heads % self.key_value_heads:
            raise ConfigError(f"{self.heads} heads do not share {self.key_value_heads} key/value heads evenly")
        if (self.local_steps or 0) > self.context_steps:
            raise ConfigError(f"local_steps {self.local_steps} is more than context_steps {self.context_steps}")

    @property
    def key_value_heads(self) -> int:
        """Key/value heads, resolved."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        """Width of one head: E."""
        return self.width // self.heads

    def window(self, layer: int) -> Window:
        """Steps that layer `layer` (from 0) attends to."""
        if self.local_steps is None or (layer + 1) % self.global_every == 0:
            return Window(steps=self.context_steps, keyframes=self.keyframes, every=self.keyframe_every)
        return Window(steps=self.local_steps)

    def parameter_count(self, vocab_size: int) -> int:
        """Parameters without positions and action condition, for a joint vocabulary of `vocab_size` ids."""
        keys = self.key_value_heads * self.head_width
        attention = 2 * self.width * (self.width + keys) + 2 * (self.width + keys)
        mlp = 2 * self.mlp_ratio * self.width**2 + (self.mlp_ratio + 1) * self.width
        norms = (2 if self.parallel else 4) * self.width + (2 * self.head_width if self.qk_norm else 0)
        return self.layers * (attention + mlp + norms) + 2 * self.width + vocab_size * self.width

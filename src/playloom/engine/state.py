"""What a dream remembers between steps, whichever way it is decoded. Values only; decoders do the work."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(kw_only=True, eq=False)
class Saved:
    """Everything a decoder needs to go on with a dream that has no row: shared by branches until they move on."""

    cache: list[Tensor]
    """Keys and values; see `playloom.model.KeyValueCache.take`."""
    tokens_C: Tensor
    """The dream's row of tokens."""
    previous_A: Tensor
    """Joint ids of the action before the newest step."""

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(t.numel() * t.element_size() for t in (*self.cache, self.tokens_C, self.previous_A))


@dataclass(kw_only=True, eq=False)
class DreamState:
    """One dream's place in time, and where its memory lies."""

    past: int = 0
    """Complete steps the cache holds: the open step's index. Counts anew when a window is run again."""
    row: int | None = None
    """Row in the decoder's batch; None: in `saved`, or not begun."""
    saved: Saved | None = None
    """The dream while it has no row."""
    window: deque[Tensor] = field(default_factory=deque)
    """Tokens of complete steps, as far as the decoder needs them again."""

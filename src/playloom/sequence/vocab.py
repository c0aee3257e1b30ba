"""The joint vocabulary: image codes first, then every action slot's values. Owns id ranges, nothing else.

>>> Vocab(codebook_size=16384, slot_sizes=(2,) * 12 + (11,) * 4).size
16452
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from playloom.actions import SLOT_SIZES
from playloom.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """Id ranges of the joint vocabulary.

    Raises:
        ConfigError: when a size is not positive.
    """

    codebook_size: int
    """Image codes; their ids are 0 to `codebook_size` - 1."""
    slot_sizes: tuple[int, ...] = SLOT_SIZES
    """Values each action slot can take; their ids follow the codes, slot after slot."""

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or not self.slot_sizes or min(self.slot_sizes) < 1:
            raise ConfigError(
                f"a vocabulary needs at least 2 codes and 1 value a slot; got {self.codebook_size}, {self.slot_sizes}"
            )

    @property
    def action_values(self) -> int:
        """Ids taken by action values."""
        return sum(self.slot_sizes)

    @property
    def size(self) -> int:
        """All ids: V."""
        return self.codebook_size + self.action_values

    @property
    def action_offsets(self) -> tuple[int, ...]:
        """The first id of every action slot."""
        return tuple(accumulate((self.codebook_size, *self.slot_sizes[:-1])))

    def legal_action_range(self, action_slot: int) -> tuple[int, int]:
        """First and one-past-last legal id of an action slot."""
        start = self.action_offsets[action_slot]
        return start, start + self.slot_sizes[action_slot]

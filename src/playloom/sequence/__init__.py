"""Token arithmetic: id ranges, the order of slots, and the pass in which each position is decoded."""

from playloom.sequence.layout import NO_TOKEN, StepLayout, TokenGroup
from playloom.sequence.schedule import DEFAULT_LAG, Schedule, schedule
from playloom.sequence.vocab import Vocab

__all__ = ["DEFAULT_LAG", "NO_TOKEN", "Schedule", "StepLayout", "TokenGroup", "Vocab", "schedule"]

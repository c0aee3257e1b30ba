"""Token arithmetic: id ranges, the order of slots, and the pass in which each position is decoded."""

from playloom.sequence.layout import NO_TOKEN, StepLayout, TokenGroup
from playloom.sequence.schedule import Schedule, schedule
from playloom.sequence.vocab import Vocab

__all__ = ["NO_TOKEN", "Schedule", "StepLayout", "TokenGroup", "Vocab", "schedule"]

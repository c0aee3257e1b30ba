"""Playing live: a clock that does not drift, input of which the newest wins, and figures that hide nothing."""

from playloom.live.clock import Clock, Tick
from playloom.live.contract import Dream, Dreams, Who
from playloom.live.frame import LiveFrame
from playloom.live.job import LiveJob, LiveResult, play_live
from playloom.live.pad import Pad, Press
from playloom.live.recording import Recent, write_play
from playloom.live.script import ScriptPlayer, press_times
from playloom.live.session import LiveSession
from playloom.live.statistics import LiveReport, Spread, Statistics
from playloom.live.timing import RealTime, TimeSource, VirtualTime

__all__ = [
    "Clock",
    "Dream",
    "Dreams",
    "LiveFrame",
    "LiveJob",
    "LiveReport",
    "LiveResult",
    "LiveSession",
    "Pad",
    "Press",
    "RealTime",
    "Recent",
    "ScriptPlayer",
    "Spread",
    "Statistics",
    "Tick",
    "TimeSource",
    "VirtualTime",
    "Who",
    "play_live",
    "press_times",
    "write_play",
]

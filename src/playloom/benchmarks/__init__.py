"""What a frame costs: speed beside its floor and the usual way, the ladder of orders, and whether fast paths agree."""

from playloom.benchmarks.agreement import agreement
from playloom.benchmarks.ladder import ladder
from playloom.benchmarks.rows import Bar, BenchReport, BenchRow
from playloom.benchmarks.run import bench
from playloom.benchmarks.settings import CASES, BenchSettings

__all__ = ["CASES", "Bar", "BenchReport", "BenchRow", "BenchSettings", "agreement", "bench", "ladder"]

"""Prometheus metrics of one server; each server has its own registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from playloom.server.scheduler import SchedulerStats

_LATENCY = (0.02, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
_DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
Gauges = Callable[[], dict[str, float]]


class Metrics(Collector):
    """Counters and histograms, which any thread may increment, and values that the scheduler and the gauges keep."""

    def __init__(self, stats: SchedulerStats, gauges: Gauges, batch: int) -> None:
        self.stats, self.gauges, self.batch = stats, gauges, batch
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "playloom_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "playloom_request_duration_seconds", "Time to answer.", ["route"], buckets=_DURATION, registry=registry
        )
        self.live_frames = Counter("playloom_live_frames", "Frames of live play.", registry=registry)
        self.unseen = Counter("playloom_live_frames_dropped", "Live frames that a slow reader lost.", registry=registry)
        self.late = Counter("playloom_live_frames_late", "Live frames after their time.", registry=registry)
        self.input_latency = Histogram(
            "playloom_input_latency_seconds",
            "From an action's arrival until its frame is ready.",
            buckets=_LATENCY,
            registry=registry,
        )
        self.registry.register(self)

    def text(self) -> bytes:
        """Render the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the scheduler's statistics and the gauges."""
        for name, value in self.gauges().items():
            yield GaugeMetricFamily(f"playloom_{name}", name.replace("_", " ").capitalize() + " now.", value=value)
        sizes = dict(self.stats.batches)
        buckets, total = [], 0
        for size in range(1, self.batch + 1):
            total += sizes.get(size, 0)
            buckets.append((f"{size:.1f}", float(total)))
        buckets.append(("+Inf", float(total)))
        steps = float(sum(size * count for size, count in sizes.items()))
        yield HistogramMetricFamily("playloom_batch_size", "Sessions in one batch.", buckets=buckets, sum_value=steps)
        steps_done = Metric("playloom_generated_frames", "Steps generated.", "counter")
        steps_done.add_sample("playloom_generated_frames_total", {}, float(self.stats.frames))
        yield steps_done

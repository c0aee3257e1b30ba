"""What this machine can do, measured: memory bandwidth and matrix rate, the two ends of a roofline.

About a second each. Reading is timed by a sum and by a copy; the faster one counts, so floors made of it are rather too
low than too high. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
"""Size of the array that is read: many times any processor's own cache."""
_SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured rates of one device."""

    bytes_per_second: float
    """Memory bandwidth, reading."""
    flops_per_second: float
    """Matrix products in the dtype that is benchmarked; a multiply-add is two."""

    def to_json(self) -> dict[str, float]:
        """Gigabytes and gigaflops a second, as tables show them."""
        return {
            "gigabytes_per_second": round(self.bytes_per_second / 1e9, 1),
            "gigaflops_per_second": round(self.flops_per_second / 1e9, 1),
        }


def measure_rates(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> Rates:
    """Measure a device; `seconds` is spent on each of the two rates."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    source = torch.ones(_BYTES[kind] // 4, device=device)
    target = torch.empty_like(source)
    reading = source.nbytes / best_seconds(lambda: source.sum(), device, seconds / 2)
    copying = 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device, seconds / 2)
    del source, target
    side = _SIDE[kind]
    left = torch.randn(side, side, device=device).to(dtype)
    product = 2 * side**3 / best_seconds(lambda: left @ left, device, seconds)
    del left
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Rates(bytes_per_second=max(reading, copying), flops_per_second=product)


def best_seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest of many runs of `work`, at least three, within about `seconds`; one run before is not counted."""
    work()
    best, runs, begun = float("inf"), 0, now(device)
    while runs < 3 or now(device) - begun < seconds:
        started = now(device)
        work()
        best, runs = min(best, now(device) - started), runs + 1
    return best


def now(device: torch.device) -> float:
    """Seconds on the clock, once the device has done everything it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

"""What a benchmark runs and how much of it. Values only, checked when they are made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from playloom.device import pick_device, pick_dtype
from playloom.errors import ConfigError, did_you_mean
from playloom.models.presets import preset

BUNDLED_CASES = ("stream", "first", "start", "batch", "branch", "env")
"""Cases of a whole model on the CPU: sustained play, first frame, start of the program, many at once, branches,
dreams as environments."""
SHAPE_CASES = ("order", "many", "absolute")
"""Cases of a named size with random weights: decoding orders, many at once, the published positions."""
CASES = (*BUNDLED_CASES, *SHAPE_CASES)
"""Every case."""
GPU_PRESETS = ("200m", "1.6b")
"""Sizes measured where there is a GPU."""
DEVICES = ("auto", "cpu", "cuda")
"""Device names; a CUDA device may carry its number."""


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """One run.

    Raises:
        ConfigError: for an unknown case, preset, device or dtype, or a size below one; names the choices.
    """

    model: str | None = None
    """Bundled name or folder of the model of the CPU cases; None: the first bundled one."""
    device: str = "auto"
    """`cpu`: the model's cases; `cuda`: the sizes' cases; `auto`: the former, and the latter where there is a GPU."""
    presets: tuple[str, ...] = ()
    """Sizes to measure; empty: `GPU_PRESETS` on a GPU, none on a CPU."""
    dtype: str | None = None
    """Of weights and cache; None: float32 on a CPU, bfloat16 on a GPU."""
    only: tuple[str, ...] = ()
    """Cases to run; empty: all."""
    frames: int = 300
    """Frames of the sustained case; the other cases take as many as they need, at most these."""
    threads: int | None = None
    """CPU threads; None: as torch chooses."""
    seed: int = 0
    """Of dreams and random weights."""
    quick: bool = False
    """A short look: fewer frames and repeats; the figures are rough."""

    def __post_init__(self) -> None:
        for case in self.only:
            if case not in CASES:
                raise ConfigError(f"unknown case {case!r}; choose from {', '.join(CASES)}")
        if self.device.partition(":")[0] not in DEVICES:
            raise ConfigError(f"unknown device {self.device!r}; {did_you_mean(self.device, DEVICES)}")
        for name in self.presets:
            preset(name)
        if self.dtype is not None:
            pick_dtype(self.dtype)
        for name, value in (("frames", self.frames), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")

    @property
    def shape_device(self) -> torch.device | None:
        """Where sizes are measured; None: there is no GPU, or no size was asked for on the CPU."""
        if self.device == "cpu" or (self.device == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu") if self.presets else None
        return pick_device("cuda" if self.device == "auto" else self.device)

    @property
    def model_device(self) -> torch.device:
        """Where the ladder and the agreement are measured: on the CPU, unless a GPU is asked for."""
        return pick_device("cpu" if self.device == "auto" else self.device)

    @property
    def bundled(self) -> bool:
        """Whether the cases of a whole model are run: on the CPU only."""
        return self.device in ("auto", "cpu")

    def wants(self, case: str) -> bool:
        """Whether a case was asked for."""
        return not self.only or case in self.only

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The type of weights and cache on a device."""
        return pick_dtype(self.dtype or ("bfloat16" if device.type == "cuda" else "float32"))

    def count(self, full: int, quick: int) -> int:
        """How many frames or repeats: the full number, or a short look's; never more than `frames`."""
        return min(quick if self.quick else full, self.frames)

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return dataclasses.asdict(self)

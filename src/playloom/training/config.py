"""The settings of a training run, and the way from a JSON file to a checked config.

Knows no model and no data; the configs of the two trainers hold a `LoopConfig`.

    >>> from_mapping(LoopConfig, {"steps": 100}).steps
    100
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from playloom.errors import ConfigError, did_you_mean

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast and how carefully a run goes.

    Raises:
        ConfigError: when neither steps nor minutes are given, or a value is out of range.
    """

    steps: int | None = None
    """End after this many optimiser steps."""
    minutes: float | None = None
    """End after this much training time, all sessions together; the schedule decays in time. With `steps`: whichever
    comes first."""
    max_minutes: float | None = None
    """Save and stop this session after this long, to be resumed later; None: no limit."""
    batch: int = 16
    """Examples a device takes at once."""
    accumulate: int = 1
    """Batches whose gradients are added up for one step."""
    seed: int = 0
    """Of the data order and of every random draw; same seed, same bytes on a CPU."""
    learning_rate: float = 3e-4
    """Peak of the schedule."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """`cosine` (Loshchilov & Hutter 2017), or `wsd`: warm-up, stable, linear decay (Hu et al. 2024)."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    decay_fraction: float = 0.2
    """The part of the run that decays, with `wsd`."""
    final_fraction: float = 0.02
    """Learning rate at the very end over the peak."""
    weight_decay: float = 0.05
    """Decoupled (Loshchilov & Hutter 2019), on matrices only."""
    beta1: float = 0.9
    """AdamW's first moment."""
    beta2: float = 0.95
    """AdamW's second moment."""
    clip: float = 1.0
    """Largest norm of all gradients together."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights that are validated and exported; 0: no average. Tokenizers have none."""
    log_steps: int = 10
    """Steps between lines of the log."""
    save_minutes: float = 3.0
    """Time between checkpoints."""
    save_steps: int | None = None
    """Steps between checkpoints, besides the time."""
    validate_minutes: float = 5.0
    """Time between validations with a preview."""
    validate_steps: int | None = None
    """Steps between validations, besides the time."""
    keep: int = 2
    """Checkpoints kept."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`; under torchrun every process takes its own."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """`auto`: bf16-mixed on a GPU, else 32-true."""
    threads: int | None = None
    """CPU threads; None: torch's choice."""
    compile: bool = False
    """Compile the networks (worth it on a GPU and for long runs)."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ConfigError("a run needs an end: give steps, minutes or both")
        for name in ("steps", "minutes", "max_minutes", "save_steps", "validate_steps", "threads"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # so that NaN, which compares false, is refused too
                raise ConfigError(f"{name} is {value}; expected more than 0")
        for name in ("batch", "accumulate", "log_steps", "keep", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected more than 0")
        for name in ("seed", "warmup_steps", "weight_decay", "save_minutes", "validate_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("decay_fraction", "final_fraction", "beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        for name, choices in (("schedule", ("cosine", "wsd")), ("precision", ("auto", "32-true", "bf16-mixed"))):
            if getattr(self, name) not in choices:
                value = getattr(self, name)
                raise ConfigError(f"{name} is {value!r}; {did_you_mean(str(value), choices)}")


FREE_ON_RESUME = frozenset(
    {"steps", "minutes", "max_minutes", "log_steps", "save_minutes", "save_steps", "validate_minutes"}
    | {"validate_steps", "keep", "device", "precision", "threads", "compile"}
)
"""Settings that may differ when a run is resumed; any other change makes it another run."""


def from_mapping(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a config dataclass (and the configs inside it) from plain JSON values.

    Raises:
        ConfigError: for an unknown key (names the nearest one) or a value of the wrong kind.
    """
    hints = get_type_hints(config)
    unknown = [key for key in values if key not in hints]
    if unknown:
        raise ConfigError(f"there is no setting {unknown[0]!r} here; {did_you_mean(unknown[0], hints)}")
    return config(**{key: _convert(key, value, hints[key]) for key, value in values.items()})


def to_mapping(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return dataclasses.asdict(config)


def _convert(key: str, value: Any, hint: Any) -> Any:
    """The value as its hint wants it: nested configs, lists to tuples, whole numbers to floats."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is {value!r}; expected settings of {hint.__name__}")
        return from_mapping(hint, value)
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for choice in choices:
        fits, converted = _fit(key, value, choice)
        if fits:
            return converted
    words = [*dict.fromkeys(word for choice in choices for word in _words(choice))]
    raise ConfigError(f"{key} is {value!r}; expected {' or '.join(words)}")


def _words(hint: Any) -> list[str]:
    """A kind of value in the words of a user."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    if get_origin(hint) is tuple:
        return ["a list"]
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return [known.get(hint, "an object of settings")]


def _fit(key: str, value: Any, hint: Any) -> tuple[bool, Any]:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return True, _convert(key, value, hint)
    if get_origin(hint) is Literal:
        return value in get_args(hint), value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            return False, value
        inner = get_args(hint)
        hints = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        return len(hints) == len(value), tuple(_convert(key, v, h) for v, h in zip(value, hints, strict=False))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return type(value) is hint, value

"""Sizes and seeds of an evaluation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from playloom.errors import ConfigError, MissingExtraError, check_whole
from playloom.inference.backend import BackendName
from playloom.inference.sampling import Sampling
from playloom.models.decode_order import DEFAULT_ROW_DELAY

_PARTS = (
    "greedy_segments", "game_segments", "diversity_segments", "inverse_updates", "drift_dreams", "revisit_segments",
    "persistency_segments", "return_segments",
)  # fmt: skip
"""Settings that leave out a part where they are 0."""
_QUICK = {
    "frames": 64, "windows": 8, "horizon_segments": 8, "control_segments": 12, "estimator_pairs": 150,
    "diversity_segments": 8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Sizes of every part of an evaluation. Reported figures use the defaults."""

    row_delay: int | None = DEFAULT_ROW_DELAY
    """Row delay of the decoding order; None: raster."""
    backend: BackendName = "torch"
    """What runs the dreams; likelihoods are torch's."""
    seed: int = 0
    """Seed of the drawn segments and frames, and of sampling."""
    sampling: Sampling = field(default_factory=Sampling)
    """Sampling of generated tokens."""
    batch: int = 16
    """Sessions that are stepped as one batch."""
    frames: int = 256
    """Test frames for the tokenizer metrics."""
    windows: int = 32
    """Test windows for the likelihood, each as long as the model's context."""
    horizon_segments: int = 32
    """Segments of the rollout metrics."""
    horizon_steps: int = 30
    """Steps of the rollout metrics."""
    greedy_segments: int = 16
    """Segments of the short rollouts (greedy sampling, held-out episodes); 0: neither."""
    greedy_steps: int = 10
    """Steps of the short rollouts."""
    collapse_step: int = 50
    """Step at which sharpness is compared."""
    control_segments: int = 48
    """Segments from which every input is held."""
    control_steps: int = 5
    """Steps an input is held."""
    game_segments: int = 6
    """Segments repeated in the real game; 0: none."""
    estimator_pairs: int = 400
    """Recorded steps that the yaw estimator is tested on."""
    diversity_segments: int = 20
    """Segments from which actions are sampled, both on generated and on recorded frames; 0: none."""
    diversity_steps: int = 10
    """Actions sampled from each segment, each way."""
    encoded_frames: int = 3000
    """Recorded test frames that inverse dynamics and drift compare with."""
    inverse_updates: int = 300
    """Updates of the inverse-dynamics network; 0: none."""
    drift_dreams: int = 6
    """Long dreams; 0: none."""
    drift_steps: int = 500
    """Steps of a long dream."""
    revisit_segments: int = 16
    """Segments from which the camera turns away and back; 0: none."""
    persistency_segments: int = 24
    """Segments with an object pasted into the prompt; 0: none."""
    persistency_steps: int = 10
    """Generated steps in which the object is searched for."""
    persistency_kept: float = 0.5
    """Least share of an object that the tokenizer must keep, in [0, 1]; else the next object is pasted."""
    return_segments: int = 60
    """Segments whose return is predicted in dreams, for models with a reward head; 0: none."""
    return_steps: int = 30
    """Steps of a return."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if item.type == "int":
                least = 0 if item.name in ("seed", *_PARTS) else 1
                check_whole(f"evaluation {item.name}", getattr(self, item.name), least, 2**63 - 1)
        if not 0 <= self.persistency_kept <= 1:
            raise ConfigError(f"evaluation persistency_kept is {self.persistency_kept}; expected a share from 0 to 1")

    @property
    def horizon_reach(self) -> int:
        """Steps of the long rollouts, used by the rollout metrics and the collapse."""
        return max(self.horizon_steps, self.collapse_step)

    def quick(self) -> EvaluationSettings:
        """Return smaller sizes, for a noisier result in at most a fifth of the time."""
        sizes: dict[str, Any] = {**dict.fromkeys(_PARTS, 0), **_QUICK}
        return dataclasses.replace(self, **sizes)


def require_extra() -> None:
    """Raise a MissingExtraError unless the packages of the extra `evaluate` are installed."""
    for package in ("torch", "scipy", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError.of(package, "evaluate")

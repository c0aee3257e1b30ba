"""How much an evaluation measures, and with which seeds. Values only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from playloom.errors import ConfigError
from playloom.inference.sampling import Sampling
from playloom.models.decode_order import DEFAULT_LAG


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Sizes of every part. The defaults are the ones that reported figures use.

    Raises:
        ConfigError: when a size is not positive, or a share not from 0 to 1.
    """

    row_delay: int | None = DEFAULT_LAG
    """Row delay of the decoding order in every dream; None: raster."""
    seed: int = 0
    """Decides moments, frames and the dreams' noise."""
    sampling: Sampling = field(default_factory=Sampling)
    """How dreams draw their tokens."""
    batch: int = 16
    """Dreams that advance together."""
    frames: int = 256
    """Test frames the tokenizer is measured on."""
    windows: int = 32
    """Test windows the likelihood is measured on; each as long as the model's context."""
    horizon_moments: int = 32
    """Moments the horizon is measured from."""
    horizon_steps: int = 30
    """Steps the horizon is measured over."""
    greedy_moments: int = 16
    """Moments of the short horizons: greedy sampling, and held-out episodes; 0: neither."""
    greedy_steps: int = 10
    """Steps of the short horizons."""
    collapse_step: int = 50
    """The dreamed frame whose sharpness is judged."""
    control_moments: int = 50
    """Moments every held input is tried from."""
    control_steps: int = 5
    """Steps an input is held."""
    game_moments: int = 12
    """Moments at which the real game is asked for the same held inputs; 0: none."""
    estimator_pairs: int = 400
    """Real steps the yaw estimator is judged on."""
    diversity_moments: int = 20
    """Moments from which actions are dreamed, among dreamed pictures and among recorded ones; 0: none."""
    diversity_steps: int = 10
    """Actions dreamed from each, each way."""
    persistency_moments: int = 12
    """Moments at which an object is pasted into the prompt; 0: none."""
    persistency_steps: int = 10
    """Dreamed steps after which it should still be there."""
    persistency_kept: float = 0.5
    """Share of an object that the tokenizer must keep, else another object is pasted; 0 to 1."""

    def __post_init__(self) -> None:
        may_be_zero = {"seed", "greedy_moments", "game_moments", "diversity_moments", "persistency_moments"}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in ("row_delay", "sampling", "persistency_kept"):
                continue
            least = 0 if item.name in may_be_zero else 1
            if value < least:
                raise ConfigError(f"evaluation {item.name} is {value}; expected a whole number from {least}")
        if not 0 <= self.persistency_kept <= 1:
            raise ConfigError(f"evaluation persistency_kept is {self.persistency_kept}; expected a share from 0 to 1")

    @property
    def horizon_reach(self) -> int:
        """Steps of the long dreams: they serve the horizon and the collapse."""
        return max(self.horizon_steps, self.collapse_step)

    def quick(self) -> EvaluationSettings:
        """A rough look in a fifth of the time or less; the bars are the same, the figures noisier."""
        return dataclasses.replace(
            self,
            frames=64,
            windows=8,
            horizon_moments=8,
            greedy_moments=0,
            control_moments=16,
            game_moments=0,
            estimator_pairs=150,
            diversity_moments=8,
            persistency_moments=0,
        )

"""One checkpoint, several decoding orders: frames a second and quality of each, and the fastest that loses nothing.

Quality is what `evaluation` measures, on the same windows and moments for every order: teacher-forced cross-entropy of
the image, PSNR of dreams at steps 1, 3 and 10, and whether a held stick turns the right way. Owns the comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.benchmarks.about import about
from playloom.benchmarks.rows import BenchReport, aligned, plain, show
from playloom.benchmarks.settings import BenchSettings
from playloom.benchmarks.stream import Tick, bundled_prompt, time_dream
from playloom.data.dataset import FrameDataset
from playloom.evaluation.camera_motion import Camera
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.control import dream_control
from playloom.evaluation.likelihood import Windows, likelihood, order_name, windows_at
from playloom.evaluation.report import beyond_noise
from playloom.evaluation.rollout import measure_horizon
from playloom.evaluation.segments import Moment, choose_moments
from playloom.evaluation.suite import LAGS
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import WorldModel, bundled_models, load_model, model_folder

STEPS = (1, 3, 10)
"""Steps of the dreams at which PSNR is compared."""
RULE = (
    "Within noise of raster: no figure is worse by more than two standard errors of its differences to raster, taken "
    "window by window, moment by moment, turn by turn; the fastest such order is marked with *."
)
"""How the verdict is reached."""
_HEAD = ("model", "order", "passes", "frames/s", "cross-entropy", *(f"PSNR {step}" for step in STEPS), "direction", "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """One order of one model. All figures are paired with raster's by their index."""

    model: str
    """The model's name."""
    order: str
    """`raster` or the row lag."""
    passes: int
    """Image passes a frame."""
    rate: float
    """Frames a second of one dream, pixels included."""
    image_B: NDArray[np.float64]
    """Cross-entropy of an image code of each window, nats."""
    psnr_M: Mapping[int, NDArray[np.float64]]
    """PSNR of each moment's dream at each of `STEPS`, dB."""
    right_T: NDArray[np.float64]
    """1 where a held turn went the right way, else 0; empty where control was not measured."""

    def losses(self, raster: Rung) -> dict[str, NDArray[np.float64]]:
        """By how much each figure is worse than raster's: positive is worse."""
        found = {"cross-entropy": self.image_B - raster.image_B}
        for step, psnr in self.psnr_M.items():
            found[f"PSNR {step}"] = raster.psnr_M[step] - psnr
        if len(self.right_T):
            found["direction"] = raster.right_T - self.right_T
        return found

    def worse(self, raster: Rung) -> tuple[str, ...]:
        """The figures that are worse beyond noise."""
        return tuple(name for name, loss in self.losses(raster).items() if beyond_noise(loss))


@dataclass(frozen=True, kw_only=True, eq=False)
class LadderRow:
    """A rung beside raster, with its verdict."""

    rung: Rung
    """The order's figures."""
    raster: Rung
    """Raster's, of the same model."""
    chosen: bool
    """Whether it is the fastest order within noise."""

    def to_json(self) -> dict[str, Any]:
        """JSON values: means, differences and their standard errors."""
        rung = self.rung
        losses = {
            name: {"mean": float(loss.mean()), "standard_error": standard_error(loss), "count": len(loss)}
            for name, loss in rung.losses(self.raster).items()
        }
        return plain(
            {
                "model": rung.model,
                "order": rung.order,
                "passes": rung.passes,
                "frames_per_second": rung.rate,
                "cross_entropy": float(rung.image_B.mean()),
                "psnr": {step: float(psnr.mean()) for step, psnr in rung.psnr_M.items()},
                "direction_right": float(rung.right_T.mean()) if len(rung.right_T) else None,
                "loss_to_raster": losses,
                "worse_beyond_noise": rung.worse(self.raster),
                "chosen": self.chosen,
            }
        )

    def cells(self) -> tuple[str, ...]:
        """The texts of a table line."""
        rung, losses = self.rung, self.rung.losses(self.raster)
        shown = {"cross-entropy": f"{rung.image_B.mean():.3f}"}
        shown |= {f"PSNR {step}": f"{psnr.mean():.2f}" for step, psnr in rung.psnr_M.items()}
        shown["direction"] = f"{100 * rung.right_T.mean():.0f} %" if len(rung.right_T) else ""
        if rung is not self.raster:
            for name, loss in losses.items():
                shown[name] += f" ({loss.mean():+.3f} ± {standard_error(loss):.3f})"
        worse = rung.worse(self.raster)
        verdict = f"worse: {', '.join(worse)}" if worse else "" if rung is self.raster else "within noise"
        figures = [shown.get(name, "") for name in _HEAD[4:-1]]
        mark = "* " if self.chosen else ""
        return (rung.model, rung.order, str(rung.passes), show(rung.rate, ""), *figures, (mark + verdict).rstrip())


def ladder(
    store: FrameDataset, settings: BenchSettings, sizes: EvaluationSettings | None = None, tick: Tick = lambda _: None
) -> BenchReport:
    """Judge every order of the models.

    Args:
        store: test episodes, as `playloom evaluate` takes them.
        settings: the model (None: every bundled one), frames of the clock, seed.
        sizes: how many windows and moments; None: as `playloom evaluate` has them.
        tick: told what is being measured.

    Raises:
        ConfigError: when a model decodes in raster order only.
        PictureError: when the store's pictures are of another size than a model's.
        RecordingError: when the store has no stretch long enough.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    sizes = sizes or (EvaluationSettings().quick() if settings.quick else EvaluationSettings())
    rows: list[LadderRow] = []
    device = settings.model_device
    judged = {}
    names = [settings.model] if settings.model else bundled_models()
    for name in names:
        model = load_model(model_folder(name), device)
        judged[model.config.name] = model.fingerprint
        sizes = dataclasses.replace(sizes, seed=settings.seed, sampling=Sampling.from_card(model.card))
        rows += verdicts(_Climb(model, store, sizes, settings, tick).rungs())
    data = {"episodes": len(store.of_split("test")), "windows": sizes.windows, "moments": sizes.horizon_moments}
    return BenchReport(
        kind="ladder",
        rows=rows,
        table=aligned(_HEAD, [row.cells() for row in rows]),
        run=about(settings, device, models=judged, data=data, rule=RULE),
        notes=("Differences in brackets: positive is worse than raster, ± one standard error.", RULE),
    )


def verdicts(rungs: Sequence[Rung]) -> list[LadderRow]:
    """Rows of one model's orders; raster is the first."""
    raster = rungs[0]
    fastest = max((rung for rung in rungs if not rung.worse(raster)), key=lambda rung: rung.rate)
    return [LadderRow(rung=rung, raster=raster, chosen=rung is fastest) for rung in rungs]


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean; NaN for fewer than two values."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


@dataclass
class _Climb:
    """One model on its way through the orders: what is measured where."""

    model: WorldModel
    store: FrameDataset
    sizes: EvaluationSettings
    settings: BenchSettings
    tick: Tick

    def rungs(self) -> list[Rung]:
        """Raster first, then every row delay smaller than the grid is wide."""
        self.model.tokenizer.check_size(torch.from_numpy(np.array(self.store.frames_FHWC[:1])))
        width = self.model.config.layout.grid_width
        windows = windows_at(self.model, self.store, self._moments(self.sizes.windows, 1, extra=2))
        return [
            self._rung(windows, row_delay)
            for row_delay in (None, *(row_delay for row_delay in LAGS if row_delay < width))
        ]

    def _rung(self, windows: Windows, row_delay: int | None) -> Rung:
        name, order, sizes = self.model.config.name, order_name(row_delay), self.sizes
        dreamer = Engine(self.model, row_delay=row_delay)
        self.tick(f"{name}, {order}: likelihood")
        judged = likelihood(self.model, windows.codes_BTN, windows.actions, row_delay)
        moments = self._moments(sizes.horizon_moments, max(STEPS))
        self.tick(f"{name}, {order}: horizon")
        horizon = measure_horizon(
            self.model,
            dreamer,
            self.store,
            moments,
            steps=max(STEPS),
            sampling=sizes.sampling,
            seed=sizes.seed,
            batch=sizes.batch,
            detail=False,
        )
        return Rung(
            model=name,
            order=order,
            passes=dreamer.schedule.image_passes,
            rate=self._rate(dreamer, order),
            image_B=judged.image_B,
            psnr_M={step: horizon.dream_MS[:, step - 1] for step in STEPS},
            right_T=self._right(dreamer, order),
        )

    def _rate(self, dreamer: Engine, order: str) -> float:
        self.tick(f"{self.model.config.name}, {order}: speed")
        prompt, played = bundled_prompt(self.model)
        frames = self.settings.count(40, 5)
        return time_dream(dreamer, prompt, played, frames, sampling=self.sizes.sampling).rate

    def _right(self, dreamer: Engine, order: str) -> NDArray[np.float64]:
        """Which held turns went the right way; nothing for another game than the arena, whose camera is not known."""
        if {span.meta.get("game", "arena") for span in self.store.of_split("test")} != {"arena"}:
            return np.zeros(0)
        sizes = self.sizes
        control = dream_control(
            self.model,
            dreamer,
            self.store,
            self._moments(sizes.control_moments, sizes.control_steps),
            steps=sizes.control_steps,
            sampling=sizes.sampling,
            seed=sizes.seed,
            batch=sizes.batch,
            camera=Camera(),
            tick=lambda what: self.tick(f"{self.model.config.name}, {order}: {what}"),
        )
        return np.concatenate([control.right > 0, control.left < 0]).astype(np.float64)

    def _moments(self, count: int, future: int, extra: int = 0) -> list[Moment]:
        past = self.model.config.transformer.context_steps + extra
        spans = self.store.of_split("test")
        return choose_moments(self.store, spans, count=count, past=past, future=future, seed=self.sizes.seed)

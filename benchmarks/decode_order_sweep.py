"""Decode order sweep: speed and quality of every decoding order of one model, and the fastest order without loss.

    python benchmarks/decode_order_sweep.py --model arena-live --data TEST_EPISODES

Quality is measured by the functions of `playloom evaluate`, on the same segments for every order: teacher-forced
cross-entropy of image codes, PSNR of dreams at steps 1, 3 and 10, and the direction of held turns. An order is within
noise of raster if no figure is worse by more than two standard errors of its differences to raster, taken window by
window, segment by segment, turn by turn. The fastest such order is marked with *.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from _harness import count, options, parse, progress, report, run, show
from playloom.cli.common import text_table
from playloom.data.dataset import FrameDataset
from playloom.device import pick_device
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.control import measure_control
from playloom.evaluation.likelihood import ROW_DELAYS, Windows, likelihood, order_name, windows_at
from playloom.evaluation.report import is_significant
from playloom.evaluation.rollout import measure_rollout
from playloom.evaluation.segments import EvaluationContext, Segment, choose_segments
from playloom.evaluation.suite import open_test_set
from playloom.inference.benchmark import first_prompt, time_frames
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import WorldModel, load_model
from playloom.models.folder import bundled_models, model_folder

STEPS = (1, 3, 10)
"""Steps of the dreams at which PSNR is compared."""
_HEAD = ("model", "order", "passes", "frames/s", "cross-entropy", *(f"PSNR {step}" for step in STEPS), "direction", "")
_NOTE = "Brackets: loss relative to raster ± one standard error; positive is worse. *: fastest order within noise."


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderResult:
    """Figures of one order, paired with those of raster by their index."""

    model: str
    order: str
    passes: int
    """Image passes per frame."""
    rate: float
    """Frames per second of one dream, pixels included."""
    image_B: NDArray[np.float64]
    """Cross-entropy per image code of each window, nats."""
    psnr_M: Mapping[int, NDArray[np.float64]]
    """PSNR of each segment's dream at each of `STEPS`, dB."""
    right_T: NDArray[np.float64]
    """1 where a held turn had the right direction, else 0; empty where control was not measured."""

    def losses(self, raster: OrderResult) -> dict[str, NDArray[np.float64]]:
        """Return paired differences to raster; positive is worse."""
        found = {"cross-entropy": self.image_B - raster.image_B}
        for step, psnr in self.psnr_M.items():
            found[f"PSNR {step}"] = raster.psnr_M[step] - psnr
        if len(self.right_T):
            found["direction"] = raster.right_T - self.right_T
        return found

    def worse(self, raster: OrderResult) -> tuple[str, ...]:
        """Return the figures that are worse beyond noise."""
        return tuple(name for name, loss in self.losses(raster).items() if is_significant(loss))


def fastest_within_noise(results: Sequence[OrderResult]) -> OrderResult:
    """Choose among the orders of one model; raster is the first."""
    return max((each for each in results if not each.worse(results[0])), key=lambda each: each.rate)


def to_json(result: OrderResult, raster: OrderResult, chosen: bool) -> dict[str, Any]:
    """Return means, losses and their standard errors."""
    losses = {
        name: {"mean": loss.mean(), "standard_error": standard_error(loss), "count": len(loss)}
        for name, loss in result.losses(raster).items()
    }
    return {
        "model": result.model,
        "order": result.order,
        "passes": result.passes,
        "frames_per_second": result.rate,
        "cross_entropy": result.image_B.mean(),
        "psnr": {step: psnr.mean() for step, psnr in result.psnr_M.items()},
        "direction_right": result.right_T.mean() if len(result.right_T) else None,
        "loss_to_raster": losses,
        "worse_beyond_noise": result.worse(raster),
        "chosen": chosen,
    }


def cells(result: OrderResult, raster: OrderResult, chosen: bool) -> tuple[str, ...]:
    """Return the texts of a table line."""
    shown = {"cross-entropy": f"{result.image_B.mean():.3f}"}
    shown |= {f"PSNR {step}": f"{psnr.mean():.2f}" for step, psnr in result.psnr_M.items()}
    shown["direction"] = f"{100 * result.right_T.mean():.0f} %" if len(result.right_T) else ""
    if result is not raster:
        for name, loss in result.losses(raster).items():
            shown[name] += f" ({loss.mean():+.3f} ± {standard_error(loss):.3f})"
    worse = result.worse(raster)
    verdict = f"worse: {', '.join(worse)}" if worse else "" if result is raster else "within noise"
    figures = [shown[name] for name in _HEAD[4:-1]]
    mark = "* " if chosen else ""
    return (result.model, result.order, str(result.passes), show(result.rate, ""), *figures, (mark + verdict).rstrip())


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean; NaN for fewer than two values."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


@dataclass
class Sweep:
    """Measures the orders of one model."""

    model: WorldModel
    store: FrameDataset
    sizes: EvaluationSettings
    frames: int
    """Frames of the speed measurement."""

    def results(self) -> list[OrderResult]:
        """Measure raster first, then every row delay below the grid's width."""
        self.model.config.tokenizer.check_size(self.store.frames_FHWC[:1])
        width = self.model.config.layout.grid_width
        windows = windows_at(self.model, self.store, self._segments(self.sizes.windows, 1, extra=2))
        return [self._result(windows, delay) for delay in (None, *(delay for delay in ROW_DELAYS if delay < width))]

    def _result(self, windows: Windows, row_delay: int | None) -> OrderResult:
        sizes, engine = self.sizes, Engine(self.model, row_delay=row_delay)
        progress(f"{self.model.config.name}, {order_name(row_delay)}")
        segments = self._segments(sizes.horizon_segments, max(STEPS))
        horizon = measure_rollout(EvaluationContext(engine, self.store, sizes), segments, steps=max(STEPS))
        prompt, played = first_prompt(self.model)
        return OrderResult(
            model=self.model.config.name,
            order=order_name(row_delay),
            passes=engine.schedule.image_passes,
            rate=1 / float(time_frames(engine, prompt, played, self.frames, sampling=sizes.sampling)[1:].mean()),
            image_B=likelihood(self.model, windows.codes_BTN, windows.actions, row_delay)["image"],
            psnr_M={step: horizon.dream_MS[:, step - 1] for step in STEPS},
            right_T=self._right(engine),
        )

    def _right(self, engine: Engine) -> NDArray[np.float64]:
        """Directions of held turns; empty for games other than the arena, whose cameras are unknown."""
        if {span.meta.get("game", "arena") for span in self.store.of_split("test")} != {"arena"}:
            return np.zeros(0)
        segments = self._segments(self.sizes.control_segments, self.sizes.control_steps)
        control = measure_control(EvaluationContext(engine, self.store, self.sizes), segments, ("turn",))
        return control.right_MK("turn").T.ravel()

    def _segments(self, number: int, future: int, extra: int = 0) -> list[Segment]:
        past, spans = self.model.config.transformer.context_steps + extra, self.store.of_split("test")
        return choose_segments(self.store, spans, count=number, past=past, future=future, seed=self.sizes.seed)


def sweep(given: argparse.Namespace, store: FrameDataset, sizes: EvaluationSettings) -> None:
    """Measure every order of the models and print one table."""
    rows, lines, models, device = [], [], {}, torch.device(pick_device(given.device))
    for name in [given.model] if given.model else bundled_models():
        model = load_model(model_folder(name), device)
        models[model.config.name] = model.fingerprint
        sizes = dataclasses.replace(sizes, seed=given.seed, sampling=Sampling.from_card(model.card))
        results = Sweep(model, store, sizes, count(given, 40, 5)).results()
        chosen = fastest_within_noise(results)
        rows += [to_json(result, results[0], result is chosen) for result in results]
        lines += [cells(result, results[0], result is chosen) for result in results]
    data = {"episodes": len(store.of_split("test")), "windows": sizes.windows, "segments": sizes.horizon_segments}
    report(given, rows, text_table(_HEAD, lines), device, [_NOTE], models=models, data=data)


def main(arguments: Sequence[str] | None = None) -> None:
    """Open the test episodes and sweep."""
    parser = options(__doc__, "model", "frames", "seed")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--data", type=Path, help="Frame store, or recordings with test episodes.")
    parser.add_argument("--cache-dir", type=Path, default=Path("out/evaluation"), help="Test set recorded here.")
    given = parse(parser, arguments)
    store = open_test_set(given.data, given.cache_dir, lambda what, done, total: progress(f"{what}: {done} of {total}"))
    sweep(given, store, EvaluationSettings().quick() if given.quick else EvaluationSettings())


if __name__ == "__main__":
    run(main)

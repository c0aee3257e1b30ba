"""The cases of a named size with random weights: decoding orders, many dreams at once, the published positions.

World mode, pictures decoded, the context filled with random codes: speed does not depend on what the weights say. The
same code runs on a GPU and, with a small size, on a CPU. A published size is measured with rolling positions and rows
(the `order` and `many` cases) and as it was published (the `absolute` case).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions import SLOT_SIZES
from playloom.benchmarks.attempt import Found, missing, rows_or_why
from playloom.benchmarks.bundled import together
from playloom.benchmarks.floor import frame_cost, prefill_cost, tokenizer_cost
from playloom.benchmarks.peer import peer_or_note
from playloom.benchmarks.rates import Rates, measure_rates, now
from playloom.benchmarks.rows import Bar, BenchRow
from playloom.benchmarks.settings import GPU_PRESETS, BenchSettings
from playloom.benchmarks.stream import Tick, median, time_dream
from playloom.checkpoint import Model
from playloom.engine import Dreamer, Prompt, Sampling
from playloom.presets import ModelConfig, build_tokenizer, build_transformer, preset, require_memory

ORDER_BARS = {
    ("200m", 1): Bar(most=32.0),
    ("200m", None): Bar(most=220.0),
    ("1.6b", 1): Bar(most=82.0),
    ("1.6b", None): Bar(most=1100.0),
}
"""Milliseconds a frame on one H100-class GPU, by size and row lag."""
MANY_BARS = {None: Bar(least=4.0), 4: Bar(least=8.0)}
"""Times one dream's frames a second that 16 dreams must reach together, by key/value heads."""
MANY, MANY_BAR_AT, GROUPED = (16, 64), 16, 4
"""Dreams at once, the number the bar is for, and the key/value heads of the grouped form."""
WARM = 3
"""Frames before the clock starts: kernels are chosen and graphs captured in them."""
MANY_PRESET = "200m"
"""The size whose many dreams and published positions are measured; with other sizes asked for, the first of them."""


@dataclass(kw_only=True)
class ShapeRun:
    """What the cases of all sizes on one device share."""

    settings: BenchSettings
    """How much to measure."""
    device: torch.device
    """Where."""
    tick: Tick
    """Told what is being measured."""
    found: Found = lambda _: None
    """Told every row."""

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of weights and cache."""
        return self.settings.dtype_on(self.device)

    @cached_property
    def rates(self) -> Rates:
        """Of this device, now."""
        self.tick(f"bandwidth and matrix rate of {self.device}")
        return measure_rates(self.device, self.dtype, 0.2 if self.settings.quick else 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """The sizes to measure."""
        return self.settings.presets or GPU_PRESETS

    @property
    def many_name(self) -> str:
        """The size of the cases that take only one."""
        return MANY_PRESET if MANY_PRESET in self.names else self.names[0]

    def build(self, config: ModelConfig, sessions: int = 1) -> Model:
        """Random weights on the device, those of the pixel decoder in the same dtype.

        Raises:
            PlayloomError: when weights and caches of so many dreams do not fit; nothing was allocated then.
        """
        require_memory(config, self.device, dtype=self.dtype, sessions=sessions)
        model = Model(
            config=config,
            tokenizer=build_tokenizer(config, seed=self.settings.seed).eval().requires_grad_(False),
            transformer=build_transformer(config, seed=self.settings.seed).eval().requires_grad_(False),
        )
        model.tokenizer.decoder.to(self.dtype)
        return model.to(self.device, self.dtype)

    def attempt(self, case: str, name: str, measure: Callable[[], list[BenchRow]]) -> list[BenchRow]:
        """The rows, or why there are none; the device's memory is free again afterwards."""
        try:
            return rows_or_why(case, name, "ms", measure, self.found)
        finally:
            _give_back(self.device)

    def frame_floor(self, dreamer: Dreamer, sessions: int = 1) -> float:
        """Least seconds of one frame of so many dreams, pixels included."""
        model = dreamer.model
        cost = frame_cost(model.config, dreamer.schedule, self.dtype, sessions)
        return (cost + tokenizer_cost(model.tokenizer, decode=sessions)).seconds(self.rates)


def shape_rows(
    settings: BenchSettings, device: torch.device, tick: Tick, found: Found = lambda _: None
) -> tuple[list[BenchRow], dict[str, float]]:
    """All rows of the wanted cases, and the device's measured rates. GPT-2 comes last: it can spoil none of ours."""
    run = ShapeRun(settings=settings, device=device, tick=tick, found=found)
    rates = run.rates  # first, while nothing else takes memory or time on the device
    ordered: dict[str, list[BenchRow]] = {}
    rows: list[BenchRow] = []
    if settings.wants("order"):
        ordered = {name: run.attempt("order", name, partial(order_rows, run, name)) for name in run.names}
    if settings.wants("many"):
        for heads in (None, GROUPED):
            rows += run.attempt("many", f"{run.many_name}{_heads_name(heads)}", partial(many_rows, run, heads))
    if settings.wants("absolute"):
        rows += run.attempt("absolute", run.many_name, partial(absolute_rows, run))
    compared = [row for name, measured in ordered.items() for row in beside(run, name, measured)]
    return compared + rows, rates.to_json()


def order_rows(run: ShapeRun, name: str) -> list[BenchRow]:
    """Time a frame of one size, k = 1 and raster."""
    model = run.build(rolling(preset(name)))
    rows: list[BenchRow] = []
    for lag in (1, None):
        order = "raster" if lag is None else f"k = {lag}"
        run.tick(f"{name}, rolling, {order}")
        shown = f"{name}, rolling, {_type_name(run.dtype)}, {order}: a frame"
        rows += rows_or_why("order", shown, "ms", partial(_order_row, run, model, name, lag, shown))
        _give_back(run.device)
    return rows


def _order_row(run: ShapeRun, model: Model, name: str, lag: int | None, shown: str) -> list[BenchRow]:
    dreamer = Dreamer(model, lag=lag)
    spans = frame_spans(run, dreamer)
    return [
        BenchRow(
            case="order",
            name=shown,
            value=1e3 * median(list(spans)),
            unit="ms",
            bar=ORDER_BARS.get((name, lag)) if run.device.type == "cuda" else None,
            floor=1e3 * run.frame_floor(dreamer),
            detail={"milliseconds": (1e3 * spans).round(3), "passes": dreamer.schedule.image_passes},
        )
    ]


def beside(run: ShapeRun, name: str, rows: list[BenchRow]) -> list[BenchRow]:
    """The rows of one size with GPT-2 of its shape beside them; as they are where none was measured."""
    if all(row.value is None for row in rows):
        return rows
    run.tick(f"{name}: GPT-2 of the same shape")
    peer, note = peer_or_note(rolling(preset(name)), run.device, run.dtype)
    usual = None if peer is None or peer.frame_seconds is None else 1e3 * peer.frame_seconds
    return [row if row.value is None else dataclasses.replace(row, beside=usual, note=note) for row in rows]


def many_rows(run: ShapeRun, heads: int | None) -> list[BenchRow]:
    """Frames a second of many dreams at once over those of one, k = 1; all heads, or grouped key/value heads."""
    name = run.many_name
    config = rolling(preset(name))
    if heads is not None:
        config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, kv_heads=heads))
    model, shown = run.build(config), f"{name}{_heads_name(heads)}"
    rows: list[BenchRow] = []
    single: float | None = None
    for size in (1, *MANY):
        run.tick(f"{shown}: {size} dreams at once")
        row = _many_row(run, model, size, f"{shown}, k = 1: {size} at once, all their frames")
        rows.append(row)
        if size == 1:
            single = row.value
            memory = row.detail.get("bytes_per_session", 0) / 2**20
            rows.append(BenchRow(case="many", name=f"{shown}: memory of one dream", value=memory or None, unit="MiB"))
        elif single and row.value:
            bar = MANY_BARS[heads] if (size, name, run.device.type) == (MANY_BAR_AT, MANY_PRESET, "cuda") else None
            over = row.value / single
            rows.append(BenchRow(case="many", name=f"{shown}: {size} at once over one", value=over, unit="x", bar=bar))
    return rows


def _many_row(run: ShapeRun, model: Model, size: int, name: str) -> BenchRow:
    """Frames a second of so many dreams; a dreamer of its own, so that nothing is left of the caches before."""
    _give_back(run.device)
    dreamer = Dreamer(model, lag=1)
    prompt, actions = random_prompt(model.config, run.settings.seed)
    rounds = run.settings.count(8, 2)
    try:
        require_memory(model.config, run.device, dtype=run.dtype, sessions=size, weights=0)  # built already
        rate, memory = together(dreamer, prompt, actions, size, rounds, Sampling(), warm=WARM)
    except Exception as error:  # fewer dreams may do
        return missing("many", name, "frames/s", error)
    return BenchRow(
        case="many",
        name=name,
        value=rate,
        unit="frames/s",
        floor=size / run.frame_floor(dreamer, size),
        detail={"bytes_per_session": memory, "rounds": rounds},
    )


def absolute_rows(run: ShapeRun) -> list[BenchRow]:
    """The published form: chain, absolute positions, raster; every frame runs the window again, shown apart too."""
    name = run.many_name
    config = dataclasses.replace(
        preset(name),
        rows=False,
        transformer=dataclasses.replace(preset(name).transformer, positions="absolute", action_condition=False),
    )
    run.tick(f"{name}, absolute, raster")
    dreamer = Dreamer(run.build(config))
    spans = frame_spans(run, dreamer)
    steps = config.transformer.context_steps - 1
    prefill = prefill_spans(run, dreamer, steps)
    note = "absolute positions: the window slides, so its steps are run again for every frame; that prefill is included"
    return [
        BenchRow(
            case="absolute",
            name=f"{name}, absolute, {_type_name(run.dtype)}, raster: a frame",
            value=1e3 * median(list(spans)),
            unit="ms",
            floor=1e3 * run.frame_floor(dreamer),
            note=note,
            detail={"milliseconds": (1e3 * spans).round(3), "passes": dreamer.schedule.image_passes},
        ),
        BenchRow(
            case="absolute",
            name=f"{name}, absolute: of which prefill (opening on {steps} steps)",
            value=1e3 * median(list(prefill)),
            unit="ms",
            floor=1e3 * prefill_cost(config, dreamer.schedule, run.dtype, steps).seconds(run.rates),
            detail={"milliseconds": (1e3 * prefill).round(3)},
        ),
    ]


def rolling(config: ModelConfig) -> ModelConfig:
    """A size made over to rolling positions and rows; all else stays."""
    sizes = dataclasses.replace(config.transformer, positions="rolling")
    return dataclasses.replace(config, rows=True, transformer=sizes)


def random_prompt(config: ModelConfig, seed: int, steps: int | None = None) -> tuple[Prompt, NDArray[np.uint8]]:
    """A full context (or `steps` steps) of random codes and actions, and 64 more actions uint8 [64, 16]."""
    source = np.random.default_rng(seed)
    steps = steps or config.transformer.context_steps
    codes_TN = source.integers(0, config.layout.vocab.codebook_size, (steps, config.layout.image_slots))
    actions_TA = np.stack([source.integers(0, n, steps + 63, dtype=np.uint8) for n in SLOT_SIZES], axis=1)
    height, width = config.tokenizer.frame_height, config.tokenizer.frame_width
    frames_THWC = np.zeros((steps, height, width, 3), np.uint8)  # never looked at: the codes are given
    return Prompt(frames_THWC=frames_THWC, actions_TA=actions_TA[: steps - 1], codes_TN=codes_TN), actions_TA[
        steps - 1 :
    ]


def frame_spans(run: ShapeRun, dreamer: Dreamer) -> NDArray[np.float64]:
    """Seconds of single frames, the context full; frames before the clock let kernels and graphs settle."""
    frames = run.settings.count(10, 2)
    prompt, actions = random_prompt(dreamer.model.config, run.settings.seed)
    times = time_dream(dreamer, prompt, actions, WARM + frames, sampling=Sampling(), seed=run.settings.seed)
    return times.frames_F[WARM:]


def prefill_spans(run: ShapeRun, dreamer: Dreamer, steps: int) -> NDArray[np.float64]:
    """Seconds to open a dream on `steps` encoded steps."""
    prompt, _ = random_prompt(dreamer.model.config, run.settings.seed, steps)
    spans = []
    for _ in range(run.settings.count(5, 2) + 1):
        started = now(run.device)
        session = dreamer.open(prompt, sampling=Sampling())
        spans.append(now(run.device) - started)
        session.close()
    return np.array(spans[1:])


def _give_back(device: torch.device) -> None:
    """Memory that torch keeps for later use counts as taken; hand it back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _heads_name(heads: int | None) -> str:
    return "" if heads is None else f", {heads} key/value heads"


def _type_name(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}.get(dtype, str(dtype))

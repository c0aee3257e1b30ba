"""The cases of a named size with random weights: decoding orders, many dreams at once, the published positions.

World mode, pictures decoded, the context filled with random codes: speed does not depend on what the weights say. The
same code runs on a GPU and, with a small size, on a CPU. A published size is measured with rolling positions and rows
(the `order` and `many` cases) and as it was published (the `absolute` case).
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from playloom.benchmarks.attempt import Found, missing, rows_or_why
from playloom.benchmarks.bundled import together
from playloom.benchmarks.floor import prefill_cost
from playloom.benchmarks.peer import peer_or_note
from playloom.benchmarks.rows import Bar, BenchRow
from playloom.benchmarks.settings import BenchSettings
from playloom.benchmarks.shape_run import (
    MANY_PRESET,
    WARM,
    ShapeRun,
    frame_spans,
    give_back,
    prefill_spans,
    random_prompt,
    rolling,
)
from playloom.benchmarks.stream import Tick, median
from playloom.inference.cuda_graphs import FrameGraphs, cuda_capture
from playloom.inference.decoder import CachedDecoder
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import WorldModel
from playloom.models.presets import preset
from playloom.models.world_model import require_memory

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
PLAIN = ", nothing captured"
"""What the name of a row ends in whose frames were run plainly."""


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
    """Time a frame of one size, k = 1 and raster; where frames are captured, uncaptured ones too."""
    model = run.build(rolling(preset(name)))
    rows: list[BenchRow] = []
    for row_delay in (1, None):
        order = "raster" if row_delay is None else f"k = {row_delay}"
        run.tick(f"{name}, rolling, {order}")
        shown = f"{name}, rolling, {_type_name(run.dtype)}, {order}: a frame"
        rows += rows_or_why("order", shown, "ms", partial(_order_row, run, model, name, row_delay, shown))
        give_back(run.device)
        if cuda_capture(run.device) is not None:
            run.tick(f"{name}, rolling, {order}, nothing captured")
            rows += rows_or_why(
                "order", f"{shown}{PLAIN}", "ms", partial(_plain_row, run, model, row_delay, f"{shown}{PLAIN}")
            )
            give_back(run.device)
    return rows


def _order_row(run: ShapeRun, model: WorldModel, name: str, row_delay: int | None, shown: str) -> list[BenchRow]:
    dreamer = Engine(model, row_delay=row_delay)
    spans = frame_spans(run, dreamer)
    return [
        BenchRow(
            case="order",
            name=shown,
            value=1e3 * median(list(spans)),
            unit="ms",
            bar=ORDER_BARS.get((name, row_delay)) if run.device.type == "cuda" else None,
            floor=1e3 * run.frame_floor(dreamer),
            detail={"milliseconds": (1e3 * spans).round(3), "passes": dreamer.schedule.image_passes},
        )
    ]


def _plain_row(run: ShapeRun, model: WorldModel, row_delay: int | None, shown: str) -> list[BenchRow]:
    """What captures are worth; and a figure, should they fail."""
    dreamer = Engine(model, row_delay=row_delay)
    assert isinstance(dreamer.decoder, CachedDecoder)
    dreamer.decoder.graphs = FrameGraphs(None)
    spans = frame_spans(run, dreamer)
    detail = {"milliseconds": (1e3 * spans).round(3)}
    return [BenchRow(case="order", name=shown, value=1e3 * median(list(spans)), unit="ms", detail=detail)]


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


def _many_row(run: ShapeRun, model: WorldModel, size: int, name: str) -> BenchRow:
    """Frames a second of so many dreams; a dreamer of its own, so that nothing is left of the caches before."""
    give_back(run.device)
    dreamer = Engine(model, row_delay=1)
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
    dreamer = Engine(run.build(config))
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


def _heads_name(heads: int | None) -> str:
    return "" if heads is None else f", {heads} key/value heads"


def _type_name(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}.get(dtype, str(dtype))

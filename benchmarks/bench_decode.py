"""Speed of decoding large presets, compared with the machine's roofline and with GPT-2 of the same shape.

    python benchmarks/bench_decode.py --device cuda --out benchmarks/results/decode-GPU-DATE.json
    python benchmarks/bench_decode.py --device cpu --presets tiny --quick

Cases: time per frame by decoding order (order), large batches (many), the published absolute positions (absolute).
Weights are random, the context is full, frames are decoded to pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from _gpt2 import measure_baseline
from _harness import Row, Target, median, options, parse, progress, report, run, run_case, table
from _roofline import Setup, prefill_cost
from playloom.actions.codec import SLOT_SIZES
from playloom.device import pick_device
from playloom.inference.benchmark import synchronized_time, time_batch, time_frames
from playloom.inference.cuda_graphs import FrameGraphs, cuda_capture
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt
from playloom.inference.torch_backend import CachedDecoder
from playloom.models.checkpoint import WorldModel, build_transformer, require_memory
from playloom.models.config import ModelConfig
from playloom.models.presets import PRESETS, preset
from playloom.models.tokenizer.tokenizer import FrameTokenizer

CASES = ("order", "many", "absolute")
MANY_PRESET = "200m"
"""Preset of the cases that take one; with other presets given, the first of those."""
FRAME_TARGETS = {("200m", 1): 32.0, ("200m", None): 220.0, ("1.6b", 1): 82.0, ("1.6b", None): 1100.0}
"""Most milliseconds per frame on one H100-class GPU, by preset and row delay."""
BATCH_TARGETS = {None: 4.0, 4: 8.0}
"""Frames per second of 16 dreams over those of one on such a GPU, at least, by key/value heads."""
WARMUP = 3  # frames in which kernels are chosen and graphs captured


class PresetSetup(Setup):
    """Builds presets. Speed does not depend on the values of the weights."""

    @property
    def many_name(self) -> str:
        """The preset of the cases that take one."""
        return MANY_PRESET if MANY_PRESET in self.given.presets else self.given.presets[0]

    def build(self, config: ModelConfig) -> WorldModel:
        """Random weights on the device; raises ResourceError before anything is allocated."""
        require_memory(config, self.device, dtype=self.dtype)
        model = WorldModel(
            config=config,
            tokenizer=FrameTokenizer(config.tokenizer, seed=self.given.seed).eval().requires_grad_(False),
            transformer=build_transformer(config, seed=self.given.seed).eval().requires_grad_(False),
        )
        model.tokenizer.decoder.to(self.dtype)
        return model.to(self.device, self.dtype)

    def run_case(
        self, case: str, name: str, unit: str, measure: Callable[[], list[Row]], *, nested: bool = False
    ) -> list[Row]:
        """See `_harness.run_case`; releases the device's memory afterwards."""
        try:
            return run_case(case, name, unit, measure, nested=nested)
        finally:
            self.free()

    def frame_row(self, case: str, name: str, engine: Engine, **values: object) -> Row:
        """Median time per frame with a full context."""
        prompt, actions = random_prompt(engine.model.config, self.given.seed)
        frames = WARMUP + self.count(10, 2)
        times = time_frames(engine, prompt, actions, frames, sampling=Sampling(), seed=self.given.seed)
        spans = times[1 + WARMUP :]
        detail = {"milliseconds": (1e3 * spans).round(3), "passes": engine.schedule.image_passes}
        least = 1e3 * self.roofline(engine)
        return Row(case, name, 1e3 * median(spans), "ms", roofline=least, detail=detail, **values)  # type: ignore[arg-type]


def preset_rows(setup: PresetSetup) -> list[Row]:
    """Rows of the wanted cases of presets. GPT-2 is measured last, where its failure costs no other row."""
    assert setup.rates  # measured before anything else takes memory on the device
    orders: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for name in setup.given.presets if "order" in setup.given.only else ():
        orders[name] = setup.run_case("order", name, "ms", partial(order_rows, setup, name), nested=True)
    if "many" in setup.given.only:
        for heads in BATCH_TARGETS:
            rows += setup.run_case("many", setup.many_name, "frames/s", partial(many_rows, setup, heads), nested=True)
    if "absolute" in setup.given.only:
        rows += setup.run_case("absolute", setup.many_name, "ms", partial(absolute_rows, setup))
    compared = [row for name, measured in orders.items() for row in with_baseline(setup, name, measured)]
    return compared + rows


def rolling(config: ModelConfig) -> ModelConfig:
    """Return a preset with rolling positions and row tokens."""
    sizes = dataclasses.replace(config.transformer, positions="rolling")
    return dataclasses.replace(config, rows=True, transformer=sizes)


def random_prompt(config: ModelConfig, seed: int, steps: int | None = None) -> tuple[Prompt, NDArray[np.uint8]]:
    """A full context (or `steps` steps) of random codes and actions, and 64 more actions, uint8 [64, 16]."""
    source, sizes = np.random.default_rng(seed), config.tokenizer
    steps = steps or config.transformer.context_steps
    codes_TN = source.integers(0, config.layout.vocab.codebook_size, (steps, config.layout.image_slots))
    actions_TA = np.stack([source.integers(0, n, steps + 63, dtype=np.uint8) for n in SLOT_SIZES], axis=1)
    frames_THWC = np.zeros((steps, sizes.frame_height, sizes.frame_width, 3), np.uint8)  # unused: the codes are given
    prompt = Prompt(frames_THWC=frames_THWC, actions_TA=actions_TA[: steps - 1], codes_TN=codes_TN)
    return prompt, actions_TA[steps - 1 :]


def order_rows(setup: PresetSetup, name: str) -> list[Row]:
    """Time per frame in order k = 1 and in raster order, each without CUDA graphs too where there are any."""
    model, rows = setup.build(rolling(preset(name))), []
    variants = ("", ", no CUDA graphs") if cuda_capture(setup.device) is not None else ("",)
    for row_delay in (1, None):
        for variant in variants:
            order = "raster" if row_delay is None else f"k = {row_delay}"
            shown = f"{name}, rolling, {_type(setup.dtype)}, {order}{variant}"
            measure = partial(_order_row, setup, model, name, row_delay, shown, bool(variant))
            rows += setup.run_case("order", shown, "ms", measure)
    return rows


def _order_row(
    setup: PresetSetup, model: WorldModel, name: str, row_delay: int | None, shown: str, plain: bool
) -> list[Row]:
    engine = Engine(model, row_delay=row_delay)
    if plain:
        assert isinstance(engine.decoder, CachedDecoder)
        engine.decoder.graphs = FrameGraphs(None)
    most = FRAME_TARGETS.get((name, row_delay)) if setup.device.type == "cuda" and not plain else None
    return [setup.frame_row("order", shown, engine, target=None if most is None else Target(most=most))]


def with_baseline(setup: PresetSetup, name: str, rows: list[Row]) -> list[Row]:
    """Add GPT-2 of the preset's shape to its rows."""
    if all(row.value is None for row in rows):
        return rows
    progress(f"{name}: GPT-2 of the same shape")
    gpt2 = measure_baseline(rolling(preset(name)), setup.device, setup.dtype)
    usual = gpt2.frame and 1e3 * gpt2.frame
    return [row if row.value is None else dataclasses.replace(row, baseline=usual, note=gpt2.note) for row in rows]


def many_rows(setup: PresetSetup, heads: int | None) -> list[Row]:
    """Frames per second of large batches and their ratio to one dream, k = 1; all or grouped key/value heads."""
    name, config = setup.many_name, rolling(preset(setup.many_name))
    if heads is not None:
        config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, kv_heads=heads))
    model, shown = setup.build(config), name + ("" if heads is None else f", {heads} key/value heads")
    rows: list[Row] = []
    for size in (1, 16, 64):
        title = f"{shown}, k = 1: batch of {size}, all frames"
        rows += setup.run_case("many", title, "frames/s", partial(_many_row, setup, model, size, title))
        if size == 1:
            single, memory = rows[0].value, rows[0].detail.get("bytes_per_session", 0) / 2**20
            rows.append(Row("many", f"{shown}: memory of one dream", memory or None, "MiB"))
        elif single and (rate := rows[-1].value):
            held = (size, name, setup.device.type) == (16, MANY_PRESET, "cuda")
            target = Target(least=BATCH_TARGETS[heads]) if held else None
            rows.append(Row("many", f"{shown}: batch of {size} over one dream", rate / single, "x", target=target))
    return rows


def _many_row(setup: PresetSetup, model: WorldModel, size: int, title: str) -> list[Row]:
    """Frames per second of one batch, with an engine of its own so that no cache of another size remains."""
    engine = Engine(model, row_delay=1)
    prompt, actions = random_prompt(model.config, setup.given.seed)
    require_memory(model.config, setup.device, dtype=setup.dtype, sessions=size, weights=0)  # weights are there already
    rounds = setup.count(8, 2)
    rate, memory = time_batch(engine, prompt, actions, size, rounds, sampling=Sampling(), warmup=WARMUP)
    least, detail = size / setup.roofline(engine, size), {"bytes_per_session": memory}
    return [Row("many", title, rate, "frames/s", roofline=least, detail=detail)]


def absolute_rows(setup: PresetSetup) -> list[Row]:
    """The published form: absolute positions, raster order, the window recomputed for every frame."""
    name, base = setup.many_name, preset(setup.many_name)
    sizes = dataclasses.replace(base.transformer, positions="absolute", action_condition=False)
    config = dataclasses.replace(base, rows=False, transformer=sizes)
    engine, steps, spans = Engine(setup.build(config)), sizes.context_steps - 1, []
    note = "absolute positions: the window is recomputed for every frame; that prefill is included"
    frame = setup.frame_row("absolute", f"{name}, absolute, {_type(setup.dtype)}, raster", engine, note=note)
    prompt, _ = random_prompt(config, setup.given.seed, steps)
    for _ in range(setup.count(5, 2) + 1):
        started = synchronized_time(setup.device)
        session = engine.open(prompt, sampling=Sampling())
        spans.append(1e3 * (synchronized_time(setup.device) - started))
        session.close()
    least = 1e3 * prefill_cost(config, engine.schedule, setup.dtype, steps).seconds(setup.rates)
    shown = f"{name}, absolute: prefill of {steps} steps"
    return [frame, Row("absolute", shown, median(spans[1:]), "ms", roofline=least)]


def _type(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}.get(dtype, str(dtype))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the wanted cases and print one table."""
    parser = options(__doc__, "frames", "seed")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda.")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["200m", "1.6b"], metavar="NAME")
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, help="Default: float32 on a CPU, bfloat16 on a GPU.")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="CASE", help="Cases to measure.")
    given = parse(parser, arguments)
    setup = PresetSetup(given, torch.device(pick_device(given.device)))
    rows = preset_rows(setup)
    report(given, [row.to_json() for row in rows], table(rows), setup.device, **setup.metadata)


if __name__ == "__main__":
    run(main)

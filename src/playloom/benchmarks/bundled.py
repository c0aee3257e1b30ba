"""The cases of a whole model on the CPU: sustained play, the first frame, many dreams at once, branches.

World mode, pictures decoded, the context full from the first frame on. Rows come out; the clock is `stream`'s.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.benchmarks.attempt import Found, rows_or_why
from playloom.benchmarks.environment import env_rows
from playloom.benchmarks.floor import Cost, frame_cost, prefill_cost, tokenizer_cost
from playloom.benchmarks.peer import PeerFrame, peer_or_note
from playloom.benchmarks.rates import Rates, measure_rates, now
from playloom.benchmarks.rows import Bar, BenchRow
from playloom.benchmarks.settings import BenchSettings
from playloom.benchmarks.start import start_rows
from playloom.benchmarks.stream import FrameTimes, Tick, bundled_prompt, median, time_dream
from playloom.inference.engine import Engine, StepInput
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel, load_model, model_folder
from playloom.models.decode_order import card_row_delay

RATE_BAR = Bar(least=10.0)
"""Frames a second, sustained."""
LATE_BAR = Bar(most=150.0)
"""Milliseconds from key to frame that 95 % of frames stay within."""
EVEN_BAR = Bar(least=0.9, most=1.1)
"""Time of late frames over that of early ones."""
FIRST_BAR = Bar(most=1.0)
"""Seconds from a prompt of pictures to its first frame."""
YOUNG, TURNS = 10, 20
"""Age of the young dream, and how many frames of old and young are compared."""
BATCHES = (1, 2, 4, 8)
"""Dreams at once."""


@dataclass(kw_only=True)
class BundledRun:
    """What the cases of one model share."""

    model: WorldModel
    """Loaded, on the CPU."""
    folder: Path
    """Where it came from."""
    settings: BenchSettings
    """How much to measure."""
    tick: Tick
    """Told what is being measured."""

    @classmethod
    def load(cls, settings: BenchSettings, tick: Tick) -> BundledRun:
        """The model of the settings, in their dtype."""
        folder = model_folder(settings.model)
        model = load_model(folder).to("cpu", settings.dtype_on(torch.device("cpu")))
        return cls(model=model, folder=folder, settings=settings, tick=tick)

    @cached_property
    def dreamer(self) -> Engine:
        """In the order its card recommends, else raster."""
        return Engine(self.model, row_delay=card_row_delay(self.model.card))

    @cached_property
    def sampling(self) -> Sampling:
        """As its card recommends."""
        return Sampling.from_card(self.model.card)

    @cached_property
    def begin(self) -> tuple[Prompt, NDArray[np.uint8]]:
        """A bundled moment, and play to go on with."""
        return bundled_prompt(self.model)

    @cached_property
    def known(self) -> Prompt:
        """The same prompt with its codes, so that opening it encodes nothing."""
        prompt = self.begin[0]
        codes_TN = self.dreamer.codes(prompt)
        return Prompt(frames_THWC=prompt.frames_THWC, actions_TA=prompt.actions_TA, codes_TN=codes_TN)

    @cached_property
    def rates(self) -> Rates:
        """Of this machine, now."""
        self.tick("bandwidth and matrix rate of this machine")
        return measure_rates(self.model.device, self.dtype, 0.2 if self.settings.quick else 1.0)

    @cached_property
    def peer(self) -> tuple[PeerFrame | None, str]:
        """GPT-2 of the same shape."""
        self.tick("GPT-2 of the same shape")
        return peer_or_note(self.model.config, self.model.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and cache."""
        return self.model.transformer.token.weight.dtype

    @property
    def order(self) -> str:
        """The decoding order, in words."""
        row_delay = self.dreamer.schedule.row_delay
        return "raster" if row_delay == self.model.config.layout.grid_width else f"k = {row_delay}"

    def floor(self, sessions: int = 1) -> float:
        """Least seconds of one frame of so many dreams, pixels included."""
        frame = frame_cost(self.model.config, self.dreamer.schedule, self.dtype, sessions)
        return (frame + tokenizer_cost(self.model.tokenizer, decode=sessions)).seconds(self.rates)

    def times(self, frames: int) -> FrameTimes:
        """A dream from the bundled moment."""
        prompt, played = self.begin
        return time_dream(self.dreamer, prompt, played, frames, sampling=self.sampling, seed=self.settings.seed)


def bundled_rows(
    settings: BenchSettings, tick: Tick, found: Found = lambda _: None
) -> tuple[list[BenchRow], dict[str, float], dict[str, str]]:
    """All rows of the wanted cases; this machine's rates where they were needed; which model it was."""
    run = BundledRun.load(settings, tick)
    parts = {"stream": stream_rows, "first": first_rows, "start": _start, "batch": batch_rows, "branch": branch_rows}
    parts["env"] = env_rows
    rows: list[BenchRow] = []
    for case, part in parts.items():
        if settings.wants(case):
            rows += rows_or_why(case, case, "", partial(part, run), found)
    rates = run.rates.to_json() if "rates" in vars(run) else {}
    return rows, rates, {"model": run.model.config.name, "fingerprint": run.model.fingerprint}


def stream_rows(run: BundledRun) -> list[BenchRow]:
    """Frames a second over a long dream, key-to-frame times, and late frames against early ones."""
    frames = run.settings.count(run.settings.frames, 40)
    run.tick(f"{frames} frames, sustained")
    run.times(min(frames, 3))  # first calls choose kernels
    times = run.times(frames)
    floor, (peer, note) = run.floor(), run.peer
    beside = None if peer is None else peer.frame_seconds
    rows = [
        BenchRow(
            case="stream",
            name=f"{frames} frames sustained, {run.order}",
            value=times.rate,
            unit="frames/s",
            bar=RATE_BAR,
            floor=1 / floor,
            beside=None if beside is None else 1 / beside,
            note=note,
            detail={"milliseconds": (1e3 * times.frames_F).round(2)},
        )
    ]
    for share in (50, 95, 99):
        rows.append(
            BenchRow(
                case="stream",
                name=f"key to frame, p{share}",
                value=1e3 * times.quantile(share / 100),
                unit="ms",
                bar=LATE_BAR if share == 95 else None,
                floor=1e3 * floor,
                beside=None if beside is None else 1e3 * beside,
            )
        )
    return [*rows, _even(run, max(frames, YOUNG + 2 * TURNS))]


def _even(run: BundledRun, frames: int) -> BenchRow:
    """A dream that is old against one that is young, step by step in turns: the machine's own drift hits both alike."""
    prompt, played = run.begin
    sessions = [run.dreamer.open(prompt, sampling=run.sampling, seed=run.settings.seed) for _ in range(2)]
    for session, age in zip(sessions, (frames - TURNS, YOUNG), strict=True):
        for step in range(age):
            session.step(played[step % len(played)])
    spent: list[list[float]] = [[], []]
    for step in range(TURNS):
        for session, seconds in zip(sessions, spent, strict=True):
            begun = time.perf_counter()
            session.step(played[step % len(played)])
            seconds.append(time.perf_counter() - begun)
    for session in sessions:
        session.close()
    return BenchRow(
        case="stream",
        name=f"a frame around {frames} over one around {YOUNG + TURNS // 2}, in turns",
        value=median(spent[0]) / median(spent[1]),
        unit="x",
        bar=EVEN_BAR,
        detail={"old_milliseconds": [1e3 * s for s in spent[0]], "young_milliseconds": [1e3 * s for s in spent[1]]},
    )


def first_rows(run: BundledRun) -> list[BenchRow]:
    """From pictures to the first frame after them: encode, prefill, decode, pixels."""
    run.tick("first frame after a prompt")
    repeats = run.settings.count(5, 2)
    seconds = [run.times(0).first for _ in range(repeats + 1)][1:]
    pictures = len(run.begin[0].frames_THWC)
    config, schedule = run.model.config, run.dreamer.schedule
    cost = tokenizer_cost(run.model.tokenizer, encode=pictures, decode=1)
    cost = _sum(cost, prefill_cost(config, schedule, run.dtype, pictures), frame_cost(config, schedule, run.dtype))
    peer, note = run.peer
    whole = None if peer is None or peer.frame_seconds is None else peer.prefill_seconds + peer.frame_seconds
    return [
        BenchRow(
            case="first",
            name=f"first frame after {pictures} pictures",
            value=median(seconds),
            unit="s",
            bar=FIRST_BAR,
            floor=cost.seconds(run.rates),
            beside=whole,
            note=f"{note}; in this row prefill and frame together" if whole else note,
            detail={"seconds": seconds},
        )
    ]


def batch_rows(run: BundledRun) -> list[BenchRow]:
    """Frames a second of all dreams together, and the memory of one."""
    rows = []
    for size in BATCHES:
        run.tick(f"{size} dreams at once")
        rate, memory = together(run.dreamer, run.known, run.begin[1], size, run.settings.count(10, 2), run.sampling)
        row = BenchRow(
            case="batch",
            name=f"{size} dreams at once, all their frames",
            value=rate,
            unit="frames/s",
            floor=size / run.floor(size),
            detail={"bytes_per_session": memory},
        )
        rows.append(row)
    return [*rows, BenchRow(case="batch", name="memory of one dream", value=memory / 2**20, unit="MiB")]


def together(
    dreamer: Engine,
    prompt: Prompt,
    actions_TA: NDArray[np.uint8],
    size: int,
    rounds: int,
    sampling: Sampling,
    warm: int = 1,
) -> tuple[float, int]:
    """Frames a second of `size` independent dreams over `rounds`, after `prefill` more; and the bytes of one."""
    device = dreamer.model.device
    sessions = [dreamer.open(prompt, sampling=sampling, seed=seed, warm=False) for seed in range(size)]
    try:
        while not all(session.ready for session in sessions):
            dreamer.prefill(sessions)
        started = 0.0
        for index in range(warm + rounds):
            if index == warm:
                started = now(device)
            # each dream is somewhere else in the recorded play
            held = [actions_TA[(index + 7 * number) % len(actions_TA)] for number in range(size)]
            dreamer.advance([StepInput(session, action_A) for session, action_A in zip(sessions, held, strict=True)])
        return size * rounds / (now(device) - started), sessions[0].bytes
    finally:
        for session in sessions:
            session.close()


def branch_rows(run: BundledRun) -> list[BenchRow]:
    """What it costs to open a dream, to branch it, and to take a branch's first step."""
    run.tick("opening and branching")
    device, actions = run.model.device, run.begin[1]
    spans: dict[str, list[float]] = {"open": [], "fork": [], "step": []}
    for index in range(run.settings.count(7, 2)):
        stamps = [now(device)]
        session = run.dreamer.open(run.known, sampling=run.sampling, seed=run.settings.seed)
        stamps.append(now(device))
        branch = session.fork(seed=index)
        stamps.append(now(device))
        branch.step(actions[index])
        stamps.append(now(device))
        for name, span in zip(spans, np.diff(stamps), strict=True):
            spans[name].append(float(span))
        branch.close()
        session.close()
    config, schedule = run.model.config, run.dreamer.schedule
    steps = len(run.known.frames_THWC)
    floors = {"open": prefill_cost(config, schedule, run.dtype, steps).seconds(run.rates), "step": run.floor()}
    names = {"open": f"open on {steps} encoded pictures", "fork": "fork", "step": "first step of a fork"}
    return [
        BenchRow(
            case="branch",
            name=names[key],
            value=1e3 * median(values),
            unit="ms",
            floor=1e3 * floors[key] if key in floors else None,
        )
        for key, values in spans.items()
    ]


def _start(run: BundledRun) -> list[BenchRow]:
    run.tick("fresh processes")
    return start_rows(run.folder, torch.get_num_threads(), 1 if run.settings.quick else 3)


def _sum(*costs: Cost) -> Cost:
    total = Cost()
    for cost in costs:
        total += cost
    return total

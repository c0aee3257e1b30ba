"""Speed of a whole model on the CPU, compared with the machine's roofline and with GPT-2 of the same shape.

    python benchmarks/bench_model.py --model arena-live --out speed.json
    python benchmarks/bench_model.py --quick --only speed      # one case, rough figures

Cases: the figures of `playloom bench` (speed), late frames relative to early ones (aging), start of the program
(start), opening and forking (branch), Gymnasium environments (env), torch and onnxruntime in turns (backends).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from _gpt2 import Baseline, measure_baseline
from _harness import Row, Target, median, options, parse, progress, report, run, run_case, table
from _roofline import Cost, Setup, frame_cost, prefill_cost, tokenizer_cost
from playloom.errors import PlayloomError
from playloom.inference.backend import BackendName
from playloom.inference.benchmark import benchmark, first_prompt, time_frames
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, Session, StepInput
from playloom.models.checkpoint import load_model
from playloom.models.folder import model_folder

RUNTIMES: tuple[BackendName, ...] = ("torch", "onnx", "onnx-int8")
YOUNG, TURNS = 10, 20  # age of the young dream, and the number of compared frames


class ModelSetup(Setup):
    """The parts that all cases of one model share."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__(given, torch.device("cpu"))
        self.folder = model_folder(given.model)
        self.model = load_model(self.folder).to("cpu", self.dtype)
        self.engine = Engine(self.model, row_delay=self.model.card.get("row_delay"))
        self.sampling = Sampling.from_card(self.model.card)
        self.prompt, self.played = first_prompt(self.model)

    @cached_property
    def known(self) -> Prompt:
        """The prompt with its codes, which opens without encoding."""
        codes_TN = self.engine.codes(self.prompt)
        return dataclasses.replace(self.prompt, codes_TN=codes_TN)

    def baseline(self) -> Baseline:
        """GPT-2 of the same shape."""
        return measure_baseline(self.model.config, self.device, self.dtype)

    def prefill(self, steps: int) -> Cost:
        """Cost of opening on encoded pictures."""
        return prefill_cost(self.model.config, self.engine.schedule, self.dtype, steps)


def speed_rows(setup: ModelSetup) -> list[Row]:
    """The figures of `playloom bench` with their targets, rooflines and baselines."""
    found = benchmark(setup.engine, frames=setup.count(setup.given.frames, 40), progress=progress)
    progress("GPT-2 of the same shape")
    gpt2, least, pictures = setup.baseline(), setup.roofline(setup.engine), len(setup.prompt.frames_THWC)
    first = tokenizer_cost(setup.model.tokenizer, encode=pictures, decode=1) + setup.prefill(pictures)
    first += frame_cost(setup.model.config, setup.engine.schedule, setup.dtype)
    title, rate, usual = f"one dream, {found['frames']} frames", found["frames_per_second"], gpt2.frame
    bounds: dict[str, Any] = {"target": Target(least=10.0), "roofline": 1 / least, "baseline": usual and 1 / usual}
    rows = [Row("speed", title, rate, "frames/s", note=gpt2.note, **bounds)]
    for name, value in found["latency_ms"].items():
        target = Target(most=150.0) if name == "p95" else None
        title, tokens = f"time per frame, {name}", usual and 1e3 * usual
        rows.append(Row("speed", title, value, "ms", target=target, roofline=1e3 * least, baseline=tokens))
    rows.append(
        Row(
            "speed",
            f"first frame after {pictures} pictures",
            found["first_frame_ms"],
            "ms",
            target=Target(most=1000.0),
            roofline=1e3 * first.seconds(setup.rates),
            baseline=gpt2.prefill and usual and 1e3 * (gpt2.prefill + usual),
        )
    )
    for batch in found["batches"]:
        size, rate = batch["dreams"], batch["frames_per_second"]
        least = size / setup.roofline(setup.engine, size)
        rows.append(Row("speed", f"batch of {size}, all frames", rate, "frames/s", roofline=least))
    return [*rows, Row("speed", "memory of one dream", found["session_mib"], "MiB")]


def aging_rows(setup: ModelSetup) -> list[Row]:
    """Step an old and a young dream in turns, so that changes of the machine's speed affect both alike."""
    frames = max(setup.count(setup.given.frames, 40), YOUNG + 2 * TURNS)
    sessions = [setup.engine.open(setup.prompt, sampling=setup.sampling, seed=setup.given.seed) for _ in range(2)]
    for session, age in zip(sessions, (frames - TURNS, YOUNG), strict=True):
        for step in range(age):
            session.step(setup.played[step % len(setup.played)])
    old, young = spent = ([], [])  # type: tuple[list[float], list[float]]
    for step in range(TURNS):
        for session, seconds in zip(sessions, spent, strict=True):
            started = time.perf_counter()
            session.step(setup.played[step % len(setup.played)])
            seconds.append(time.perf_counter() - started)
    for session in sessions:
        session.close()
    name = f"time per frame at step {frames} relative to step {YOUNG + TURNS // 2}"
    detail = {"old_seconds": old, "young_seconds": young}
    return [Row("aging", name, median(old) / median(young), "x", target=Target(0.9, 1.1), detail=detail)]


def start_rows(setup: ModelSetup) -> list[Row]:
    """Start of the program in new processes, after one run that warms the disk."""
    with tempfile.TemporaryDirectory() as folder:
        dream = f"dream --steps 1 --device cpu --model {setup.folder} --out {folder}/dream"
        rows = []
        for name, words, most in (("dream --steps 1", dream, 6.0), ("--help", "--help", 0.5)):
            seconds = [program_seconds(words.split()) for _ in range(setup.count(3, 1) + 1)][1:]
            target, detail = Target(most=most), {"seconds": seconds}
            rows.append(Row("start", f"playloom {name}", median(seconds), "s", target=target, detail=detail))
    return rows


def program_seconds(arguments: Sequence[str]) -> float:
    """Seconds of one run of the program in a new process.

    Raises:
        PlayloomError: when it fails.
    """
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "playloom", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PlayloomError(f"playloom {arguments[0]} failed with code {done.returncode}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - started


def branch_rows(setup: ModelSetup) -> list[Row]:
    """Time to open a dream, to fork it, and of the fork's first step."""
    steps, spans = len(setup.known.frames_THWC), []
    for index in range(setup.count(7, 2)):
        stamps = [time.perf_counter()]
        session = setup.engine.open(setup.known, sampling=setup.sampling, seed=setup.given.seed)
        stamps.append(time.perf_counter())
        branch = session.fork(seed=index)
        stamps.append(time.perf_counter())
        branch.step(setup.played[index])
        stamps.append(time.perf_counter())
        spans.append(np.diff(stamps))
        branch.close()
        session.close()
    opening = 1e3 * setup.prefill(steps).seconds(setup.rates)
    opened, forked, stepped = 1e3 * np.median(spans, axis=0)
    return [
        Row("branch", f"open on {steps} encoded pictures", opened, "ms", roofline=opening),
        Row("branch", "fork", forked, "ms"),
        Row("branch", "first step of a fork", stepped, "ms", roofline=1e3 * setup.roofline(setup.engine)),
    ]


def env_rows(setup: ModelSetup) -> list[Row]:
    """Steps per second of dreams as Gymnasium environments with random actions, and a reset."""
    from playloom.envs.vector import WorldModelVectorEnv

    def make(size: int) -> WorldModelVectorEnv:
        return WorldModelVectorEnv(size, setup.engine, setup.known, sampling=setup.sampling, max_steps=None)

    rows, rounds = [], setup.count(20, 2)
    for size in (1, 4, 8, 16):
        envs = make(size)
        try:
            envs.reset(seed=0)
            envs.action_space.seed(0)
            actions = [envs.action_space.sample() for _ in range(2 + rounds)]
            for number, action in enumerate(actions):
                if number == 2:  # the first steps choose kernels
                    started = time.perf_counter()
                envs.step(action)
            rate = size * rounds / (time.perf_counter() - started)
        finally:
            envs.close()
        least = size / setup.roofline(setup.engine, size)
        rows.append(Row("env", f"batch of {size} environments, all steps", rate, "steps/s", roofline=least))
    envs, spans = make(1), []
    for _ in range(1 + setup.count(9, 3)):
        started = time.perf_counter()
        envs.reset()
        spans.append(1e3 * (time.perf_counter() - started))
    envs.close()
    note = f"the first reset to a prompt runs the model over it: {spans[0]:.0f} ms here, its codes known"
    return [*rows, Row("env", "reset to a prompt that was used before", median(spans[1:]), "ms", note=note)]


def backend_rows(setup: ModelSetup) -> list[Row]:
    """Run the backends in turns: frames of one dream and of eight, environments, the first frame after a prompt."""
    from playloom.envs.vector import WorldModelVectorEnv

    order, rounds = setup.engine.schedule.row_delay, setup.count(12, 5)
    engines: dict[str, Engine] = {name: Engine(setup.model, row_delay=order, backend=name) for name in RUNTIMES}
    rows = []
    for size, least in ((1, 2.0), (8, 1.5)):
        dreams = {
            name: [engine.open(setup.known, sampling=setup.sampling, seed=seed) for seed in range(size)]
            for name, engine in engines.items()
        }

        def frame(name: str, step: int, dreams: dict[str, list[Session]] = dreams) -> None:
            played = setup.played
            engines[name].step(
                [StepInput(one, played[(step + 7 * seed) % len(played)]) for seed, one in enumerate(dreams[name])]
            )

        rows += _in_turns(f"a frame of {size} dream{'s' * (size > 1)}", frame, rounds, least)
        for one in itertools.chain(*dreams.values()):
            one.close()

    for size in (1, 8, 32):
        envs = {
            name: WorldModelVectorEnv(size, engine, setup.known, sampling=setup.sampling, max_steps=None)
            for name, engine in engines.items()
        }
        for one_env in envs.values():
            one_env.reset(seed=0)
            one_env.action_space.seed(0)

        def act(name: str, _: int, envs: dict[str, WorldModelVectorEnv] = envs) -> None:
            envs[name].step(envs[name].action_space.sample())

        rows += _in_turns(f"a step of {size} environment{'s' * (size > 1)}", act, rounds, None)
        for one_env in envs.values():
            one_env.close()

    def first(name: str, _: int) -> None:
        time_frames(engines[name], setup.prompt, setup.played, 0, sampling=setup.sampling)

    return [
        *rows,
        *_in_turns(f"first frame after {len(setup.prompt.frames_THWC)} pictures", first, setup.count(5, 5), 1.0),
    ]


def _in_turns(title: str, work: Callable[[str, int], None], rounds: int, least: float | None) -> list[Row]:
    """Median and shortest time of each backend, and torch's relative to it; the first round of each chooses kernels."""
    spans: dict[str, list[float]] = {name: [] for name in RUNTIMES}
    for step in range(1 + rounds):
        for name, seconds in spans.items():
            started = time.perf_counter()
            work(name, step)
            seconds.append(time.perf_counter() - started)
    kept = {name: np.array(seconds[1:]) * 1e3 for name, seconds in spans.items()}
    rows = [
        Row("backends", f"{title}, {name}", median(times), "ms", note=f"{name}: shortest {times.min():.0f} ms")
        for name, times in kept.items()
    ]
    for name in RUNTIMES[1:]:
        ratios = [float(measure(kept["torch"]) / measure(kept[name])) for measure in (np.median, np.min)]
        note = f"ratio of the shortest times {ratios[1]:.2f}"
        detail: dict[str, Any] = {one: kept[one].round(2).tolist() for one in ("torch", str(name))}
        target = None if least is None else Target(least=least)
        row = Row("backends", f"{title}, torch over {name}", ratios[0], "x", target=target, note=note, detail=detail)
        rows.append(row)
    return rows


CASES: dict[str, Callable[[ModelSetup], list[Row]]] = {
    "speed": speed_rows,
    "aging": aging_rows,
    "start": start_rows,
    "branch": branch_rows,
    "env": env_rows,
    "backends": backend_rows,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the wanted cases and print one table."""
    parser = options(__doc__, "model", "frames", "seed")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="Cases.")
    given = parse(parser, arguments)
    setup, rows = ModelSetup(given), []
    for case, measure in CASES.items():
        if case in given.only:
            progress(case)
            rows += run_case(case, case, "", partial(measure, setup))
    names = {"model": setup.model.config.name, "fingerprint": setup.model.fingerprint}
    report(given, [row.to_json() for row in rows], table(rows), setup.device, **names, **setup.metadata)


if __name__ == "__main__":
    run(main)

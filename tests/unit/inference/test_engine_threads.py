"""The number of threads follows the cores that are free, and never changes what is dreamed."""

import logging

import numpy as np
import pytest
import torch

from conftest import loud_model, tiny_config
from playloom.actions.codec import REST_VALUES
from playloom.device import limit_spinning, set_threads, usable_cores
from playloom.errors import ConfigError
from playloom.inference import threads as threads_module
from playloom.inference.engine import Engine
from playloom.inference.threads import USER_VARIABLES, ThreadTuner
from playloom.inference.types import Prompt

CPU = torch.device("cpu")


class Machine:
    """A clock and cores that a test sets; a call costs what `cost` says for its number of threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int = 2) -> None:
        self.now, self.cpu, self.idle_seconds = 0.0, 0.0, 0.0
        self.cores, self.others = cores, 0.0
        monkeypatch.setattr(threads_module, "time", self)
        monkeypatch.setattr(threads_module, "_idle_seconds", lambda: self.idle_seconds)
        monkeypatch.setattr(threads_module, "_load_average", lambda: self.others)
        monkeypatch.setattr(threads_module, "usable_cores", lambda: self.cores)

    def perf_counter(self) -> float:
        """Seconds."""
        return self.now

    monotonic = perf_counter

    def process_time(self) -> float:
        """Seconds of the processor."""
        return self.cpu

    def run(self, tuner: ThreadTuner, cost: dict[int, float], calls: int = 1, share: float = 1.0) -> list[int]:
        """Make calls; the numbers of threads they ran with."""
        used = []
        for _ in range(calls):
            with tuner.call("frame"):
                used.append(torch.get_num_threads())
                seconds = cost[used[-1]]
                self.now += seconds
                own = min(used[-1] * share, self.cores - self.others)
                self.cpu += seconds * own
                self.idle_seconds += seconds * (self.cores - self.others - own)
        return used


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """An idle machine of two cores."""
    for name in USER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Machine(monkeypatch)


IDLE, BUSY = {1: 0.12, 2: 0.08}, {1: 0.15, 2: 1.7}


def test_free_cores_are_used_and_given_back(machine: Machine) -> None:
    tuner = ThreadTuner(CPU, most=2)
    assert machine.run(tuner, IDLE, 15)[-1] == 2
    assert torch.get_num_threads() == 1  # the caller's own number is restored
    machine.others = 1.0
    used = machine.run(tuner, BUSY, 10)
    assert used[0] == 2 and used[1:] == [1] * 9
    machine.others = 0.0
    assert machine.run(tuner, IDLE, 40)[-1] == 2


def test_an_idle_machine_begins_with_two_threads_and_a_busy_one_leaves_them(machine: Machine) -> None:
    tuner = ThreadTuner(CPU, most=2)
    assert machine.run(tuner, IDLE, 3) == [2, 2, 2]
    machine.others = 1.0
    assert machine.run(tuner, IDLE, 4, share=0.5) == [2, 2, 1, 1]


def test_a_busy_machine_is_never_tried(machine: Machine) -> None:
    machine.others = 1.0
    assert set(machine.run(ThreadTuner(CPU, most=2), BUSY, 100)) == {1}


def test_tries_that_fail_become_rare(machine: Machine) -> None:
    """Where idle cores promise what they do not hold, as in a container with a quota."""
    used = machine.run(ThreadTuner(CPU, most=2), BUSY, 400)
    assert used.count(2) <= 18


def test_threads_that_do_not_help_are_given_up(machine: Machine) -> None:
    machine.cores = 4
    used = machine.run(ThreadTuner(CPU, most=4), {1: 0.1, 2: 0.06, 4: 0.06}, 200)
    assert used[-1] == 2 and used.count(4) < 30


@pytest.mark.parametrize("name", USER_VARIABLES)
def test_what_the_user_chose_stays(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert not ThreadTuner(CPU, most=2).adapt


def test_says_once_that_the_machine_is_busy(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    tuner = ThreadTuner(CPU, most=1)
    with caplog.at_level(logging.WARNING, "playloom"):
        machine.run(tuner, {1: 0.1}, 50, share=0.9)
        assert not caplog.records
        machine.run(tuner, {1: 0.4}, 50, share=0.2)
    assert len(caplog.records) == 1 and "busy" in caplog.records[0].getMessage()


def test_dreams_do_not_depend_on_threads() -> None:
    model = loud_model(tiny_config())
    size = model.config.tokenizer
    frames = np.random.default_rng(0).integers(0, 255, (3, size.frame_height, size.frame_width, 3), dtype=np.uint8)
    prompt = Prompt(frames_THWC=frames, actions_TA=np.tile(REST_VALUES, (2, 1)))
    dreams = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            dreams.append([step.frame_HWC for step in Engine(model).dream(prompt, mode="full", steps=4)])
        finally:
            torch.set_num_threads(1)
    np.testing.assert_array_equal(*dreams)


def test_set_threads_is_what_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set_threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        torch.set_num_threads(1000)
        assert set_threads() == usable_cores()
        assert set_threads(2) == 2 and not ThreadTuner(CPU).adapt
    finally:
        torch.set_num_threads(1)
    with pytest.raises(ConfigError, match="threads"):
        set_threads(0)


def test_spinning_is_limited_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "active"})
    limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setattr(os, "environ", {})
    limit_spinning()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0

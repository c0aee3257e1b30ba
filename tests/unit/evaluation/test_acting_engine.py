"""Deciding first and seeing after is policy mode, token for token; a half done step is kept whoever asks."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from playloom.errors import BadInputError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import StepInput
from reference_decoder import torch_engine

HOW = Sampling(temperature=0.9, top_k=4)


def followers(steps: int) -> np.ndarray:
    return prompt_of(steps, seed=9).frames_THWC


@pytest.mark.parametrize(
    ("positions", "rows", "row_delay", "naive"),
    [("rolling", True, 1, False), ("absolute", False, None, False), ("rolling", True, 2, True)],
)
def test_deciding_first_and_seeing_after_is_policy_mode(positions, rows, row_delay, naive):
    """Past the end of the context, so that it slides."""
    engine = torch_engine(loud_model(tiny_config(positions, rows)), row_delay, naive=naive)
    prompt, frames = prompt_of(3), followers(7)
    wanted = list(engine.dream(prompt, mode="policy", steps=7, frames_SHWC=frames, sampling=HOW, seed=5))
    session = engine.open(prompt, sampling=HOW, seed=5)
    for step, frame_HWC in zip(wanted, frames, strict=True):
        values_A = session.sample_action()
        done = session.step(frame=frame_HWC)
        assert np.array_equal(values_A, step.action_A)
        assert np.array_equal(done.action_A, step.action_A) and not done.action_given
        assert np.array_equal(done.codes_N, step.codes_N)
    session.close()
    assert len({step.action_A.tobytes() for step in wanted}) > 1, "a player that only holds would prove nothing"


def test_sessions_decide_together_as_each_alone(tiny_model):
    engine = Engine(tiny_model, row_delay=1)
    prompts, frames = [prompt_of(1 + k, seed=k) for k in range(3)], followers(5)

    def alone(index: int) -> list[bytes]:
        session = engine.open(prompts[index], sampling=HOW, seed=index)
        found = []
        for frame_HWC in frames:
            found.append(session.sample_action().tobytes())
            session.step(frame=frame_HWC)
        return found

    together = [engine.open(prompt, sampling=HOW, seed=seed) for seed, prompt in enumerate(prompts)]
    found = []
    for frame_HWC in frames:
        found.append([values_A.tobytes() for values_A in engine.sample_action(together)])
        engine.step([StepInput(session, frame=frame_HWC) for session in together])
    assert list(zip(*found, strict=True)) == [tuple(alone(index)) for index in range(3)]


def test_a_decision_stands(tiny_model):
    """Asked again it is the same, a branch has it too, and a turn that brings another action does not change it."""
    session = Engine(tiny_model).open(prompt_of(2), sampling=HOW, seed=1)
    first = session.sample_action()
    first_kept = first.copy()
    first[:] = 0  # what was handed out is the caller's
    assert np.array_equal(session.sample_action(), first_kept)
    assert np.array_equal(session.fork(seed=8).sample_action(), first_kept)
    assert np.array_equal(session.step(action(3), followers(1)[0]).action_A, first_kept)


def test_who_cannot_decide_says_why(tiny_model):
    engine = Engine(tiny_model)
    session = engine.open(prompt_of(2))
    with pytest.raises(BadInputError, match="twice"):
        engine.sample_action([session, session])
    session.close()
    with pytest.raises(BadInputError, match="was closed"):
        session.sample_action()

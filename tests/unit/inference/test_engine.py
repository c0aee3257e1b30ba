"""Dreaming: the cached decoder against the naive one, same seed same bytes, legal tokens, three modes in one loop."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import loud_model, tiny_config
from engine_toys import prompt_of
from playloom.actions.codec import REST_VALUES, SLOT_SIZES
from playloom.errors import BadInputError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import GenerationRequest, Prompt
from playloom.inference.torch_sampling import BatchSampler, noise
from reference_decoder import torch_engine

GOLDEN = Path(__file__).parents[2] / "assets" / "golden_dream.json"


def tokens_of(engine: Engine, **request: object) -> np.ndarray:
    steps = list(engine.dream(**request))  # type: ignore[arg-type]
    return np.stack([np.concatenate([s.action_A.astype(np.int64), s.codes_N]) for s in steps])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


REST = np.tile(REST_VALUES, (30, 1))


@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize(
    ("positions", "rows", "row_delay"),
    [
        ("rolling", True, None),
        ("rolling", True, 2),
        ("rolling", True, 1),
        ("absolute", True, 1),
        ("absolute", False, None),
    ],
)
def test_the_cached_decoder_dreams_what_the_naive_one_dreams(positions, rows, row_delay, length):
    """Greedy, context 4: from one frame, almost full, full; pictures and actions, until the window has slid."""
    model = loud_model(tiny_config(positions, rows, local_steps=2, global_every=2))
    greedy = Sampling(temperature=0.0)
    naive, cached = (
        tokens_of(
            torch_engine(model, row_delay, naive=naive),
            prompt=prompt_of(length),
            mode="full",
            steps=3,
            sampling=greedy,
        )
        for naive in (True, False)
    )
    assert (naive == cached).all()


@pytest.mark.parametrize("positions", ["rolling", "absolute"])
def test_after_25_slides_the_cache_still_agrees(positions):
    model = loud_model(tiny_config(positions))
    request = {"prompt": prompt_of(4), "steps": 26, "actions_SA": REST, "sampling": Sampling(temperature=0.0)}
    naive, cached = (tokens_of(torch_engine(model, 1, naive=naive), **request) for naive in (True, False))
    assert (naive == cached).all()


def test_same_seed_same_tokens_and_other_seed_others(tiny_model):
    engine = Engine(tiny_model, row_delay=1)
    request = dict(prompt=prompt_of(3), mode="full", steps=3)
    first, again, other = (tokens_of(engine, **request, seed=seed) for seed in (5, 5, 6))
    assert (first == again).all() and (first != other).any()


def test_greedy_ignores_the_seed(tiny_model):
    request = dict(prompt=prompt_of(2), mode="full", steps=2, sampling=Sampling(temperature=0.0))
    first, other = (tokens_of(Engine(tiny_model), **request, seed=seed) for seed in (1, 2))
    assert (first == other).all()


def test_a_dream_is_the_same_alone_and_in_any_batch(tiny_model):
    engine = Engine(tiny_model, row_delay=2)
    requests = [GenerationRequest(prompt=prompt_of(3, seed), mode="full", steps=3, seed=seed) for seed in range(3)]
    together = list(engine.dream_batch(requests))
    for row, request in enumerate(requests):
        alone = [steps[0] for steps in engine.dream_batch([request])]
        for single, batch in zip(alone, together, strict=True):
            assert (single.codes_N == batch[row].codes_N).all()
            assert (single.frame_HWC == batch[row].frame_HWC).all()


def test_world_mode_takes_the_given_actions_and_they_matter(tiny_model):
    engine = Engine(tiny_model)
    rest = np.tile(REST_VALUES, (3, 1))
    turned = rest.copy()
    turned[:, 14] = 10
    request = dict(prompt=prompt_of(2), steps=3, sampling=Sampling(temperature=0.0))
    still, moved = (tokens_of(engine, **request, actions_SA=actions) for actions in (rest, turned))
    assert (still[:, :16] == rest).all() and (moved[:, :16] == turned).all()
    assert (still[:, 16:] != moved[:, 16:]).any()


def test_policy_mode_sees_the_given_frames_and_only_dreams_actions(tiny_model):
    true = prompt_of(4)
    prompt = Prompt(frames_THWC=true.frames_THWC[:2], actions_TA=true.actions_TA[:1])
    steps = list(Engine(tiny_model).dream(prompt, mode="policy", steps=3, frames_SHWC=true.frames_THWC[2:], seed=1))
    assert [s.action_given for s in steps] == [False] * 3
    assert (steps[0].frame_HWC == true.frames_THWC[2]).all()
    assert steps[2].frame_HWC is None


def test_full_mode_honours_forced_first_actions(tiny_model):
    forced = REST_VALUES[None]
    steps = list(Engine(tiny_model).dream(prompt_of(2), mode="full", steps=2, actions_SA=forced))
    assert [s.action_given for s in steps] == [True, False]


def test_going_on_from_codes_equals_going_on_from_the_same_dream(tiny_model):
    """A dreamed frame carries its codes: dreaming 2 + 1 steps gives the tokens of dreaming 3 (within the context)."""
    engine = Engine(tiny_model)
    prompt, greedy = prompt_of(1), Sampling(temperature=0.0)
    whole = list(engine.dream(prompt, mode="full", steps=3, sampling=greedy))
    codes = tiny_model.tokenizer.encode(torch.as_tensor(prompt.frames_THWC)).numpy()
    longer = Prompt(
        frames_THWC=np.stack([prompt.frames_THWC[0], *(s.frame_HWC for s in whole[:2])]),
        actions_TA=np.stack([s.action_A for s in whole[:2]]),
        codes_TN=np.concatenate([codes, np.stack([s.codes_N for s in whole[:2]])]),
    )
    (last,) = engine.dream(longer, mode="full", steps=1, sampling=greedy)
    assert (last.codes_N == whole[2].codes_N).all()


@given(st.integers(0, 1000))
def test_no_illegal_token_at_temperature_ten(seed):
    model = loud_model(tiny_config(), seed=1)
    for step in Engine(model, row_delay=1).dream(
        prompt_of(1, seed), mode="full", steps=1, sampling=Sampling(temperature=10.0), seed=seed
    ):
        assert (step.action_A < np.array(SLOT_SIZES)).all()
        assert ((step.codes_N >= 0) & (step.codes_N < 16)).all()


LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def drawn(how: Sampling, rows: int) -> torch.Tensor:
    """Many draws from the same four probabilities."""
    draws = BatchSampler([how], noise(how, (rows, 4), generator(0))[None])
    return draws.sample(LOGITS.expand(1, rows, 4), torch.arange(rows))[0]


def test_draws_follow_the_probabilities():
    """Gumbel-max is a multinomial draw: frequencies within four standard errors."""
    found = torch.bincount(drawn(Sampling(temperature=1.0), 20_000), minlength=4) / 20_000
    expected = LOGITS.exp()
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((found - expected).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("how", "allowed"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.75}, {0, 1}), ({"top_p": 0.4}, {0}), ({"top_k": 9}, {0, 1, 2, 3})],
)
def test_top_k_and_top_p_cut_the_tail(how, allowed):
    assert set(drawn(Sampling(temperature=1.0, **how), 2_000).tolist()) == allowed


def test_risk_prefers_codes_near_the_others():
    """The likeliest code is opposite to three less likely ones that are close together."""
    codebook_KC = torch.nn.functional.normalize(torch.tensor([[-1.0, 0], [1, 0.1], [1, 0], [1, -0.1]]), dim=-1)
    logits_BRC = torch.tensor([0.4, 0.2, 0.2, 0.2]).log().expand(2, 400, 4)
    hows = [Sampling(temperature=1.0, risk_weight=20.0), Sampling(temperature=0.0, risk_weight=20.0)]
    noises = torch.stack([noise(how, (400, 4), generator(0)) for how in hows])
    found = BatchSampler(hows, noises, codebook_KC=codebook_KC).sample(logits_BRC, torch.arange(400))
    assert set(found[0].tolist()) == {1, 2, 3} and (found[1] == 0).all()


def test_every_dream_of_a_batch_draws_its_own_way():
    """Greedy beside hot beside cut: each row as if it were alone."""
    hows = [Sampling(temperature=0.0), Sampling(temperature=5.0), Sampling(temperature=5.0, top_k=1)]
    noises = [noise(how, (50, 4), generator(seed)) for seed, how in enumerate(hows)]
    logits = LOGITS.expand(3, 50, 4)
    together = BatchSampler(hows, torch.stack(noises)).sample(logits, torch.arange(50))
    for row, how in enumerate(hows):
        alone = BatchSampler([how], noises[row][None]).sample(logits[:1], torch.arange(50))
        assert (together[row] == alone[0]).all()
    assert (together[0] == 0).all() and (together[2] == 0).all() and set(together[1].tolist()) == {0, 1, 2, 3}


def test_inputs_and_pictures_have_temperatures_of_their_own():
    engine = Engine(loud_model(tiny_config()), row_delay=1)

    def dreamed(seed, **how):
        steps = engine.dream(prompt_of(2), mode="full", steps=3, sampling=Sampling(**how), seed=seed)
        found = list(steps)
        return np.stack([s.action_A for s in found]), np.stack([s.codes_N for s in found])

    cold, warm = (dreamed(1, temperature=0.0, action_temperature=heat) for heat in (0.0, 5.0))
    assert (dreamed(1, temperature=0.0)[0] == cold[0]).all(), "unsaid, it is that of the pictures"
    assert (cold[0][0] != warm[0][0]).any()
    assert (dreamed(2, temperature=5.0, action_temperature=0.0)[0][0] == cold[0][0]).all()
    assert (dreamed(2, temperature=5.0, action_temperature=0.0)[1][0] != cold[1][0]).any()


def test_a_cards_temperatures_and_what_is_asked_for():
    card = {"sampling": {"temperature": 0.5, "action_temperature": 1.0}}
    assert Sampling.from_card(card) == Sampling(temperature=0.5, action_temperature=1.0)
    assert Sampling.from_card(card, temperature=0.9) == Sampling(temperature=0.9), "asked for: it holds for all tokens"
    assert Sampling.from_card(card, action_temperature=0.2).of_actions == Sampling(temperature=0.2)
    assert Sampling.from_card(card, temperature=0.9, action_temperature=0.2).of_actions.temperature == 0.2
    for nothing in ({"sampling": None}, {"sampling": {"temperature": None}}):  # a card may be edited by hand
        assert Sampling.from_card(nothing) == Sampling()
    assert not {"action_temperature", "risk_weight"} & Sampling().to_dict().keys()
    risky = Sampling.from_card({"sampling": {"temperature": 1.0, "risk_weight": 10}}, temperature=0.7)
    assert risky == Sampling(temperature=0.7, risk_weight=10) and risky.to_dict()["risk_weight"] == 10
    assert Sampling.from_card(card).to_dict()["action_temperature"] == 1.0
    assert Sampling(action_temperature=0.0).to_dict()["action_temperature"] == 0.0


@pytest.mark.parametrize("temperature", [1e-7, 1e-38, 1e-45])
def test_next_to_no_temperature_takes_the_likeliest(temperature):
    """Divided by so little, all logits above 0 became infinite, and the first of them was taken."""
    how = Sampling(temperature=temperature)
    draws = BatchSampler([how], noise(how, (4, 4), generator(0))[None])
    logits_14C = torch.tensor([10.0, 30.0, 20.0, -50.0]).expand(1, 4, 4)
    assert draws.sample(logits_14C, torch.arange(4)).tolist() == [[1] * 4]


def test_noise_is_finite():
    """A uniform draw of exactly 0 gave -infinity: the only allowed token then tied with those that were cut."""
    shape = (1 << 23,)
    assert (torch.rand(shape, generator=generator(1)) == 0).any()
    assert noise(Sampling(), shape, generator(1)).isfinite().all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"action_temperature": -0.5}, "action_temperature"),
        ({"risk_weight": float("inf")}, "risk_weight"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_impossible_sampling_is_a_sentence(values, words):
    with pytest.raises(BadInputError, match=words):
        Sampling(**values)


def test_requests_that_do_not_fit_are_sentences(tiny_model):
    with pytest.raises(BadInputError, match="2 steps"):
        GenerationRequest(prompt=prompt_of(1), steps=2)
    with pytest.raises(BadInputError, match="actions"):
        Prompt(frames_THWC=prompt_of(3).frames_THWC, actions_TA=prompt_of(2).actions_TA)
    with pytest.raises(BadInputError, match="policy"):
        GenerationRequest(prompt=prompt_of(1), mode="policy", steps=3)
    mixed = [GenerationRequest(prompt=prompt_of(1), mode="full", steps=n) for n in (1, 2)]
    with pytest.raises(BadInputError, match="same number"):
        list(Engine(tiny_model).dream_batch(mixed))


def test_the_golden_dream(tiny_model):
    """Token ids of one greedy dream from given codes: a refactor leaves them, a change of maths says why."""
    bare = prompt_of(3)
    codes = np.random.default_rng(0).integers(0, 16, (3, 24))
    prompt = Prompt(frames_THWC=bare.frames_THWC, actions_TA=bare.actions_TA, codes_TN=codes)
    greedy = Sampling(temperature=0.0)
    found = tokens_of(Engine(tiny_model, row_delay=2), prompt=prompt, mode="full", steps=3, sampling=greedy).tolist()
    assert found == json.loads(GOLDEN.read_text())

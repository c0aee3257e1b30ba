"""ONNX graphs against torch, and sessions on onnxruntime: each as it would be alone, whatever the model's form."""

import dataclasses
import shutil
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import playloom
from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from model_toys import with_heads
from playloom.actions.codec import SLOT_SIZES
from playloom.data.prompts import find_prompt, list_prompts, load_prompt_file
from playloom.errors import BadInputError, CheckpointError, ConfigError, MissingExtraError, StorageError
from playloom.inference import backend
from playloom.inference.backend import CPU_BACKEND, choose_backend
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.onnx_backend import GraphSessions
from playloom.inference.sampling import ArraySampler, Sampling
from playloom.inference.session import GenerationRequest, Prompt, StepInput
from playloom.inference.torch_sampling import BatchSampler
from playloom.models.checkpoint import WorldModel, load_model, save_model
from playloom.models.folder import model_folder, read_model
from playloom.models.onnx.export import export_onnx

GREEDY, HOT = Sampling(temperature=0.0), Sampling(temperature=2.0, action_temperature=1.5)
FORMS = {
    "plain": ({}, 1),
    "bundled": ({"parallel": True, "qk_norm": True, "layers": 3, "local_steps": 2, "global_every": 3}, 2),
    "keyframes": ({"keyframes": 2, "keyframe_every": 3, "local_steps": 2, "global_every": 2}, 2),
    "narrow heads": ({"width": 8}, 2),
    "absolute": ({"positions": "absolute"}, 1),
    "chain": ({"positions": "absolute", "rows": False}, None),
}


def exported(folder, model: WorldModel) -> WorldModel:  # type: ignore[no-untyped-def]
    save_model(folder, model, dtype=torch.float16)
    export_onnx(folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> WorldModel:
    """The bundled model's form with heads."""
    changes, _ = FORMS["bundled"]
    return exported(tmp_path_factory.mktemp("onnx"), with_heads(loud_model(tiny_config(**changes))))


class Recorded(BatchSampler):
    def sample(self, logits_BRC, slots_R):  # type: ignore[no-untyped-def]
        self.seen = [*getattr(self, "seen", []), logits_BRC.numpy()]
        return super().sample(logits_BRC, slots_R)


class RecordedArrays(ArraySampler):
    def sample(self, logits_BRC, slots_R):  # type: ignore[no-untyped-def]
        self.seen = [*getattr(self, "seen", []), logits_BRC.copy()]
        return super().sample(logits_BRC, slots_R)


def samplers(slots: int, choices: int) -> tuple[Recorded, RecordedArrays]:
    source = [np.random.default_rng(0)]
    return Recorded([GREEDY], torch.zeros(1, slots, choices)), RecordedArrays([GREEDY], source, slots, choices)


@torch.inference_mode()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 9])
def test_logits_and_greedy_tokens_are_those_of_torch(tmp_path, form, length):
    """After `length` given steps: a frame dreamed pass by pass, then actions slot by slot."""
    changes, row_delay = FORMS[form]
    model = exported(tmp_path, with_heads(loud_model(tiny_config(**changes))))
    torch_side, onnx_side = (Engine(model, row_delay=row_delay, backend=name) for name in ("torch", "onnx"))
    layout, states = model.config.layout, [torch_side.decoder.begin(), onnx_side.decoder.begin()]
    for engine, state in zip((torch_side, onnx_side), states, strict=True):
        engine.decoder.arrange([state])
        source = np.random.default_rng(length)
        for _ in range(length):
            engine.decoder.give_frame([state], source.integers(0, 16, (1, layout.image_slots)))
            engine.decoder.give_action([state], np.array([[source.integers(0, n) for n in SLOT_SIZES]]))
    for kind, slots, choices in (("dream_frame", layout.image_slots, 16), ("dream_action", 16, 11)):
        pair = samplers(slots, choices)
        found = [
            np.asarray(getattr(engine.decoder, kind)([state], draws))
            for engine, state, draws in zip((torch_side, onnx_side), states, pair, strict=True)
        ]
        assert (found[0] == found[1]).all()
        for expected, logits in zip(pair[0].seen, pair[1].seen, strict=True):
            assert np.abs(expected - logits).max() < 1e-4
        if kind == "dream_frame":
            features = [
                np.asarray(e.decoder.features([s])) for e, s in zip((torch_side, onnx_side), states, strict=True)
            ]
            assert np.abs(features[0] - features[1]).max() < 1e-4


def test_graphs_that_cannot_be_written_are_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        export_onnx("arena-live", tmp_path / "file" / "folder")


def test_the_bundled_model_agrees_on_real_play(tmp_path):
    """Codes of real frames equal, frames within one level, greedy tokens of two dreamed frames equal."""
    folder = tmp_path / "bundled"
    shutil.copytree(model_folder("arena-live"), folder)
    graphs = export_onnx(folder)
    assert sum(path.stat().st_size for path in graphs) < 1_000_000  # the weights are not in them
    model = load_model(folder)
    clip = load_prompt_file(find_prompt(list_prompts()[0]))
    torch_side, onnx_side = (Engine(model, row_delay=2, backend=name) for name in ("torch", "onnx"))
    frames, actions = clip.frames_THWC[:4], clip.actions_TA
    prompt = Prompt(frames_THWC=frames, actions_TA=actions[:3])
    codes_TN = torch_side.codes(prompt)
    assert (codes_TN == onnx_side.codes(prompt)).all()
    pictures = [engine.frames(codes_TN).astype(int) for engine in (torch_side, onnx_side)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1 and (pictures[0] != pictures[1]).mean() < 1e-3
    dreams = [
        [step.codes_N for step in engine.dream(prompt, steps=2, actions_SA=actions[3:5], sampling=GREEDY)]
        for engine in (torch_side, onnx_side)
    ]
    assert (np.stack(dreams[0]) == np.stack(dreams[1])).all()


def test_dreams_of_a_batch_are_those_of_each_alone(model):
    """Prompts of different length, own sampling and seed; the same seed gives the same tokens again."""
    engine = Engine(model, row_delay=2, backend="onnx")
    hows = [dataclasses.replace(HOT, risk_weight=4.0), GREEDY, dataclasses.replace(HOT, top_k=3, top_p=0.9)]
    requests = [
        GenerationRequest(prompt=prompt_of(1 + 2 * seed, seed), mode="full", steps=6, sampling=how, seed=seed)
        for seed, how in enumerate(hows)
    ]
    together = list(engine.dream_batch(requests))
    for row, request in enumerate(requests):
        for steps, (alone,) in zip(
            together, Engine(model, row_delay=2, backend="onnx").dream_batch([request]), strict=True
        ):
            assert (steps[row].codes_N == alone.codes_N).all() and (steps[row].action_A == alone.action_A).all()
            assert (steps[row].frame_HWC == alone.frame_HWC).all()


def test_branches_draw_the_same_until_a_seed_or_an_action_differs(model):
    engine = Engine(model, row_delay=2, backend="onnx")
    session = engine.open(prompt_of(3), sampling=HOT, seed=5)
    session.step(action(0))
    same, other = session.fork(), session.fork(seed=6)
    found = [one.step(action(1)) for one in (session, same, other)]
    assert (found[0].codes_N == found[1].codes_N).all() and (found[0].codes_N != found[2].codes_N).any()
    steps = engine.step([StepInput(session, action(2)), StepInput(same, action(2)), StepInput(other, action(3))])
    assert (steps[0].codes_N == steps[1].codes_N).all()
    session.close()
    assert same.step(action(3)).frame_HWC is not None


def test_policy_mode_predictions_and_entropy_are_those_of_torch(model):
    frames = prompt_of(5, 9).frames_THWC
    found = []
    for name in ("torch", "onnx"):
        engine = Engine(model, row_delay=2, backend=name)
        request = GenerationRequest(prompt=prompt_of(2), mode="policy", steps=4, frames_SHWC=frames, sampling=GREEDY)
        actions = [step.action_A for (step,) in engine.dream_batch([request])]
        session = engine.open(prompt_of(2), sampling=GREEDY)
        found.append((actions, engine.step([StepInput(session, action(0))], entropy=True)[0]))
    (expected, one), (actions, other) = found
    assert (np.stack(expected) == np.stack(actions)).all()
    assert abs(one.entropy - other.entropy) < 1e-4
    assert abs(one.prediction.reward - other.prediction.reward) < 1e-4
    assert abs(one.prediction.states["health"] - other.prediction.states["health"]) < 1e-2


def test_top_k_1_is_greedy_and_a_nucleus_has_only_likely_tokens():
    logits_BRC = np.random.default_rng(0).normal(size=(1, 50, 12)).astype(np.float32)
    slots, source = np.arange(50), [np.random.default_rng(1)]
    top = ArraySampler([dataclasses.replace(HOT, top_k=1)], source, 50, 12).sample(logits_BRC, slots)
    assert (top == logits_BRC.argmax(axis=-1)).all()
    drawn = ArraySampler([Sampling(temperature=1.0, top_p=0.5)], source, 50, 12).sample(logits_BRC, slots)
    share = np.exp(logits_BRC) / np.exp(logits_BRC).sum(axis=-1, keepdims=True)
    above = np.where(share > np.take_along_axis(share, drawn[..., None], -1), share, 0).sum(axis=-1)
    assert (above < 0.5).all() and (drawn != top).any()


def test_risk_is_the_expected_squared_distance_and_that_of_torch(model):
    engine, how = Engine(model, row_delay=2, backend="onnx"), dataclasses.replace(HOT, risk_weight=4.0)
    logits_BRC = np.random.default_rng(0).normal(size=(1, 50, 16)).astype(np.float32)
    codebook_KC = model.tokenizer.quantizer.entries()
    distance_KK = torch.cdist(codebook_KC, codebook_KC).square().numpy()
    share_BRC = np.exp(logits_BRC) / np.exp(logits_BRC).sum(axis=-1, keepdims=True)
    draws = ArraySampler([how], [np.random.default_rng(1)], 50, 16, risk=engine.backend._risk)
    error = np.abs(engine.backend._risk(logits_BRC) - share_BRC @ distance_KK).max()
    assert error < 2e-3, "entries are of length 1 within 16 bits"
    beside = BatchSampler([how], torch.from_numpy(draws._noise_BSC), codebook_KC=codebook_KC)
    found = draws.sample(logits_BRC, np.arange(50))
    assert (found == beside.sample(torch.from_numpy(logits_BRC), torch.arange(50)).numpy()).all()
    plain = ArraySampler([HOT], [np.random.default_rng(1)], 50, 16, risk=engine.backend._risk)
    assert (found != plain.sample(logits_BRC, np.arange(50))).any()


def test_noise_has_the_distribution_of_the_softmax():
    logits_BRC = np.log(np.array([[0.6, 0.3, 0.1]], np.float32)).repeat(20_000, 0)[None]
    draws = ArraySampler([Sampling(temperature=1.0)], [np.random.default_rng(0)], 20_000, 3)
    counts = np.bincount(draws.sample(logits_BRC, np.arange(20_000))[0], minlength=3) / 20_000
    assert np.abs(counts - [0.6, 0.3, 0.1]).max() < 0.015


@torch.inference_mode()
def test_weights_of_8_bits_are_close_and_each_dream_is_as_alone(tmp_path):
    """Activations are rounded by row, so the company of a batch does not matter."""
    config = tiny_config(**{**FORMS["bundled"][0], "width": 128, "heads": 2})
    model = exported(tmp_path, loud_model(config))
    exact = RecordedArrays([GREEDY], [np.random.default_rng(0)], config.layout.image_slots, 16)
    rough = RecordedArrays([GREEDY], [np.random.default_rng(0)], config.layout.image_slots, 16)
    for name, draws in (("onnx", exact), ("onnx-int8", rough)):
        decoder = Engine(model, row_delay=2, backend=name).decoder
        state = decoder.begin()
        decoder.arrange([state])
        decoder.dream_frame([state], draws)
    difference = np.abs(exact.seen[0] - rough.seen[0])
    assert 0 < difference.max() < 0.1 * exact.seen[0].std()
    requests = [
        GenerationRequest(prompt=prompt_of(2, seed), mode="full", steps=3, sampling=HOT, seed=seed) for seed in range(2)
    ]
    together = list(Engine(model, row_delay=2, backend="onnx-int8").dream_batch(requests))
    (alone,) = zip(*Engine(model, row_delay=2, backend="onnx-int8").dream_batch(requests[1:]), strict=True)
    assert all((steps[1].codes_N == one.codes_N).all() for steps, one in zip(together, alone, strict=True))


def test_a_part_that_fails_waits_for_the_others(model, monkeypatch):
    """They still wrote into the cache while the step was tried again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    ended = []

    def work(_, part):  # type: ignore[no-untyped-def]
        if part == 0:
            raise MemoryError
        time.sleep(0.2)
        ended.append(part)

    with pytest.raises(MemoryError):
        GraphSessions(model.folder / "step.onnx").run(work, [0, 1])
    assert ended == [1]


def test_missing_graphs_and_those_of_other_weights_are_sentences(tmp_path, tiny_model):
    with pytest.raises(BadInputError, match="export onnx"):
        Engine(tiny_model, backend="onnx")
    exported(tmp_path, tiny_model)
    graphs = [(path, path.read_bytes()) for path in tmp_path.glob("*onnx*")]
    save_model(tmp_path, loud_model(tiny_model.config, seed=1))
    assert not list(tmp_path.glob("*onnx*"))
    for path, content in graphs:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="other weights"):
        Engine(load_model(tmp_path), backend="onnx")


def test_damaged_weights_are_not_run(tmp_path, tiny_model):
    exported(tmp_path, tiny_model)
    path = tmp_path / "transformer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="not the file"):
        open_engine(str(tmp_path), backend="onnx")


@pytest.mark.parametrize(
    ("name", "device", "missing", "expected"),
    [
        ("auto", "cpu", "", CPU_BACKEND),
        ("auto", "cpu", "torch", CPU_BACKEND),
        ("auto", "cpu", "onnxruntime", "torch"),
        ("auto", "cuda", "", "torch"),
        ("onnx", "auto", "torch", "onnx"),
        ("onnx-int8", "auto", "", "onnx-int8"),
        ("torch", "auto", "", "torch"),
    ],
)
def test_the_backend_is_what_can_run_the_model_on_the_device(monkeypatch, name, device, missing, expected):
    monkeypatch.setattr(backend, "find_spec", lambda package: None if package == missing else find_spec(package))
    monkeypatch.setattr(backend, "pick_device", lambda name: "cuda" if name == "cuda" else "cpu")
    assert choose_backend(name, read_model(model_folder()), device) == expected


def test_a_choice_that_cannot_run_is_a_sentence(monkeypatch, tiny_model):
    assert choose_backend("auto", tiny_model) == "torch"  # its networks are loaded
    bare = read_model(model_folder())
    with pytest.raises(ConfigError, match="unknown backend"):
        choose_backend("tensorrt", bare)
    with pytest.raises(ConfigError, match="runs on a CPU"):
        choose_backend("onnx", bare, "cuda")
    with pytest.raises(ConfigError, match="load_model"):
        Engine(bare, backend="torch")
    monkeypatch.setattr(backend, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match="train"):
        choose_backend("torch", bare)
    with pytest.raises(BadInputError, match="no ONNX graphs"):
        choose_backend("auto", dataclasses.replace(bare, folder=None))


def test_the_bundled_model_is_opened_without_its_networks_and_saved_as_it_is(tmp_path):
    loaded = playloom.load("arena-live", backend="onnx", device="cpu")
    assert not loaded.engine.model.networks and loaded.engine.device == "cpu"
    loaded.save_pretrained(tmp_path / "copy")
    for path in loaded.engine.model.folder.glob("*.*"):
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()

"""Many dreams at once: each as it would be alone, in any company, joining, leaving, branching, or short of memory."""

import threading

import numpy as np
import pytest
import torch

from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from playloom.actions.codec import REST_VALUES, SLOT_SIZES
from playloom.errors import BadInputError, ResourceError
from playloom.inference.decoder import CacheSlot
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, Session, StepInput
from playloom.inference.torch_sampling import BatchSampler
from playloom.models.checkpoint import WorldModel
from reference_decoder import torch_engine

GREEDY = Sampling(temperature=0.0)


class Player:
    """One session's plan: what it does at each of its turns, and what came of it."""

    def __init__(self, seed: int) -> None:
        self.seed, self.sampling = (
            seed,
            Sampling(
                temperature=[0.0, 0.7, 2.0][seed % 3],
                top_k=[None, 5][seed % 2],
                action_temperature=[None, 1.5, 0.0, None, 0.3][seed % 5],
            ),
        )
        self.found: list[np.ndarray] = []
        self.session: Session | None = None

    def open(self, engine: Engine) -> None:
        self.session = engine.open(prompt_of(1 + self.seed % 4, self.seed), sampling=self.sampling, seed=self.seed)

    def turn(self) -> StepInput:
        assert self.session is not None
        step = len(self.found)
        kind = (self.seed + step) % 3  # an action given; an action dreamed; a frame given
        frame = prompt_of(1, step).frames_THWC[0] if kind == 2 else "dream"
        return StepInput(self.session, None if kind == 1 else action(step), frame)

    def take(self, step) -> None:  # type: ignore[no-untyped-def]
        self.found.append(np.concatenate([step.action_A.astype(np.int64), step.codes_N]))


def alone(model: WorldModel, row_delay: int | None, seed: int, steps: int) -> list[np.ndarray]:
    player = Player(seed)
    player.open(Engine(model, row_delay=row_delay))
    for _ in range(steps):
        player.take(player.session.engine.step([player.turn()])[0])
    return player.found


@pytest.mark.parametrize(
    ("positions", "rows", "row_delay", "changes"),
    [
        ("rolling", True, 1, {}),
        ("rolling", True, 1, {"context_steps": 2, "keyframes": 2, "keyframe_every": 2}),
        ("absolute", False, None, {}),
    ],
)
def test_a_session_is_the_same_alone_and_in_any_company(positions, rows, row_delay, changes):
    """Five dreams of other lengths, modes and samplings join and leave; none of them notices."""
    model = loud_model(tiny_config(positions, rows, local_steps=2, global_every=2, **changes))
    engine = Engine(model, row_delay=row_delay)
    players = [Player(seed) for seed in range(5)]
    present = {0: [0, 1], 1: [0, 1, 2], 2: [0, 2, 3], 3: [3, 0, 2, 4], 4: [4, 3], 5: [3, 4, 0], 6: [0, 1, 2, 3, 4]}
    for tick in range(7):
        here = [players[index] for index in present[tick]]
        for player in here:
            if player.session is None:
                player.open(engine)
        for player, step in zip(here, engine.step([p.turn() for p in here]), strict=True):
            player.take(step)
        if tick == 4:
            players[3].session.close()
            players[3].session, players[3].found = None, []
            players[3].open(engine)
    for player in players:
        expected = alone(model, row_delay, player.seed, len(player.found))
        assert all((found == wanted).all() for found, wanted in zip(player.found, expected, strict=True))


def test_a_dream_of_many_steps_equals_sessions_step_by_step(tiny_model):
    actions = np.stack([action(seed) for seed in range(6)])
    engine = Engine(tiny_model, row_delay=1)
    whole = [s.codes_N for s in engine.dream(prompt_of(3), steps=6, actions_SA=actions, seed=4)]
    session = engine.open(prompt_of(3), seed=4)
    for codes_N, action_A in zip(whole, actions, strict=True):
        assert (session.step(action_A).codes_N == codes_N).all()
    assert session.index == 6


@pytest.mark.parametrize("naive", [False, True])
def test_a_fork_goes_on_as_its_parent_would_and_leaves_it_alone(tiny_model, naive):
    engine = torch_engine(tiny_model, 2, naive=naive)
    parent = engine.open(prompt_of(2), seed=1)
    parent.step(action(0))
    twin, other = parent.fork(), parent.fork(seed=99)
    moved = [twin.step(action(7)), other.step(action(7)), twin.step(action(8))]
    again = [parent.step(action(7)), parent.step(action(8))]
    assert (moved[0].codes_N == again[0].codes_N).all() and (moved[2].codes_N == again[1].codes_N).all()
    assert (moved[0].codes_N != moved[1].codes_N).any() and moved[0].index == 1


def test_forks_share_memory_until_they_move(tiny_model):
    engine = Engine(tiny_model, row_delay=1)
    parent = engine.open(prompt_of(2))
    branches = [parent.fork(seed) for seed in range(20)]
    assert len({id(branch.state.saved) for branch in (parent, *branches)}) == 1
    assert not engine.decoder.rows.slots
    branches[3].step(action(0))
    assert len(engine.decoder.rows.slots) == 1 and parent.state.saved is branches[0].state.saved


def test_bytes_per_session_is_what_a_row_of_the_cache_takes(tiny_model):
    engine = Engine(tiny_model)
    sessions = [engine.open(prompt_of(1)) for _ in range(4)]
    cache = engine.decoder.rows.cache
    assert 4 * sessions[0].bytes == sum(tensor.nbytes for tensor in (*cache.keys, *cache.values)) > 0
    for session in sessions:
        session.close()
        session.close()
    assert sessions[0].bytes == 0 and not engine.decoder.rows.slots


def test_a_prompt_can_be_seen_a_step_at_a_time_while_others_go_on(tiny_model):
    engine = Engine(tiny_model, row_delay=1)
    player, prompt = engine.open(prompt_of(1)), prompt_of(4, 3)
    late = engine.open(prompt, seed=2, prefill=False)
    for count in range(4):
        assert not late.ready
        player.step(action(count))
        late.prefill()
    assert late.ready and late.prefill()
    found = late.step(action(0)).codes_N
    assert (found == engine.open(prompt, seed=2).step(action(0)).codes_N).all()
    unseen = engine.open(prompt, seed=2, prefill=False)
    branch = unseen.fork()
    for session in (unseen, branch):
        assert (found == session.step(action(0)).codes_N).all()


def test_out_of_memory_is_a_sentence_and_closes_no_session(tiny_model, monkeypatch):
    engine = Engine(tiny_model, row_delay=1)
    sessions = [engine.open(prompt_of(2, seed), seed=seed) for seed in range(2)]

    def no_memory(*_):  # type: ignore[no-untyped-def]
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder.model, "extend", no_memory)
        with pytest.raises(ResourceError, match="memory"):
            sessions[0].step(action(0))
        with pytest.raises(ResourceError, match="memory"):
            engine.open(prompt_of(3))
    assert len(engine.decoder.rows.slots) == 2
    for session in sessions:
        assert session.step(action(0)).frame_HWC is not None


@pytest.mark.parametrize("allocate", [np.empty, torch.empty])
def test_a_branch_without_memory_is_a_sentence(tiny_model, monkeypatch, allocate):
    """It was a RuntimeError of torch's, which has a class for it on a GPU only."""
    session = Engine(tiny_model, row_delay=1).open(prompt_of(2))
    with monkeypatch.context() as patch:
        patch.setattr(type(session.engine.decoder.rows.memory), "copy", lambda *_: allocate(1 << 58))
        with pytest.raises(ResourceError, match="out of memory on cpu"):
            session.fork()
    assert session.fork().step(action(0)).frame_HWC is not None


def test_a_prefill_that_ran_out_of_memory_can_be_repeated(tiny_model, monkeypatch):
    """The frame was given again, after the action that had been written but not cached."""
    engine = Engine(tiny_model, row_delay=1)
    plain, retried = (engine.open(prompt_of(3), sampling=GREEDY, prefill=False) for _ in range(2))
    run, plan = engine.decoder._run, engine.decoder.plan

    def no_memory(batch, tables, chunk):  # type: ignore[no-untyped-def]
        if chunk is plan.action:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch, tables, chunk)

    retried.prefill()
    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder, "_run", no_memory)
        with pytest.raises(ResourceError, match="memory"):
            retried.prefill()
    found = [session.step(action(0)) for session in (plain, retried)]
    (one, other) = (session.state.row for session in (plain, retried))
    for array in (*engine.decoder.rows.cache.keys, *engine.decoder.rows.cache.values):
        assert torch.equal(array[one], array[other])
    assert (found[0].codes_N == found[1].codes_N).all()


def test_threads_may_share_a_engine(tiny_model):
    """Two live sessions over one engine moved each other's rows."""
    engine, found = Engine(tiny_model, row_delay=1), {}

    def play(seed: int) -> None:
        for _ in range(3):
            session = engine.open(prompt_of(2, seed), seed=seed)
            found[seed] = [session.step(action(step)).codes_N for step in range(3)]
            session.close()

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        session = Engine(tiny_model, row_delay=1).open(prompt_of(2, seed), seed=seed)
        assert all((session.step(action(step)).codes_N == found[seed][step]).all() for step in range(3))


def test_no_room_for_another_session_is_a_sentence_and_the_others_go_on(tiny_model, monkeypatch):
    from playloom.models.transformer.kv_cache import KeyValueCache

    engine = Engine(tiny_model, row_delay=1)
    first = engine.open(prompt_of(1))

    def empty(*_, **__):  # type: ignore[no-untyped-def]
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(KeyValueCache, "empty", empty)
    with pytest.raises(ResourceError, match="bytes"):
        engine.open(prompt_of(1))
    assert first.step(action(0)).frame_HWC is not None


def test_wrong_turns_are_sentences(tiny_model):
    engine = Engine(tiny_model)
    session = engine.open(prompt_of(1))
    with pytest.raises(BadInputError, match="twice"):
        engine.step([StepInput(session), StepInput(session)])
    with pytest.raises(BadInputError, match="twice"):
        engine.prefill([session, session])
    with pytest.raises(BadInputError):
        session.step(np.full(16, 99, np.uint8))
    with pytest.raises(BadInputError, match=r"one action of 16 numbers: got an array of shape \(2, 16\)"):
        engine.step([StepInput(session, np.tile(REST_VALUES, (2, 1)))])
    for frame in ("dreem", [1]):
        with pytest.raises(BadInputError, match="expected an array, 'dream' or None"):
            session.step(REST_VALUES, frame)
    other = Engine(tiny_model)
    for move in (
        other.step,
        other.sample_action,
        other.prefill,
        lambda sessions: other.fork(*sessions),
        lambda sessions: other.close(*sessions),
    ):
        with pytest.raises(BadInputError, match="another engine"):
            move([StepInput(session)] if move == other.step else [session])
    assert not other.decoder.rows.slots
    session.step(REST_VALUES, frame=None)
    with pytest.raises(BadInputError, match="finished"):
        session.step(REST_VALUES)
    session.close()
    with pytest.raises(BadInputError, match="closed"):
        session.step(REST_VALUES)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.full((2, 24), 16), "16 to 16"),
        (np.full((2, 24), -1), "-1 to -1"),
        (np.zeros((2, 23), np.int64), "23"),
        (np.zeros((2, 24)), "float64"),
        (np.zeros((1, 24), np.int64), "codes"),
    ],
)
def test_codes_that_are_none_are_sentences(tiny_model, codes, words):
    """On a GPU an id beyond the table ends the process; one frame's codes too few would shift all the others."""
    frames = prompt_of(2)
    with pytest.raises(BadInputError, match=words):
        prompt = Prompt(frames_THWC=frames.frames_THWC, actions_TA=frames.actions_TA, codes_TN=codes)
        Engine(tiny_model).open(prompt)


class Recorder(BatchSampler):
    """Draws that keep the logits they saw."""

    def __init__(self, draws: BatchSampler) -> None:
        super().__init__(draws.samplings, draws.noise_BSC)
        self.logits: list[torch.Tensor] = []

    def sample(self, logits_BRC, slots_R):  # type: ignore[no-untyped-def]
        self.logits.append(logits_BRC[0].clone())
        return super().sample(logits_BRC, slots_R)


@pytest.mark.parametrize("length", [1, 9, 10, 35])
@pytest.mark.parametrize(
    ("positions", "rows", "row_delay", "as_matrices"),
    [
        ("rolling", True, None, False),
        ("rolling", True, 4, False),
        ("rolling", True, 2, False),
        ("rolling", True, 1, False),
        ("rolling", True, 1, True),
        ("keyframes", True, 2, False),
        ("absolute", True, 1, False),
        ("absolute", False, None, False),
    ],
)
@torch.inference_mode()
def test_logits_are_the_judges_at_every_context_length(positions, rows, row_delay, as_matrices, length):
    """Context of 10 as shipped; 35 steps are 25 slides. Logits of a whole dreamed frame within 1e-5, tokens equal."""
    far = {"keyframes": 2, "keyframe_every": 4} if positions == "keyframes" else {}
    form = "rolling" if far else positions
    config = tiny_config(form, rows, local_steps=3, global_every=2, layers=3, context_steps=10, **far)
    model = loud_model(config)
    engine, judge = (torch_engine(model, row_delay, naive=naive) for naive in (False, True))
    engine.decoder.as_matrices = as_matrices
    source = torch.Generator().manual_seed(length)
    cached, naive = engine.decoder.begin(), judge.decoder.begin()
    engine.decoder.arrange([cached])
    for _ in range(length):
        codes_BN = torch.randint(0, 16, (1, config.layout.image_slots), generator=source)
        values_BA = torch.stack([torch.randint(0, n, (1,), generator=source) for n in SLOT_SIZES], dim=1)
        for decoder, state in ((engine.decoder, cached), (judge.decoder, naive)):
            decoder.give_frame([state], codes_BN)
            decoder.give_action([state], values_BA)
    recorder = Recorder(BatchSampler([GREEDY], torch.zeros(1, config.layout.image_slots, 16)))
    codes_BN = engine.decoder.dream_frame([cached], recorder)
    judge.decoder.give_frame([naive], codes_BN)
    for index, logits_RC in enumerate(recorder.logits):
        expected_RC, slot_R = judge.decoder.logits(naive, index, config.layout.image_group)
        assert (logits_RC - expected_RC).abs().max() < 1e-5
        assert (codes_BN[0, slot_R] == expected_RC.argmax(dim=-1)).all()


def test_states_must_be_arranged(tiny_model):
    """Decoders refuse rows that do not lie side by side: a wrong batch would be silent."""
    decoder = Engine(tiny_model).decoder
    states = [CacheSlot(), CacheSlot()]
    decoder.arrange(states)
    with pytest.raises(AssertionError, match="not arranged"):
        decoder.give_frame(states[::-1], torch.zeros(2, 24, dtype=torch.long))

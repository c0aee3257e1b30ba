"""Many dreams at once: each as it would be alone, in any company, joining, leaving, branching, or short of memory."""

import threading

import numpy as np
import pytest
import torch

from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from playloom.actions.codec import REST_VALUES, SLOT_SIZES
from playloom.errors import BadInputError, ResourceError
from playloom.inference.batch_cache import CacheSlot
from playloom.inference.engine import Engine, Session, StepInput
from playloom.inference.sampling import BatchSampler, Sampling
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel

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

    def open(self, dreamer: Engine) -> None:
        self.session = dreamer.open(prompt_of(1 + self.seed % 4, self.seed), sampling=self.sampling, seed=self.seed)

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
        player.take(player.session.dreamer.advance([player.turn()])[0])
    return player.found


@pytest.mark.parametrize(("positions", "rows", "row_delay"), [("rolling", True, 1), ("absolute", False, None)])
def test_a_session_is_the_same_alone_and_in_any_company(positions, rows, row_delay):
    """Five dreams of other lengths, modes and samplings join and leave; none of them notices."""
    model = loud_model(tiny_config(positions, rows, local_steps=2, global_every=2))
    dreamer = Engine(model, row_delay=row_delay)
    players = [Player(seed) for seed in range(5)]
    present = {0: [0, 1], 1: [0, 1, 2], 2: [0, 2, 3], 3: [3, 0, 2, 4], 4: [4, 3], 5: [3, 4, 0], 6: [0, 1, 2, 3, 4]}
    for tick in range(7):
        here = [players[index] for index in present[tick]]
        for player in here:
            if player.session is None:
                player.open(dreamer)
        for player, step in zip(here, dreamer.advance([p.turn() for p in here]), strict=True):
            player.take(step)
        if tick == 4:
            players[3].session.close()
            players[3].session, players[3].found = None, []
            players[3].open(dreamer)
    for player in players:
        expected = alone(model, row_delay, player.seed, len(player.found))
        assert all((found == wanted).all() for found, wanted in zip(player.found, expected, strict=True))


def test_a_dream_of_many_steps_equals_sessions_step_by_step(tiny_model):
    actions = np.stack([action(seed) for seed in range(6)])
    dreamer = Engine(tiny_model, row_delay=1)
    whole = [s.codes_N for s in dreamer.dream(prompt_of(3), steps=6, actions_SA=actions, seed=4)]
    session = dreamer.open(prompt_of(3), seed=4)
    for codes_N, action_A in zip(whole, actions, strict=True):
        assert (session.step(action_A).codes_N == codes_N).all()
    assert session.index == 6


@pytest.mark.parametrize("naive", [False, True])
def test_a_fork_goes_on_as_its_parent_would_and_leaves_it_alone(tiny_model, naive):
    dreamer = Engine(tiny_model, row_delay=2, naive=naive)
    parent = dreamer.open(prompt_of(2), seed=1)
    parent.step(action(0))
    twin, other = parent.fork(), parent.fork(seed=99)
    moved = [twin.step(action(7)), other.step(action(7)), twin.step(action(8))]
    again = [parent.step(action(7)), parent.step(action(8))]
    assert (moved[0].codes_N == again[0].codes_N).all() and (moved[2].codes_N == again[1].codes_N).all()
    assert (moved[0].codes_N != moved[1].codes_N).any() and moved[0].index == 1


def test_forks_share_memory_until_they_move(tiny_model):
    dreamer = Engine(tiny_model, row_delay=1)
    parent = dreamer.open(prompt_of(2))
    branches = [parent.fork(seed) for seed in range(20)]
    assert len({id(branch.state.saved) for branch in (parent, *branches)}) == 1
    assert not dreamer.decoder.rows.owners
    branches[3].step(action(0))
    assert len(dreamer.decoder.rows.owners) == 1 and parent.state.saved is branches[0].state.saved


def test_bytes_per_session_is_what_a_row_of_the_cache_takes(tiny_model):
    dreamer = Engine(tiny_model)
    sessions = [dreamer.open(prompt_of(1)) for _ in range(4)]
    assert 4 * sessions[0].bytes == dreamer.decoder.rows.cache.bytes > 0
    for session in sessions:
        session.close()
        session.close()
    assert sessions[0].bytes == 0 and not dreamer.decoder.rows.owners


def test_a_prompt_can_be_seen_a_step_at_a_time_while_others_go_on(tiny_model):
    dreamer = Engine(tiny_model, row_delay=1)
    player, prompt = dreamer.open(prompt_of(1)), prompt_of(4, 3)
    late = dreamer.open(prompt, seed=2, warm=False)
    for count in range(4):
        assert not late.ready
        player.step(action(count))
        late.prefill()
    assert late.ready and late.prefill()
    found = late.step(action(0)).codes_N
    assert (found == dreamer.open(prompt, seed=2).step(action(0)).codes_N).all()
    unseen = dreamer.open(prompt, seed=2, warm=False)
    assert (found == unseen.step(action(0)).codes_N).all()


def test_a_batch_too_large_for_the_memory_is_split_and_comes_out_the_same(tiny_model, monkeypatch):
    """Only the batch size is made to fail; the halves are really run."""
    steps = {}
    for limit in (9, 1):
        dreamer = Engine(tiny_model, row_delay=1)
        real = dreamer.decoder.model.extend

        def extend(inputs_BQ, *rest, limit=limit, real=real):  # type: ignore[no-untyped-def]
            if len(inputs_BQ) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(inputs_BQ, *rest)

        sessions = [dreamer.open(prompt_of(2, seed), seed=seed) for seed in range(5)]
        monkeypatch.setattr(dreamer.decoder.model, "extend", extend)
        found = [dreamer.advance([StepInput(s) for s in sessions]) for _ in range(2)]
        steps[limit] = [np.concatenate([s.action_A, s.codes_N]) for row in found for s in row]
        monkeypatch.undo()
    assert all((a == b).all() for a, b in zip(steps[9], steps[1], strict=True))


def test_no_memory_for_even_one_is_a_sentence_and_the_session_lives(tiny_model, monkeypatch):
    dreamer = Engine(tiny_model, row_delay=1)
    session = dreamer.open(prompt_of(2), seed=5)

    def extend(*_):  # type: ignore[no-untyped-def]
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dreamer.decoder.model, "extend", extend)
    with pytest.raises(ResourceError, match="memory"):
        session.step(action(0))
    monkeypatch.undo()
    expected = dreamer.open(prompt_of(2), seed=5).step(action(0)).codes_N
    assert (session.step(action(0)).codes_N == expected).all()


def fail_at(monkeypatch: pytest.MonkeyPatch, dreamer: Engine, call: int) -> None:
    """Only the given run of the network, counted from now, finds no memory."""
    real, calls = dreamer.decoder.model.extend, iter(range(10_000))

    def extend(*rest):  # type: ignore[no-untyped-def]
        if next(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*rest)

    monkeypatch.setattr(dreamer.decoder.model, "extend", extend)


@pytest.mark.parametrize("call", [0, 1, 5])
@pytest.mark.parametrize("given", [False, True])
def test_a_step_that_failed_anywhere_can_be_made_again(tiny_model, monkeypatch, call, given):
    """The action had been taken, or half of the frame drawn: the second try took another one, with other noise."""
    hot, pressed = Sampling(temperature=2.0), action(0) if given else None
    dreamer, other = Engine(tiny_model, row_delay=1), Engine(tiny_model, row_delay=1)
    session, expected = (d.open(prompt_of(2), sampling=hot, seed=5) for d in (dreamer, other))
    fail_at(monkeypatch, dreamer, call)
    with pytest.raises(ResourceError, match="memory"):
        session.step(pressed)
    monkeypatch.undo()
    for _ in range(2):
        found, wanted = session.step(pressed), expected.step(pressed)
        assert (found.codes_N == wanted.codes_N).all() and (found.action_A == wanted.action_A).all()
        assert (found.index, found.action_given) == (wanted.index, given)


def test_a_batch_of_which_one_failed_can_be_made_again(tiny_model, monkeypatch):
    """One dreams its action, one is given it; the second of the two frames fails, alone too. Both come out right."""
    found = []
    for fails in (False, True):
        dreamer = Engine(tiny_model, row_delay=1)
        sessions = [dreamer.open(prompt_of(2, seed), seed=seed) for seed in range(2)]
        turns = [StepInput(sessions[0]), StepInput(sessions[1], action(3), prompt_of(1, 9).frames_THWC[0])]
        if fails:
            runs = len(dreamer.decoder.plan.frame_passes) + len(dreamer.decoder.plan.action_passes)
            fail_at(monkeypatch, dreamer, runs + 1)  # an action dreamed, one given, a frame dreamed; then the given one
            with pytest.raises(ResourceError):
                dreamer.advance(turns)
            monkeypatch.undo()
        found.append([np.concatenate([s.action_A, s.codes_N]) for _ in range(2) for s in dreamer.advance(turns)])
    assert all((a == b).all() for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("call", [0, 1, 3])
def test_a_prompt_that_failed_half_way_can_be_seen_again(tiny_model, monkeypatch, call):
    """A frame was then seen twice, the second time as if the action after it had come before it."""
    dreamer, prompt = Engine(tiny_model, row_delay=1), prompt_of(4)
    session = dreamer.open(prompt, seed=1, warm=False)
    fail_at(monkeypatch, dreamer, call)
    with pytest.raises(ResourceError, match="memory"):
        while not session.prefill():
            pass
    monkeypatch.undo()
    while not session.prefill():
        pass
    expected = dreamer.open(prompt, seed=1)
    for step in range(5):  # until the prompt has left the window
        assert (session.step(action(step)).codes_N == expected.step(action(step)).codes_N).all()


def test_a_session_that_cannot_be_opened_leaves_nothing(tiny_model, monkeypatch):
    dreamer = Engine(tiny_model, row_delay=1)
    fail_at(monkeypatch, dreamer, 2)
    with pytest.raises(ResourceError):
        dreamer.open(prompt_of(3))
    assert not dreamer.decoder.rows.owners


def test_no_room_for_one_of_a_batch_moves_none_of_it(tiny_model, monkeypatch):
    dreamer, other = Engine(tiny_model, row_delay=1), Engine(tiny_model, row_delay=1)
    session, expected = dreamer.open(prompt_of(2), seed=1), other.open(prompt_of(2), seed=1)
    parent = dreamer.open(prompt_of(2), seed=2)
    branches = [parent, *(parent.fork(seed) for seed in range(2))]
    with monkeypatch.context() as patch:
        patch.setattr(
            "playloom.models.transformer.kv_cache.KeyValueCache.empty",
            lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()),
        )
        with pytest.raises(ResourceError, match="memory"):
            dreamer.advance([StepInput(session, action(0)), *(StepInput(branch) for branch in branches)])
    assert (session.step(action(1)).codes_N == expected.step(action(1)).codes_N).all()


def test_threads_may_share_a_dreamer(tiny_model):
    """Two live sessions over one dreamer moved each other's rows."""
    dreamer, found = Engine(tiny_model, row_delay=1), {}

    def play(seed: int) -> None:
        for _ in range(3):
            session = dreamer.open(prompt_of(2, seed), seed=seed)
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

    dreamer = Engine(tiny_model, row_delay=1)
    first = dreamer.open(prompt_of(1))

    def empty(*_):  # type: ignore[no-untyped-def]
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(KeyValueCache, "empty", empty)
    with pytest.raises(ResourceError, match=r"memory .*bytes"):
        dreamer.open(prompt_of(1))
    assert first.step(action(0)).frame_HWC is not None


def test_wrong_turns_are_sentences(tiny_model):
    dreamer = Engine(tiny_model)
    session = dreamer.open(prompt_of(1))
    with pytest.raises(BadInputError, match="one turn"):
        dreamer.advance([StepInput(session), StepInput(session)])
    with pytest.raises(BadInputError):
        session.step(np.full(16, 99, np.uint8))
    session.step(REST_VALUES, frame=None)
    with pytest.raises(BadInputError, match="no frame"):
        session.step(REST_VALUES)
    session.close()
    with pytest.raises(BadInputError, match="was closed"):
        session.step(REST_VALUES)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.full((2, 24), 16), "0 to 15; got 16 to 16"),
        (np.full((2, 24), -1), "0 to 15; got -1 to -1"),
        (np.zeros((2, 23), np.int64), r"\[steps, 24\]; got int64 \[2, 23\]"),
        (np.zeros((2, 24)), "whole numbers .* got float64"),
        (np.zeros((1, 24), np.int64), "2 frames came with the codes of 1"),
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

    def pick(self, logits_BRC, slots_R):  # type: ignore[no-untyped-def]
        self.logits.append(logits_BRC[0].clone())
        return super().pick(logits_BRC, slots_R)


@pytest.mark.parametrize("length", [1, 9, 10, 35])
@pytest.mark.parametrize(
    ("positions", "rows", "row_delay", "as_matrices"),
    [
        ("rolling", True, None, False),
        ("rolling", True, 4, False),
        ("rolling", True, 2, False),
        ("rolling", True, 1, False),
        ("rolling", True, 1, True),
        ("absolute", True, 1, False),
        ("absolute", False, None, False),
    ],
)
@torch.inference_mode()
def test_logits_are_the_judges_at_every_context_length(positions, rows, row_delay, as_matrices, length):
    """Context of 10 as shipped; 35 steps are 25 slides. Logits of a whole dreamed frame within 1e-5, tokens equal."""
    config = tiny_config(positions, rows, local_steps=3, global_every=2, layers=3, context_steps=10)
    model = loud_model(config)
    dreamer, judge = (Engine(model, row_delay=row_delay, naive=naive) for naive in (False, True))
    dreamer.decoder.as_matrices = as_matrices
    source = torch.Generator().manual_seed(length)
    cached, naive = dreamer.decoder.begin(), judge.decoder.begin()
    dreamer.decoder.arrange([cached])
    for _ in range(length):
        codes_BN = torch.randint(0, 16, (1, config.layout.image_slots), generator=source)
        values_BA = torch.stack([torch.randint(0, n, (1,), generator=source) for n in SLOT_SIZES], dim=1)
        for decoder, state in ((dreamer.decoder, cached), (judge.decoder, naive)):
            decoder.give_frame([state], codes_BN)
            decoder.give_action([state], values_BA)
    recorder = Recorder(BatchSampler([GREEDY], torch.zeros(1, config.layout.image_slots, 16)))
    codes_BN = dreamer.decoder.dream_frame([cached], recorder)
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

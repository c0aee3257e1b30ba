"""Windows: inside episodes, a pure function of their number, fair to every frame."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playloom.data.dataset import EpisodeSlice
from playloom.data.sampler import WindowSampler, alive_spans
from playloom.errors import RecordingError
from playloom.training.world_model import WorldTask
from training_toys import TINY, token_dataset, world_config


def spans_of(lengths):
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return [EpisodeSlice(start=int(s), length=n, meta={}) for s, n in zip(starts, lengths, strict=False)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 50))
def test_windows_are_consecutive_and_never_cross_an_episode(lengths, steps, index):
    spans = spans_of([*lengths, steps])
    rows = WindowSampler(spans=spans, steps=steps, batch=3, seed=1).rows(index)
    assert rows.shape == (3, steps)
    assert (np.diff(rows, axis=1) == 1).all()
    episode = np.searchsorted([s.start for s in spans], rows, side="right")
    assert (episode == episode[:, :1]).all()


def test_a_batch_is_a_pure_function_of_seed_and_number():
    spans = spans_of([30, 25])
    one = WindowSampler(spans=spans, steps=4, batch=4, seed=5)
    other = WindowSampler(spans=spans, steps=4, batch=4, seed=5)
    backwards = [other.rows(4 * i) for i in reversed(range(20))][::-1]
    assert all((one.rows(4 * i) == rows).all() for i, rows in enumerate(backwards))
    assert any((WindowSampler(spans=spans, steps=4, batch=4, seed=6).rows(i) != one.rows(i)).any() for i in range(3))


def test_ranks_share_one_sequence_of_windows():
    spans = spans_of([50, 50])
    whole = WindowSampler(spans=spans, steps=5, batch=6, seed=0)
    ranks = [WindowSampler(spans=spans, steps=5, batch=3, seed=0, rank=r) for r in range(2)]
    for index in range(8):
        assert (np.concatenate([rank.rows(6 * index) for rank in ranks]) == whole.rows(6 * index)).all()


def test_every_frame_is_seen_in_every_place_of_a_window():
    spans = spans_of([23])
    sampler = WindowSampler(spans=spans, steps=3, batch=6, seed=0)
    seen = np.concatenate([sampler.rows(6 * index) for index in range(200)])
    for place in range(3):
        wanted = set(range(place, 23 - 2 + place))
        assert set(seen[:, place].tolist()) == wanted


def test_an_epoch_of_single_rows_holds_every_row_once():
    sampler = WindowSampler(spans=spans_of([7, 5]), steps=1, batch=12, seed=3)
    for epoch in range(3):
        assert sorted(sampler.rows(12 * epoch)[:, 0].tolist()) == list(range(12))


def test_too_short_episodes_are_said():
    with pytest.raises(RecordingError, match="longest"):
        WindowSampler(spans=spans_of([3, 5]), steps=6, batch=1, seed=0)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_living_spans_hold_exactly_the_living_rows(dead):
    spans = spans_of([len(dead)])
    dataset = SimpleNamespace(state_columns=("dead",), column=lambda name: np.array(dead, np.float32))
    alive = alive_spans(dataset, spans)
    rows = [row for span in alive for row in range(span.start, span.start + span.length)]
    assert rows == [i for i, d in enumerate(dead) if not d]
    assert all(not dead[s.start + i] for s in alive for i in range(s.length))
    assert all(a.start + a.length < b.start for a, b in itertools.pairwise(alive))


def test_windows_carry_codes_and_actions_of_their_rows(tmp_path):
    store = token_dataset(tmp_path)
    rows = np.array([[3, 4, 5], [40, 41, 42]])
    windows = WorldTask(TINY, world_config(), store)._windows(rows)
    assert (windows["codes"].numpy() == store.tokens_FN[rows]).all()
    assert (windows["actions"].numpy() == store.actions_FA[rows]).all()
    assert str(windows["codes"].dtype) == "torch.int64"

"""Token arithmetic: bijections, legal ranges, and schedules that never look ahead."""

import itertools
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from playloom.errors import ConfigError
from playloom.models.decode_order import schedule
from playloom.models.sequence import NO_TOKEN, StepLayout, Vocab
from playloom.models.transformer.transformer import interleave, position_inputs

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 6))


def layout_of(height: int, width: int, rows: bool = True) -> StepLayout:
    return StepLayout(grid_height=height, grid_width=width, vocab=Vocab(codebook_size=7), rows=rows)


def tokens(layout: StepLayout, steps: int = 3) -> torch.Tensor:
    codes = torch.randint(0, 7, (2, steps, layout.image_slots))
    values = torch.stack([torch.randint(0, n, (2, steps)) for n in layout.vocab.slot_sizes], dim=-1)
    return interleave(layout, codes, values)


def test_published_vocabularies():
    assert Vocab(codebook_size=16384).size == 16452
    assert Vocab(codebook_size=4096).size == 4164


def test_action_ranges_tile_the_vocabulary():
    layout = layout_of(2, 3)
    ranges = [(group.first_id, group.last_id) for group in layout.action_groups]
    assert ranges[0][0] == 7 and ranges[-1][1] == layout.vocab.size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


@given(SIZES, st.booleans())
def test_weave_is_a_bijection_into_legal_ids(size, rows):
    layout = layout_of(*size, rows)
    codes = torch.randint(0, 7, (2, 3, layout.image_slots))
    values = torch.stack([torch.randint(0, n, (2, 3)) for n in layout.vocab.slot_sizes], dim=-1)
    woven = interleave(layout, codes, values)
    offsets = torch.tensor(layout.vocab.action_offsets)
    assert torch.equal(woven[..., : layout.image_slots], codes)
    assert torch.equal(woven[..., layout.image_slots :] - offsets, values)
    for group in (layout.image_group, *layout.action_groups):
        slots = layout.target_P[list(group.positions)]
        assert ((woven[..., slots] >= group.first_id) & (woven[..., slots] < group.last_id)).all()


@given(SIZES, st.booleans())
def test_every_slot_is_predicted_once_and_read_once(size, rows):
    layout = layout_of(*size, rows)
    predicted = layout.target_P[layout.target_P >= 0]
    assert sorted(predicted) == list(range(layout.slots))
    assert (layout.target_P[layout.position_of_K] == np.arange(layout.slots)).all()
    read = set(layout.source_P[layout.source_P >= 0])
    missing = set() if rows else {layout.slots - 1}  # a chain reads a step's last token in the next step
    assert read == set(range(layout.slots)) - missing


def test_a_chain_reads_the_previous_steps_last_token():
    layout = layout_of(2, 3, rows=False)
    woven = tokens(layout)
    inputs = position_inputs(layout, woven)
    assert (inputs[:, 0, 0] == NO_TOKEN).all()
    assert torch.equal(inputs.flatten(1)[:, 1:], woven.flatten(1)[:, :-1])


def test_row_starts_read_nothing_and_row_ends_bring_the_last_token_in():
    layout = layout_of(2, 3)
    woven = tokens(layout)
    image = position_inputs(layout, woven)[..., :8].unflatten(-1, (2, 4))
    assert (image[..., 0] == NO_TOKEN).all()
    assert torch.equal(image[..., 3], woven[..., [2, 5]])


@given(SIZES, st.data())
def test_no_position_sees_a_token_that_is_not_decoded_yet(size, data):
    """The rule that makes parallel decoding exact, checked against the definition rather than the formula."""
    layout = layout_of(*size)
    plan = schedule(layout, data.draw(st.integers(1, size[1])))
    visible = plan.visible_PP
    decoded_in = {int(layout.target_P[p]): plan.pass_P[p] for p in range(layout.positions)}
    for query in range(layout.positions):
        assert visible[query, query]
        for key in np.flatnonzero(visible[query]):
            source = int(layout.source_P[key])
            assert source < 0 or decoded_in[source] < plan.pass_P[query]


@given(SIZES, st.data())
def test_the_left_and_upper_neighbours_are_always_seen(size, data):
    layout = layout_of(*size)
    plan = schedule(layout, data.draw(st.integers(1, size[1])))
    visible = plan.visible_PP
    reader = {int(s): p for p, s in enumerate(layout.source_P) if s >= 0}
    for slot in range(layout.image_slots):
        row, column = divmod(slot, size[1])
        query = layout.position_of_K[slot]
        if column:
            assert visible[query, reader[slot - 1]]
        if row and plan.row_delay > 1:
            assert visible[query, reader[slot - size[1]]]


def test_passes_partition_the_positions():
    layout = layout_of(4, 5)
    for row_delay in range(1, 6):
        plan = schedule(layout, row_delay)
        seen = np.concatenate([plan.positions_of(i, i + 1) for i in range(plan.passes)])
        assert sorted(seen) == list(range(layout.positions))
        assert plan.image_passes == 3 * row_delay + 5


def test_the_published_pass_counts():
    large = StepLayout(grid_height=18, grid_width=30, vocab=Vocab(codebook_size=16384))
    assert [schedule(large, row_delay).image_passes for row_delay in (4, 2, 1)] == [98, 64, 47]


@pytest.mark.parametrize("row_delay", [0, 4, -1, 1.5, "diagonal"])
def test_a_lag_outside_the_grid_is_a_sentence(row_delay):
    with pytest.raises(ConfigError, match="1 to 3"):
        schedule(layout_of(2, 3), row_delay)


def test_a_chain_has_only_raster_order():
    with pytest.raises(ConfigError, match="raster"):
        schedule(layout_of(2, 3, rows=False), 1)


def test_no_magic_token_counts_outside_sequence():
    """540, 556 and 5560 have one owner: nobody else writes them down as numbers."""
    source = Path(__file__).parents[3] / "src" / "playloom"
    for path in source.rglob("*.py"):
        if path.parent.name == "sequence":
            continue
        with path.open("rb") as file:
            numbers = [t for t in tokenize.tokenize(file.readline) if t.type == tokenize.NUMBER]
        for token in numbers:
            assert token.string.replace("_", "") not in {"540", "556", "5560"}, f"{path.name}:{token.start[0]}"

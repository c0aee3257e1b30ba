"""Labels of steps: which row they are in, and where there are none."""

import numpy as np
import pytest

from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import TokenDataset
from playloom.data.sampler import labelled_spans, step_labels
from playloom.errors import RecordingError

NAN = np.nan


def store(folder, columns: dict[str, list[float]], lengths: list[int]) -> TokenDataset:
    states = np.stack([np.array(column, np.float32) for column in columns.values()], axis=1)
    writer = TokenDataset.create(folder, len(states), slots=2, tokenizer="toy", state_columns=list(columns))
    first = 0
    for length in lengths:
        rows = states[first : first + length]
        writer.append_episode(np.zeros((length, 2), np.uint16), np.tile(REST_VALUES, (length, 1)), rows, {})
        first += length
    writer.finish()
    return TokenDataset.open(folder)


def test_arena_columns_label_the_step_that_leads_to_the_change(tmp_path):
    data = store(
        tmp_path / "arena",
        {
            "frags": [0, 0, 1, 1, 1, 1, 7, 7],
            "dead": [0, 0, 0, 1, 1, 0, 0, 0],
            "health": [100, 90, 80, -5, -5, 100, 50, 40],
        },
        [6, 2],
    )
    labels = step_labels(data, ["health"])
    np.testing.assert_array_equal(labels["reward"], [0, 1, 0, NAN, NAN, NAN, 0, NAN])
    np.testing.assert_array_equal(labels["terminated"], [0, 0, 1, NAN, NAN, NAN, 0, NAN])
    np.testing.assert_array_equal(labels["health"], [90, 80, -5, NAN, NAN, NAN, 40, NAN])
    found = [(span.start, span.length) for span in labelled_spans(data, data.spans)]
    assert found == [(0, 4), (5, 1), (6, 2)], "the first dead frame belongs to the step that ended in it"


def test_columns_of_a_recorder_are_taken_as_they_are(tmp_path):
    data = store(
        tmp_path / "gym",
        {"reward": [1, -2, NAN, 3, 4, 5], "terminated": [0, 1, NAN, 0, 0, 1]},
        [3, 3],
    )
    labels = step_labels(data)
    np.testing.assert_array_equal(labels["reward"], [1, -2, NAN, 3, 4, NAN])
    np.testing.assert_array_equal(labels["terminated"], [0, 1, NAN, 0, 0, NAN])
    assert set(labels) == {"reward", "terminated"}
    assert labelled_spans(data, data.spans) == data.spans


def test_data_without_labels(tmp_path):
    data = store(tmp_path / "none", {"x": [0, 1]}, [2])
    labels = step_labels(data, ["x"])
    assert set(labels) == {"x"}
    np.testing.assert_array_equal(labels["x"], [1, NAN])
    with pytest.raises(RecordingError, match="no state column 'health'"):
        step_labels(data, ["health"])

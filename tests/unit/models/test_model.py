"""The transformer: causality, the sliding window, rolling positions, the cache against the whole forward pass."""

import dataclasses

import numpy as np
import pytest
import torch

from conftest import loud_model, tiny_config
from playloom.errors import ConfigError
from playloom.models.config import ModelConfig
from playloom.models.decode_order import schedule
from playloom.models.presets import PRESETS, preset
from playloom.models.sequence import NO_TOKEN
from playloom.models.transformer.config import TransformerConfig, Window
from playloom.models.transformer.kv_cache import AttentionSpan, KeyValueCache
from playloom.models.transformer.layers import STEP_PERIOD, Rotary, matrices, rotate
from playloom.models.transformer.transformer import interleave, position_inputs

PUBLISHED = {  # millions, as published; positions not counted
    "paper-27m": 27,
    "paper-52m": 52,
    "paper-110m": 110,
    "paper-206m": 206,
    "paper-894m": 894,
    "200m": 218,
    "1.6b": 1600,
    "guide-48x2048": 2400,
}


def steps_of(config: ModelConfig, steps: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs and previous actions of `steps` steps."""
    layout, source = config.layout, torch.Generator().manual_seed(seed)
    codes = torch.randint(0, layout.vocab.codebook_size, (2, steps, layout.image_slots), generator=source)
    values = torch.stack([torch.randint(0, n, (2, steps), generator=source) for n in layout.vocab.slot_sizes], dim=-1)
    tokens = interleave(layout, codes, values)
    actions = tokens[..., layout.image_slots :]
    previous = torch.cat([torch.full_like(actions[:, :1], NO_TOKEN), actions[:, :-1]], dim=1)
    return position_inputs(layout, tokens), previous


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    assert preset(name).parameter_count / 1e6 == pytest.approx(PUBLISHED[name], rel=0.03)


def test_the_formula_counts_what_is_built(tiny_model):
    transformer = tiny_model.transformer
    counted = sum(p.numel() for p in transformer.parameters())
    extra = transformer.place.weight.numel() + transformer.action_condition.weight.numel()
    assert counted - extra == tiny_model.config.parameter_count


def test_every_preset_survives_json():
    for config in PRESETS.values():
        assert ModelConfig.from_dict(config.to_dict()) == config


def test_the_reference_context_has_its_published_positions():
    assert preset("200m").transformer.context_steps * preset("200m").layout.slots == 5_560


def test_the_guides_model_builds_and_runs():
    """75 x 45 codes, codebook 1,024, code width 256, with a short context and few layers to keep it quick."""
    base = preset("guide")
    sizes = dataclasses.replace(base.transformer, layers=1, width=32, heads=2, context_steps=2)
    small = dataclasses.replace(base, transformer=sizes)
    model = loud_model(dataclasses.replace(small, tokenizer=preset("tiny").tokenizer))
    assert base.layout.image_slots == 75 * 45 and base.tokenizer.code_width == 256
    inputs, previous = steps_of(model.config, 2)
    assert (
        model.transformer(inputs, torch.from_numpy(schedule(model.config.layout).visible_PP), previous).isfinite().all()
    )


@pytest.mark.parametrize(
    ("positions", "rows", "row_delay", "steps"),
    [
        ("rolling", True, 6, 6),
        ("rolling", True, 4, 6),
        ("rolling", True, 2, 6),
        ("rolling", True, 1, 29),
        ("keyframes", True, 2, 29),
        ("absolute", True, 2, 4),
        ("absolute", False, 6, 4),
    ],
)
def test_extending_a_cache_equals_the_whole_forward_pass(positions, rows, row_delay, steps):
    """For raster and each row delay; once over 25 slides of the window of 4."""
    changes = {"positions": positions} if positions != "keyframes" else {"keyframes": 3, "keyframe_every": 5}
    config = tiny_config(rows=rows, local_steps=2, global_every=2, **changes)
    model = loud_model(config).transformer
    inputs, previous = steps_of(config, steps)
    order = schedule(config.layout, row_delay)
    visible = torch.from_numpy(order.visible_PP)
    whole = model(inputs, visible, previous)
    cache = KeyValueCache.empty(model.config, config.layout.positions, 2, torch.zeros)
    order_P = torch.as_tensor(order.order_P)
    for step in range(steps):
        tables = model.begin(torch.tensor([step, step]), order_P, previous[:, step])
        for index in range(order.passes):
            first, last = order.span(index, index + 1)
            where = order_P[first:last]
            part = model.extend(inputs[:, step, where], tables, cache, AttentionSpan(step=step, first=first, last=last))
            assert (part - whole[:, step, where]).abs().max() < 1e-5
        cache.commit([step, step])


def test_a_window_has_its_newest_steps_and_keyframes_before_them():
    window = Window(steps=3, keyframes=2, every=4)
    assert [window.past(step) for step in (0, 2, 3, 9, 14)] == [[], [0, 1], [0, 1, 2], [0, 4, 7, 8], [4, 8, 12, 13]]
    for step in range(30):
        assert window.past_count(step) == len(window.past(step))
        assert (window.past_count(step) == window.capacity) == (step >= window.full_from)


def test_the_future_changes_nothing():
    config = tiny_config()
    model = loud_model(config).transformer
    inputs, previous = steps_of(config, 3)
    visible = torch.from_numpy(schedule(config.layout, 1).visible_PP)
    before = model(inputs, visible, previous)
    inputs[:, 2] = (inputs[:, 2] + 1) % 16
    assert torch.equal(model(inputs, visible, previous)[:, :2], before[:, :2])


def test_a_layer_sees_its_window_and_no_further():
    """With one layer, a step beyond the window cannot matter; the last one inside it does."""
    config = dataclasses.replace(
        tiny_config(), transformer=dataclasses.replace(tiny_config().transformer, layers=1, local_steps=None)
    )
    model = loud_model(config).transformer
    inputs, previous = steps_of(config, 6)
    visible = torch.from_numpy(schedule(config.layout).visible_PP)
    before = model(inputs, visible, previous)[:, 5]
    for step, matters in ((1, False), (2, True)):
        changed = inputs.clone()
        changed[:, step] = (changed[:, step] + 1) % 16
        assert torch.equal(model(changed, visible, previous)[:, 5], before) is not matters


def test_rolling_positions_do_not_know_the_date():
    """Hidden states depend on steps' distances, never on how long the dream has gone on, even past the period."""
    config = tiny_config()
    model = loud_model(config).transformer
    inputs, previous = steps_of(config, 2)
    order = schedule(config.layout)
    order_P = torch.as_tensor(order.order_P)
    found = []
    for start in (0, STEP_PERIOD - 1):  # the angles wrap between the two steps
        cache = KeyValueCache.empty(model.config, config.layout.positions, 2, torch.zeros)
        for step in range(2):
            tables = model.begin(torch.tensor([start + step] * 2), order_P, previous[:, step])
            for index in range(order.passes):
                first, last = order.span(index, index + 1)
                reach = AttentionSpan(step=step, first=first, last=last)
                hidden = model.extend(inputs[:, step, order_P[first:last]], tables, cache, reach)
            cache.commit([step, step])
        found.append(hidden)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-5)


def test_rotation_depends_on_differences_only():
    rotary = Rotary(12, np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], np.float32), longest_step=10)
    query, key = torch.randn(2, 1, 1, 1, 12)

    def score(query_step: int, key_step: int) -> torch.Tensor:
        turned = [
            rotate(x, *rotary.angles(torch.tensor([s]), torch.tensor([1])))
            for x, s in ((query, query_step), (key, key_step))
        ]
        return (turned[0] * turned[1]).sum()

    assert score(5, 3) == pytest.approx(score(905, 903).item(), abs=1e-5)
    assert score(5, 3) != pytest.approx(score(5, 4).item(), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_turning_by_a_matrix_is_turning(dtype):
    """One product in place of three small operators, head by head the same."""
    rotary = Rotary(12, np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], np.float32), longest_step=10)
    turn = tuple(part.to(dtype) for part in rotary.angles(torch.tensor([[7], [4095]]), torch.arange(3)))
    x_BQME = torch.randn(2, 3, 5, 12, dtype=dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate(x_BQME, matrices(*turn)), rotate(x_BQME, *turn))


def test_absolute_positions_end_with_the_context():
    config = tiny_config("absolute")
    inputs, previous = steps_of(config, 5)
    with pytest.raises(ConfigError, match="4 steps"):
        loud_model(config).transformer(inputs, torch.from_numpy(schedule(config.layout).visible_PP), previous)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 30}, "does not split"),
        ({"kv_heads": 3}, "share"),
        ({"kv_heads": 0}, "kv_heads is wrong: got 0"),
        ({"kv_heads": -2}, "kv_heads is wrong: got -2"),
        ({"layers": 0}, "layers is wrong: got 0"),
        ({"local_steps": 11}, "local_steps 11"),
    ],
)
def test_impossible_sizes_are_sentences(values, words):
    with pytest.raises(ConfigError, match=words):
        TransformerConfig(**({"layers": 2, "width": 32, "heads": 4} | values))


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match="tiny"):
        preset("tinny")
    values = preset("tiny").to_dict()
    values["transformer"]["widht"] = 3
    with pytest.raises(ConfigError, match="width"):
        ModelConfig.from_dict(values)

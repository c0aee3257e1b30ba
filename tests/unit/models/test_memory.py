"""What a model takes of memory is said before it is taken, and is what it then takes."""

import pytest
import torch

from conftest import tiny_config
from playloom.errors import ResourceError
from playloom.models.checkpoint import build_transformer, load_model, require_memory, save_model, weight_bytes
from playloom.models.presets import preset
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.kv_cache import KeyValueCache


@pytest.mark.parametrize(
    "config", [tiny_config(), tiny_config("absolute", rows=False), tiny_config(parallel=True), preset("arena-live")]
)
def test_the_formulas_count_what_is_built(config):
    networks = (FrameTokenizer(config.tokenizer), build_transformer(config))
    assert weight_bytes(config) == 4 * sum(w.numel() for network in networks for w in network.parameters())
    cache = KeyValueCache.empty(config.transformer, config.layout.positions, 3, torch.zeros)
    held = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert 3 * KeyValueCache.bytes_each(config.transformer, config.layout.positions) == held


def test_a_preset_that_does_not_fit_says_so_before_it_is_built():
    with pytest.raises(ResourceError, match=r"[\d,]+ bytes .*100000"):
        require_memory(preset("1.6b"), sessions=100_000)


def test_a_model_that_does_not_fit_is_not_loaded(tiny_model, tmp_path, monkeypatch):
    save_model(tmp_path, tiny_model)
    assert load_model(tmp_path).config == tiny_model.config
    monkeypatch.setattr("playloom.models.checkpoint.free_memory", lambda _: 1000)
    with pytest.raises(ResourceError, match="1,000"):
        load_model(tmp_path)


def test_the_live_preset_is_parallel_and_shares_heads():
    sizes = preset("arena-live").transformer
    assert sizes.parallel and sizes.key_value_heads < sizes.heads

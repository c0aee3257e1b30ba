"""A tokenizer's sizes: what is derived from them, and what is refused."""

import json

import pytest

from playloom.errors import ConfigError
from playloom.models.tokenizer.config import TokenizerConfig


def test_sizes_follow_from_the_grid():
    config = TokenizerConfig(
        grid_height=18, grid_width=30, strides=(2,), widths=(8, 64), encoder_blocks=(1,), decoder_blocks=(1,)
    )
    assert config.image_slots == 18 * 30
    assert (config.patch_height, config.patch_width) == (10, 10)
    assert config.stem_patch == (5, 5)


def test_json_round_trip_gives_an_equal_config():
    config = TokenizerConfig(codebook_size=77, strides=(4,), widths=(8, 64), encoder_blocks=(0,), decoder_blocks=(1,))
    assert TokenizerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match="codebook_size"):
        TokenizerConfig.from_dict({"codebok_size": 5})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"grid_width": 7}, "does not divide a frame"),
        ({"strides": (3, 2)}, "does not divide the patch"),
        ({"widths": (64, 256)}, "need 3 widths"),
        ({"encoder_blocks": (1,)}, "2 encoder_blocks"),
        ({"head_width": 50}, "head_width 50"),
        ({"codebook_size": 1}, "codebook_size"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"code_width": 1.5}, "a whole number"),
        ({"encoder_layers": -1}, "encoder_layers"),
        ({"codebook_size": 2**16 + 1}, "codebook_size"),  # code 65536 would be stored as 0
        ({"codebook_decay": 1.0}, "codebook_decay"),
    ],
)
def test_impossible_sizes_say_which(values, said):
    with pytest.raises(ConfigError, match=said):
        TokenizerConfig(**values)

"""Frames to codes and back: shapes, value range, sizes that do not fit, seeds, and that it learns."""

import pytest
import torch

from playloom.errors import BadInputError, PictureError
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.losses import TokenizerLoss, TokenizerLossConfig
from playloom.models.tokenizer.tokenizer import FrameTokenizer, to_frames, to_pixels

TINY = {"codebook_size": 16, "code_width": 4, "head_width": 8, "encoder_layers": 1, "decoder_layers": 1}
LADDER = {"widths": (8, 16), "encoder_blocks": (1,), "decoder_blocks": (1,)}
PLAIN = {"strides": (), "widths": (16,), "encoder_blocks": (), "decoder_blocks": ()}


def tiny(frame: tuple[int, int] = (12, 20), grid: tuple[int, int] = (3, 5), **more) -> TokenizerConfig:
    sizes = {"frame_height": frame[0], "frame_width": frame[1], "grid_height": grid[0], "grid_width": grid[1]}
    return TokenizerConfig(**{**sizes, "strides": (2,), **TINY, **LADDER, **more})


def frames_of(config: TokenizerConfig, count: int = 2, seed: int = 0) -> torch.Tensor:
    shape = (count, config.frame_height, config.frame_width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "config",
    [
        tiny((180, 300), (18, 30)),
        tiny(
            (180, 300),
            (9, 15),
            strides=(2, 2),
            widths=(8, 8, 16),
            encoder_blocks=(0, 1),
            decoder_blocks=(1, 0),
        ),
        tiny((180, 300), (45, 75), encoder_layers=0, decoder_layers=1),
        tiny((180, 300), (45, 75), **PLAIN),
        tiny(
            (128, 128),
            (16, 16),
            strides=(2, 4),
            widths=(8, 8, 16),
            encoder_blocks=(1, 1),
            decoder_blocks=(1, 1),
        ),
        tiny((180, 300), (18, 15)),
    ],
    ids=["30x18", "15x9", "75x45", "75x45-vit", "16x16", "oblong-patches"],
)
def test_every_grid_gives_its_shapes(config):
    tokenizer = FrameTokenizer(config).eval()
    frames = frames_of(config, 1)
    codes = tokenizer.encode(frames)
    assert codes.shape == (1, config.grid_height * config.grid_width)
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < config.codebook_size
    made = tokenizer.decode(codes)
    assert made.shape == frames.shape
    assert made.dtype == torch.uint8
    pixels_BCHW, _ = tokenizer(to_pixels(frames))
    gap = to_frames(pixels_BCHW.detach()).int() - made.int()
    assert int(gap.abs().max()) <= 1, "forward and decode may differ by rounding only"


def test_a_code_stands_where_its_patch_is():
    """A ViT without layers sees one patch a code: a changed patch changes only the code at its place."""
    config = tiny(**PLAIN, codebook_size=256, encoder_layers=0, decoder_layers=0)
    tokenizer = FrameTokenizer(config).eval()
    frame = frames_of(config, 1)
    changed = frame.clone()
    changed[:, 4:8, 12:16] = 255 - changed[:, 4:8, 12:16]
    codes, changed_codes = tokenizer.encode(frame), tokenizer.encode(changed)
    assert (codes != changed_codes).nonzero()[:, 1].tolist() == [1 * config.grid_width + 3]
    moved = tokenizer.decode(codes)[0] != tokenizer.decode(changed_codes)[0]
    rows, columns = moved.any(-1).nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (4, 7, 12, 15)


def test_the_value_range_goes_round():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    pixels = to_pixels(frames)
    assert (pixels.min().item(), pixels.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_frames(pixels), frames)
    assert to_frames(torch.tensor([-3.0, 3.0, 0.0]).view(1, 3, 1, 1)).flatten().tolist() == [0, 255, 128]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator():
    state = torch.get_rng_state()
    one, two, other = (FrameTokenizer(tiny(), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_encode_and_decode_change_nothing_even_while_training():
    tokenizer = FrameTokenizer(tiny()).train()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    tokenizer.decode(tokenizer.encode(frames_of(tokenizer.config)))
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_it_learns_to_reconstruct():
    config = tiny()
    tokenizer = FrameTokenizer(config).train()
    loss = TokenizerLoss(TokenizerLossConfig())
    pixels = to_pixels(frames_of(config, 4)[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2))
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    errors = []
    for update in range(60):
        made, commitment = tokenizer(pixels)
        total, parts = loss(made, pixels, commitment=commitment, update=update, last_layer=tokenizer.last_layer)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        errors.append(float(parts["l1"]))
    assert sum(errors[-5:]) < 0.6 * sum(errors[:5])


def test_averaged_parameters_make_a_working_tokenizer():
    """Two states of one run that differ by a drift of the latents only: their average makes the same codes.

    Once codebook and latent statistics were buffers and stayed live beside averaged networks: 12 dB, not 23.
    """
    early, late = FrameTokenizer(tiny()).eval(), FrameTokenizer(tiny()).eval()
    with torch.no_grad():
        late.encoder.head.outer.bias += 5
        late.quantizer.mean_C += 5
    frames = frames_of(early.config)
    codes = early.encode(frames)
    assert torch.equal(late.encode(frames), codes)
    newer = dict(late.named_parameters())
    averages = {name: weight.detach().lerp(newer[name], 0.5) for name, weight in early.named_parameters()}
    averages["quantizer.codebook_KC"] *= torch.rand(early.config.codebook_size, 1) + 0.1
    late.load_state_dict(averages, strict=False)
    assert torch.equal(late.encode(frames), codes)
    assert torch.equal(late.decode(codes), early.decode(codes))


def test_training_resumes_exactly_from_its_state():
    """The codebook's draws come from buffers, so a tokenizer rebuilt from its state goes the same way."""
    config = tiny(revive_after=2)
    pixels = to_pixels(frames_of(config, 3))
    first = FrameTokenizer(config, seed=5).train()
    for _ in range(3):
        first(pixels)
    second = FrameTokenizer(config, seed=9).train()
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        first(pixels)
        second(pixels)
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (torch.zeros(1, 10, 20, 3, dtype=torch.uint8), "20 x 10 pixels, expected 20 x 12"),
        (torch.zeros(1, 12, 20, 4, dtype=torch.uint8), "alpha"),
        (torch.zeros(12, 20, 3, dtype=torch.uint8), r"shape \[12, 20, 3\]"),
        (torch.zeros(1, 12, 20, 3), "got float32"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames, said):
    with pytest.raises(PictureError, match=said):
        FrameTokenizer(tiny()).encode(frames)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (torch.full((1, 15), 16), "got 16 to 16, expected 0 to 15"),
        (torch.full((1, 15), -1), "got -1"),
        (torch.zeros(1, 14, dtype=torch.int64), r"\[batch, 15\]"),
        (torch.zeros(1, 15), "float32"),
    ],
)
def test_codes_of_another_tokenizer_are_refused(codes, said):
    with pytest.raises(BadInputError, match=said):
        FrameTokenizer(tiny()).decode(codes)

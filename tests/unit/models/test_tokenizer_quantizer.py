"""The codebook: nearest entry, straight-through gradient, following, revival, and no change in eval mode."""

import pytest
import torch
import torch.nn.functional as F

from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.quantizer import Quantizer, codebook_use


def make(size: int = 12, revive_after: int = 3, seed: int = 0) -> Quantizer:
    sizes = {"codebook_size": size, "code_width": 4, "recent_outputs": 64}
    return Quantizer(TokenizerConfig(**sizes, codebook_decay=0.9, revive_after=revive_after), seed=seed)


def latents(seed: int = 0, count: int = 2) -> torch.Tensor:
    return 3 * torch.randn(count, 3, 5, 4, generator=torch.Generator().manual_seed(seed))


def test_the_code_is_the_entry_of_largest_cosine():
    quantizer = make().eval()
    x = latents()
    brute = torch.stack([F.cosine_similarity(x, entry, dim=-1) for entry in quantizer.codebook_KC], -1).argmax(-1)
    quantized = quantizer(x)
    assert torch.equal(quantized[1], brute)
    torch.testing.assert_close(quantized[0], quantizer.codebook_KC[brute])
    distance = (F.normalize(x, dim=-1) - quantizer.codebook_KC[brute]).square().sum(-1).mean()
    torch.testing.assert_close(quantized[2], distance)


def test_the_gradient_passes_straight_through():
    """The encoder gets the decoder's gradient as if the unit latent had been its input, bit for bit."""
    quantizer = make().eval()
    unit = F.normalize(latents(), dim=-1).requires_grad_()
    weight = latents(1)
    vectors = quantizer(unit)[0]
    (vectors.square() * weight).sum().backward()
    at_decoder = 2 * vectors.detach() * weight
    through_norm = torch.autograd.functional.vjp(lambda u: F.normalize(u, dim=-1), unit.detach(), at_decoder)[1]
    torch.testing.assert_close(unit.grad, through_norm)


def test_eval_changes_no_state():
    quantizer = make().eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents())
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_entries_follow_the_latents_that_choose_them():
    quantizer = make(revive_after=1000).train()
    gaps = [float(quantizer(latents(7))[2]) for _ in range(30)]
    assert gaps[-1] < gaps[0]
    torch.testing.assert_close(quantizer.codebook_KC.norm(dim=-1), torch.ones(12))


def test_dead_codes_are_revived_on_recent_latents():
    quantizer = make(size=40).train()
    quantizer(latents())
    stray = F.normalize(torch.full((4,), -1.0), dim=0)
    dead = slice(5, 25)
    quantizer.codebook_KC[dead] = stray
    quantizer.unused_K[dead] = quantizer.revive_after
    recent = quantizer.recent_RC[: int(quantizer.recent_total)].clone()
    crowd = stray * -1.0 + 0.1 * latents(1)
    quantizer(crowd)
    recent = torch.cat([recent, quantizer.recent_RC])
    assert not (quantizer.codebook_KC == stray).all(-1).any()
    torch.testing.assert_close((quantizer.codebook_KC[dead] @ recent.T).max(-1).values, torch.ones(20))
    assert int(quantizer.unused_K[dead].max()) == 0


def test_revival_depends_on_the_seed_alone():
    def train(seed: int) -> torch.Tensor:
        quantizer = make(size=40, seed=seed).train()
        for i in range(8):
            quantizer(latents(i))
        return quantizer.codebook_KC

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


def test_bf16_autocast_does_not_blur_the_lookup():
    quantizer = make().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = quantizer(latents())
    assert quantized[0].dtype == torch.float32
    assert torch.equal(quantized[1], quantizer(latents())[1])


def test_use_of_the_codebook():
    even = codebook_use(torch.arange(8).repeat(3), 16)
    assert even[0] == 0.5
    assert even[1] == pytest.approx(8)
    assert codebook_use(torch.zeros(2, 5, dtype=torch.int64), 16)[1] == pytest.approx(1)


def test_it_looks_up_like_another_library():
    """vector-quantize-pytorch with cosine similarity and the same codebook chooses and returns the same."""
    other_library = pytest.importorskip("vector_quantize_pytorch")
    quantizer = make().eval()
    other = other_library.VectorQuantize(dim=4, codebook_size=12, use_cosine_sim=True).eval()
    other._codebook.embed.data.copy_(quantizer.codebook_KC[None])
    x = latents().flatten(1, 2)
    vectors, codes, _ = other(x)
    quantized = quantizer(x[:, None])
    assert torch.equal(quantized[1][:, 0], codes)
    torch.testing.assert_close(quantized[0][:, 0], vectors)

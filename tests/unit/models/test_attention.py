"""Attention by two plain products, where the fused kernel is slow: the same numbers, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from playloom.models.transformer.config import Window
from playloom.models.transformer.layers import NormalizedRotation, WindowedAttention, attend, rotate


def parts(dtype, *, batch=2, queries=6, keys=9):
    source = torch.Generator().manual_seed(0)
    sizes = (queries, keys, keys)
    return [torch.randn(batch, 2, n, 8, generator=source).to(dtype).requires_grad_() for n in sizes]


def masks(batch=2, queries=6, keys=9):
    each = torch.rand(batch, 1, queries, keys, generator=torch.Generator().manual_seed(1)) < 0.5
    each[..., 0] = True
    return {"none": None, "shared": each[0, 0], "each": each, "each, for all queries": each[:, :, :1]}


def by_hand(q, k, v, mask):
    """In float64, and nothing of torch's own attention."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v), (q, k, v)


@pytest.mark.parametrize("name", masks())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_it_is_attention_and_so_is_its_way_back(dtype, tolerance, name):
    mask, (q, k, v) = masks()[name], parts(dtype)
    out, (expected, leaves) = attend(q, k, v, mask), by_hand(q, k, v, mask)
    assert out.dtype == dtype
    assert torch.allclose(out.double(), expected, atol=tolerance)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * weights.to(dtype)).sum().backward()
    (expected * weights.to(dtype).double()).sum().backward()
    for mine, true in zip((q, k, v), leaves, strict=True):
        assert torch.allclose(mine.grad.double(), true.grad, atol=2 * tolerance)


def test_only_bfloat16_on_a_cpu_goes_its_own_way(monkeypatch):
    called = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: called.append(1) or fused(*a, **k))
    attend(*parts(torch.float32))
    assert called == [1]
    attend(*parts(torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(*parts(torch.float32)).dtype == torch.bfloat16
    assert called == [1]


@pytest.mark.parametrize("window", [Window(steps=1), Window(steps=2), Window(steps=5), Window(steps=2, keyframes=2)])
def test_windowed_attention_and_its_gradients_are_those_of_a_mask(window):
    """Two queries a position, as with shared heads; every step sees its window and its own triangle."""
    steps, positions, source = 4, 3, torch.Generator().manual_seed(0)
    own = torch.ones(positions, positions, dtype=torch.bool).tril()
    q = torch.randn(steps, 2, 2 * positions, 8, generator=source, dtype=torch.float64, requires_grad=True)
    k, v = (
        torch.randn(2, steps * positions, 8, generator=source, dtype=torch.float64, requires_grad=True) for _ in "kv"
    )
    past = torch.tensor([[other in window.past(step) for other in range(steps)] for step in range(steps)])
    mask = torch.kron(past, torch.ones_like(own)) + torch.block_diag(*[own] * steps)
    rows = mask.bool().view(steps, 1, positions, -1).tile(1, 1, 2, 1)
    out = WindowedAttention.apply(q * 8**-0.5, k, v, own.tile(2, 1), window)
    expected, leaves = by_hand(q, k[None], v[None], rows)
    assert torch.allclose(out, expected)
    weights = torch.randn(out.shape, generator=source, dtype=torch.float64)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, true in zip((q, k, v), leaves, strict=True):
        assert torch.allclose(mine.grad, true.grad.view_as(mine))


def test_rotating_some_positions_at_a_time_is_rotating_all(monkeypatch):
    monkeypatch.setattr("playloom.models.transformer.layers._CACHED", 2 * 3 * 8 * 2)  # two of five positions
    source = torch.Generator().manual_seed(0)
    x, scales = (torch.randn(*n, 8, generator=source, dtype=torch.float64) for n in ((2, 5, 3), (3,)))
    cosine, sine = torch.randn(2, 5, 1, 8, generator=source, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (x, scales)]
    expected = rotate(F.normalize(x, dim=-1) * scales, cosine, sine)
    assert torch.allclose(NormalizedRotation.apply(x, scales, cosine, sine), expected)
    weights = torch.randn(expected.shape, generator=source, dtype=torch.float64)
    mine = torch.autograd.grad((NormalizedRotation.apply(x, scales, cosine, sine) * weights).sum(), leaves)
    true = torch.autograd.grad((expected * weights).sum(), leaves)
    assert all(torch.allclose(a, b) for a, b in zip(mine, true, strict=True))

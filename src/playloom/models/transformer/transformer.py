"""Decoder-only transformer: token ids to logits.

`forward` runs whole steps under a sliding window, `extend` some positions of one step with a cache. B batch, T steps, P
positions a step, Q queries, D width, M heads, G key/value heads, E head width. N, A and K are those of
`playloom.models.sequence`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from playloom.errors import ConfigError
from playloom.models.sequence import NO_TOKEN, StepLayout
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.kv_cache import AttentionSpan, KeyValueCache
from playloom.models.transformer.layers import (
    SHORTEST,
    NormalizedRotation,
    Rotary,
    RotaryFactors,
    WindowedAttention,
    attend,
    matrices,
    rotate,
    seen,
)


class StepEmbeddings(NamedTuple):
    """Embeddings of one step before any token is known, in decoding order; see `begin`."""

    x_BPD: Float[Tensor, "B P D"]  # embeddings of position and previous action
    turn: RotaryFactors
    """Rotary cosine and signed sine [B, P, 1, E], or matrices [B, P, E, E]; empty for absolute positions."""


class Attention(nn.Module):
    """Multi-head attention with grouped key/value heads."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, self.window = config, layer, config.window(layer)
        keys = config.key_value_heads * config.head_width
        self.query_key_value = nn.Linear(config.width, config.width + 2 * keys)
        self.out = nn.Linear(config.width, config.width)
        self.query_norm = nn.RMSNorm(config.head_width) if config.qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(config.head_width) if config.qk_norm else nn.Identity()

    def project(self, all_BQO: Tensor, turn: RotaryFactors) -> tuple[Tensor, Tensor, Tensor]:
        """Split the output of `query_key_value` into queries [B, M, Q, E], keys and values [B, G, Q, E], and rotate."""
        c = self.config
        groups = c.key_value_heads
        all_BQHE = all_BQO.view(*all_BQO.shape[:2], c.heads + 2 * groups, c.head_width)
        turned = all_BQHE[:, :, : c.heads + groups]
        if c.qk_norm:
            scales = [self.query_norm.weight] * c.heads + [self.key_norm.weight] * groups  # of a root mean square of 1
            scales_ME = torch.stack(scales) * c.head_width**0.5  # type: ignore[arg-type]
            if len(turn) == 2 and torch.is_grad_enabled() and turned.device.type == "cpu":
                turned, turn = NormalizedRotation.apply(turned, scales_ME, *turn), ()  # type: ignore[no-untyped-call]
            else:
                length = torch.linalg.vector_norm(turned, dim=-1, keepdim=True)
                turned = turned * (scales_ME / length.clamp_min(SHORTEST))
        if turn:
            turned = rotate(turned, *(part.to(turned.dtype) for part in turn))
        turned = turned.transpose(1, 2)
        return turned[:, : c.heads], turned[:, c.heads :], all_BQHE[:, :, c.heads + groups :].transpose(1, 2)

    def attend(self, q_BMQE: Tensor, k_BGRE: Tensor, v_BGRE: Tensor, mask_QR: Tensor | None) -> Tensor:
        """Return weighted values [B, Q, M E]; heads that share keys become more queries, so keys never expand."""
        heads, shared, queries = self.config.heads, self.config.key_value_heads, q_BMQE.shape[2]
        if shared != heads:
            q_BMQE = q_BMQE.reshape(len(q_BMQE), shared, -1, self.config.head_width)
            if mask_QR is not None and mask_QR.shape[-2] > 1:
                mask_QR = mask_QR.tile((heads // shared, 1))
        out = attend(q_BMQE, k_BGRE, v_BGRE, mask_QR)
        if shared != heads:
            out = out.reshape(len(out), heads, queries, -1)
        return out.transpose(1, 2).flatten(2)

    def extend(self, x_BQD: Tensor, turn: RotaryFactors, cache: KeyValueCache, reach: AttentionSpan) -> Tensor:
        """Add keys and values to the cache, and attend to it; see `Transformer.extend`."""
        q_BMQE, k_BGQE, v_BGQE = self.project(self.query_key_value(x_BQD), turn)
        cache.write(self.layer, reach.first, k_BGQE, v_BGQE)
        keys, values = cache.visible(self.layer, reach.step, reach.last)
        return self.out(self.attend(q_BMQE, keys, values, reach.masks.get(self.window)))

    def steps(self, x_BTPD: Tensor, turn: RotaryFactors, causal_mask_PP: Tensor) -> Tensor:
        """Attend every step to its window, one call per step, so that no mask is larger than one step's."""
        batch, steps, positions, _ = x_BTPD.shape
        all_BQO = self.query_key_value(rearrange(x_BTPD, "b t p d -> b (t p) d"))
        # Under autocast the norm makes queries and keys float32; rounded here once, not again for every window.
        q, k, v = (x.to(all_BQO.dtype) for x in self.project(all_BQO, turn))
        if q.device.type == "cpu":
            return self.out(self._windowed(q, k, v, steps, causal_mask_PP))
        out = []
        for step in range(steps):
            keys, values = (seen(x, self.window, step, positions) for x in (k, v))
            past = causal_mask_PP.new_ones(positions, keys.shape[-2] - positions)
            mask = torch.cat([past, causal_mask_PP], dim=1)
            out.append(self.attend(q[:, :, step * positions : (step + 1) * positions], keys, values, mask))
        return self.out(torch.stack(out, dim=1))

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, steps: int, causal_mask_PP: Tensor) -> Tensor:
        groups, shared = self.config.key_value_heads, self.config.heads // self.config.key_value_heads
        q = rearrange(q * self.config.head_width**-0.5, "b (g s) (t p) e -> t (b g) (s p) e", g=groups, t=steps)
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        out = WindowedAttention.apply(q, k, v, causal_mask_PP.tile(shared, 1), self.window)  # type: ignore[no-untyped-call]
        return rearrange(out, "t (b g) (s p) e -> b t p (g s e)", g=groups, s=shared)


class Block(nn.Module):
    """Attention, then an MLP, each on the normalised residual stream; or both on the same one (`parallel`)."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.parallel, self.dropout = config.parallel, config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.Identity() if config.parallel else nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width))

    def feed(self, x: Tensor, attended: Tensor, normed: Tensor) -> Tensor:
        """Return the residual stream after the block, from its input, the attention's output and its norm."""
        if self.parallel:
            return x + self._drop(attended) + self._drop(self.mlp(normed))
        x = x + self._drop(attended)
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def steps(self, x_BTPD: Tensor, turn: RotaryFactors, causal_mask_PP: Tensor) -> Tensor:
        """Run the block over whole steps."""
        normed = self.attention_norm(x_BTPD)
        return self.feed(x_BTPD, self.attention.steps(normed, turn, causal_mask_PP), normed)

    def extend(self, x_BQD: Tensor, turn: RotaryFactors, cache: KeyValueCache, reach: AttentionSpan) -> Tensor:
        """Run the block over some positions of one step; see `Transformer.extend`."""
        normed = self.attention_norm(x_BQD)
        return self.feed(x_BQD, self.attention.extend(normed, turn, cache, reach), normed)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class Transformer(nn.Module):
    """Token ids of whole steps to hidden states, and hidden states to logits."""

    def __init__(self, config: TransformerConfig, layout: StepLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        self.checkpoint_blocks = False  # compute a block's activations again in the backward pass
        rolling = config.positions == "rolling"
        places = layout.positions * (1 if rolling else config.context_steps)
        self.token = nn.Embedding(layout.vocab.size, config.width)
        self.place = nn.Embedding(places, config.width)
        self.rotary = Rotary(config.head_width, layout.grid_P2, config.context_steps) if rolling else None
        actions = layout.vocab.action_values
        self.action_condition = nn.Embedding(actions, config.width) if config.action_condition else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        predicts_image_P = torch.zeros(layout.positions, dtype=torch.bool)
        predicts_image_P[list(layout.image_group.positions)] = True
        self.image_position_P = nn.Buffer(predicts_image_P, persistent=False)
        self.apply(_init_weights)
        for block in self.blocks:
            assert isinstance(block, Block)
            for last in (block.attention.out, block.mlp[2]):
                nn.init.normal_(last.weight, std=0.02 / (2 * config.layers) ** 0.5)  # type: ignore[arg-type]

    def forward(
        self,
        inputs_BTP: Int[Tensor, "B T P"],
        causal_mask_PP: Bool[Tensor, "P P"],
        actions_BTA: Int[Tensor, "B T A"] | None = None,
    ) -> Float[Tensor, "B T P D"]:
        """Return hidden states of whole steps, each attending to its window.

        `causal_mask_PP` is True where a row may attend to a column of its own step. `actions_BTA` are joint ids of the
        action *before* each step (negative: none), for `action_condition` only.
        """
        _, steps, positions = inputs_BTP.shape
        where_TP = torch.arange(positions, device=inputs_BTP.device).expand(steps, positions)
        if self.rotary is None:
            if steps > self.config.context_steps:
                raise ConfigError(f"absolute positions end after {self.config.context_steps} steps; start a new window")
            where_TP = torch.arange(steps * positions, device=inputs_BTP.device).view(steps, positions)
        x = self._token(inputs_BTP) + self.place(where_TP)
        if self.action_condition is not None and actions_BTA is not None:
            x = x + self._condition(actions_BTA)[:, :, None] * self.image_position_P[:, None]
        if self.training and self.config.dropout:
            x = F.dropout(x, self.config.dropout)
        turn: RotaryFactors = ()
        if self.rotary is not None:
            step_S = torch.arange(steps, device=x.device).repeat_interleave(positions)
            angles = self.rotary.angles(step_S, torch.arange(positions, device=x.device).repeat(steps))
            turn = angles[0].to(x.dtype), angles[1].to(x.dtype)
        for block in self.blocks:
            assert isinstance(block, Block)
            if self.checkpoint_blocks and self.training:
                x = checkpoint(block.steps, x, turn, causal_mask_PP, use_reentrant=False)
            else:
                x = block.steps(x, turn, causal_mask_PP)
        return self.norm(x)

    def begin(
        self,
        steps_B: Int[Tensor, B],
        order_P: Int[Tensor, P],
        actions_BA: Int[Tensor, "B A"] | None = None,
        *,
        as_matrices: bool = False,
    ) -> StepEmbeddings:
        """Return one step's embeddings before any of its tokens is known; `order_P` is the decoding order.

        `steps_B` is the step's index in each session. `as_matrices` rotates by matrix products: fewer kernels.
        """
        if self.rotary is None:
            where = steps_B[:, None] * self.layout.positions + order_P
        else:
            where = order_P.expand(len(steps_B), -1)
        x_BPD = self.place(where)
        if self.action_condition is not None and actions_BA is not None:
            x_BPD = x_BPD + self._condition(actions_BA)[:, None] * self.image_position_P[order_P, None]
        if self.rotary is None:
            return StepEmbeddings(x_BPD, ())
        cosine, sine = (part.to(x_BPD.dtype) for part in self.rotary.angles(steps_B[:, None], order_P))
        return StepEmbeddings(x_BPD, (matrices(cosine, sine),) if as_matrices else (cosine, sine))

    def extend(
        self, inputs_BQ: Int[Tensor, "B Q"], tables: StepEmbeddings, cache: KeyValueCache, reach: AttentionSpan
    ) -> Float[Tensor, "B Q D"]:
        """Return hidden states of some positions of one step; cache keys and values. `tables`: see `begin`."""
        here = slice(reach.first, reach.last)
        x = self._token(inputs_BQ) + tables.x_BPD[:, here]
        turn = tuple(part[:, here] for part in tables.turn)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block.extend(x, turn, cache, reach)
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "*N D"], first_id: int, last_id: int) -> Float[Tensor, "*N C"]:
        """Return logits of the legal ids `first_id` to `last_id` - 1 only (embeddings are tied)."""
        return F.linear(hidden, self.token.weight[first_id:last_id])

    def _token(self, inputs: Tensor) -> Tensor:
        return self.token(inputs.clamp(min=0)) * (inputs >= 0)[..., None]

    def _condition(self, actions: Tensor) -> Tensor:
        """Sum of the embeddings of one action's values; negative ids add nothing."""
        assert self.action_condition is not None
        ids = (actions - self.layout.vocab.codebook_size).clamp(min=0)
        return (self.action_condition(ids) * (actions >= 0)[..., None]).sum(dim=-2)


def interleave(
    layout: StepLayout, codes_BTN: Int[Tensor, "B T N"], values_BTA: Int[Tensor, "B T A"]
) -> Int[Tensor, "B T K"]:
    """Codes and action values to joint token ids, step by step in slot order."""
    offsets_A = torch.tensor(layout.vocab.action_offsets, device=values_BTA.device)
    return torch.cat([codes_BTN.long(), values_BTA.long() + offsets_A], dim=-1)


def position_inputs(layout: StepLayout, tokens_BTK: Int[Tensor, "B T K"]) -> Int[Tensor, "B T P"]:
    """Return the input of every position: token ids, or `NO_TOKEN`."""
    source_P = torch.as_tensor(layout.source_P, device=tokens_BTK.device)
    inputs = tokens_BTK[..., source_P.clamp(min=0)]
    inputs = inputs.masked_fill(source_P < 0, NO_TOKEN)
    if not layout.rows:
        inputs[:, 1:, 0] = tokens_BTK[:, :-1, -1]
    return inputs

"""The loss of the world model: cross-entropy of image codes and action values, for one decode order.

Owns which positions are judged against what. Shapes: B batch, T steps, N image slots, A action slots, P positions a
step, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from playloom.model import Transformer
from playloom.sequence import NO_TOKEN, StepLayout


class Judged(NamedTuple):
    """Mean figures of one batch, scalars on the device. A tuple, because wrappers look into those for tensors."""

    loss: Tensor
    """What is minimised."""
    image: Tensor
    """Cross-entropy of an image code, in nats."""
    action: Tensor
    """Cross-entropy of an action value, in nats."""
    image_accuracy: Tensor
    """Share of image codes whose likeliest id is the true one."""
    action_accuracy: Tensor
    """Share of action values whose likeliest id is the true one."""


class WorldLoss(nn.Module):
    """The transformer with its loss, as one module, so that wrappers for many devices see one forward pass."""

    legal_AV: Tensor

    def __init__(
        self, transformer: Transformer, layout: StepLayout, *, action_weight: float, first_step_image: bool
    ) -> None:
        """Hold the transformer.

        Args:
            transformer: what is trained.
            layout: owner of the token arithmetic.
            action_weight: what an action token's loss counts; 1 is the published objective, 10 its variant.
            first_step_image: also judge the image of a window's first step, which nothing foretells.
        """
        super().__init__()
        self.transformer, self.layout = transformer, layout
        self.action_weight, self.first_step_image = action_weight, first_step_image
        ids = torch.arange(layout.vocab.codebook_size, layout.vocab.size)
        legal = [(ids >= g.first_id) & (ids < g.last_id) for g in layout.action_groups]
        self.register_buffer("legal_AV", torch.stack(legal), persistent=False)
        self._image_positions = list(layout.image_group.positions)
        self._action_positions = [g.positions[0] for g in layout.action_groups]

    def forward(
        self, codes_BTN: Int[Tensor, "B T N"], values_BTA: Int[Tensor, "B T A"], own_PP: Bool[Tensor, "P P"]
    ) -> Judged:
        """Judge one batch.

        Args:
            codes_BTN: int64 image codes.
            values_BTA: int64 action values.
            own_PP: the order's own-step mask, from `Schedule.visible_PP`.
        """
        tokens_BTK = self.layout.weave(codes_BTN, values_BTA)
        hidden_BTPD = self.transformer(self.layout.inputs(tokens_BTK), own_PP, self._previous(tokens_BTK))
        image, image_right = self._judge_images(hidden_BTPD, codes_BTN)
        action, action_right = self._judge_actions(hidden_BTPD, tokens_BTK)
        slots = self.layout.slots
        weight = self.action_weight * self.layout.action_slots / slots
        loss = image * (self.layout.image_slots / slots) + action * weight
        return Judged(loss, image.detach(), action.detach(), image_right, action_right)

    def _previous(self, tokens_BTK: Tensor) -> Tensor:
        """Joint ids [B, T, A] of the action before each step; none before the first."""
        actions_BTA = tokens_BTK[..., self.layout.image_slots :]
        return F.pad(actions_BTA[:, :-1], (0, 0, 1, 0), value=NO_TOKEN)

    def _judge_images(self, hidden_BTPD: Float[Tensor, "B T P D"], codes_BTN: Tensor) -> tuple[Tensor, Tensor]:
        first = 0 if self.first_step_image or codes_BTN.shape[1] == 1 else 1
        hidden = hidden_BTPD[:, first:, self._image_positions]
        logits = self.transformer.logits(hidden, 0, self.layout.vocab.codebook_size)
        return _cross_entropy(logits, codes_BTN[:, first:])

    def _judge_actions(self, hidden_BTPD: Float[Tensor, "B T P D"], tokens_BTK: Tensor) -> tuple[Tensor, Tensor]:
        vocab = self.layout.vocab
        hidden = hidden_BTPD[:, :, self._action_positions]
        logits = self.transformer.logits(hidden, vocab.codebook_size, vocab.size)
        legal = logits.masked_fill(~self.legal_AV, float("-inf"))
        return _cross_entropy(legal, tokens_BTK[..., self.layout.image_slots :] - vocab.codebook_size)


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats, and the share of targets that are the likeliest id."""
    flat = logits.flatten(0, -2).float()
    loss = F.cross_entropy(flat, targets.flatten())
    return loss, (flat.detach().argmax(-1) == targets.flatten()).float().mean()

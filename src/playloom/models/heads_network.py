"""Heads on the world model, see `playloom.models.heads`.

They read the transformer's final hidden states of the frame after the step, which decoding computes anyway: no further
pass is needed. Each position knows the action before the frame and the codes before its own; the last one knows all
codes but, in a chain, its own. B batch, Q positions of a frame, D width, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from playloom.models.heads import HeadsConfig, StepPrediction, predictions


def pool(hidden_BQD: Tensor) -> Tensor:
    """Return the heads' input, float32 [B, 2 D]: mean and last of a frame's hidden states, in decoding order."""
    return torch.cat([hidden_BQD.mean(dim=-2), hidden_BQD[..., -1, :]], dim=-1).float()


class PredictionHeads(nn.Module):
    """One MLP with a hidden layer, shared by all heads."""

    def __init__(self, config: HeadsConfig, width: int, *, seed: int = 0) -> None:
        """Make the heads of a transformer of this width: hidden layer from `seed`, all outputs 0."""
        super().__init__()
        self.config = config
        self.mean_F = nn.Buffer(torch.zeros(2 * width))
        self.scale_F = nn.Buffer(torch.ones(2 * width))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Linear(2 * width, config.width)
            self.out = nn.Linear(config.width, config.outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the outputs [B, O] of features from `pool`.

        First the standardised reward, or logits of negative, no and positive reward; then the logit of termination, and
        the standardised states.
        """
        normed = (features_BF - self.mean_F) / self.scale_F
        return self.out(nn.functional.gelu(self.hidden(normed)))

    @torch.no_grad()
    def predict(self, features_BF: Tensor) -> list[StepPrediction]:
        """Return the predictions in the units of the data."""
        return predictions(self.config, self(features_BF).double().cpu().numpy())

"""Training of the world model: a transformer on windows of codes and actions.

B batch, T steps, N image slots, A action slots, P positions a step, D width, V vocabulary.

    >>> train_world(preset("tiny"), WorldConfig(loop=LoopConfig(steps=100)), tokens, out=Path("runs/world"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.data.dataset import EpisodeSlice, TokenDataset
from playloom.data.sampler import WindowSampler, alive_spans, token_windows
from playloom.errors import ConfigError, RecordingError
from playloom.json_io import to_mapping
from playloom.models.decode_order import schedule
from playloom.models.sequence import NO_TOKEN, StepLayout
from playloom.models.transformer.transformer import Transformer
from playloom.models.world_model import ModelConfig, build_transformer
from playloom.training.config import LoopConfig
from playloom.training.distributed import dist_info
from playloom.training.loop import Loop, Report
from playloom.training.task import Batch, LoopResult, ModuleLoss, StepContext


class LossOutput(NamedTuple):
    """Means of one batch, scalars on the device; a tuple, because wrappers look for tensors in those."""

    loss: Tensor
    """Training objective."""
    image: Tensor
    """Cross-entropy of image codes, nats."""
    action: Tensor
    """Cross-entropy of action values, nats."""
    image_accuracy: Tensor
    """Accuracy of image codes."""
    action_accuracy: Tensor
    """Accuracy of action values."""


class WorldLoss(nn.Module):
    """Cross-entropy of image codes and action values in one decode order; one module, for wrappers of many devices."""

    legal_AV: Tensor

    def __init__(
        self, transformer: Transformer, layout: StepLayout, *, action_weight: float, first_step_image: bool
    ) -> None:
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
    ) -> LossOutput:
        """Compute the loss of one batch.

        Args:
            codes_BTN: int64 image codes.
            values_BTA: int64 action values.
            own_PP: the order's own-step mask, from `Schedule.visible_PP`.
        """
        tokens_BTK = self.layout.interleave(codes_BTN, values_BTA)
        hidden_BTPD = self.transformer(self.layout.inputs(tokens_BTK), own_PP, self._previous(tokens_BTK))
        image, image_right = self._judge_images(hidden_BTPD, codes_BTN)
        action, action_right = self._judge_actions(hidden_BTPD, tokens_BTK)
        slots = self.layout.slots
        weight = self.action_weight * self.layout.action_slots / slots
        loss = image * (self.layout.image_slots / slots) + action * weight
        return LossOutput(loss, image.detach(), action.detach(), image_right, action_right)

    def _previous(self, tokens_BTK: Tensor) -> Tensor:
        """Joint ids [B, T, A] of the action before each step; `NO_TOKEN` before the first."""
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
    """Mean cross-entropy in nats, and accuracy."""
    flat = logits.flatten(0, -2).float()
    loss = F.cross_entropy(flat, targets.flatten())
    return loss, (flat.detach().argmax(-1) == targets.flatten()).float().mean()


Preview = Callable[[Transformer], NDArray[np.uint8] | None]
"""Callback that makes a picture strip uint8 [H, W, 3] with the averaged transformer."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Settings of a world model training.

    Raises:
        ConfigError: when lags and weights do not pair up.
    """

    loop: LoopConfig
    window_steps: int = 12
    """Steps of a training window; with rolling positions longer than the context, as in use."""
    action_weight: float = 1.0
    """Weight of an action token's loss; 1 is the published objective, 10 its variant for diverse actions."""
    lags: tuple[int, ...] = (0, 4, 2, 1)
    """Row lags trained; 0 is raster order. A chain layout trains raster order only."""
    lag_weights: tuple[float, ...] = (0.4, 0.2, 0.2, 0.2)
    """Relative frequency of each row delay."""
    first_step_image_loss: bool = False
    """Include the first picture of a window, which nothing predicts, in the loss."""
    drop_dead: bool = True
    """Skip steps in which the player is dead (state column `dead`)."""
    validation_windows: int = 32
    """Windows of the "validation" split per validation."""

    def __post_init__(self) -> None:
        if len(self.lags) != len(self.lag_weights) or not self.lags:
            raise ConfigError(f"lags {self.lags} and lag_weights {self.lag_weights} must pair up")
        if min(self.lag_weights) < 0 or sum(self.lag_weights) <= 0:
            raise ConfigError(f"lag_weights are {self.lag_weights}; expected shares, at least one above 0")
        if self.window_steps < 2:
            raise ConfigError(f"window_steps is {self.window_steps}; a window needs a step and the next one")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Pretrained transformer weights; the optimiser starts fresh."""

    transformer: Transformer
    """Of the sizes that are trained."""
    fingerprint: str
    """Of its weights' file; part of the run's identity."""


@dataclass(frozen=True)
class WorldRun:
    """Result of `train_world`."""

    transformer: Transformer
    """With averaged weights, in eval mode."""
    outcome: LoopResult


def train_world(
    model: ModelConfig,
    config: WorldConfig,
    store: TokenDataset,
    out: Path,
    *,
    start: Start | None = None,
    preview: Preview | None = None,
    report: Report | None = None,
) -> WorldRun:
    """Train or resume the transformer of `model` in the folder `out`.

    Args:
        model: sizes; its codebook and grid must be those of the store.
        config: how.
        store: codes and actions; episodes of the split "train" are learned, "validation" judged.
        out: checkpoints, log and previews go here; a run found here is resumed.
        start: weights to begin with; None: random ones.
        preview: makes a strip at each validation.
        report: told about progress.

    Raises:
        RecordingError: when the store does not fit the model or has no training episodes.
        CheckpointError: when `out` holds another run.
    """
    task = WorldTask(model, config, store, preview, start)
    loop = Loop(task, config.loop, out, report)
    outcome = loop.run()
    with loop.averaged():
        weights = {name: tensor.clone() for name, tensor in task.transformer.state_dict().items()}
    transformer = task.transformer.to("cpu")
    transformer.load_state_dict(weights)
    return WorldRun(transformer=transformer.eval().requires_grad_(False), outcome=outcome)


class WorldTask:
    """Train one player: the transformer and its loss."""

    def __init__(
        self,
        model: ModelConfig,
        config: WorldConfig,
        store: TokenDataset,
        preview: Preview | None,
        start: Start | None = None,
    ) -> None:
        check_store(model, store)
        self._config, self._store, self._preview = config, store, preview
        self.transformer = build_transformer(model, seed=config.loop.seed)
        if start is not None:
            self.transformer.load_state_dict(start.transformer.state_dict())
        self.loss = WorldLoss(
            self.transformer,
            model.layout,
            action_weight=config.action_weight,
            first_step_image=config.first_step_image_loss,
        )
        self.players: dict[str, nn.Module] = {"world": self.loss}
        self.averaged = frozenset(self.players)
        self.rates = {"world": 1.0}
        self.units = {"frames": config.window_steps, "tokens": config.window_steps * model.layout.slots}
        self.identity = {
            "model": model.to_dict(),
            "world": {k: _plain(v) for k, v in to_mapping(config).items() if k != "loop"},
            "data": {"tokenizer": store.tokenizer, "rows": len(store)},
        }
        if start is not None:
            self.identity["start"] = {"transformer": start.fingerprint}
        self._own, self._weights = self._orders(model)
        rank, ranks = dist_info()
        self._train = self._sampler(self._spans("train"), config.loop.batch, config.loop.seed, rank, ranks)
        validation = [s for s in self._spans("validation") if s.length >= config.window_steps]
        self._judged = self._sampler(validation, config.loop.batch, 0, 0, 1) if validation else None

    def to(self, device: torch.device) -> None:
        """Move the masks."""
        self._own = {row_delay: own.to(device) for row_delay, own in self._own.items()}

    def batch(self, index: int) -> Batch:
        """Return windows of batch `index`: codes int64 [B, T, N], actions int64 [B, T, A]."""
        return self._gather(self._train, index)

    def losses(self, players: Mapping[str, nn.Module], batch: Batch, moment: StepContext) -> Iterator[ModuleLoss]:
        """Yield one loss, in a decode order drawn from the step's generator."""
        row_delay = list(self._own)[int(moment.random.choice(len(self._weights), p=self._weights))]
        judged: LossOutput = players["world"](batch["codes"], batch["actions"], self._own[row_delay])
        yield ModuleLoss("world", judged.loss, {**_figures(judged), f"image_row_delay_{row_delay}": judged.image})

    def validate(self) -> dict[str, float]:
        """Return metrics on the validation split: raster order, the fastest order, and raster with wrong actions."""
        if self._judged is None:
            return {}
        lags = list(self._own)
        sums: dict[str, float] = {}
        count = max(1, self._config.validation_windows // self._judged.batch)
        for index in range(count):
            batch = {name: tensor.to(self._device) for name, tensor in self._gather(self._judged, index).items()}
            figures = {name: float(value) for name, value in _figures(self._judge(batch, lags[0])).items()}
            figures[f"image_row_delay_{lags[-1]}"] = float(self._judge(batch, lags[-1]).image)
            foreign = {**batch, "actions": batch["actions"].roll(1, dims=0)}
            figures["shuffled_gap"] = float(self._judge(foreign, lags[0]).image) - figures["image"]
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / count
        return sums

    def preview(self) -> NDArray[np.uint8] | None:
        """Return the strip of the preview callback."""
        return None if self._preview is None else self._preview(self.transformer)

    @property
    def _device(self) -> torch.device:
        return self.transformer.token.weight.device

    def _judge(self, batch: Batch, row_delay: int) -> LossOutput:
        judged: LossOutput = self.loss(batch["codes"], batch["actions"], self._own[row_delay])
        return judged

    def _gather(self, sampler: WindowSampler, index: int) -> Batch:
        windows = token_windows(self._store, sampler.rows(index))
        return {"codes": windows.tokens_BTN, "actions": windows.actions_BTA}

    def _orders(self, model: ModelConfig) -> tuple[dict[int, Tensor], NDArray[np.float64]]:
        """Own-step mask of every row delay (raster order under the grid's width), and relative frequencies."""
        width = model.layout.grid_width
        wanted: dict[int, float] = {}
        for row_delay, weight in zip(self._config.lags, self._config.lag_weights, strict=True):
            actual = width if row_delay == 0 or not model.rows else min(row_delay, width)
            wanted[actual] = wanted.get(actual, 0.0) + weight
        weights = np.array(list(wanted.values()))
        return {
            row_delay: schedule(model.layout, row_delay).visible_PP() for row_delay in wanted
        }, weights / weights.sum()

    def _sampler(
        self, spans: tuple[EpisodeSlice, ...] | list[EpisodeSlice], batch: int, seed: int, rank: int, ranks: int
    ) -> WindowSampler:
        steps = self._config.window_steps
        return WindowSampler(spans=spans, steps=steps, batch=batch, seed=seed, rank=rank, ranks=ranks)

    def _spans(self, split: str) -> tuple[EpisodeSlice, ...]:
        spans = self._store.of_split(split)
        if self._config.drop_dead and "dead" in self._store.state_columns:
            return alive_spans(spans, self._store.column("dead"))
        return spans


def check_store(model: ModelConfig, store: TokenDataset) -> None:
    """Check that the dataset's codes can be those of the model's tokenizer, else raise RecordingError."""
    slots = store.tokens_FN.shape[1]
    if slots != model.layout.image_slots:
        raise RecordingError(
            f"{store.folder} has {slots} codes a picture; {model.name} takes {model.layout.image_slots}: "
            "tokenise again with this model's tokenizer"
        )
    highest = int(store.tokens_FN[: 1 << 16].max())
    if highest >= model.layout.vocab.codebook_size:
        raise RecordingError(
            f"{store.folder} holds code {highest}; {model.name} knows 0 to {model.layout.vocab.codebook_size - 1}"
        )


def _figures(judged: LossOutput) -> dict[str, Tensor]:
    return {
        "loss": judged.loss.detach(),
        "image": judged.image,
        "action": judged.action,
        "image_accuracy": judged.image_accuracy,
        "action_accuracy": judged.action_accuracy,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""Training of the world model: a transformer on windows of codes and actions.

B batch, T steps, N image slots, A action slots, P positions a step, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.data.dataset import EpisodeSlice, TokenDataset
from playloom.data.sampler import WindowSampler, alive_spans
from playloom.errors import ConfigError, RecordingError
from playloom.inference.engine import Engine
from playloom.inference.session import Prompt
from playloom.json_io import plain
from playloom.models.checkpoint import WorldModel, build_transformer
from playloom.models.config import ModelConfig
from playloom.models.decode_order import schedule
from playloom.models.sequence import NO_TOKEN
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.transformer import Transformer, interleave, position_inputs
from playloom.provenance import stamp
from playloom.training.artifacts import PretrainedModel
from playloom.training.distributed import dist_info
from playloom.training.task import Batch, LoopConfig, ModuleLoss, StepContext

_PREVIEW_FRAMES = 6


class LossOutput(NamedTuple):
    """Means of one batch, scalars on the device; a tuple, because wrappers look for tensors in those."""

    loss: Tensor
    image: Tensor  # cross-entropy of image codes, nats
    action: Tensor  # cross-entropy of action values, nats
    image_accuracy: Tensor
    action_accuracy: Tensor


class WorldLoss(nn.Module):
    """Cross-entropy of image codes and action values in one decode order; one module, for wrappers of many devices."""

    def __init__(self, transformer: Transformer, *, action_weight: float, first_step_image: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.layout = layout = transformer.layout
        self.action_weight, self.first_step_image = action_weight, first_step_image
        ids = torch.arange(layout.vocab.codebook_size, layout.vocab.size)
        legal = [(ids >= g.first_id) & (ids < g.last_id) for g in layout.action_groups]
        self.legal_AV = nn.Buffer(torch.stack(legal), persistent=False)
        self._image_positions = list(layout.image_group.positions)
        self._action_positions = [g.positions[0] for g in layout.action_groups]

    def forward(
        self,
        codes_BTN: Int[Tensor, "B T N"],
        values_BTA: Int[Tensor, "B T A"],
        causal_mask_PP: Bool[Tensor, "P P"],
        sampled: float = 0.0,
    ) -> LossOutput:
        """Compute the loss of one batch; `causal_mask_PP` is the order's own-step mask, from `Schedule.visible_PP`.

        Up to `sampled` of a window's codes are read as the model samples them from the true ones; targets stay true.
        """
        layout, vocab = self.layout, self.layout.vocab
        tokens_BTK = interleave(layout, codes_BTN, values_BTA)
        actions_BTA = tokens_BTK[..., layout.image_slots :]
        previous_BTA = F.pad(actions_BTA[:, :-1], (0, 0, 1, 0), value=NO_TOKEN)
        inputs_BTP = position_inputs(layout, tokens_BTK)
        if sampled:
            with torch.no_grad():
                hidden_BTPD = self.transformer(inputs_BTP, causal_mask_PP, previous_BTA)
                read_BTN = self._resample(codes_BTN, hidden_BTPD[:, :, self._image_positions], sampled)
            inputs_BTP = position_inputs(layout, interleave(layout, read_BTN, values_BTA))
        hidden_BTPD = self.transformer(inputs_BTP, causal_mask_PP, previous_BTA)
        first = 0 if self.first_step_image or codes_BTN.shape[1] == 1 else 1
        logits = self.transformer.logits(hidden_BTPD[:, first:, self._image_positions], 0, vocab.codebook_size)
        image, image_accuracy = _cross_entropy(logits, codes_BTN[:, first:])
        logits = self.transformer.logits(hidden_BTPD[:, :, self._action_positions], vocab.codebook_size, vocab.size)
        legal = logits.masked_fill(~self.legal_AV, float("-inf"))
        action, action_accuracy = _cross_entropy(legal, actions_BTA - vocab.codebook_size)
        weight = self.action_weight * layout.action_slots / layout.slots
        loss = image * (layout.image_slots / layout.slots) + action * weight
        return LossOutput(loss, image.detach(), action.detach(), image_accuracy, action_accuracy)

    def _resample(self, codes_BTN: Tensor, hidden_BTND: Tensor, most: float) -> Tensor:
        drawn_BTN = codes_BTN.clone()
        for step in range(1, codes_BTN.shape[1]):  # no logits of all steps; nothing predicts the first frame
            logits_BNC = self.transformer.logits(hidden_BTND[:, step], 0, self.layout.vocab.codebook_size).float()
            drawn_BTN[:, step] = (logits_BNC - torch.empty_like(logits_BNC).exponential_().log_()).argmax(dim=-1)
        share_B11 = most * torch.rand(len(codes_BTN), 1, 1, device=codes_BTN.device)
        return torch.where(torch.rand(codes_BTN.shape, device=codes_BTN.device) < share_B11, drawn_BTN, codes_BTN)


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits, some rows at a time: float32 copies of all logits never exist.

    The gradient is computed with the loss, while the rows are in the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, logits_NC: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean in nats and the share of targets with the largest logit."""
        count, classes = logits_NC.shape
        loss, hits = logits_NC.new_zeros((), dtype=torch.float32), targets_N.new_zeros(())
        grad_NC = torch.empty_like(logits_NC)
        size = max(1, _CACHED // classes)
        for rows, targets, grad in zip(*(torch.split(x, size) for x in (logits_NC, targets_N, grad_NC)), strict=True):
            most, best = rows.float().max(dim=-1, keepdim=True)
            own = targets[:, None]
            shifted = rows.float() - most
            loss -= shifted.gather(1, own).sum()
            share = shifted.exp_()
            total = share.sum(dim=-1, keepdim=True)
            loss += total.log().sum()
            hits += (best == own).sum()
            share *= 1 / (count * total)
            grad.copy_(share.scatter_add_(1, own, share.new_full(own.shape, -1 / count)))
        ctx.save_for_backward(grad_NC)
        ctx.mark_non_differentiable(hits)
        return loss / count, hits / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits."""
        return ctx.saved_tensors[0] * grad, None


_CACHED = 2**17  # logits computed at a time


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if logits.device.type != "cpu":
        flat = logits.flatten(0, -2).float()
        return F.cross_entropy(flat, targets.flatten()), (flat.detach().argmax(-1) == targets.flatten()).float().mean()
    return CrossEntropy.apply(logits.flatten(0, -2), targets.flatten())  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Settings of a world model training; `ConfigError` for row_delays and weights that do not pair up."""

    loop: LoopConfig
    window_steps: int = 12
    """Steps of a training window; with rolling positions longer than the context, as in use."""
    action_weight: float = 1.0
    """Weight of an action token's loss; 1 is the published objective, 10 its variant for diverse actions."""
    row_delays: tuple[int, ...] = (0, 4, 2, 1)
    """Row delays trained; 0 is raster order. A chain layout trains raster order only."""
    row_delay_weights: tuple[float, ...] = (0.4, 0.2, 0.2, 0.2)
    """Relative frequency of each row delay."""
    scheduled_sampling: float = 0.0
    """Largest share of a window's codes that the model samples before it reads them, in half of the batches (Mihaylova
    & Martins 2019: one parallel pass). In use it reads its own samples. A sampled batch takes a third longer."""
    mirror: bool = False
    """Add the training episodes of a frame dataset mirrored, pictures and controller together, to the codes made."""
    first_step_image_loss: bool = False
    """Include the first picture of a window, which nothing predicts, in the loss."""
    drop_dead: bool = True
    """Skip steps in which the player is dead (state column `dead`)."""
    validation_windows: int = 32
    """Windows of the "validation" split per validation."""

    def __post_init__(self) -> None:
        if len(self.row_delays) != len(self.row_delay_weights) or not self.row_delays:
            raise ConfigError(
                f"row_delays {self.row_delays} and row_delay_weights {self.row_delay_weights} must pair up"
            )
        if min(self.row_delays) < 0:
            raise ConfigError(f"row_delays are out of range: got {self.row_delays}, expected 0 (raster) or more")
        if not (all(weight >= 0 for weight in self.row_delay_weights) and sum(self.row_delay_weights) > 0):
            raise ConfigError(
                f"row_delay_weights are wrong: got {self.row_delay_weights}, expected shares, at least one above 0"
            )
        if not 0 <= self.scheduled_sampling <= 1:
            raise ConfigError(f"scheduled_sampling is out of range: got {self.scheduled_sampling}, expected 0 to 1")
        for name, least in (("window_steps", 2), ("validation_windows", 1), ("action_weight", 0)):
            if not getattr(self, name) >= least:  # NaN compares false
                raise ConfigError(f"{name} is out of range: got {getattr(self, name)}, expected {least} or more")

    def row_delay_shares(self, model: ModelConfig) -> dict[int, float]:
        """Return the relative frequency of each row delay that the model trains; the grid's width is raster order."""
        width = model.layout.grid_width
        shares: dict[int, float] = {}
        for row_delay, weight in zip(self.row_delays, self.row_delay_weights, strict=True):
            actual = width if row_delay == 0 or not model.rows else min(row_delay, width)
            if weight:
                shares[actual] = shares.get(actual, 0.0) + weight
        return shares


class WorldTask:
    """Train the transformer; one module with its loss."""

    def __init__(
        self,
        model: ModelConfig,
        config: WorldConfig,
        dataset: TokenDataset,
        *,
        tokenizer: FrameTokenizer | None = None,
        start: PretrainedModel | None = None,
    ) -> None:
        """Train from `start`, a whole model, or random weights; `tokenizer` decodes previews (None: none)."""
        _check_dataset(model, dataset)
        self._model, self._config, self._dataset, self._tokenizer = model, config, dataset, tokenizer
        self.transformer = build_transformer(model, seed=config.loop.seed)
        self.transformer.checkpoint_blocks = config.loop.activation_checkpointing
        self.loss = WorldLoss(
            self.transformer, action_weight=config.action_weight, first_step_image=config.first_step_image_loss
        )
        self.modules: dict[str, nn.Module] = {"world": self.loss}
        self.averaged = frozenset(self.modules)
        self.rates = {"world": 1.0}
        self.units = {"frames": config.window_steps, "tokens": config.window_steps * model.layout.slots}
        self.run_config: dict[str, Any] = {
            "model": model.to_dict(),
            "world": {name: value for name, value in plain(dataclasses.asdict(config)).items() if name != "loop"},
            "data": {"tokenizer": dataset.tokenizer, "rows": len(dataset)},
        }
        if start is not None:
            assert start.model is not None
            self.transformer.load_state_dict(start.model.transformer.state_dict())
            self.run_config["start"] = {"transformer": start.transformer}
        shares, layout = config.row_delay_shares(model), model.layout
        self._masks = {row_delay: torch.from_numpy(schedule(layout, row_delay).visible_PP) for row_delay in shares}
        weights = np.array([*shares.values()])
        self._weights = weights / weights.sum()
        self._train = self._sampler(self._spans("train"), config.loop.seed, dist_info()[0])
        validation = [span for span in self._spans("validation") if span.length >= config.window_steps]
        self._validation = self._sampler(validation, 0, 0) if validation else None

    def to(self, device: torch.device) -> None:
        """Move the masks."""
        self._masks = {row_delay: own.to(device) for row_delay, own in self._masks.items()}

    def batch(self, seen: int) -> Batch:
        """Return windows: codes int64 [B, T, N], actions int64 [B, T, A]."""
        return self._windows(self._train.rows(seen))

    def _windows(self, rows_BT: NDArray[np.int64]) -> Batch:
        arrays = self._dataset.tokens_FN[rows_BT], self._dataset.actions_FA[rows_BT]
        codes_BTN, actions_BTA = (torch.from_numpy(array.astype(np.int64)) for array in arrays)
        return {"codes": codes_BTN, "actions": actions_BTA}

    def losses(self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext) -> Iterator[ModuleLoss]:
        """Yield one loss, in a decode order drawn from the step's generator."""
        row_delay = list(self._masks)[int(context.random.choice(len(self._weights), p=self._weights))]
        sampled = self._config.scheduled_sampling
        # Drawn once for all devices: sharded weights are gathered together.
        if sampled and context.random.random() < 0.5:
            sampled = 0.0
        output = self._output(modules["world"], batch, row_delay, sampled)
        yield ModuleLoss("world", output.loss, {**output._asdict(), f"image_row_delay_{row_delay}": output.image})

    def validate(self) -> dict[str, float]:
        """Return metrics on this rank's share of the validation split.

        They are for the slowest order trained, by default raster, for the fastest one, and for the slowest one with
        wrong actions.
        """
        if self._validation is None:
            return {}
        slowest, fastest, device = max(self._masks), min(self._masks), self.transformer.token.weight.device
        sums: dict[str, float] = {}
        (rank, ranks), size = dist_info(), self._validation.batch
        count = max(1, self._config.validation_windows // (size * ranks))
        for index in range(rank, count * ranks, ranks):
            windows = self._windows(self._validation.rows(index * size))
            batch = {name: tensor.to(device) for name, tensor in windows.items()}
            output = self._output(self.loss, batch, slowest)
            metrics = {name: float(value) for name, value in output._asdict().items()}
            metrics[f"image_row_delay_{fastest}"] = float(self._output(self.loss, batch, fastest).image)
            actions = batch["actions"]
            # One window alone has no other actions than its own of another time.
            wrong = actions.roll(1, dims=0) if len(actions) > 1 else actions.roll(actions.shape[1] // 2, dims=1)
            foreign = {**batch, "actions": wrong}
            metrics["shuffled_gap"] = float(self._output(self.loss, foreign, slowest).image) - metrics["image"]
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / count
        return sums

    @torch.inference_mode()
    def preview(self) -> NDArray[np.uint8] | None:
        """Return reconstructed frames above generated ones, if there are a tokenizer and a long enough episode."""
        context = self._model.transformer.context_steps
        spans = self._spans("validation") or self._spans("train")
        long = [span for span in spans if span.length >= context + _PREVIEW_FRAMES]
        if self._tokenizer is None or not long:
            return None
        rows = slice(long[0].start, long[0].start + context + _PREVIEW_FRAMES)
        codes_TN, actions_TA = self._dataset.tokens_FN[rows].astype(np.int64), np.array(self._dataset.actions_FA[rows])
        true_THWC = self._tokenizer.decode(torch.from_numpy(codes_TN)).cpu().numpy()
        prompt = Prompt(
            frames_THWC=true_THWC[:context], actions_TA=actions_TA[: context - 1], codes_TN=codes_TN[:context]
        )
        model = WorldModel(config=self._model, tokenizer=self._tokenizer, transformer=self.transformer)
        engine = Engine(model, row_delay=min(self._masks))
        steps = engine.dream(prompt, mode="world", steps=_PREVIEW_FRAMES, actions_SA=actions_TA[context - 1 : -1])
        frames = [stamp(step.frame_HWC) for step in steps if step.frame_HWC is not None]
        generated = np.stack([true_THWC[context - 1], *frames])
        return rearrange([true_THWC[context - 1 :], generated], "r n h w c -> (r h) (n w) c")

    def _output(self, module: nn.Module, batch: Batch, row_delay: int, sampled: float = 0.0) -> LossOutput:
        return module(batch["codes"], batch["actions"], self._masks[row_delay], sampled)

    def _sampler(self, spans: Sequence[EpisodeSlice], seed: int, rank: int) -> WindowSampler:
        steps, batch = self._config.window_steps, self._config.loop.batch
        return WindowSampler(spans=spans, steps=steps, batch=batch, seed=seed, rank=rank)

    def _spans(self, split: str) -> tuple[EpisodeSlice, ...]:
        spans = self._dataset.of_split(split)
        return alive_spans(self._dataset, spans) if self._config.drop_dead else spans


def _check_dataset(model: ModelConfig, dataset: TokenDataset) -> None:
    slots, expected = dataset.tokens_FN.shape[1], model.layout.image_slots
    highest, size = int(dataset.tokens_FN[: 1 << 16].max()), model.layout.vocab.codebook_size
    if slots != expected or highest >= size:
        raise RecordingError(
            f"{dataset.folder} does not fit {model.name}: got {slots} codes a picture up to {highest}, expected "
            f"{expected} up to {size - 1}; tokenise again with this model's tokenizer"
        )

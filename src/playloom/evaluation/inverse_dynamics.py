"""Inverse dynamics: a small network reads the inputs back from the codes of two consecutive frames.

The network is trained on half of the test episodes and measured on the others: on recorded frames (the upper bound), on
generated ones that follow recorded inputs, and on frames that do not follow each other (the lower bound). It needs no
knowledge of the game. MineWorld (Guo et al. 2025) measures control in this way, with a model from elsewhere. P pairs,
N image slots, A inputs, C classes of all inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.actions.codec import REST_BIN, SLOT_SIZES
from playloom.evaluation.report import Row
from playloom.evaluation.segments import EvaluationContext, episodes_of, segment_episodes
from playloom.models.checkpoint import WorldModel

CLASSES = tuple(2 if size == 2 else 3 for size in SLOT_SIZES)
"""Classes of each input: released and pressed; or left (down), rest and right (up)."""
USED = 0.01  # least share of steps with an input in use; a rarer one is left out of the mean
_EDGES = np.cumsum((0, *CLASSES))
_BATCH = 64
_WIDTH = 64
_LEARNING_RATE = 2e-3
_SHARE = 0.5  # part of the way from the lower to the upper bound that reaches the bar


def evaluate(run: EvaluationContext) -> None:
    """Measure the inputs read from generated frames."""
    s = run.settings
    if not s.inverse_updates or run.dreams is None or not run.encoded:
        return
    rows = np.concatenate([np.arange(span.start, span.start + span.length - 1) for span, _ in run.encoded])
    real = Pairs(
        before_PN=np.concatenate([codes[:-1] for _, codes in run.encoded]),
        after_PN=np.concatenate([codes[1:] for _, codes in run.encoded]),
        actions_PA=run.dataset.actions_FA[rows],
        episodes_P=episodes_of(run.dataset, rows),
    )
    episodes = np.unique(real.episodes_P)
    segments, codes_MSN = run.dreams[0], run.dreams[1].astype(np.int64)
    steps, slots = codes_MSN.shape[1:]
    dreams = Pairs(
        before_PN=codes_MSN[:, :-1].reshape(-1, slots),
        after_PN=codes_MSN[:, 1:].reshape(-1, slots),
        actions_PA=np.concatenate([segment.future_actions(run.dataset, steps)[1:] for segment in segments]),
        episodes_P=np.repeat(segment_episodes(run.dataset, segments), steps - 1),
    ).of(episodes[1::2])
    train, measured = real.of(episodes[::2]), real.of(episodes[1::2])
    if not len(dreams.actions_PA):
        return  # one episode cannot both train and measure
    model = train_inverse_dynamics(run.model, train, s.inverse_updates, s.seed)
    run.progress("inverse dynamics, training")
    run.rows += inverse_rows(model, measured, dreams, s.seed)
    run.counts["inverse_pairs"] = len(train.actions_PA)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Codes of two consecutive frames, and the input between them."""

    before_PN: NDArray[np.int64]
    after_PN: NDArray[np.int64]
    actions_PA: NDArray[np.uint8]
    episodes_P: NDArray[np.int64]  # number of each pair's episode

    def of(self, episodes: NDArray[np.int64]) -> Pairs:
        """Return the pairs of these episodes."""
        chosen = np.isin(self.episodes_P, episodes)
        return Pairs(**{name: values[chosen] for name, values in vars(self).items()})


class InverseDynamics(nn.Module):
    """A convolutional network from the codebook vectors of two frames to the classes of all inputs."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        config = model.config.tokenizer
        self.grid = (config.grid_height, config.grid_width)
        self.lookup, self.device = model.tokenizer.quantizer.lookup, model.device
        cells = -(-config.grid_height // 2) * -(-config.grid_width // 2)
        self.layers = nn.Sequential(
            nn.Conv2d(3 * config.code_width, _WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(cells * _WIDTH, _WIDTH),
            nn.GELU(),
            nn.Dropout(0.3),
            nn.Linear(_WIDTH, sum(CLASSES)),
        )
        self.scale = config.code_width**0.5  # entries have unit length

    def forward(self, before_PN: Tensor, after_PN: Tensor) -> Tensor:
        """Return logits of all classes, float32 [P, C], from codes int64 [P, N] each."""
        grids = (codes.to(self.device).view(-1, *self.grid) for codes in (before_PN, after_PN))
        before, after = (self.scale * self.lookup(codes).float() for codes in grids)
        features: Tensor = self.layers(torch.cat([before, after, after - before], -1).permute(0, 3, 1, 2))
        return features

    @torch.inference_mode()
    def read(self, before_PN: NDArray[np.int64], after_PN: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the likeliest class of every input, one-hot [P, C]."""
        parts = []
        for first in range(0, len(before_PN), 256):
            codes = (torch.as_tensor(x[first : first + 256]) for x in (before_PN, after_PN))
            logits = _by_input(self(*codes))
            parts += [torch.cat([F.one_hot(x.argmax(-1), x.shape[-1]) for x in logits], -1).bool().cpu().numpy()]
        return np.concatenate(parts)


def _by_input(values_PC: Tensor) -> Sequence[Tensor]:
    return torch.tensor_split(values_PC, _EDGES[1:-1].tolist(), dim=-1)


def classes_of(actions_PA: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the classes of action values, one-hot [P, C]."""
    sticks = np.array(CLASSES) == 3
    values = np.where(sticks, np.sign(actions_PA.astype(np.int64) - REST_BIN) + 1, actions_PA)
    return np.concatenate([np.eye(size, dtype=bool)[values[:, k]] for k, size in enumerate(CLASSES)], axis=1)


def train_inverse_dynamics(model: WorldModel, pairs: Pairs, updates: int, seed: int) -> InverseDynamics:
    """Train on these pairs; classes weigh by the inverse root of their frequency, as most inputs are mostly at rest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InverseDynamics(model).to(model.device).train()
        target_PC = torch.from_numpy(classes_of(pairs.actions_PA)).float().to(model.device)
        weighted_PC = target_PC * (target_PC.mean(0) + 1e-3).rsqrt()
        weighted_PC = torch.cat([part / part.sum(-1).mean() for part in _by_input(weighted_PC)], -1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=updates)
        before, after = torch.from_numpy(pairs.before_PN), torch.from_numpy(pairs.after_PN)
        for _ in range(updates):
            rows = torch.randint(len(before), (_BATCH,))
            logits = _by_input(network(before[rows], after[rows]))
            log_PC = torch.cat([F.log_softmax(part, -1) for part in logits], -1)
            loss = -(weighted_PC[rows] * log_PC).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def counts_of(read_PC: NDArray[np.bool_], actions_PA: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return hits, readings and truth of every class, [P, 3, C]: the values of `macro_f1`."""
    true_PC = classes_of(actions_PA)
    return np.stack([read_PC & true_PC, read_PC, true_PC], axis=1)


def macro_f1(counts_P3C: NDArray[np.bool_], inputs: Sequence[int]) -> float:
    """Return the mean F1 over inputs: of "pressed" for a button, the mean of the three classes for a stick.

    A class that neither occurs nor is read is left out.
    """
    hits_C, read_C, true_C = counts_P3C.sum(0)
    with np.errstate(invalid="ignore"):
        f1_C = 2 * hits_C / (read_C + true_C)
    parts = [f1_C[_EDGES[k] + (CLASSES[k] == 2) : _EDGES[k + 1]] for k in inputs]
    means = [np.nanmean(part) for part in parts if not np.isnan(part).all()]
    return float(np.mean(means)) if means else np.nan


def inverse_rows(network: InverseDynamics, real: Pairs, dreams: Pairs, seed: int) -> list[Row]:
    """Return the report row of generated pairs with both bounds, and that of recorded ones.

    The lower bound is the better of frames that do not follow each other and of a frozen frame.
    """
    true_PC = classes_of(dreams.actions_PA)
    rest = [_EDGES[k] + (1 if size == 3 else 0) for k, size in enumerate(CLASSES)]
    inputs = np.flatnonzero(1 - true_PC[:, rest].mean(0) >= USED).tolist()
    order = np.random.default_rng(seed).permutation(len(dreams.after_PN))
    pairs = {
        "dream": dreams,
        "real": real,
        "shuffled": dataclasses.replace(dreams, after_PN=dreams.after_PN[order]),
        "frozen": dataclasses.replace(dreams, after_PN=dreams.before_PN),
    }
    counts = {name: counts_of(network.read(x.before_PN, x.after_PN), x.actions_PA) for name, x in pairs.items()}
    f1 = {name: macro_f1(values, inputs) for name, values in counts.items()}
    floor = max(f1["shuffled"], f1["frozen"])
    least = floor + _SHARE * (f1["real"] - floor)
    bar, passed = (f">= {least:.3f}", f1["dream"] >= least) if f1["real"] > floor else ("", None)
    row = partial(Row.of, "inverse dynamics", statistic=partial(macro_f1, inputs=inputs))
    beside = {name: value for name, value in f1.items() if name != "dream"}
    title, real_title = (f"F1 of the inputs read from {kind} frames" for kind in ("generated", "recorded"))
    return [
        row(title, counts["dream"], "", beside, bar, passed, episodes_M=dreams.episodes_P),
        row(real_title, counts["real"], episodes_M=real.episodes_P),
    ]

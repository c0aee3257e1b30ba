"""Teacher-forced likelihood of recorded play, per token.

The first step of a window has no past, so model and baselines leave it out. Metrics are means over tokens:
cross-entropy in nats, accuracy as the share of tokens whose argmax over the legal ids is right. B windows, T steps,
N image slots, A action slots, K slots, P positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from playloom.actions.codec import SLOT_SIZES
from playloom.data.dataset import FrameDataset
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import Progress, Segment, encode
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import schedule
from playloom.models.sequence import NO_TOKEN, TokenGroup

BUTTONS = slice(0, SLOT_SIZES.index(max(SLOT_SIZES)))
"""The slots of buttons and triggers."""
STICKS = slice(BUTTONS.stop, len(SLOT_SIZES))
"""The slots of stick axes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Recorded play as codes and actions, with one more action on either side."""

    codes_BTN: NDArray[np.int64]
    """Image codes, int64."""
    actions_BTA: NDArray[np.uint8]
    """Action values of T + 2 steps: one before the first frame and one after the last."""

    @property
    def actions(self) -> NDArray[np.uint8]:
        """The true actions [B, T, A]."""
        return self.actions_BTA[:, 1:-1]

    def shifted(self, shift: int) -> NDArray[np.uint8]:
        """Return actions [B, T, A] that are `shift` (-1, 0 or 1) steps early: step t gets action t + shift."""
        return self.actions_BTA[:, 1 + shift : self.actions_BTA.shape[1] - 1 + shift]

    def shuffled(self) -> NDArray[np.uint8]:
        """Return the actions [B, T, A] of another window, half the set away."""
        return np.roll(self.actions, len(self.actions) // 2, axis=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Likelihood:
    """Means over all tokens: cross-entropy in nats per token, accuracies in [0, 1]."""

    image_B: NDArray[np.float64]
    """Cross-entropy of image codes, per window."""
    image_accuracy: float
    """Accuracy of image codes."""
    buttons: float
    """Cross-entropy of buttons and triggers."""
    buttons_accuracy: float
    """Accuracy of buttons and triggers."""
    sticks: float
    """Cross-entropy of stick bins."""
    sticks_accuracy: float
    """Accuracy of stick bins."""

    @property
    def image(self) -> float:
        """Mean cross-entropy of image codes."""
        return float(self.image_B.mean())

    def to_json(self) -> dict[str, float]:
        """Return the means by name."""
        names = ("image", "image_accuracy", "buttons", "buttons_accuracy", "sticks", "sticks_accuracy")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Metrics without a model. Entropies are those of the test tokens themselves, which favours them."""

    image_marginal: float
    """Entropy of image codes over all positions and times, nats."""
    image_repeat: float
    """Share of codes equal to the code one step before."""
    buttons_marginal: float
    """Mean entropy of button values, nats."""
    buttons_given_last: float
    """Conditional entropy given the value one step before, nats."""
    buttons_repeat: float
    """Share of button values equal to those one step before."""
    sticks_marginal: float
    """Mean entropy of stick bins, nats."""
    sticks_given_last: float
    """Conditional entropy given the bin one step before, nats."""
    sticks_repeat: float
    """Share of stick bins equal to those one step before."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodResult:
    """Likelihoods of one set of windows."""

    orders: dict[str, Likelihood]
    """By name of the decoding order."""
    main: str
    """Name of the order used for generation."""
    baselines: Baselines
    gaps_B: dict[str, NDArray[np.float64]]
    """Rise of each window's image cross-entropy in nats, by kind of wrong actions; main order."""


def windows_at(model: WorldModel, dataset: FrameDataset, segments: Sequence[Segment]) -> Windows:
    """Encode the `past` - 2 frames up to each segment's start, with one more action on either side."""
    steps = segments[0].past - 2
    rows_BT = np.array([segment.row - steps for segment in segments])[:, None] + np.arange(steps + 2)
    codes = np.stack([encode(model, dataset.frames_FHWC[rows]) for rows in rows_BT[:, 1:-1]])
    return Windows(codes_BTN=codes, actions_BTA=np.array(dataset.actions_FA[rows_BT]))


@torch.inference_mode()
def likelihood(
    model: WorldModel,
    codes_BTN: NDArray[np.int64],
    actions_BTA: NDArray[np.uint8],
    lag: int | None = None,
    batch: int = 4,
) -> Likelihood:
    """Compute the likelihood of windows in one decoding order.

    Args:
        model: codes and actions must fit its config.
        codes_BTN: int64 image codes.
        actions_BTA: uint8 action values; action t follows frame t.
        lag: row lag of the order (see `playloom.models.decode_order`); None: raster.
        batch: windows per pass.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    image_B = []
    for first in range(0, len(codes_BTN), batch):
        part = slice(first, first + batch)
        codes, values, hidden_BTPD = _hidden(model, codes_BTN[part], actions_BTA[part], lag)
        image = model.config.layout.image_group
        image_loss_BTN, image_right_BTN = _score(model, image, hidden_BTPD[:, :, list(image.positions)], codes)
        actions = [
            _score(model, group, hidden_BTPD[:, :, group.positions[0]], values[..., slot])
            for slot, group in enumerate(model.config.layout.action_groups)
        ]
        losses_ABT, right_ABT = (torch.stack(tensors) for tensors in zip(*actions, strict=True))
        image_B.append(image_loss_BTN.double().mean((1, 2)).cpu().numpy())
        parts = [image_right_BTN, losses_ABT[BUTTONS], right_ABT[BUTTONS], losses_ABT[STICKS], right_ABT[STICKS]]
        sums += torch.stack([x.double().mean().cpu() for x in parts]) * (len(codes) / len(codes_BTN))
    means = sums.tolist()
    return Likelihood(
        image_B=np.concatenate(image_B),
        image_accuracy=means[0],
        buttons=means[1],
        buttons_accuracy=means[2],
        sticks=means[3],
        sticks_accuracy=means[4],
    )


@torch.inference_mode()
def argmax_codes(
    model: WorldModel, codes_BTN: NDArray[np.int64], actions_BTA: NDArray[np.uint8], lag: int | None = None
) -> NDArray[np.int64]:
    """Return the teacher-forced argmax code of every image slot, int64 [B, T - 1, N]; arguments as `likelihood`."""
    group = model.config.layout.image_group
    hidden_BTPD = _hidden(model, codes_BTN, actions_BTA, lag)[2]
    logits = model.transformer.logits(hidden_BTPD[:, :, list(group.positions)], group.first_id, group.last_id)
    return logits.argmax(-1).cpu().numpy()


def _hidden(
    model: WorldModel, codes_BTN: NDArray[np.int64], actions_BTA: NDArray[np.uint8], lag: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, action values and hidden states [B, T - 1, P, D] of all steps but the first, teacher-forced."""
    layout = model.config.layout
    codes = torch.as_tensor(codes_BTN, device=model.device)
    values = torch.as_tensor(actions_BTA.astype(np.int64), device=model.device)
    tokens_BTK = layout.interleave(codes, values)
    taken_BTA = tokens_BTK[..., layout.image_slots :]
    previous_BTA = F.pad(taken_BTA[:, :-1], (0, 0, 1, 0), value=NO_TOKEN)
    own_PP = schedule(layout, lag).visible_PP(model.device)
    hidden = model.transformer(layout.inputs(tokens_BTK), own_PP, previous_BTA)
    return codes[:, 1:], values[:, 1:], hidden[:, 1:]


def _score(model: WorldModel, group: TokenGroup, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and correctness of every target, among the legal ids of the group."""
    logits = model.transformer.logits(hidden, group.first_id, group.last_id)
    loss = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
    return loss, (logits.argmax(-1) == targets).float()


def baselines(windows: Windows) -> Baselines:
    """Compute the metrics of the baselines on the tokens that the model is measured on."""
    codes, now, before = windows.codes_BTN, windows.actions[:, 1:], windows.actions[:, :-1]
    slots = range(now.shape[-1])
    marginal = [entropy(now[..., slot]) for slot in slots]
    given = [conditional_entropy(now[..., slot], before[..., slot]) for slot in slots]
    same = now == before
    return Baselines(
        image_marginal=entropy(codes[:, 1:]),
        image_repeat=float((codes[:, 1:] == codes[:, :-1]).mean()),
        buttons_marginal=float(np.mean(marginal[BUTTONS])),
        buttons_given_last=float(np.mean(given[BUTTONS])),
        buttons_repeat=float(same[..., BUTTONS].mean()),
        sticks_marginal=float(np.mean(marginal[STICKS])),
        sticks_given_last=float(np.mean(given[STICKS])),
        sticks_repeat=float(same[..., STICKS].mean()),
    )


def entropy(values: NDArray[np.integer]) -> float:
    """Return the entropy of the empirical distribution, in nats."""
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(-(share * np.log(share)).sum())


def conditional_entropy(values: NDArray[np.integer], given: NDArray[np.integer]) -> float:
    """Return the conditional entropy in nats: joint entropy less that of `given`."""
    pairs = given.astype(np.int64) * (int(values.max()) + 1) + values
    return entropy(pairs) - entropy(given)


def order_name(lag: int | None) -> str:
    """Return the name of a decoding order in tables."""
    return "raster" if lag is None else f"row lag {lag}"


def measure_likelihood(
    model: WorldModel,
    windows: Windows,
    lags: Sequence[int | None],
    main: int | None,
    progress: Progress = lambda _: None,
) -> LikelihoodResult:
    """Compute the likelihood in every order of `lags`, and in order `main` with wrong actions too."""
    orders = {}
    for lag in dict.fromkeys([*lags, main]):
        orders[order_name(lag)] = likelihood(model, windows.codes_BTN, windows.actions, lag)
        progress(f"likelihood, {order_name(lag)}")
    wrong = {"one step late": windows.shifted(-1), "one step early": windows.shifted(1)}
    if len(windows.codes_BTN) > 1:
        wrong["of another window"] = windows.shuffled()
    true_B, gaps = orders[order_name(main)].image_B, {}
    for name, actions in wrong.items():
        gaps[name] = likelihood(model, windows.codes_BTN, actions, main).image_B - true_B
        progress(f"alignment, actions {name}")
    return LikelihoodResult(orders=orders, main=order_name(main), baselines=baselines(windows), gaps_B=gaps)


def likelihood_rows(result: LikelihoodResult, heldout: tuple[Likelihood, Baselines] | None) -> list[Row]:
    """Return the report rows of likelihood and alignment."""
    base, main = result.baselines, result.orders[result.main]
    count, part = len(main.image_B), "likelihood"
    marginal = {"marginal": base.image_marginal}
    sticks = {"marginal": base.sticks_marginal, "given the last": base.sticks_given_last}
    buttons = {"marginal": base.buttons_marginal, "given the last": base.buttons_given_last}
    table: list[tuple[str, float, str, dict[str, float]]] = [
        ("image accuracy", main.image_accuracy, "%", {"code of the last frame": base.image_repeat}),
        ("sticks cross-entropy", main.sticks, "nats", sticks),
        ("sticks accuracy", main.sticks_accuracy, "%", {"repeat the last": base.sticks_repeat}),
        ("buttons cross-entropy", main.buttons, "nats", buttons),
        ("buttons accuracy", main.buttons_accuracy, "%", {"repeat the last": base.buttons_repeat}),
    ]
    rows = [
        Row(part, f"image cross-entropy, {order}", one.image, "nats", marginal, count=count)
        for order, one in result.orders.items()
    ]
    rows += [
        Row(part, f"{name}, {result.main}", value, unit, beside, count=count) for name, value, unit, beside in table
    ]
    if heldout is not None:
        other, own = heldout
        name, marginal = f"image cross-entropy, held out, {result.main}", {"marginal": own.image_marginal}
        rows.append(Row(part, name, other.image, "nats", marginal, count=len(other.image_B)))
    for name, gap_B in result.gaps_B.items():
        title, gap, true = f"gap with actions {name}", float(gap_B.mean()), {"true actions": main.image}
        rows.append(Row("alignment", title, gap, "nats", true, "> 2 SE", is_significant(gap_B), count))
    return rows

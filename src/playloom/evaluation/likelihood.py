"""Teacher-forced likelihood of recorded play, per token.

The first step of a window has no past, so it is left out, for the model and for the baselines. Figures are means over
tokens: cross-entropy in nats, accuracy as the share of tokens whose argmax over the legal ids is right. B windows, T
steps, N image slots, A action slots, K slots, P positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from playloom.actions.codec import SLOT_SIZES
from playloom.data.dataset import FrameDataset
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import Segment, encode
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import schedule
from playloom.models.sequence import NO_TOKEN

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
        names = ("image_accuracy", "buttons", "buttons_accuracy", "sticks", "sticks_accuracy")
        return {"image": self.image, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Figures without a model. Entropies are those of the test tokens themselves, which favours them."""

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


def windows_at(model: WorldModel, store: FrameDataset, moments: Sequence[Segment]) -> Windows:
    """Encode the `past` - 2 frames up to each segment's start, with one more action on either side."""
    steps = moments[0].past - 2
    rows_BT = np.array([m.row - steps + 1 for m in moments])[:, None] + np.arange(steps)
    codes = np.stack([encode(model, store.frames_FHWC[rows]) for rows in rows_BT])
    around = np.concatenate([rows_BT[:, :1] - 1, rows_BT, rows_BT[:, -1:] + 1], axis=1)
    return Windows(codes_BTN=codes, actions_BTA=np.array(store.actions_FA[around]))


@torch.inference_mode()
def likelihood(
    model: WorldModel,
    codes_BTN: NDArray[np.int64],
    actions_BTA: NDArray[np.uint8],
    row_delay: int | None = None,
    batch: int = 4,
) -> Likelihood:
    """Compute the likelihood of windows in one decoding order.

    Args:
        model: codes and actions must fit its config.
        codes_BTN: int64 image codes.
        actions_BTA: uint8 action values; action t follows frame t.
        row_delay: row delay of the order (see `playloom.models.decode_order`); None: raster.
        batch: windows a pass.
    """
    own_PP = schedule(model.config.layout, row_delay).visible_PP(model.device)
    sums = torch.zeros(5, dtype=torch.float64)
    image_B = []
    for first in range(0, len(codes_BTN), batch):
        chosen = slice(first, first + batch)
        codes = torch.as_tensor(codes_BTN[chosen], device=model.device)
        values = torch.as_tensor(actions_BTA[chosen].astype(np.int64), device=model.device)
        hidden_BTPD = _hidden(model, codes, values, own_PP)
        image_loss_BTN, image_right_BTN = _judge_images(model, hidden_BTPD, codes)
        losses_ABT, right_ABT = _judge_actions(model, hidden_BTPD, values)
        image_B.append(image_loss_BTN.double().mean((1, 2)).cpu().numpy())
        parts = [image_right_BTN, losses_ABT[BUTTONS], right_ABT[BUTTONS], losses_ABT[STICKS], right_ABT[STICKS]]
        share = len(codes) / len(codes_BTN)
        sums += torch.stack([part.double().mean().cpu() for part in parts]) * share
    return Likelihood(
        image_B=np.concatenate(image_B),
        image_accuracy=float(sums[0]),
        buttons=float(sums[1]),
        buttons_accuracy=float(sums[2]),
        sticks=float(sums[3]),
        sticks_accuracy=float(sums[4]),
    )


@torch.inference_mode()
def argmax_codes(
    model: WorldModel, codes_BTN: NDArray[np.int64], actions_BTA: NDArray[np.uint8], row_delay: int | None = None
) -> NDArray[np.int64]:
    """Return the argmax code at every image slot of every step but the first, teacher-forced.

    Args:
        model: codes and actions must fit its config.
        codes_BTN: int64 image codes.
        actions_BTA: uint8 action values; action t follows frame t.
        row_delay: row delay of the order; None: raster.

    Returns:
        int64 [B, T - 1, N].
    """
    group = model.config.layout.image_group
    own_PP = schedule(model.config.layout, row_delay).visible_PP(model.device)
    codes = torch.as_tensor(codes_BTN, device=model.device)
    values = torch.as_tensor(actions_BTA.astype(np.int64), device=model.device)
    hidden_BTND = _hidden(model, codes, values, own_PP)[:, 1:, list(group.positions)]
    likeliest = model.transformer.logits(hidden_BTND, group.first_id, group.last_id).argmax(-1)
    return likeliest.cpu().numpy()


def baselines(windows: Windows) -> Baselines:
    """Compute the figures of the baselines on the tokens that the model is measured on."""
    codes = windows.codes_BTN
    now, before = windows.actions[:, 1:], windows.actions[:, :-1]
    marginal = [entropy(now[..., slot]) for slot in range(now.shape[-1])]
    given = [conditional_entropy(now[..., slot], before[..., slot]) for slot in range(now.shape[-1])]
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


def _hidden(model: WorldModel, codes_BTN: Tensor, values_BTA: Tensor, own_PP: Tensor) -> Tensor:
    """Hidden states [B, T, P, D], each step conditioned on the action of the one before."""
    layout = model.config.layout
    tokens_BTK = layout.interleave(codes_BTN, values_BTA)
    taken_BTA = tokens_BTK[..., layout.image_slots :]
    previous_BTA = F.pad(taken_BTA[:, :-1], (0, 0, 1, 0), value=NO_TOKEN)
    hidden: Tensor = model.transformer(layout.inputs(tokens_BTK), own_PP, previous_BTA)
    return hidden


def _judge_images(model: WorldModel, hidden_BTPD: Tensor, codes_BTN: Tensor) -> tuple[Tensor, Tensor]:
    group = model.config.layout.image_group
    logits = model.transformer.logits(hidden_BTPD[:, 1:, list(group.positions)], group.first_id, group.last_id)
    return _judge(logits, codes_BTN[:, 1:])


def _judge_actions(model: WorldModel, hidden_BTPD: Tensor, values_BTA: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and accuracy [A, B, T - 1] of every action value but the first step's, among the slot's legal ids."""
    judged = []
    for slot, group in enumerate(model.config.layout.action_groups):
        logits = model.transformer.logits(hidden_BTPD[:, 1:, group.positions[0]], group.first_id, group.last_id)
        judged.append(_judge(logits, values_BTA[:, 1:, slot]))
    return torch.stack([loss for loss, _ in judged]), torch.stack([right for _, right in judged])


def _judge(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
    return loss, (logits.argmax(-1) == targets).float()


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
    windows: int
    """Number of windows."""


def order_name(row_delay: int | None) -> str:
    """Return the name of a decoding order in tables."""
    return "raster" if row_delay is None else f"row delay {row_delay}"


def measure_likelihood(
    model: WorldModel,
    windows: Windows,
    row_delays: tuple[int | None, ...],
    main: int | None,
    tick: Callable[[str], None] = lambda _: None,
) -> LikelihoodResult:
    """Compute the likelihood in every order of `row_delays`, and in order `main` with wrong actions too."""
    orders = {}
    for row_delay in dict.fromkeys([*row_delays, main]):
        orders[order_name(row_delay)] = likelihood(model, windows.codes_BTN, windows.actions, row_delay)
        tick(f"likelihood, {order_name(row_delay)}")
    wrong = {"one step late": windows.shifted(-1), "one step early": windows.shifted(1)}
    if len(windows.codes_BTN) > 1:
        wrong["of another window"] = windows.shuffled()
    true_B, gaps = orders[order_name(main)].image_B, {}
    for name, actions in wrong.items():
        gaps[name] = likelihood(model, windows.codes_BTN, actions, main).image_B - true_B
        tick(f"alignment, actions {name}")
    return LikelihoodResult(
        orders=orders,
        main=order_name(main),
        baselines=baselines(windows),
        gaps_B=gaps,
        windows=len(windows.codes_BTN),
    )


def likelihood_rows(result: LikelihoodResult, heldout: tuple[Likelihood, Baselines, int] | None) -> list[Row]:
    """Return the report rows."""
    base, rows = result.baselines, []
    for name, judged in result.orders.items():
        rows.append(
            _row(
                f"image cross-entropy, {name}", judged.image, "nats", {"marginal": base.image_marginal}, result.windows
            )
        )
    main = result.orders[result.main]
    for name, value, unit, beside in (
        ("image accuracy", main.image_accuracy, "%", {"code of the last frame": base.image_repeat}),
        (
            "sticks cross-entropy",
            main.sticks,
            "nats",
            {"marginal": base.sticks_marginal, "given the last": base.sticks_given_last},
        ),
        ("sticks accuracy", main.sticks_accuracy, "%", {"repeat the last": base.sticks_repeat}),
        (
            "buttons cross-entropy",
            main.buttons,
            "nats",
            {"marginal": base.buttons_marginal, "given the last": base.buttons_given_last},
        ),
        ("buttons accuracy", main.buttons_accuracy, "%", {"repeat the last": base.buttons_repeat}),
    ):
        rows.append(_row(f"{name}, {result.main}", value, unit, beside, result.windows))
    if heldout is not None:
        judged, held_base, count = heldout
        name = f"image cross-entropy, held out, {result.main}"
        rows.append(_row(name, judged.image, "nats", {"marginal": held_base.image_marginal}, count))
    return rows + _alignment_rows(result)


def _alignment_rows(result: LikelihoodResult) -> list[Row]:
    true = result.orders[result.main].image
    return [
        Row(
            part="alignment",
            name=f"gap with actions {name}",
            value=float(gap_B.mean()),
            unit="nats",
            baselines={"true actions": true},
            bar="> 2 SE",
            passed=is_significant(gap_B),
            count=result.windows,
        )
        for name, gap_B in result.gaps_B.items()
    ]


def _row(name: str, value: float, unit: str, beside: dict[str, float], count: int) -> Row:
    return Row(part="likelihood", name=name, value=value, unit=unit, baselines=beside, count=count)

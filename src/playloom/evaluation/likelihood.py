"""Teacher-forced likelihood of recorded play, per token.

The first step of a window has no past, so model and baselines leave it out. Metrics are means over tokens:
cross-entropy in nats, accuracy as the share of tokens whose argmax over the legal ids is right. B windows, T steps,
N image slots, A action slots, K slots, P positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from playloom.actions.codec import SLOT_SIZES
from playloom.data.dataset import FrameDataset
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import EvaluationContext, Progress, Segment, encode, segment_episodes
from playloom.inference.features import hidden_states
from playloom.models.checkpoint import WorldModel
from playloom.models.sequence import TokenGroup

ROW_DELAYS = (4, 2, 1)  # row delays compared with raster order, as far as the model supports them
BUTTONS = slice(0, SLOT_SIZES.index(max(SLOT_SIZES)))  # the slots of buttons and triggers
STICKS = slice(BUTTONS.stop, len(SLOT_SIZES))  # the slots of stick axes


def evaluate(run: EvaluationContext) -> None:
    """Measure the likelihood of test windows in every order, and of held-out ones in the order of generation."""
    s, layout = run.settings, run.model.config.layout
    if run.model.config.transformer.context_steps < 2:
        return  # the first step of a window is left out
    delays = [None, *(delay for delay in ROW_DELAYS if layout.rows and delay < layout.grid_width)]
    segments = run.segments(s.windows, 1, extra=2)
    test = windows_at(run.model, run.dataset, segments)
    orders, gaps = measure_likelihood(run.model, test, delays, s.row_delay, run.progress)
    heldout = None
    if run.heldout:
        apart = run.segments(max(1, s.windows // 2), 1, heldout=True, extra=2)
        windows = windows_at(run.model, run.dataset, apart)
        heldout = (likelihood(run.model, windows.codes_BTN, windows.actions, s.row_delay), windows)
        run.progress("likelihood, held out")
    run.rows += likelihood_rows(orders, order_name(s.row_delay), test, gaps, heldout)
    run.curves["likelihood"] = {name: {kind: x_B.mean() for kind, x_B in one.items()} for name, one in orders.items()}
    run.curves["alignment"] = {name: {"mean": gap.mean(), "windows": gap} for name, gap in gaps.items()}
    run.counts["likelihood_windows"] = len(segments)


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Recorded play as codes and actions, with one more action on either side."""

    codes_BTN: NDArray[np.int64]  # image codes, int64
    actions_BTA: NDArray[np.uint8]  # action values of T + 2 steps: one before the first frame and one after the last
    episodes_B: NDArray[np.int64]  # number of each window's episode

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


Likelihood = dict[str, NDArray[np.float64]]
"""Per window [B]: cross-entropy of `image` codes, `buttons` (and triggers) and `sticks`, nats; their `..._accuracy`."""


class Baseline(NamedTuple):
    """Metrics of one kind of token without a model. Entropies are those of the test tokens, which favours them."""

    marginal: float  # mean entropy, nats
    repeat: float  # share of tokens equal to those one step before
    given_last: float = math.nan  # mean conditional entropy given the value one step before, nats; NaN for image codes


def windows_at(model: WorldModel, dataset: FrameDataset, segments: Sequence[Segment]) -> Windows:
    """Encode the `past` - 2 frames up to each segment's start, with one more action on either side."""
    steps = segments[0].past - 2
    rows_BT = np.array([segment.row - steps for segment in segments])[:, None] + np.arange(steps + 2)
    codes = np.stack([encode(model, dataset.frames_FHWC[rows]) for rows in rows_BT[:, 1:-1]])
    actions, episodes_B = np.array(dataset.actions_FA[rows_BT]), segment_episodes(dataset, segments)
    return Windows(codes_BTN=codes, actions_BTA=actions, episodes_B=episodes_B)


@torch.inference_mode()
def likelihood(
    model: WorldModel,
    codes_BTN: NDArray[np.int64],
    actions_BTA: NDArray[np.uint8],
    row_delay: int | None = None,
    batch: int = 4,
) -> Likelihood:
    """Compute the likelihood of windows in one decoding order (`row_delay` None: raster), `batch` windows per pass.

    Action t of a window follows its frame t.
    """
    names, found = [f"{kind}{what}" for kind in ("image", "buttons", "sticks") for what in ("", "_accuracy")], []
    for first in range(0, len(codes_BTN), batch):
        part = slice(first, first + batch)
        hidden_BTPD = hidden_states(model, codes_BTN[part], actions_BTA[part], row_delay)[:, 1:]
        codes, values = (
            torch.from_numpy(x[part, 1:].astype(np.int64)).to(model.device) for x in (codes_BTN, actions_BTA)
        )
        group = model.config.layout.image_group
        image = _score(model, group, hidden_BTPD[:, :, list(group.positions)], codes)
        actions = [
            _score(model, group, hidden_BTPD[:, :, group.positions[0]], values[..., slot])
            for slot, group in enumerate(model.config.layout.action_groups)
        ]
        both = [torch.stack(tensors, dim=-1) for tensors in zip(*actions, strict=True)]
        parts = [*image, *(x_BTA[..., slots] for slots in (BUTTONS, STICKS) for x_BTA in both)]
        found.append(torch.stack([x.double().mean((1, 2)) for x in parts]).cpu().numpy())
    return dict(zip(names, np.concatenate(found, axis=1), strict=True))


def _score(model: WorldModel, group: TokenGroup, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = model.transformer.logits(hidden, group.first_id, group.last_id)
    loss = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
    return loss, (logits.argmax(-1) == targets).float()


def baselines(windows: Windows) -> dict[str, Baseline]:
    """Compute the baselines by kind, on the tokens that the model is measured on."""
    codes, now, before = windows.codes_BTN, windows.actions[:, 1:], windows.actions[:, :-1]
    slots = range(now.shape[-1])
    marginal = [entropy(now[..., slot]) for slot in slots]
    given = [conditional_entropy(now[..., slot], before[..., slot]) for slot in slots]
    found = {"image": Baseline(entropy(codes[:, 1:]), float((codes[:, 1:] == codes[:, :-1]).mean()))}
    for kind, part in (("buttons", BUTTONS), ("sticks", STICKS)):
        repeat = float((now == before)[..., part].mean())
        found[kind] = Baseline(float(np.mean(marginal[part])), repeat, float(np.mean(given[part])))
    return found


def entropy(values: NDArray[np.integer]) -> float:
    """Return the entropy of the empirical distribution, in nats."""
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(-(share * np.log(share)).sum())


def conditional_entropy(values: NDArray[np.integer], given: NDArray[np.integer]) -> float:
    """Return the conditional entropy in nats: joint entropy less that of `given`."""
    pairs = given.astype(np.int64) * (int(values.max()) + 1) + values
    return entropy(pairs) - entropy(given)


def order_name(row_delay: int | None) -> str:
    """Return the name of a decoding order in tables."""
    return "raster" if row_delay is None else f"row delay {row_delay}"


def measure_likelihood(
    model: WorldModel,
    windows: Windows,
    row_delays: Sequence[int | None],
    main: int | None,
    progress: Progress = lambda _: None,
) -> tuple[dict[str, Likelihood], dict[str, NDArray[np.float64]]]:
    """Return the likelihood by order (those of `row_delays`, then `main`), and the gaps of wrong actions.

    A gap is the rise of each window's image cross-entropy in nats, [B], in order `main`, by kind of wrong actions.
    """
    orders = {}
    for row_delay in dict.fromkeys([*row_delays, main]):
        orders[order_name(row_delay)] = likelihood(model, windows.codes_BTN, windows.actions, row_delay)
        progress(f"likelihood, {order_name(row_delay)}")
    wrong = {"one step late": windows.shifted(-1), "one step early": windows.shifted(1)}
    if len(windows.codes_BTN) > 1:
        wrong["of another window"] = windows.shuffled()
    true_B, gaps = orders[order_name(main)]["image"], {}
    for name, actions in wrong.items():
        gaps[name] = likelihood(model, windows.codes_BTN, actions, main)["image"] - true_B
        progress(f"alignment, actions {name}")
    return orders, gaps


def likelihood_rows(
    orders: Mapping[str, Likelihood],
    order: str,
    windows: Windows,
    gaps: Mapping[str, NDArray[np.float64]],
    heldout: tuple[Likelihood, Windows] | None,
) -> list[Row]:
    """Return the report rows of likelihood and alignment; `order` is the name of the order used for generation."""
    row = partial(Row.of, "likelihood", episodes_M=windows.episodes_B)
    main, bases = orders[order], baselines(windows)
    beside, title = {"marginal": bases["image"].marginal}, "image cross-entropy"
    rows = [row(f"{title}, {each}", one["image"], "nats", beside) for each, one in orders.items()]
    accuracy = {"code of the last frame": bases["image"].repeat}
    rows.append(row(f"image accuracy, {order}", main["image_accuracy"], "%", accuracy))
    for kind in ("sticks", "buttons"):
        entropies = {"marginal": bases[kind].marginal, "given the last": bases[kind].given_last}
        repeat = {"repeat the last": bases[kind].repeat}
        rows.append(row(f"{kind} cross-entropy, {order}", main[kind], "nats", entropies))
        rows.append(row(f"{kind} accuracy, {order}", main[f"{kind}_accuracy"], "%", repeat))
    if heldout is not None:
        other, apart = heldout
        beside, name = {"marginal": baselines(apart)["image"].marginal}, f"{title}, held out, {order}"
        rows.append(row(name, other["image"], "nats", beside, episodes_M=apart.episodes_B))
    gap = partial(Row.of, "alignment", episodes_M=windows.episodes_B)
    true = {"true actions": float(main["image"].mean())}
    for name, gap_B in gaps.items():
        passed = is_significant(gap_B, windows.episodes_B)
        rows.append(gap(f"gap with actions {name}", gap_B, "nats", true, "> 2 SE", passed))
    return rows

"""Diversity of sampled actions: Wasserstein distance to recorded actions, and how often they change.

The published protocol ("World and Human Action Models towards gameplay ideation", Nature 2025), scaled down: the
distance between two sub-samples of actions, ten times, beside that of recorded and of uniformly random actions. A
distance falls with the size of the samples, so only figures of one size compare.

An action is a point of sixteen whole numbers: a stick counts in bins, a button is 0 or 1. M segments, S steps, A
inputs, N actions (L of them left), R recorded actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, SLOT_NAMES, SLOT_SIZES
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.sampler import alive_spans
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row
from playloom.evaluation.segments import Segment
from playloom.inference.engine import Engine
from playloom.inference.types import GenerationRequest, Mode
from playloom.models.checkpoint import WorldModel


def joint_distance(first_NA: NDArray[np.uint8], second_NA: NDArray[np.uint8]) -> float:
    """Return the Wasserstein-1 distance of two equally large samples, uint8 [N, 16] each, with Euclidean costs.

    The mean length of the cheapest pairing of all actions of one sample with all of the other. Actions that both have
    are paired with themselves first: no cheaper pairing exists, because the cost is a metric.

    Raises:
        ValueError: when the samples are empty or not of one size.
    """
    if len(first_NA) != len(second_NA) or not len(first_NA):
        raise ValueError(f"samples of {len(first_NA)} and {len(second_NA)} actions; expected two of one size")
    one_LA, other_LA = _without_common(first_NA, second_NA)
    if not len(one_LA):
        return 0.0
    cost_LL = np.sqrt(((one_LA[:, None] - other_LA[None]) ** 2).sum(-1))
    return float(cost_LL[np.arange(len(cost_LL)), cheapest_pairing(cost_LL)].sum() / len(first_NA))


def marginal_distances(first_NA: NDArray[np.uint8], second_MA: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the Wasserstein-1 distance of every input alone, float64 [A].

    The samples may differ in size.

    Raises:
        ValueError: when one of them is empty.
    """
    if not len(first_NA) or not len(second_MA):
        raise ValueError("a distance needs actions on both sides")
    top = int(max(first_NA.max(), second_MA.max()))
    below = np.arange(top)[:, None, None]
    gap_VA = (first_NA[None] <= below).mean(1) - (second_MA[None] <= below).mean(1)
    return np.asarray(np.abs(gap_VA).sum(0))


def cheapest_pairing(cost_NN: NDArray[np.float64]) -> NDArray[np.int64]:
    """The column paired with every row, int64 [N], so that the summed cost is least.

    Rows join one after the other along the shortest path that frees a column, with prices that keep every reduced cost
    at or above zero (Jonker and Volgenant 1987).
    """
    size = len(cost_NN)
    row_price, column_price = np.zeros(size), np.zeros(size)
    holder = np.full(size, -1)
    for row in range(size):
        _join(row, cost_NN, row_price, column_price, holder)
    return np.argsort(holder)


def _join(
    row: int,
    cost_NN: NDArray[np.float64],
    row_price: NDArray[np.float64],
    column_price: NDArray[np.float64],
    holder: NDArray[np.int64],
) -> None:
    """Pair one more row: `holder` (the row of every column, -1: none) and both prices are changed."""
    size = len(cost_NN)
    length, before, reached = np.full(size, np.inf), np.full(size, -1), np.zeros(size, bool)
    column, here, walked = -1, row, 0.0
    while here >= 0:
        onward = walked + cost_NN[here] - row_price[here] - column_price
        shorter = ~reached & (onward < length)
        length[shorter], before[shorter] = onward[shorter], column
        column = int(np.where(reached, np.inf, length).argmin())
        walked, here = float(length[column]), int(holder[column])
        reached[column] = True
    saved = walked - length[reached]
    column_price[reached] -= saved
    row_price[row] += walked
    held = holder[reached] >= 0
    row_price[holder[reached][held]] += saved[held]
    while column >= 0:
        holder[column] = row if before[column] < 0 else holder[before[column]]
        column = int(before[column])


def _without_common(
    first_NA: NDArray[np.uint8], second_NA: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both samples without the actions they share, counted with multiplicity."""
    kinds_KA, kind_N = np.unique(np.concatenate([first_NA, second_NA]), axis=0, return_inverse=True)
    kind_N = kind_N.reshape(-1)
    one_K, other_K = (
        np.bincount(part, minlength=len(kinds_KA)) for part in (kind_N[: len(first_NA)], kind_N[len(first_NA) :])
    )
    common_K = np.minimum(one_K, other_K)
    points_KA = kinds_KA.astype(np.float64)
    return np.repeat(points_KA, one_K - common_K, axis=0), np.repeat(points_KA, other_K - common_K, axis=0)


REPEATS = 10
"""Pairs of sub-samples per distance."""
SUBSAMPLE = 0.8
"""Size of a sub-sample, as a share of the actions."""
DREAMS: dict[str, Mode] = {"full dream": "full", "policy on real frames": "policy"}
"""Kinds of sampled actions by name in the table: on generated frames, or on recorded ones."""

Actions = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """Spread of one kind of action, against the reference."""

    distance: float
    """Wasserstein-1 of all inputs together, mean over the sub-samples; NaN without a reference."""
    deviation: float
    """Standard deviation of `distance` over the sub-samples."""
    apart_A: NDArray[np.float64]
    """Wasserstein-1 of every input alone, over all actions; NaN without a reference."""
    changes: float
    """Share of steps whose action differs from the one before in any input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diversity:
    """Spreads of all kinds of action, from the same segments."""

    spreads: dict[str, Spread]
    """By kind: those of `DREAMS`, `recorded` (the player's), `held` (the prompt's last input), `uniform`."""
    actions: int
    """Actions of each kind."""
    reference: int
    """Number of recorded actions in the reference."""


def measure_diversity(
    model: WorldModel,
    store: FrameDataset,
    spans: Sequence[EpisodeSlice],
    moments: Sequence[Segment],
    settings: EvaluationSettings,
    tick: Callable[[str], None] = lambda _: None,
) -> Diversity:
    """Sample actions from every segment, both ways, and compare them with recorded ones.

    Args:
        model: what is measured.
        store: where the moments lie; their future must be as long as the settings' steps.
        spans: episodes whose living rows outside the moments' futures are the reference.
        moments: where to begin.
        settings: steps, order, sampling, batch and seed: of dream i (`seed + i`), random actions and sub-samples.
        tick: told after every step of each batch.
    """
    seed, steps = settings.seed, settings.diversity_steps
    recorded = np.stack([moment.future_actions(store, steps) for moment in moments])
    last = np.stack([store.actions_FA[moment.row - 1] for moment in moments])
    dreamed = {name: np.empty_like(recorded) for name in DREAMS}
    for name, mode in DREAMS.items():
        for rows, index, taken in _dreamed(model, store, moments, mode, settings):
            dreamed[name][rows, index] = taken
            tick(f"diversity, {name}")
    uniform = np.random.default_rng(seed).integers(0, SLOT_SIZES, recorded.shape).astype(np.uint8)
    held = np.repeat(last[:, None], steps, axis=1)
    reference = _elsewhere(store, spans, moments, steps)
    kinds = {**dreamed, "recorded": recorded, "held": held, "uniform": uniform}
    return Diversity(
        spreads={kind: spread(actions, last, reference, seed) for kind, actions in kinds.items()},
        actions=len(moments) * steps,
        reference=len(reference),
    )


def spread(actions_MSA: Actions, last_MA: Actions, reference_RA: Actions, seed: int) -> Spread:
    """Measure actions against a reference.

    Args:
        actions_MSA: action values of every moment and step, uint8 [M, S, 16].
        last_MA: the action before the first of each moment, uint8 [M, 16].
        reference_RA: recorded actions, uint8 [R, 16]; R may be 0.
        seed: decides the sub-samples, `SUBSAMPLE` of the smaller set each.
    """
    before_MSA = np.concatenate([last_MA[:, None], actions_MSA[:, :-1]], axis=1)
    changes = float((actions_MSA != before_MSA).any(-1).mean())
    actions_NA = actions_MSA.reshape(-1, ACTION_SLOTS)
    if not len(reference_RA):
        return Spread(distance=np.nan, deviation=np.nan, apart_A=np.full(ACTION_SLOTS, np.nan), changes=changes)
    size = max(1, round(SUBSAMPLE * min(len(actions_NA), len(reference_RA))))
    source = np.random.default_rng(seed)
    drawn = [
        joint_distance(*(some[source.permutation(len(some))[:size]] for some in (reference_RA, actions_NA)))
        for _ in range(REPEATS)
    ]
    return Spread(
        distance=float(np.mean(drawn)),
        deviation=float(np.std(drawn, ddof=1)),
        apart_A=marginal_distances(actions_NA, reference_RA),
        changes=changes,
    )


def diversity_rows(result: Diversity) -> list[Row]:
    """Return the report rows: joint distance, distance of each input, and changes per step."""
    kinds = result.spreads.items()
    joint = {kind: one.distance for kind, one in kinds}
    apart = {kind: float(one.apart_A.sum()) for kind, one in kinds}
    changes = {kind: one.changes for kind, one in kinds}
    rows = []
    for name in DREAMS:
        deviation = {"SD": result.spreads[name].deviation}
        rows.append(_row("distance to recorded actions", name, joint, result, deviation))
        rows.append(_row("the same, inputs apart, summed", name, apart, result))
        rows.append(_row("steps that change an input", name, changes, result, unit="%"))
    return rows


def diversity_curves(result: Diversity) -> dict[str, object]:
    """Return every kind's figures as JSON values."""
    return {
        "actions": result.actions,
        "reference_actions": result.reference,
        "repeats": REPEATS,
        "subsample": SUBSAMPLE,
        "inputs": SLOT_NAMES,
        "kinds": {
            kind: {
                "distance": one.distance,
                "standard_deviation": one.deviation,
                "inputs_apart": one.apart_A,
                "steps_that_change": one.changes,
            }
            for kind, one in result.spreads.items()
        },
    }


def _dreamed(
    model: WorldModel, store: FrameDataset, moments: Sequence[Segment], mode: Mode, settings: EvaluationSettings
) -> Iterator[tuple[slice, int, list[Actions]]]:
    dreamer, steps, batch = Engine(model, row_delay=settings.row_delay), settings.diversity_steps, settings.batch
    requests = [
        GenerationRequest(
            prompt=moment.prompt(store),
            mode=mode,
            steps=steps,
            frames_SHWC=moment.future_frames(store, steps) if mode == "policy" else None,
            sampling=settings.sampling,
            seed=settings.seed + index,
        )
        for index, moment in enumerate(moments)
    ]
    for first in range(0, len(requests), batch):
        for taken in dreamer.dream_batch(requests[first : first + batch]):
            yield slice(first, first + len(taken)), taken[0].index, [step.action_A for step in taken]


def _elsewhere(store: FrameDataset, spans: Sequence[EpisodeSlice], moments: Sequence[Segment], steps: int) -> Actions:
    """Recorded actions outside the segments, without dead steps, uint8 [R, 16]."""
    dead = store.column("dead") if "dead" in store.state_columns else np.zeros(len(store), np.float32)
    free = np.zeros(len(store), bool)
    for span in alive_spans(spans, dead):
        free[span.start : span.start + span.length] = True
    for moment in moments:
        free[moment.row : moment.row + steps] = False
    return np.array(store.actions_FA)[free]


def _row(
    what: str,
    name: str,
    values: dict[str, float],
    result: Diversity,
    more: dict[str, float] | None = None,
    unit: str = "",
) -> Row:
    beside = {kind: value for kind, value in values.items() if kind not in DREAMS}
    baselines = {**(more or {}), **beside}
    return Row(
        part="diversity",
        name=f"{what}, {name}",
        value=values[name],
        unit=unit,
        baselines=baselines,
        count=result.actions,
    )

"""Do dreamed actions spread as players' do? Their distance to recorded actions, and how often they change.

The published protocol ("World and Human Action Models towards gameplay ideation", Nature 2025), scaled down:
Wasserstein distance between two sub-samples of actions, ten times, beside that of recorded actions and of uniformly
random ones. A distance between samples falls with their size, so only figures of one size compare. Owns the dreaming
and the rows; the distances are `diversity_distance`'s. M moments, S steps, A inputs, N actions, R recorded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, SLOT_NAMES, SLOT_SIZES
from playloom.checkpoint import Model
from playloom.data.stores import FrameStore, Span
from playloom.data.windows import living_spans
from playloom.engine import Dreamer, DreamRequest
from playloom.engine.requests import Mode
from playloom.evaluation.diversity_distance import joint_distance, marginal_distances
from playloom.evaluation.moments import Moment
from playloom.evaluation.report import Row
from playloom.evaluation.settings import EvaluationSettings

REPEATS = 10
"""Sub-samples that a distance is the mean of."""
SUBSAMPLE = 0.8
"""Actions of a sub-sample, as a share of those there are."""
DREAMS: dict[str, Mode] = {"full dream": "full", "policy on real frames": "policy"}
"""How actions are dreamed, by name in the table: among dreamed pictures, or shown the recorded ones."""

Actions = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """How one kind of action spreads, against the reference."""

    distance: float
    """Wasserstein-1 of all inputs together: mean over the sub-samples; NaN without a reference."""
    deviation: float
    """Its standard deviation over the sub-samples."""
    apart_A: NDArray[np.float64]
    """Wasserstein-1 of every input alone, from all actions of both; NaN without a reference."""
    changes: float
    """Share of steps whose action differs from the one before in any input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diversity:
    """The spreads of all kinds of action, from the same moments."""

    spreads: dict[str, Spread]
    """The kinds of `DREAMS`, then `recorded` (what the player did), `held` (the prompt's last input), `uniform`."""
    actions: int
    """Actions of each kind."""
    reference: int
    """Recorded actions they were compared with."""


def measure_diversity(
    model: Model,
    store: FrameStore,
    spans: Sequence[Span],
    moments: Sequence[Moment],
    settings: EvaluationSettings,
    tick: Callable[[str], None] = lambda _: None,
) -> Diversity:
    """Dream actions on from every moment, both ways, and compare them with recorded ones.

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
    """How actions spread, against a reference.

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
    """The table's lines: distance of all inputs together, of each alone, and steps that change an input."""
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
    """Every kind's figures, for the JSON."""
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
    model: Model, store: FrameStore, moments: Sequence[Moment], mode: Mode, settings: EvaluationSettings
) -> Iterator[tuple[slice, int, list[Actions]]]:
    """The moments of a batch, a step's index and the actions dreamed at it, step by step and batch by batch."""
    dreamer, steps, batch = Dreamer(model, lag=settings.lag), settings.diversity_steps, settings.batch
    requests = [
        DreamRequest(
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


def _elsewhere(store: FrameStore, spans: Sequence[Span], moments: Sequence[Moment], steps: int) -> Actions:
    """The recorded actions of the living in these episodes, but for those of the moments, uint8 [R, 16]."""
    dead = store.column("dead") if "dead" in store.state_columns else np.zeros(len(store), np.float32)
    free = np.zeros(len(store), bool)
    for span in living_spans(spans, dead):
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

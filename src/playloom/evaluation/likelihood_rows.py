"""The likelihood part of the report: every decoding order, the baselines, and the alignment gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.checkpoint import Model
from playloom.evaluation.likelihood import Baselines, Likelihood, Windows, baselines, likelihood
from playloom.evaluation.report import Row, beyond_noise


@dataclass(frozen=True, kw_only=True)
class LikelihoodResult:
    """All likelihoods of one set of windows."""

    orders: dict[str, Likelihood]
    """By name of the decoding order."""
    main: str
    """The order that dreams use."""
    baselines: Baselines
    """What needs no model."""
    gaps_B: dict[str, NDArray[np.float64]]
    """By how much wrong actions raise each window's image cross-entropy (nats), by what is wrong; main order."""
    windows: int
    """How many windows were judged."""


def order_name(lag: int | None) -> str:
    """How an order is called in tables."""
    return "raster" if lag is None else f"row lag {lag}"


def measure_likelihood(
    model: Model,
    windows: Windows,
    lags: tuple[int | None, ...],
    main: int | None,
    tick: Callable[[str], None] = lambda _: None,
) -> LikelihoodResult:
    """Judge the windows in every order of `lags`, and in order `main` with wrong actions too."""
    orders = {}
    for lag in dict.fromkeys([*lags, main]):
        orders[order_name(lag)] = likelihood(model, windows.codes_BTN, windows.actions, lag)
        tick(f"likelihood, {order_name(lag)}")
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
    """The table's lines."""
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
            passed=beyond_noise(gap_B),
            count=result.windows,
        )
        for name, gap_B in result.gaps_B.items()
    ]


def _row(name: str, value: float, unit: str, beside: dict[str, float], count: int) -> Row:
    return Row(part="likelihood", name=name, value=value, unit=unit, baselines=beside, count=count)

"""How far apart two sets of actions are: Wasserstein-1, jointly and for every input alone. Pure numpy.

Owns the two distances and their unit. An action is a point of sixteen whole numbers, a stick counted in its bins and a
button as 0 or 1, so a step of one bin or one button costs 1. Knows nothing of dreams or recordings. N actions (L of
them left), A inputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def joint_distance(first_NA: NDArray[np.uint8], second_NA: NDArray[np.uint8]) -> float:
    """Wasserstein-1 between two equally large samples of actions, uint8 [N, 16] each, with Euclidean costs.

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
    """Wasserstein-1 of every input alone, float64 [A]: the area between the two cumulative histograms.

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
    """What is left of two samples when actions they share are taken out, as often as both have them."""
    kinds_KA, kind_N = np.unique(np.concatenate([first_NA, second_NA]), axis=0, return_inverse=True)
    kind_N = kind_N.reshape(-1)
    one_K, other_K = (
        np.bincount(part, minlength=len(kinds_KA)) for part in (kind_N[: len(first_NA)], kind_N[len(first_NA) :])
    )
    common_K = np.minimum(one_K, other_K)
    points_KA = kinds_KA.astype(np.float64)
    return np.repeat(points_KA, one_K - common_K, axis=0), np.repeat(points_KA, other_K - common_K, axis=0)

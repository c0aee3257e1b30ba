"""The sampling of `BatchSampler`, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from playloom.inference.sampling import COLDEST, LEAST, Sampling

Floats = NDArray[np.float32]


class ArraySampler:
    """The draws of one step for a batch of dreams; see `BatchSampler`."""

    def __init__(
        self,
        samplings: Sequence[Sampling],
        sources: Sequence[np.random.Generator],
        slots: int,
        choices: int,
        *,
        entropy: bool = False,
    ) -> None:
        """Draw the noise of all slots at once, on the first use, each dream's from its own generator."""
        self.samplings, self._sources, self._shape = samplings, sources, (slots, choices)
        divisors = [1.0 if how.greedy else max(how.temperature, COLDEST) for how in samplings]
        self._temperature_B11 = np.array(divisors, np.float32)[:, None, None]
        self._filtered = any(not how.greedy and (how.top_k or how.top_p) for how in samplings)
        self.entropy_BS = np.zeros((len(samplings), slots), np.float32) if entropy else None

    @cached_property
    def _noise_BSC(self) -> Floats:
        pairs = zip(self.samplings, self._sources, strict=True)
        return np.stack([_noise(how, self._shape, source) for how, source in pairs])

    def part(self, rows: slice) -> ArraySampler:
        """Return the draws of some of the dreams; the entropies that they measure are this one's too."""
        part = ArraySampler(self.samplings[rows], self._sources[rows], *self._shape)
        part.entropy_BS = None if self.entropy_BS is None else self.entropy_BS[rows]
        return part

    def sample(self, logits_BRC: Floats, slots_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one token per row: an index into the C legal tokens of the slot, [B, R]."""
        if self.entropy_BS is not None:  # in nats, at temperature 1, unfiltered
            share_BRC = _softmax(logits_BRC)
            terms_BRC = share_BRC * np.log(np.maximum(share_BRC, LEAST))
            self.entropy_BS[:, slots_R] = -terms_BRC.sum(axis=-1)
        scaled_BRC = logits_BRC / self._temperature_B11
        if self._filtered:
            scaled_BRC = np.stack([_filter(*pair) for pair in zip(scaled_BRC, self.samplings, strict=True)])
        scaled_BRC += self._noise_BSC.take(slots_R, axis=1)[..., : scaled_BRC.shape[-1]]
        return scaled_BRC.argmax(axis=-1)


def _noise(sampling: Sampling, shape: tuple[int, int], source: np.random.Generator) -> Floats:
    """Gumbel noise: the negative logarithm of exponential noise."""
    if sampling.greedy:
        return np.zeros(shape, np.float32)
    drawn = source.standard_exponential(shape, dtype=np.float32)
    return -np.log(np.maximum(drawn, np.float32(LEAST)))


def _softmax(logits: Floats) -> Floats:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _filter(logits_RC: Floats, sampling: Sampling) -> Floats:
    top_k, top_p, size = sampling.top_k, sampling.top_p, logits_RC.shape[-1]
    if sampling.greedy:
        return logits_RC
    if top_k is not None and top_k < size:
        least = np.partition(logits_RC, size - top_k, axis=-1)[:, size - top_k, None]
        logits_RC = np.where(logits_RC < least, -np.inf, logits_RC)
    if top_p is None or top_p >= 1:
        return logits_RC
    index = np.argsort(-logits_RC, axis=-1, kind="stable")
    likely = _softmax(np.take_along_axis(logits_RC, index, axis=-1))
    drop = np.empty_like(index, dtype=bool)
    np.put_along_axis(drop, index, likely.cumsum(axis=-1) - likely >= top_p, axis=-1)
    return np.where(drop, -np.inf, logits_RC)

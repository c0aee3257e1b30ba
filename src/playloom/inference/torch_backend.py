"""Networks run by torch, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from playloom.device import generator
from playloom.errors import ResourceError
from playloom.inference.backend import ChosenBackend, GeneratedFrames
from playloom.inference.batch_cache import CacheSlot
from playloom.inference.decoder import CachedDecoder
from playloom.inference.sampling import Sampling
from playloom.inference.torch_sampling import BatchSampler, noise
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import Schedule


class TorchBackend:
    """See `Backend`."""

    name: ChosenBackend = "torch"

    def __init__(self, model: WorldModel, schedule: Schedule) -> None:
        self.model, self.layout, self.device = model, model.config.layout, str(model.device)
        with_features = model.heads is not None
        self.decoder = CachedDecoder(model.transformer, self.layout, schedule, with_features=with_features)

    @contextmanager
    def call(self) -> Iterator[None]:
        """See `Backend`; raises ResourceError when the device is out of memory."""
        with torch.inference_mode():
            try:
                yield
            except torch.OutOfMemoryError as error:
                raise ResourceError(
                    f"out of memory on {self.model.device}: close some sessions, or use a smaller model"
                ) from error

    def source(self, seed: int) -> torch.Generator:
        """See `Backend`."""
        return generator(seed, self.model.device)

    def copy_source(self, source: torch.Generator) -> torch.Generator:
        """See `Backend`."""
        copy = self.source(0)
        copy.set_state(source.get_state())
        return copy

    def encode(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """See `Backend`."""
        return self.model.tokenizer.encode(torch.tensor(np.ascontiguousarray(frames_THWC))).cpu().numpy()

    def decode(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `Backend`."""
        return self.model.tokenizer.decode(torch.from_numpy(codes_TN), checked=False).cpu().numpy()

    def give_frame(self, states: Sequence[CacheSlot], codes_BN: NDArray[np.int64]) -> None:
        """See `Backend`."""
        self.decoder.give_frame(states, torch.from_numpy(codes_BN))

    def give_action(self, states: Sequence[CacheSlot], values_BA: NDArray[np.int64]) -> None:
        """See `Backend`."""
        self.decoder.give_action(states, torch.from_numpy(values_BA))

    def dream_frame(
        self,
        states: Sequence[CacheSlot],
        samplings: Sequence[Sampling],
        sources: Sequence[torch.Generator],
        *,
        entropy: bool,
    ) -> GeneratedFrames:
        """See `Backend`."""
        noise_BSC = _noise(samplings, sources, self.layout.image_slots, self.layout.vocab.codebook_size)
        draws = BatchSampler(
            samplings, noise_BSC, entropy_BS=noise_BSC.new_zeros(noise_BSC.shape[:2]) if entropy else None
        )
        codes_BN = self.decoder.dream_frame(states, draws)
        none_B, heads = [None] * len(states), self.model.heads
        predictions = none_B if heads is None else heads.predict(self.decoder.features(states))
        nats_B = none_B if draws.entropy_BS is None else draws.entropy_BS.mean(dim=1).tolist()
        return GeneratedFrames(codes_BN.cpu().numpy(), nats_B, predictions)

    def dream_action(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[torch.Generator]
    ) -> NDArray[np.int64]:
        """See `Backend`."""
        sizes = self.layout.vocab.slot_sizes
        draws = BatchSampler(samplings, _noise(samplings, sources, len(sizes), max(sizes)))
        return self.decoder.dream_action(states, draws).cpu().numpy()


def _noise(samplings: Sequence[Sampling], sources: Sequence[torch.Generator], slots: int, choices: int) -> Tensor:
    """All noise of one step, each dream's from its own generator."""
    return torch.stack([noise(how, (slots, choices), at) for how, at in zip(samplings, sources, strict=True)])

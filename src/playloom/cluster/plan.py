"""How replicas share what a cluster has: processors, threads, GPUs. Pure arithmetic; knows nothing of Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from playloom.errors import ResourceError
from playloom.server.settings import Settings

_FINEST = 64
"""Replicas on one processor, at most."""


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """What one machine of the cluster has."""

    cpus: float
    """Processors."""
    gpus: float
    """GPUs."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one replica gets."""

    cpus: float
    """Processors, which no other replica gets; less than one where there are more replicas than processors."""
    gpus: int
    """GPUs: 1 or 0."""

    @property
    def threads(self) -> int:
        """How many torch may use."""
        return max(1, math.floor(self.cpus))


def fair_share(settings: Settings, nodes: Sequence[ClusterNode]) -> Share:
    """What each of the replicas asked for gets, so that there is room for all of them.

    With a GPU asked for, or found where the device is `auto`, each has one to itself.

    Raises:
        ResourceError: when there are fewer GPUs than replicas, or hardly any processors.
    """
    most, gpus = settings.most_replicas, sum(math.floor(node.gpus) for node in nodes)
    on_gpu = settings.device.startswith("cuda") or (settings.device == "auto" and gpus > 0)
    if on_gpu and gpus < most:
        raise ResourceError(
            f"{most} replicas on GPUs need {most}, one each, and the cluster has {gpus}; ask for fewer or --device cpu"
        )
    places = [node for node in nodes if node.gpus >= 1] if on_gpu else nodes
    for cpus in _sizes(math.floor(sum(node.cpus for node in places) / most)):
        rooms = [min(node.cpus // cpus, node.gpus) if on_gpu else node.cpus // cpus for node in places]
        if sum(rooms) >= most:
            return Share(cpus=cpus, gpus=int(on_gpu))
    raise ResourceError(f"there are not the processors for {most} replicas; ask for fewer, or give Ray more processors")


def _sizes(most: int) -> list[float]:
    """Sizes of a share to try, largest first: whole processors, then parts of one."""
    return [*range(most, 0, -1), *(1 / parts for parts in range(2, _FINEST + 1))]

"""Joining a Ray cluster, or beginning one on this machine that ends with this process."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from playloom.cluster.environment import ADDRESS
from playloom.cluster.plan import ClusterNode
from playloom.errors import ResourceError
from playloom.server.settings import Settings

_LEAST_STORE = 128 * 2**20
_NAMESPACE = "playloom"


def joins() -> bool:
    """Whether a cluster is named that others began."""
    return bool(os.environ.get(ADDRESS))


@contextmanager
def cluster(settings: Settings) -> Iterator[list[ClusterNode]]:
    """What its machines have; on leaving, one begun here is ended.

    Raises:
        ResourceError: when the one that is named does not answer, or none can be begun.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False, "namespace": _NAMESPACE}
    try:
        if joins():
            _knock(os.environ[ADDRESS])
            ray.init(address=os.environ[ADDRESS], **quiet)
        else:
            store = max(_LEAST_STORE, 2 * settings.max_inflight_bytes)
            ray.init(address="local", include_dashboard=False, object_store_memory=store, **quiet)
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        where = f"Ray at {os.environ[ADDRESS]} (from {ADDRESS})" if joins() else "Ray on this machine"
        raise ResourceError(f"{where} cannot be used: {str(error).splitlines()[0]}") from error
    try:
        yield [_node(found["Resources"]) for found in ray.nodes() if found["Alive"]]
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See at once whether anybody listens; Ray itself tries for minutes.

    Raises:
        OSError: when nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def addresses() -> list[str]:
    """Of the machines of the cluster."""
    return [found["NodeManagerAddress"] for found in ray.nodes() if found["Alive"]]


def check_alive() -> None:
    """See that the cluster is still there.

    Raises:
        ResourceError: when none of its machines is.
    """
    if not addresses():
        raise ResourceError(
            "Ray has ended, so nothing is served any more; "
            "its logs (session_latest/logs of its temporary folder) say why"
        )


def _node(resources: dict[str, float]) -> ClusterNode:
    return ClusterNode(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))

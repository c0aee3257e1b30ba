"""The application as Ray Serve is told of it: how many replicas, what each gets, who chooses among them."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from playloom.cluster.environment import values_of
from playloom.cluster.plan import Share
from playloom.cluster.replica import Replica
from playloom.cluster.router import StickyRouter
from playloom.server.settings import Settings

APPLICATION = "playloom"
"""Its name in the cluster."""


def application(settings: Settings, share: Share) -> serve.Application:
    """What `serve.run` takes.

    Args:
        settings: of every replica; how many there are is in them too.
        share: what each gets.
    """
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=APPLICATION,
        ray_actor_options={"num_cpus": share.cpus, "num_gpus": share.gpus},
        max_ongoing_requests=_most_ongoing(settings),
        max_queued_requests=settings.max_connections,
        request_router_config=RequestRouterConfig(request_router_class=StickyRouter),
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=2,
        **_count(settings),
    )
    device = "cuda" if share.gpus else "cpu" if settings.device == "auto" else settings.device
    return deployment.bind({**values_of(settings), "device": device}, share.threads)


def _count(settings: Settings) -> dict[str, Any]:
    """How many replicas; where it may vary, one more as soon as one has as much to do as it does at once."""
    if settings.most_replicas == settings.replicas:
        return {"num_replicas": settings.replicas}
    scaling = AutoscalingConfig(
        min_replicas=settings.replicas,
        max_replicas=settings.most_replicas,
        target_ongoing_requests=settings.max_requests,
        upscale_delay_s=10,
    )
    return {"autoscaling_config": scaling}


def _most_ongoing(settings: Settings) -> int:
    """More than one replica admits, so that it is the application that refuses, at once and in its own words."""
    return settings.max_connections + settings.max_sessions + settings.max_requests + settings.queue

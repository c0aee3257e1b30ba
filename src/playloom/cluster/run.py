"""Running the application on Ray Serve: from nothing to a greeting, and an end that finishes what was begun.

    settings = read_settings(replicas=2)
    prepare(settings, os.environ)       # of playloom.cluster.environment, before this module is imported
    run(settings, say=print)

On SIGTERM or Ctrl-C every replica takes no new work while what runs is finished, for at most `drain_seconds`; a second
signal ends it at once.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from playloom.cluster.deployment import APPLICATION, application
from playloom.cluster.plan import ClusterNode, fair_share
from playloom.cluster.probe import check_layers, wait_until_up
from playloom.cluster.ray_cluster import addresses, check_alive, cluster, joins
from playloom.cluster.signals import Ending
from playloom.device import pick_device
from playloom.errors import ConfigError, ResourceError
from playloom.models.checkpoint import load_model, model_folder
from playloom.server.main import listen
from playloom.server.settings import Settings

_RAISED = re.compile(r"^[\w.]*(Error|Exception): ")
_EVERYWHERE = ("0.0.0.0", "::")
_START_SECONDS = 600.0  # a large model on slow disks
_PROXY_SECONDS = 60.0
_TICK = 0.2
_WATCH = 5.0
_GRACE = 10.0  # seconds after the time to finish is over, in which Ray is ended
_FLUSH = 0.5  # seconds for last answers to be sent


def run(settings: Settings, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Serve until told to stop.

    Args:
        settings: what to serve, where, how many times, and every limit.
        say: told once it listens, in a sentence.

    Raises:
        PlayloomError: when the model cannot be used, the port is taken, or Ray cannot do it.
    """
    name = _check_model(settings)
    with listen(settings) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    ending = Ending()
    ending.listen()
    with cluster(settings) as nodes:
        ending.listen()  # Ray took them
        try:
            handle = _begin(settings, nodes)
            ending.serving = True
            say(_greeting(settings, name))
            while not ending.asked.wait(_WATCH):
                check_alive()
            ending.no_later_than(settings.drain_seconds + _GRACE)
            _drain(handle, settings.drain_seconds)
        finally:
            _leave()


def _check_model(settings: Settings) -> str:
    """See here, where it can be said in a sentence, that the model and the device can be used; the model's name."""
    device = "cpu" if joins() else settings.device
    pick_device(device)
    return load_model(model_folder(settings.model), pick_device("cpu")).config.name


def _begin(settings: Settings, nodes: Sequence[ClusterNode]) -> DeploymentHandle[Any]:
    """Start replicas and proxies, and see that they answer."""
    app = application(settings, fair_share(settings, nodes))
    _check_alone()
    try:
        handle = _start(settings, app)
    except (RayError, RayServeException, RuntimeError) as error:
        raise ResourceError(f"Ray cannot begin to serve: {str(error).strip().splitlines()[0]}") from error
    for home in _homes(settings):
        wait_until_up(home, settings, _PROXY_SECONDS)
        check_layers(home, settings)
    return handle


def _start(settings: Settings, app: serve.Application) -> DeploymentHandle[Any]:
    quiet = {"log_level": logging.ERROR, "enable_access_log": False}
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    with suppress(TimeoutError, RayActorError):  # a slow or restarted proxy: `wait_until_up` judges
        serve.start(
            proxy_location="HeadOnly" if settings.local else "EveryNode",
            http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": 5},
            logging_config=quiet,
        )
    target = serve.RunTarget(target=app, name=APPLICATION, logging_config=quiet)
    handle = serve.run_many([target], wait_for_applications_running=False)[0]
    _wait_until_running()
    return handle


def _check_alone() -> None:
    """See that a cluster which is joined serves nothing on other terms."""
    if joins() and serve.status().applications:
        raise ConfigError("this cluster serves something already; end that first, with: serve shutdown")


def _wait_until_running() -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        status = serve.status().applications[APPLICATION]
        if status.status == "RUNNING":
            return
        if status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ResourceError(f"a replica cannot start: {_why(status.deployments[APPLICATION].message)}")
        time.sleep(_TICK)
    raise ResourceError(f"no replica was up within {_START_SECONDS:g} seconds; the cluster may be busy with others")


def _why(message: str) -> str:
    """What was raised, of Ray's account of it: a traceback's last line."""
    said = [line.strip() for line in message.splitlines() if line.strip()]
    return _RAISED.sub("", said[-1]) if said else "Ray does not say why"


def _homes(settings: Settings) -> list[str]:
    """Where the proxies listen."""
    hosts = addresses() if settings.host in _EVERYWHERE and joins() else [_reachable(settings.host)]
    return [f"http://{f'[{host}]' if ':' in host else host}:{settings.port}" for host in hosts]


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _drain(handle: DeploymentHandle[Any], seconds: float) -> None:
    """Let every replica finish; give up what takes longer."""
    end = time.monotonic() + seconds
    while any(_everywhere(handle, "drain")) and time.monotonic() < end:
        time.sleep(_TICK)
    _everywhere(handle, "end")
    time.sleep(_FLUSH)


def _everywhere(handle: DeploymentHandle[Any], method: str) -> list[bool]:
    """What each replica says; one that is gone says nothing."""
    answers = handle.broadcast(method).results(timeout_s=5, return_exceptions=True)
    return [answer for answer in answers if answer is True]


def _leave() -> None:
    """Take the application out of a cluster that goes on without us."""
    if joins():
        serve.delete(APPLICATION)
        if not serve.status().applications:
            serve.shutdown()


def _greeting(settings: Settings, name: str) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    who = "requests need the key" if settings.key else "without a key, for this machine only"
    most = settings.most_replicas
    count = f"{settings.replicas} to {most}" if most > settings.replicas else str(settings.replicas)
    return f"playloom serves {name} on http://{host}:{settings.port} ({who}), {count} replicas on Ray"

"""Whether the cluster answers as it must: over HTTP, as a client."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

from playloom.cluster.layers import CALLBACK, VARIABLE
from playloom.errors import ConfigError, ResourceError
from playloom.server.settings import REPLICA_HEADER, Settings

_PAUSE = 0.1
_TIMEOUT = 10.0
_TWO_HOMES = "/get_job_results?job_ids=one.probe&job_ids=two.probe"
"""Refused with 400 by the layers; without them some replica answers, with 404."""


class _Answer(NamedTuple):
    status: int
    replica: str | None
    text: str


def wait_until_up(home: str, settings: Settings, seconds: float) -> None:
    """Return once a replica answers.

    Raises:
        ResourceError: when none does in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = _ask(f"{home}/v1/health", settings)
        if answer is not None and answer.status == 200 and answer.replica is not None:
            return
        time.sleep(_PAUSE)
    raise ResourceError(
        f"Ray's proxy at {home} does not answer for a replica; "
        "Ray's logs (session_latest/logs of its temporary folder) say why"
    )


def check_layers(home: str, settings: Settings) -> None:
    """See that what keeps requests with their replica stands before the proxy.

    Raises:
        ConfigError: when it does not; says what to set.
    """
    answer = _ask(f"{home}{_TWO_HOMES}", settings)
    if answer is None or answer.status != 400 or "error" not in json.loads(answer.text or "{}"):
        raise ConfigError(
            f"the proxy at {home} does not keep sessions with their replica; start Ray on every machine with "
            f"{VARIABLE}={CALLBACK} and the same PLAYLOOM_ variables in its environment"
        )


def _ask(url: str, settings: Settings) -> _Answer | None:
    """An answer, errors included; None where nobody listens."""
    request = urllib.request.Request(url)
    if settings.key is not None:
        request.add_header("Authorization", f"Bearer {settings.key}")
    opener: Callable[..., urllib.request.OpenerDirector] = urllib.request.build_opener
    try:
        with opener(urllib.request.ProxyHandler({})).open(request, timeout=_TIMEOUT) as answer:
            return _Answer(answer.status, answer.headers.get(REPLICA_HEADER), "")
    except urllib.error.HTTPError as error:
        with error:
            return _Answer(error.code, error.headers.get(REPLICA_HEADER), error.read(10_000).decode("utf-8", "replace"))
    except OSError:
        return None

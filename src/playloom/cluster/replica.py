"""One replica: the application of `playloom.server`, under the name that Ray gave it. Runs in a process of Ray's."""

from __future__ import annotations

from typing import Any

import torch
from fastapi import FastAPI
from ray import serve

from playloom.server.app import Server, create_app
from playloom.server.settings import Settings


class Replica:
    """What Ray starts, asks for its health, and tells to end."""

    def __init__(self, values: dict[str, Any], threads: int) -> None:
        """See the module.

        Args:
            values: the settings, by name.
            threads: how many torch may use.
        """
        torch.set_num_threads(threads)
        own = serve.get_replica_context().replica_id.unique_id
        self._app = create_app(Settings(**{**values, "replica": own}))
        self._server: Server = self._app.state.server

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, for Ray to run."""
        return self._app

    async def check_health(self) -> None:
        """Fail when nothing can be dreamed any more, so that Ray begins a new replica."""
        if not self._server.service.scheduler.alive:
            raise RuntimeError("the thread that dreams has ended")

    async def drain(self) -> bool:
        """Take no new work; whether something still runs that is worth waiting for."""
        self._server.drain()
        return self._server.has_active_work

    async def end(self) -> None:
        """Give up what runs; whoever waits for it is told."""
        self._server.service.limiter.abort_all()

"""The whole application over one model: routes, and the layers before them.

    app = create_app(Settings())            # an ASGI application; playloom.server.main runs it

Each request passes, from the outside in: `Watch` (counts, no tracebacks), CORS where it is allowed, `Guard` (key, host,
origin), `Bodies` (size and time), then its route.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

import playloom
from playloom.server.errors import Problem, install
from playloom.server.info import add_facts
from playloom.server.jobs import Jobs, NewJob, add_jobs
from playloom.server.live import Room, add_play
from playloom.server.metrics import Metrics
from playloom.server.middleware import Bodies, Guard, Watch
from playloom.server.schemas import Begin, DreamOrder, ScoreRequest, add_dreaming, add_score
from playloom.server.service import Studio
from playloom.server.sessions import Stepped, Turn, add_sessions, recent_of
from playloom.server.settings import Settings
from playloom.server.stories.routes import add_stories
from playloom.server.stories.schemas import BranchOrder, EditOrder, NewStory, NodePatch, Renaming
from playloom.server.stories.service import Branches, Stories

_SWEEP = 1.0  # seconds between looks for what is past its time
_BODIES = (ScoreRequest, DreamOrder, Begin, Turn, NewJob, NewStory, Renaming, BranchOrder, EditOrder, NodePatch)
_PROBLEMS = {
    400: "What was sent cannot be used.",
    401: "The key is missing or wrong.",
    403: "Not from this host or origin.",
    404: "There is no such thing.",
    405: "Not with this method.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    500: "The server failed.",
    503: "The server is full or stopping; see Retry-After.",
    504: "It took too long.",
}


class Server:
    """What lives as long as the application does."""

    def __init__(self, settings: Settings, studio: Studio | None = None) -> None:
        self.settings = settings
        self.studio = studio or Studio(settings)
        self.metrics = Metrics(self.studio.broker.stats, self._gauges, settings.batch)
        self.room = Room(self.studio, self.metrics)
        self.stepped = Stepped(self.studio, self.room)
        self.jobs = Jobs(self.studio)
        self.stories = Stories(self.studio, lambda token: recent_of(self.room, self.stepped, token))
        self.branches = Branches(self.stories)

    @property
    def working(self) -> bool:
        """Whether something runs that is worth waiting for before the process ends."""
        gate = self.studio.gate
        jobs, dreaming = self.jobs, self.branches.dreaming
        return bool(gate.running or gate.waiting or jobs.running or jobs.unread or dreaming or self.room.playing)

    def drain(self) -> None:
        """Take no new work from now on; what runs goes on."""
        self.studio.gate.draining = True
        self.stories.wake()

    async def sweep(self) -> None:
        """Look for what is past its time, for ever."""
        while True:
            await asyncio.sleep(_SWEEP)
            await self.room.sweep()
            self.stepped.sweep()
            self.jobs.forget_old()

    async def close(self) -> None:
        """End everything."""
        self.drain()
        self.jobs.cancel_all()
        await self.branches.close()
        self.stories.close()
        for seat in list(self.room.seats.values()):
            await self.room.close(seat)
        for token in list(self.stepped.sessions):
            self.stepped.close(token)
        self.studio.close(timeout=1.0)

    def _gauges(self) -> dict[str, float]:
        gate, stats = self.studio.gate, self.studio.broker.stats
        return {
            "requests_running": gate.running,
            "requests_waiting": gate.waiting,
            "jobs_running": self.jobs.running,
            "branches_dreaming": self.branches.dreaming,
            "live_sessions": len(self.room.seats),
            "live_players": self.room.playing,
            "stepped_sessions": len(self.stepped.sessions),
            "broker_sessions": stats.sessions,
            "broker_waiting": stats.waiting,
        }


def create_app(settings: Settings, studio: Studio | None = None) -> FastAPI:
    """The application; `app.state.server` is its `Server`.

    Args:
        settings: every limit.
        studio: a model that is loaded already; None: load what the settings name.

    Raises:
        PlayloomError: when the model or the device cannot be used.
    """
    server = Server(settings, studio)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.ensure_future(server.sweep())
        yield
        sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await sweeper
        await server.close()

    app = FastAPI(
        title="playloom",
        version=playloom.__version__,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": Problem, "description": text} for status, text in _PROBLEMS.items()},
    )
    app.state.server = server
    install(app)
    add_score(app, server.studio)
    add_jobs(app, server.studio, server.jobs)
    add_dreaming(app, server.studio)
    add_sessions(app, server.studio, server.room, server.stepped)
    add_play(app, server.room)
    add_stories(app, server.stories, server.branches)
    add_facts(app, server.studio, server.metrics)
    app.add_middleware(Bodies, settings=settings)
    app.add_middleware(Guard, settings=settings)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Watch, metrics=server.metrics, replica=settings.replica)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the bodies that routes parse themselves; faults are 400 here, never 422."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=__doc__)
        _, bodies = models_json_schema(
            [(body, "validation") for body in _BODIES], ref_template="#/components/schemas/{model}"
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(bodies.get("$defs", {}))
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                operation.get("responses", {}).pop("422", None)
        app.openapi_schema = document
    return app.openapi_schema

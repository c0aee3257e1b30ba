"""Application: routes, middlewares and background tasks.

Middlewares, outermost first: `MetricsMiddleware` (counts, no tracebacks), CORS where it is allowed, `AuthMiddleware`
(key, host, origin), `BodyLimitMiddleware` (size and time).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

import playloom
from playloom.server.errors import ErrorResponse, install
from playloom.server.info import register_info_routes
from playloom.server.jobs import Jobs, NewJob, register_job_routes
from playloom.server.live import LiveSessionManager
from playloom.server.live_socket import register_live_routes
from playloom.server.metrics import Metrics
from playloom.server.middleware import AuthMiddleware, BodyLimitMiddleware, MetricsMiddleware
from playloom.server.schemas import register_generation_routes
from playloom.server.service import InferenceService
from playloom.server.sessions import SessionManager, register_session_routes
from playloom.server.settings import Settings
from playloom.server.stories.branches import BranchRunner
from playloom.server.stories.routes import router as story_router
from playloom.server.stories.service import StoryService

_SWEEP = 1.0  # seconds between two looks at expired sessions and jobs
_PROBLEMS = {
    400: "The request is invalid.",
    401: "The key is missing or wrong.",
    403: "Not from this host or origin.",
    404: "Not found.",
    405: "Not with this method.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    500: "The server failed.",
    503: "The server is full or stopping; see Retry-After.",
    504: "It took too long.",
}


class Server:
    """State shared by all requests of an application."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.service = settings, InferenceService(settings)
        self.metrics = Metrics(self.service.scheduler.stats, self._gauges, settings.batch)
        self.live = LiveSessionManager(self.service, self.metrics)
        self.sessions = SessionManager(self.service, self.live)
        self.jobs = Jobs(self.service)
        self.stories = StoryService(self.service, lambda token: self.sessions.history(token)[:2])
        self.branches = BranchRunner(self.stories)

    @property
    def has_active_work(self) -> bool:
        """True while requests, jobs, branches or players are active; a stopping process waits for them."""
        limiter, jobs = self.service.limiter, self.jobs
        counts = (limiter.running, limiter.waiting, jobs.running, jobs.unread, self.branches.dreaming)
        return any(counts) or self.live.playing > 0

    def drain(self) -> None:
        """Reject new work; running work goes on."""
        self.service.limiter.draining = True
        self.stories.notify()

    async def expire(self) -> None:
        """Remove expired sessions and jobs once a second, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP)
            self.live.expire()
            self.sessions.expire()
            self.jobs.expire()

    async def close(self) -> None:
        """Cancel jobs and branches, close all sessions and stop the scheduler."""
        self.drain()
        self.jobs.cancel_all()
        await self.branches.close()
        self.stories.close()
        for connection in list(self.live.connections.values()):
            self.live.close(connection)
        for token in list(self.sessions.sessions):
            self.sessions.close(token)
        self.service.close(timeout=1.0)

    def _gauges(self) -> dict[str, float]:
        limiter, stats = self.service.limiter, self.service.scheduler.stats
        return {
            "requests_running": limiter.running,
            "requests_waiting": limiter.waiting,
            "jobs_running": self.jobs.running,
            "branches_running": self.branches.dreaming,
            "live_sessions": len(self.live.connections),
            "live_players": self.live.playing,
            "http_sessions": len(self.sessions.sessions),
            "scheduler_sessions": stats.sessions,
            "scheduler_waiting": stats.waiting,
        }


def create_app(settings: Settings) -> FastAPI:
    """Load the model and create the ASGI application; `app.state.server` is its `Server`."""
    server = Server(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.ensure_future(server.expire())
        yield
        sweeper.cancel()
        await asyncio.wait([sweeper])
        await server.close()

    app = FastAPI(
        title="playloom",
        version=playloom.__version__,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": ErrorResponse, "description": text} for status, text in _PROBLEMS.items()},
    )
    app.state.server = server
    install(app)
    register_generation_routes(app, server.service)
    register_job_routes(app, server.service, server.jobs)
    register_session_routes(app, server.service, server.sessions)
    register_live_routes(app, server.live)
    app.include_router(story_router)
    register_info_routes(app, server.service, server.metrics)
    app.add_middleware(BodyLimitMiddleware, settings=settings)
    app.add_middleware(AuthMiddleware, settings=settings)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(MetricsMiddleware, metrics=server.metrics, replica=settings.replica)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document: invalid bodies are 400, not 422, and a form field of `/new_job` has a schema."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=__doc__)
        schemas = document["components"]["schemas"]
        new_job = NewJob.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**new_job.pop("$defs"), "NewJob": new_job}
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        app.openapi_schema = document
    return app.openapi_schema

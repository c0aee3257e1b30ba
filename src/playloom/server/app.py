"""Application: routes, middlewares and background tasks.

Middlewares, outermost first: `MetricsMiddleware` (counts, no tracebacks), CORS where it is allowed, `AuthMiddleware`
(key, host, origin), `BodyLimitMiddleware` (size and time).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import generate_latest
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

import playloom
from playloom.errors import PlayloomError
from playloom.models.folder import bundled_models
from playloom.server.errors import ErrorResponse, handle_error
from playloom.server.jobs import Jobs, NewJob, register_job_routes
from playloom.server.live_socket import register_live_routes
from playloom.server.middleware import AuthMiddleware, BodyLimitMiddleware, Metrics, MetricsMiddleware
from playloom.server.schemas import ApiModel, file_response, register_generation_routes
from playloom.server.service import InferenceService, run_in
from playloom.server.sessions import SessionManager, register_session_routes
from playloom.server.settings import Settings
from playloom.server.static_page import PAGE
from playloom.server.stories.routes import BranchRunner
from playloom.server.stories.routes import router as story_router
from playloom.server.stories.service import StoryService

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}
_ERRORS = (400, 401, 403, 404, 405, 408, 413, 500, 503, 504)


class ModelInfo(ApiModel):
    """One model; the fields after `serving` are null for one that is not served."""

    name: str
    serving: bool = Field(description="True for the model that this server runs.")
    width: int | None = Field(default=None, description="Frame width in pixels.")
    height: int | None = Field(default=None, description="Frame height in pixels.")
    context: int | None = Field(default=None, description="Context length in steps.")
    tokens: int | None = Field(default=None, description="Tokens per frame.")
    temperature: float | None = Field(default=None, description="Default temperature: the model card's, else 0.9.")
    controls: dict[str, str | None] | None = None
    """What controls do in the game, by control, as far as known; null for one that training never saw move."""


class PromptInfo(ApiModel):
    """One prompt: a few seconds of real play."""

    name: str
    picture: str = Field(description="Path of its last frame, a PNG.")


class Health(ApiModel):
    """State of the server."""

    status: Literal["ok", "stopping"] = Field(description="`stopping`, with status 503, after SIGTERM.")
    version: str
    model: str
    replica: str | None = Field(default=None, description="Name of this server among several; null for a single one.")


class Server:
    """State shared by all requests of an application."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.service = settings, InferenceService(settings)
        self.metrics = Metrics(settings.batch, self._gauges())
        self.service.scheduler.on_batch = self.metrics.count_batch
        self.sessions = SessionManager(self.service, self.metrics)
        self.jobs = Jobs(self.service)
        self.stories = StoryService(self.service, self.sessions.history)
        self.branches = BranchRunner(self.stories)

    @property
    def has_active_work(self) -> bool:
        """True while requests, jobs, branches or players are active; a stopping process waits for them."""
        jobs, branches = self.jobs, self.branches.dreaming
        return any((self.metrics.in_progress, jobs.running, jobs.unread, branches, self.sessions.playing))

    def drain(self) -> None:
        """Reject new work; running work goes on."""
        self.service.limiter.draining = True
        self.stories.notify()

    async def expire(self) -> None:
        """Remove expired sessions and jobs once a second, until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            self.sessions.expire()
            self.jobs.expire()

    async def close(self) -> None:
        """Cancel jobs and branches, close all sessions and stop the scheduler."""
        self.drain()
        for name in list(self.jobs.by_id):
            self.jobs.cancel(name)
        await self.branches.close()
        self.stories.close()
        for token in [*self.sessions.connections, *self.sessions.http_sessions]:
            self.sessions.close(token)
        self.service.close(timeout=1.0)

    def _gauges(self) -> dict[str, Callable[[], float]]:
        limiter, stats = self.service.limiter, self.service.scheduler.stats
        return {
            "requests_running": lambda: limiter.running,
            "requests_waiting": lambda: limiter.waiting,
            "jobs_running": lambda: self.jobs.running,
            "branches_running": lambda: self.branches.dreaming,
            "live_sessions": lambda: len(self.sessions.connections),
            "live_players": lambda: self.sessions.playing,
            "http_sessions": lambda: len(self.sessions.http_sessions),
            "scheduler_sessions": lambda: stats.sessions,
            "scheduler_waiting": lambda: stats.waiting,
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
        description="All routes but the WebSocket `/v1/play`; docs/serve.md describes both.",
        version=playloom.__version__,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": ErrorResponse} for status in _ERRORS},
    )
    app.state.server = server
    for kind in (PlayloomError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle_error)
    register_generation_routes(app, server.service)
    register_job_routes(app, server.jobs)
    register_session_routes(app, server.sessions)
    register_live_routes(app, server.sessions)
    app.include_router(story_router)
    _register_info_routes(app, server.service, server.metrics)
    _register_page(app, server.service)
    app.add_middleware(BodyLimitMiddleware, settings=settings)
    app.add_middleware(AuthMiddleware, settings=settings)
    if origins := settings.allowed_origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(MetricsMiddleware, metrics=server.metrics, replica=settings.replica)
    app.openapi = cache(partial(_document, app))  # type: ignore[method-assign]
    return app


def _register_info_routes(app: FastAPI, service: InferenceService, metrics: Metrics) -> None:
    @app.get("/v1/models", tags=["playloom"])
    async def models() -> list[ModelInfo]:
        """List the served model and the bundled ones."""
        height, width = service.size
        layout, name = service.model.config.layout, service.model.config.name
        served = ModelInfo(
            name=name,
            serving=True,
            width=width,
            height=height,
            context=service.context,
            tokens=layout.image_slots,
            temperature=service.sampling().temperature,
            controls=service.model.card.get("controls", {}),
        )
        return [served, *(ModelInfo(name=other, serving=False) for other in bundled_models() if other != name)]

    @app.get("/v1/prompts", tags=["playloom"])
    async def prompts() -> list[PromptInfo]:
        """List the prompts of the served model."""
        return [PromptInfo(name=name, picture=f"/v1/prompts/{name}/picture.png") for name in service.prompts]

    @app.get("/v1/prompts/{name}/picture.png", tags=["playloom"], **file_response("image/png"))
    async def prompt_image(name: str) -> Response:
        """Return the last real frame of a prompt as PNG."""
        if name not in service.prompts:
            raise HTTPException(404, "there is no prompt of that name; see /v1/prompts")
        png = await run_in(service.io_pool, service.prompt_image, name)
        return Response(png, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    @app.get("/v1/health", tags=["playloom"])
    async def health(response: Response) -> Health:
        """Return 200 while new work is accepted, else 503."""
        stopping, name, replica = service.limiter.draining, service.model.config.name, service.settings.replica
        response.status_code = 503 if stopping else 200
        return Health(
            status="stopping" if stopping else "ok", version=playloom.__version__, model=name, replica=replica
        )

    @app.get("/metrics", tags=["playloom"], **file_response("text/plain"))
    async def prometheus() -> Response:
        """Return the metrics in Prometheus' text format."""
        text = generate_latest(metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _register_page(app: FastAPI, service: InferenceService) -> None:
    @app.get("/", tags=["job server"], response_model=None)
    async def root(request: Request) -> Response:
        """Return the page to browsers and the job server's description to other clients."""
        if "text/html" in request.headers.get("accept", ""):
            return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)
        job_server = {
            "model_file": service.model.config.name,
            "max_concurrent_jobs": service.settings.max_jobs,
            "max_dream_steps_per_job": service.settings.max_steps,
            "max_job_lifespan": service.settings.job_seconds,
        }
        return JSONResponse(job_server, headers={"Vary": "Accept"})

    async def file(request: Request) -> Response:
        return FileResponse(PAGE / request.url.path[1:])

    for path in ("/favicon.svg", "/licences.txt"):
        app.add_route(path, file, include_in_schema=False)
    app.mount("/assets", StaticFiles(directory=PAGE / "assets"))


def _document(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document: invalid bodies are 400, not 422, and a form field of `/new_job` has a schema."""
    document = FastAPI.openapi(app)
    schemas = document["components"]["schemas"]
    new_job = NewJob.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**new_job.pop("$defs"), "NewJob": new_job}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    return document

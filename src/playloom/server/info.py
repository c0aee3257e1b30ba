"""Routes for models, prompts, health, metrics and the page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

import playloom
from playloom.models.checkpoint import bundled_models
from playloom.server.errors import ApiError
from playloom.server.metrics import Metrics
from playloom.server.schemas import ApiModel
from playloom.server.service import InferenceService

_PAGE = Path(__file__).parent / "static"  # as built
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}


class ModelInfo(ApiModel):
    """One model."""

    name: str
    """Name of the model."""
    serving: bool
    """True for the model that this server runs."""
    width: int | None = None
    """Frame width in pixels; null for a model that is not served."""
    height: int | None = None
    """Frame height in pixels; null for a model that is not served."""
    context: int | None = None
    """Context length in steps; null for a model that is not served."""
    tokens: int | None = None
    """Tokens per frame; null for a model that is not served."""
    temperature: float | None = None
    """Default temperature: the model card's, else 0.9; null for a model that is not served."""
    controls: dict[str, str | None] | None = None
    """What controls do in the game, by control, as far as known; null for one that training never saw move.
    Null for a model that is not served."""


class PromptInfo(ApiModel):
    """One prompt: a few seconds of real play."""

    name: str
    """Name of the prompt."""
    picture: str
    """Path of its last frame, a PNG."""


class Health(ApiModel):
    """State of the server."""

    status: Literal["ok", "stopping"]
    """`stopping`, with status 503, after SIGTERM."""
    version: str
    """Version of playloom."""
    model: str
    """Name of the served model."""
    replica: str | None = None
    """Name of this server among several; null for a single one."""


def register_info_routes(app: FastAPI, service: InferenceService, metrics: Metrics) -> None:
    """Add the routes."""

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
            tokens=layout.grid_height * layout.grid_width,
            temperature=service.sampling().temperature,
            controls=service.model.card.get("controls", {}),
        )
        return [served, *(ModelInfo(name=other, serving=False) for other in bundled_models() if other != name)]

    @app.get("/v1/prompts", tags=["playloom"])
    async def prompts() -> list[PromptInfo]:
        """List the prompts of the served model."""
        return [PromptInfo(name=name, picture=f"/v1/prompts/{name}/picture.png") for name in service.prompts]

    @app.get(
        "/v1/prompts/{name}/picture.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
        tags=["playloom"],
    )
    async def prompt_image(name: str) -> Response:
        """Return the last real frame of a prompt as PNG."""
        if name not in service.prompts:
            raise ApiError(404, "there is no prompt of that name; see /v1/prompts")
        png = await service.run_in_io_pool(lambda: service.prompt_image(name))
        return Response(png, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    @app.get("/v1/health", response_model=Health, tags=["playloom"])
    async def health() -> Response:
        """Return 200 while new work is accepted, else 503."""
        health = Health(
            status="stopping" if service.limiter.draining else "ok",
            version=playloom.__version__,
            model=service.model.config.name,
            replica=service.settings.replica,
        )
        return JSONResponse(health.model_dump(), 503 if service.limiter.draining else 200)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, tags=["playloom"])
    async def prometheus() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    _register_page(app, service)


def _register_page(app: FastAPI, service: InferenceService) -> None:
    @app.get("/", tags=["job server"], response_model=None)
    async def root(request: Request) -> Response:
        """Return the page to browsers and the job server's description to other clients."""
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and (_PAGE / "index.html").is_file():
            return FileResponse(_PAGE / "index.html", headers=_PAGE_HEADERS)
        job_server = {
            "model_file": service.model.config.name,
            "max_concurrent_jobs": service.settings.max_jobs,
            "max_dream_steps_per_job": service.settings.max_steps,
            "max_job_lifespan": service.settings.job_seconds,
        }
        return JSONResponse(job_server, headers={"Vary": "Accept"})

    if (_PAGE / "assets").is_dir():
        app.mount("/assets", StaticFiles(directory=_PAGE / "assets"))
    for path in _PAGE.glob("*"):
        if path.suffix in (".svg", ".ico", ".png", ".webmanifest"):
            app.add_route(f"/{path.name}", partial(_send, path), include_in_schema=False)


async def _send(path: Path, request: Request) -> Response:
    return FileResponse(path)

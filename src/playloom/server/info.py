"""What the server says of itself: `/v1/models`, `/v1/prompts`, `/v1/health`, `/metrics`, `/` for both its visitors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

import playloom
from playloom.data.prompts import list_prompts
from playloom.models.checkpoint import bundled_models
from playloom.server.errors import ApiError
from playloom.server.jobs import job_info
from playloom.server.metrics import Metrics
from playloom.server.service import InferenceService, resolve_prompt

PAGE = Path(__file__).parent / "static"
"""Where the built page lies, if it was built."""
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}


class ModelInfo(BaseModel):
    """A model."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """What it is called."""
    serving: bool
    """Whether this server dreams with it."""
    width: int | None = None
    """Of its frames, where it is served."""
    height: int | None = None
    """Of its frames, where it is served."""
    context: int | None = None
    """Steps it sees, where it is served."""
    tokens: int | None = None
    """Tokens a frame, where it is served."""
    temperature: float | None = None
    """Its own, used where nobody asks for another: what its card says, else 0.9; where it is served."""


class PromptInfo(BaseModel):
    """A bundled moment of real play."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """Its name."""
    picture: str
    """Where its last frame is, a PNG."""


class Health(BaseModel):
    """How the server is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Literal["ok", "stopping"]
    """`stopping`, with 503, after SIGTERM."""
    version: str
    """Of playloom."""
    model: str
    """What is served."""
    replica: str | None = None
    """Which server this is, where there are several."""


def register_info_routes(app: FastAPI, service: InferenceService, metrics: Metrics, page: Path = PAGE) -> None:
    """Add the routes."""

    @app.get("/v1/models", tags=["playloom"])
    async def models() -> list[ModelInfo]:
        """The model that is served, and the bundled ones."""
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
        )
        return [served, *(ModelInfo(name=other, serving=False) for other in bundled_models() if other != name)]

    @app.get("/v1/prompts", tags=["playloom"])
    async def prompts() -> list[PromptInfo]:
        """The bundled moments to begin from."""
        return [PromptInfo(name=name, picture=f"/v1/prompts/{name}/picture.png") for name in list_prompts()]

    @app.get(
        "/v1/prompts/{name}/picture.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
        tags=["playloom"],
    )
    async def prompt_image(name: str) -> Response:
        """The last real frame that a dream from this moment sees."""
        if name not in list_prompts():
            raise ApiError(404, "there is no prompt of that name; see /v1/prompts")
        chosen = resolve_prompt(name)
        png = await service.run_in_io_pool(lambda: service.prompt_image(chosen))
        return Response(png, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    @app.get("/v1/health", response_model=Health, tags=["playloom"])
    async def health() -> Response:
        """Whether new work is taken."""
        status = "stopping" if service.limiter.draining else "ok"
        content = {
            "status": status,
            "version": playloom.__version__,
            "model": service.model.config.name,
            "replica": service.settings.replica,
        }
        return JSONResponse(content, 503 if service.limiter.draining else 200)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, tags=["playloom"])
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    _add_page(app, service, page)


def _add_page(app: FastAPI, service: InferenceService, page: Path) -> None:
    """`/`: the page for browsers, the job server's facts for everybody else."""

    @app.get("/", tags=["job server"], response_model=None)
    async def root(request: Request) -> Response:
        """What clients of the job server ask first. A browser gets the page."""
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and (page / "index.html").is_file():
            return FileResponse(page / "index.html", headers=_PAGE_HEADERS)
        return JSONResponse(job_info(service), headers={"Vary": "Accept"})

    if (page / "assets").is_dir():
        app.mount("/assets", StaticFiles(directory=page / "assets"))
    for path in page.glob("*"):
        if path.suffix in (".svg", ".ico", ".png", ".webmanifest"):
            app.add_route(f"/{path.name}", _file(path), include_in_schema=False)


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return FileResponse(path)

    return send

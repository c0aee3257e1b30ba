"""Error responses: a status and `{"error": message}`; no traceback reaches a client.

`CapacityError` and `ShuttingDownError` live here so that importing them does not import torch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from playloom.errors import PlayloomError, ResourceError, StorageError


class CapacityError(ResourceError):
    """Raised when no session is free; a later attempt may succeed."""


class ShuttingDownError(PlayloomError):
    """Raised when the scheduler is closed, or closes before a step is done."""


_NO_STORAGE = "the server cannot write to its disk; ask its operator, whose log says why"
log = logging.getLogger("playloom.server")


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: str
    """One sentence: the value received, the value expected, the remedy."""


class ApiError(Exception):
    """Raised to answer a request with an error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def response(self) -> Response:
        """Build the response; its JSON is ASCII."""
        body = json.dumps({"error": self.message}).encode("ascii")
        return Response(body, self.status, self.headers, "application/json")


def service_unavailable(message: str, seconds: int = 1) -> ApiError:
    """Build a 503 with `Retry-After` in seconds."""
    return ApiError(503, message, {"Retry-After": str(max(1, seconds))})


def to_api_error(error: Exception) -> ApiError:
    """Convert any exception to the error that a client sees."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (ResourceError, ShuttingDownError)):
        return service_unavailable(str(error), 2)
    if isinstance(error, StorageError):  # names a place on this machine, which is no business of a client's
        log.error("%s", error)
        return ApiError(HTTPStatus.INSUFFICIENT_STORAGE, _NO_STORAGE)
    if isinstance(error, PlayloomError):
        return ApiError(400, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed at this request; its log says why")


def validation_message(errors: list[Any]) -> str:
    """Format the first pydantic error with its field."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
    said = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {said[:1].lower()}{said[1:]}" if place else said


def install(app: FastAPI) -> None:
    """Register the exception handlers."""

    async def refused(request: Request, error: Exception) -> Response:
        return to_api_error(error).response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return ApiError(400, validation_message(list(error.errors()))).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return ApiError(error.status_code, _plain(request, error), error.headers).response()

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(PlayloomError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _plain(request: Request, error: HTTPException) -> str:
    path = request.url.path[:100]
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"there is no {path} here; GET /v1/openapi.json lists what there is"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{path} does not answer {request.method}; GET /v1/openapi.json says what it answers"
    return str(error.detail)

"""Error responses: a status and `{"error": message}`; no traceback reaches a client."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from playloom.errors import PlayloomError, ResourceError, StorageError

log = logging.getLogger("playloom.server")
_T = TypeVar("_T")
_MAX_CONTAINERS = 4000  # a hundred context steps hold a fraction of it
_MAX_VALUES = 1_000_000


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
    if isinstance(error, RequestValidationError):
        return ApiError(400, validation_message(error.errors()))
    if isinstance(error, ResourceError):
        return service_unavailable(str(error), 2)
    if isinstance(error, StorageError):  # its message names a path of this machine
        log.error("%s", error)
        return ApiError(507, "the server cannot write to its disk; its log says why")
    if isinstance(error, PlayloomError):
        return ApiError(400, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed at this request; its log says why")


def validation_message(errors: Sequence[Any]) -> str:
    """Format the first pydantic error with its field."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']}"
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body")) or "the body"
    reason = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {reason[:1].lower()}{reason[1:]}"


def parse_json(text: str, validate_json: Callable[[bytes], _T]) -> _T:
    """Parse the JSON of a form field or a WebSocket message by a method of pydantic, or raise a 400 or 413."""
    data = text.encode("utf-8", "replace")
    check_complexity(data)
    try:
        return validate_json(data)
    except ValidationError as error:
        raise ApiError(400, validation_message(error.errors(include_url=False, include_input=False))) from None


def check_complexity(data: bytes | bytearray) -> None:
    """Reject JSON that would take many times its size in memory with a 413, by counting bytes."""
    containers, values = data.count(b"{") + data.count(b"["), data.count(b",")
    if containers > _MAX_CONTAINERS or values > _MAX_VALUES:
        raise ApiError(
            413,
            f"the body holds {containers:,} objects and lists and {values:,} values; send at most 100 context steps",
        )


async def error_response(request: Request, error: Exception) -> Response:
    """Answer a request with an exception; a handler for FastAPI."""
    if not isinstance(error, HTTPException):
        return to_api_error(error).response()
    path, message = request.url.path[:100], str(error.detail)
    if error.status_code == 404:
        message = f"there is no {path} here; GET /v1/openapi.json lists all routes"
    elif error.status_code == 405:
        message = f"{path} has no method {request.method}; GET /v1/openapi.json lists all routes"
    return ApiError(error.status_code, message, error.headers).response()

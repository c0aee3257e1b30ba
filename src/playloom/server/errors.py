"""Error responses: a status and `{"error": message}`; no traceback reaches a client."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.responses import Response

from playloom.errors import PlayloomError, ResourceError, StorageError

log = logging.getLogger("playloom.server")
_T = TypeVar("_T")
_MAX_CONTAINERS = 12_000  # a request may have 10,000 actions
_MAX_VALUES = 1_000_000
_ROUTER_ERRORS = ("Not Found", "Method Not Allowed")  # Starlette's own
_PARSE_ERROR = "There was an error parsing the body"  # FastAPI's own


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: str
    """One sentence: the value received, the value expected, the remedy."""


def service_unavailable(message: str, seconds: int = 1) -> HTTPException:
    """Build a 503 with `Retry-After` in seconds."""
    return HTTPException(503, message, {"Retry-After": str(max(1, seconds))})


def to_http_error(error: BaseException) -> AnyHTTPException:
    """Convert any exception to the error that a client sees."""
    if isinstance(error, AnyHTTPException):
        return error
    if isinstance(error, RequestValidationError):
        return HTTPException(400, validation_message(error.errors()))
    if isinstance(error, ResourceError):
        return service_unavailable(str(error), 2)
    if isinstance(error, StorageError):  # its message names a path of this machine
        log.error("%s", error)
        return HTTPException(507, "the server cannot write to its disk; its log says why")
    if isinstance(error, PlayloomError):
        return HTTPException(400, str(error))
    log.error("a request failed", exc_info=error)
    return HTTPException(500, "the server failed at this request; its log says why")


def error_response(error: Exception) -> Response:
    """Build the response to an exception; its JSON is ASCII, because messages may quote half a surrogate pair."""
    found = to_http_error(error)
    body = json.dumps({"error": found.detail}).encode("ascii")
    return Response(body, found.status_code, found.headers, "application/json")


async def handle_error(request: Request, error: Exception) -> Response:
    """Answer a request with an exception; a handler for FastAPI."""
    if isinstance(error, AnyHTTPException) and error.detail in _ROUTER_ERRORS:
        path, routes = request.url.path[:100], "GET /v1/openapi.json lists all routes"
        missing = f"there is no {path} here" if error.status_code == 404 else f"{path} has no method {request.method}"
        error = HTTPException(error.status_code, f"{missing}; {routes}", error.headers)
    elif isinstance(error, AnyHTTPException) and error.detail == _PARSE_ERROR:
        error = HTTPException(400, "the body is not JSON that can be read: too deeply nested, or a number is too long")
    return error_response(error)


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
        raise HTTPException(400, validation_message(error.errors(include_url=False, include_input=False))) from None


def check_complexity(data: bytes | bytearray) -> None:
    """Reject JSON that would take many times its size in memory with a 413, by counting bytes."""
    containers, values = data.count(b"{") + data.count(b"["), data.count(b",")
    if containers > _MAX_CONTAINERS or values > _MAX_VALUES:
        raise HTTPException(
            413, f"the body holds {containers:,} objects and lists and {values:,} values; send fewer at once"
        )

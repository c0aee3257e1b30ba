"""Every error a client sees: a status, and {"error": one sentence}. Owns that no traceback leaves the process.

What is raised for want of room, or at the end. Apart from the broker, so that who refuses need not load a model.
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


class BusyError(ResourceError):
    """Raised when there is no room for another session now; trying again later may help."""


class StoppedError(PlayloomError):
    """Raised when the broker takes no more work, or ended before some was done."""


_NO_STORAGE = "the server cannot write to its disk; its log says why: ask whoever runs it, then try again"
log = logging.getLogger("playloom.server")


class Problem(BaseModel):
    """What every refused request gets."""

    error: str
    """One sentence: what came, what was expected, what to do."""


class Refusal(Exception):
    """Raised to answer a request with an error."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})

    def response(self) -> Response:
        """As an answer; JSON in ASCII, so that nothing a client sent can break it."""
        body = json.dumps({"error": self.sentence}).encode("ascii")
        return Response(body, self.status, self.headers, "application/json")


def busy(sentence: str, seconds: int = 1) -> Refusal:
    """503, to be tried again after so many seconds."""
    return Refusal(503, sentence, {"Retry-After": str(max(1, seconds))})


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error that came up from below."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, (ResourceError, StoppedError)):
        return busy(str(error), 2)
    if isinstance(error, StorageError):  # names a place on this machine, which is no business of a client's
        log.error("%s", error)
        return Refusal(HTTPStatus.INSUFFICIENT_STORAGE, _NO_STORAGE)
    if isinstance(error, PlayloomError):
        return Refusal(400, str(error))
    log.error("a request failed", exc_info=error)
    return Refusal(500, "the server failed at this request; its log says why")


def sentence_of(errors: list[Any]) -> str:
    """The first of pydantic's errors, as a sentence that says where."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
    said = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {said[:1].lower()}{said[1:]}" if place else said


def install(app: FastAPI) -> None:
    """Let the application answer every error this way."""

    async def refused(request: Request, error: Exception) -> Response:
        return refusal_of(error).response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return Refusal(400, sentence_of(list(error.errors()))).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Refusal(error.status_code, _plain(request, error), error.headers).response()

    app.add_exception_handler(Refusal, refused)
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

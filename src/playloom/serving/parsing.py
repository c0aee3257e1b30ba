"""JSON bodies to typed values: weighed before they are parsed, and every fault said in one sentence."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from playloom.serving.refusals import Refusal, sentence_of

_T = TypeVar("_T", bound=BaseModel)
MOST_OPENED = 4000
"""Objects and lists in one body: a hundred steps of context with all their lists are a fraction of it."""
MOST_VALUES = 1_000_000
"""Values in one body."""


async def body_of(request: Request, kind: type[_T]) -> _T:
    """A request's JSON body, parsed beside the event loop.

    Raises:
        Refusal: 400 for what is no JSON or does not fit, 413 for what holds too many values.
    """
    return await run_in_threadpool(parse, await request.body(), kind)


def parse(data: bytes, kind: type[_T]) -> _T:
    """JSON to a value of that type; see `body_of` for the errors."""
    weigh(data)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise refused(error) from None


def parse_any(data: bytes, adapter: TypeAdapter[Any]) -> Any:
    """The same for a type that is no model."""
    weigh(data)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise refused(error) from None


def weigh(data: bytes) -> None:
    """Refuse what would become far more objects than any true request, by counting bytes.

    Raises:
        Refusal: 413.
    """
    opened, values = data.count(b"{") + data.count(b"["), data.count(b",")
    if opened > MOST_OPENED or values > MOST_VALUES:
        raise Refusal(
            413, f"the body holds {opened:,} objects and lists and {values:,} values; send at most 100 steps of context"
        )


def refused(error: ValidationError) -> Refusal:
    """400 with the first fault."""
    return Refusal(400, sentence_of(list(error.errors(include_url=False, include_input=False))))


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """What a route that calls `body_of` says of itself in the OpenAPI document."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

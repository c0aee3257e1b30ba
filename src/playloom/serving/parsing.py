"""JSON bodies to typed values: weighed before they are parsed, and every fault said in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from fastapi import Request
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from playloom.errors import nearest
from playloom.serving.refusals import Refusal, sentence_of

_T = TypeVar("_T", bound=BaseModel)
MOST_OPENED = 4000
"""Objects and lists in one body: a hundred steps of context with all their lists are a fraction of it."""
MOST_VALUES = 1_000_000
"""Values in one body."""
MOST_FIELDS = 10_000
"""Named fields in one body: for each that is unknown a fault is kept."""


class RequestModel(BaseModel):
    """A request of our own API: a field that it does not know is refused, so that a typo is noticed."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


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
        raise refused(error, [kind]) from None


def parse_any(data: bytes, adapter: TypeAdapter[Any], kinds: Sequence[type[BaseModel]]) -> Any:
    """The same for one of several types that their field `type` tells apart."""
    weigh(data)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise refused(error, kinds) from None


def weigh(data: bytes) -> None:
    """Refuse what would become far more objects than any true request, by counting bytes.

    Raises:
        Refusal: 413.
    """
    opened, values, fields = data.count(b"{") + data.count(b"["), data.count(b","), data.count(b":")
    if opened > MOST_OPENED or values > MOST_VALUES or fields > MOST_FIELDS:
        raise Refusal(
            413,
            f"the body holds {opened:,} objects and lists, {fields:,} fields and {values:,} values; send at most 100 "
            "steps of context",
        )


def refused(error: ValidationError, kinds: Sequence[type[BaseModel]]) -> Refusal:
    """400 with the first fault; an unknown field comes first, and the nearest one that there is beside it."""
    faults = list(error.errors(include_url=False, include_input=False))
    unknown = next((fault["loc"] for fault in faults if fault["type"] == "extra_forbidden"), None)
    if unknown is None:
        return Refusal(400, sentence_of(faults))
    name = str(unknown[-1])[:60]
    tagged = [
        kind for kind in kinds if len(unknown) == 1 or unknown[0] in get_args(kind.model_fields["type"].annotation)
    ]
    known = [field.alias or key for kind in tagged for key, field in kind.model_fields.items()]
    return Refusal(400, f"there is no field {name!r} here; {nearest(name, known)}")


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """What a route that calls `body_of` says of itself in the OpenAPI document."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

"""Walks through a JSON value in the order of its text, however deep it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any


def walk(value: Any, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Every (name, value) inside, the whole one first; what lies in a list has the list's name.

    Numbers, booleans and nulls inside lists are left to whoever looks at the list.

    Args:
        value: what `json.loads` gave.
        leave_out: names whose values are not walked into and not given.
    """
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        name, inner = waiting.pop()
        yield name, inner
        if isinstance(inner, dict):
            waiting += [(key, part) for key, part in reversed(inner.items()) if key not in leave_out]
        elif isinstance(inner, list):
            waiting += [(name, part) for part in reversed(inner) if isinstance(part, dict | list | str)]

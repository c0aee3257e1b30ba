"""Changes of a story as lines of JSON, and back. Owns the words that stand on disk.

>>> to_line(Removed(nodes=(3, 4), branches=()))
'{"removed": {"nodes": [3, 4], "branches": []}}'
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, get_args

from playloom.actions import REST_VALUES
from playloom.errors import RecordingError
from playloom.stories.tree import Branch, Change, Header, Node, Origin, Presser, Removed, State

_Check = Callable[[Any], bool]


def to_line(change: Change) -> str:
    """One line, without its end."""
    return json.dumps({_NAMES[type(change)]: asdict(change)})


def from_line(line: bytes) -> Change:
    """The change a line says.

    Raises:
        RecordingError: when it says none.
    """
    try:
        ((name, said),) = json.loads(line).items()
        kind, checks = _KINDS[name]
        if set(said) != set(checks):
            raise ValueError(f"{name} with {', '.join(said)}")
        for field, check in checks.items():
            if not check(said[field]):
                raise ValueError(f"{field} is {str(said[field])[:40]!r}")
        change: Change = kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordingError(f"a line of its log cannot be read ({error})") from None
    return change


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wholes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value))


def _pair(value: Any) -> bool:
    return _wholes(value) and len(value) == 2


def _action(value: Any) -> bool:
    return _wholes(value) and len(value) == len(REST_VALUES) and max(value) <= 255


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _one_of(words: Any) -> _Check:
    return lambda value: value in get_args(words)


_KINDS: Mapping[str, tuple[type[Any], Mapping[str, _Check]]] = {
    "story": (
        Header,
        {
            "name": _text,
            "created": _text,
            "size": _pair,
            "revision": _whole,
            "next_node": _whole,
            "next_branch": _whole,
        },
    ),
    "node": (
        Node,
        {
            "id": _whole,
            "parent": _or_none(_whole),
            "origin": _one_of(Origin),
            "action": _or_none(_action),
            "pressed": _or_none(_one_of(Presser)),
            "branch": _or_none(_whole),
            "starred": _flag,
            "note": _text,
            "edit_of": _or_none(_whole),
        },
    ),
    "branch": (
        Branch,
        {
            "id": _whole,
            "start": _whole,
            "frames": _whole,
            "state": _one_of(State),
            "problem": _or_none(_text),
            "seed": _whole,
            "temperature": _number,
            "top_k": _or_none(_whole),
            "top_p": _or_none(_number),
            "context": _whole,
            "presses": _one_of(Presser),
        },
    ),
    "removed": (Removed, {"nodes": _wholes, "branches": _wholes}),
}
_NAMES = {kind: name for name, (kind, _) in _KINDS.items()}

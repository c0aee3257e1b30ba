"""JSON files, and dataclasses from JSON values."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from playloom.atomic_io import atomic_write
from playloom.errors import ConfigError, PlayloomError, did_you_mean

Config = TypeVar("Config")


def read_json(path: Path, error: type[PlayloomError], advice: str) -> dict[str, Any]:
    """Read a JSON object; when it is missing or damaged, raise `error` with a sentence that ends with `advice`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror}); {advice}") from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} is damaged ({cause}); {advice}") from cause
    if not isinstance(content, dict):
        raise error(f"{path} is damaged (got {type(content).__name__}, expected an object); {advice}")
    return content


def write_json(path: Path, value: object, *, indent: int | None = 1, sort_keys: bool = False) -> None:
    """Write strict JSON atomically; see `plain`. StorageError when the place cannot be written to."""
    with atomic_write(path) as temporary:
        text = json.dumps(plain(value), indent=indent, sort_keys=sort_keys, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return JSON values: arrays and tuples become lists, keys become text, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_mapping(config: type[Config], values: Mapping[str, Any], name: str = "config") -> Config:
    """Build a dataclass, nested ones included, from JSON values; `name` is its name in errors."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} has the wrong type: got {values!r:.60}, expected an object")
    fields = {field.name: field for field in dataclasses.fields(config) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(config)
    for key in values:
        if key not in fields:
            raise ConfigError(f"{name} has an unknown key {key!r}; {did_you_mean(str(key), fields)}")
    for key, field in fields.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name} has no {key!r}; expected the keys {', '.join(fields)}")
    return config(**{key: _convert(key, value, hints[key]) for key, value in values.items()})


def _convert(key: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for choice in choices:
        origin, inner = get_origin(choice), get_args(choice)
        if type(value) is choice or (origin is Literal and value in inner):
            return value
        if choice is float and type(value) is int:
            with suppress(OverflowError):
                return float(value)
        if origin is tuple and isinstance(value, list | tuple):
            hints = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
            converted = tuple(_convert(key, v, h) for v, h in zip(value, hints, strict=False))
            if len(hints) == len(value):
                return converted
        elif isinstance(value, Mapping) and origin not in (None, Literal, tuple):  # a mapping of anything
            return value
        elif isinstance(value, Mapping) and isinstance(choice, type) and dataclasses.is_dataclass(choice):
            return from_mapping(choice, value, key)
    words = [*dict.fromkeys(word for choice in choices for word in _words(choice))]
    raise ConfigError(f"{key} has the wrong type: got {value!r:.60}, expected {' or '.join(words)}")


def _words(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    if get_origin(hint) is tuple:
        return ["a list"]
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return [known.get(hint, "an object")]

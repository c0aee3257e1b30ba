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
        fits, converted = _fit(key, value, choice)
        if fits:
            return converted
    words = [*dict.fromkeys(word for choice in choices for word in _words(choice))]
    raise ConfigError(f"{key} has the wrong type: got {value!r:.60}, expected {' or '.join(words)}")


def _words(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    if get_origin(hint) is tuple:
        return ["a list"]
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return [known.get(hint, "an object")]


def _fit(key: str, value: Any, hint: Any) -> tuple[bool, Any]:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return isinstance(value, Mapping), from_mapping(hint, value, key) if isinstance(value, Mapping) else value
    if origin is Literal:
        return value in get_args(hint), value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False, value
        inner = get_args(hint)
        hints = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        return len(hints) == len(value), tuple(_convert(key, v, h) for v, h in zip(value, hints, strict=False))
    if origin is not None:  # a mapping of anything
        return isinstance(value, Mapping), value
    if hint is float and type(value) is int:
        with suppress(OverflowError):
            return True, float(value)
    return type(value) is hint, value

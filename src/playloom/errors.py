"""Exceptions for everything that a user can mend.

The command line prints the message of a `PlayloomError` as one sentence and exits with 2. Errors of programmers are
plain exceptions with a traceback.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class PlayloomError(ValueError):
    """Raised when the user can mend the cause; base of all errors below."""


class BadInputError(PlayloomError):
    """Raised when a value, file or argument is wrong."""


class ActionError(BadInputError):
    """Raised when a controller value, a wire schema or an action script is wrong."""


class PictureError(BadInputError):
    """Raised when a picture is damaged or of a size or kind that cannot be used."""


class RecordingError(BadInputError):
    """Raised when a recording or dataset is missing, too short or damaged."""


class StorageError(BadInputError):
    """Raised when a place on the disk cannot be written to: full, forbidden, or used by another process."""


class ConfigError(PlayloomError):
    """Raised when a preset or key is unknown, or when values do not fit together."""


class CheckpointError(PlayloomError):
    """Raised when weights are truncated, damaged or belong to another config."""


class MissingExtraError(PlayloomError):
    """Raised when an optional package is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """Return the error for a package of an extra."""
        return cls(f"{package} is not installed; get it with: pip install 'playloom[{extra}]'")


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an optional package; MissingExtraError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError.of(module.partition(".")[0], extra) from error


class ResourceError(PlayloomError):
    """Raised when a machine has too little memory."""


class GameError(PlayloomError):
    """Raised when the game's process fails to start, ends or answers incorrectly."""


class EndpointError(PlayloomError):
    """Raised when a remote endpoint rejects a request, fails or answers incorrectly."""


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise a ConfigError unless a value is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} is wrong: got {value!r:.60}, expected a whole number from {least} to {most:,}")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: the closest choice, else all of them."""
    known = list(choices)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"choose one of: {', '.join(known)}"

"""The exception tree: every error a user can cause, by what they can do about it.

    PlayloomError
    ├── BadInputError        a value, file or argument the user gave is wrong
    │   ├── ActionError      a controller value, schema or action script is wrong
    │   ├── PictureError     a picture cannot be used as it is
    │   ├── RecordingError   a recording or data set is missing, too short or damaged
    │   └── StorageError     a place cannot be written to: full, forbidden, or another process has it
    ├── ConfigError          an unknown preset or key, or values that do not fit together
    ├── CheckpointError      weights that are truncated, damaged or of another config
    ├── MissingExtraError    an optional package is not installed
    ├── ResourceError        the machine has not the memory that was asked for
    ├── GameError            the game's process failed
    └── EndpointError        a remote endpoint refused, failed or answered nonsense

The command line prints the message of a `PlayloomError` as one sentence and exits with 2. A message says what
came, what was expected, and what to do. Our own mistakes stay plain exceptions, with their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlayloomError(ValueError):
    """Raised when the user can mend the cause; the base of all errors below."""


class BadInputError(PlayloomError):
    """Raised when a value, file or argument is wrong."""


class ActionError(BadInputError):
    """Raised when a controller value, a wire schema or an action script is wrong."""


class PictureError(BadInputError):
    """Raised when a picture is damaged or of a size or kind that cannot be used."""


class RecordingError(BadInputError):
    """Raised when a recording or data set is missing, too short or damaged."""


class StorageError(BadInputError):
    """Raised when a place on the disk cannot be written to; its message names the place."""


class ConfigError(PlayloomError):
    """Raised when a preset or key is unknown, or when values do not fit together."""


class CheckpointError(PlayloomError):
    """Raised when weights are truncated, damaged or belong to another config."""


class MissingExtraError(PlayloomError):
    """Raised when an optional package is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The one sentence for a missing package: which, and how to get it."""
        return cls(f"{package} is not installed; get it with: pip install 'playloom[{extra}]'")


class ResourceError(PlayloomError):
    """Raised when a machine has less memory than is needed."""


class GameError(PlayloomError):
    """Raised when the game's process fails to start, dies or answers nonsense."""


class EndpointError(PlayloomError):
    """Raised when a remote endpoint refuses, fails or answers something that cannot be used."""


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Refuse a size that is no whole number from `least` to `most`; `name` says whose size.

    Raises:
        ConfigError: names the size, what came and what was expected.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} is wrong: got {value!r:.60}, expected a whole number from {least} to {most:,}")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence end for an unknown name: the closest choice, else all of them.

    >>> nearest("tniy", ["tiny", "small"])
    'did you mean tiny?'
    """
    known = list(choices)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"choose one of: {', '.join(known)}"

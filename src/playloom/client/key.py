"""The key of an endpoint: where it is found, how it is sent, and that it is never shown.

Owns the key's text, which leaves this file in two ways only: in the header of a request, and as something to be
hidden in other texts. Knows nothing of connections.

    >>> key = Key("abc123"); key, key.hide("no access for abc123")
    (Key(hidden), 'no access for ***')
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Mapping

from playloom.errors import BadInputError

KEY_VARIABLES = ("MUSE_API_KEY", "PLAYLOOM_API_KEY")
"""Environment variables that may hold the key, the first one first."""
_HIDDEN = "***"


class Key:
    """A secret that shows itself nowhere: not in `repr`, not in errors, not in `vars()`."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        """Take the key as people paste it: blanks around it and a leading `Bearer` are dropped.

        Raises:
            BadInputError: when nothing is left, or no header can carry it. The message does not show it.
        """
        first, _, rest = text.strip().partition(" ")
        bare = rest.strip() if first.lower() == "bearer" else text.strip()
        if not bare:
            raise BadInputError("the key is empty; leave --key out, or give the endpoint's key")
        if not (bare.isascii() and bare.isprintable() and " " not in bare):
            raise BadInputError("the key has characters that no header carries; expected plain letters, digits, signs")
        self.__text = bare

    def header(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self.__text}"}

    def hide(self, text: str) -> str:
        """The text with every occurrence of the key replaced, also as JSON and URLs would write it."""
        forms = {self.__text, json.dumps(self.__text)[1:-1], urllib.parse.quote(self.__text, safe="")}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, _HIDDEN)
        return text

    def is_in(self, text: str) -> bool:
        """Whether the text holds the key."""
        return self.hide(text) != text

    def __repr__(self) -> str:
        return "Key(hidden)"


def find_key(given: str | None, environment: Mapping[str, str], ask: Callable[[], str] | None = None) -> Key | None:
    """The key: the given one, else the first of `KEY_VARIABLES` that is set, else what `ask` returns.

    Args:
        given: from the command line.
        environment: `os.environ`.
        ask: a prompt with hidden input, or None where nobody can answer. An empty answer means no key.

    Raises:
        BadInputError: when a key is given that cannot be one.
    """
    if given is not None:
        return Key(given)
    for name in KEY_VARIABLES:
        if environment.get(name, "").strip():
            return Key(environment[name])
    answer = ask() if ask is not None else ""
    return Key(answer) if answer.strip() else None

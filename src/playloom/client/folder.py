"""A call's folder: what was received, step by step, so that it can be gone on from after anything.

Owns which files a step leaves and when a step counts as done. Knows nothing of connections or of enlarging.

==================  =======================================================================================
`start.json`        the first request (never the key)
`raw/01.png` …      the pictures as the endpoint sent them, byte for byte
`steps/01.json` …   the action that goes with each, where it comes from, and the picture's tokens
`actions.csv`       the actions, one row a step
==================  =======================================================================================

A step's file under `steps` is written last: where it is, the step is complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions import Schema
from playloom.actions.codec import check_values
from playloom.client.reply import ENDINGS
from playloom.client.start import Request, context_entry, context_limit, next_request
from playloom.errors import BadInputError, PlayloomError
from playloom.files import atomic_write, free_folder
from playloom.media.tables import write_actions

START_FILE, ACTIONS_FILE = "start.json", "actions.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class DoneStep:
    """One step that was received."""

    number: int
    """From 1."""
    ending: str
    """Of the picture's file."""
    values_A: NDArray[np.uint8]
    """Action values [16] in slot order."""
    schema: Schema | None
    """The schema the reply's action came in; None when it had none and a random one was taken."""
    tokens: tuple[int, ...]
    """The picture's tokens, where the endpoint sent them."""

    def to_json(self) -> str:
        """One object: the numbers are in slot order, whatever they came in."""
        known = {
            "ending": self.ending,
            "action": [int(value) for value in self.values_A],
            "source": "random" if self.schema is None else "reply",
            "schema": self.schema,
            "tokens": list(self.tokens),
        }
        return json.dumps(known) + "\n"

    @classmethod
    def from_json(cls, number: int, text: str) -> DoneStep:
        """The inverse; ValueError, KeyError or TypeError when the text is damaged."""
        known = json.loads(text)
        if known["ending"] not in ENDINGS or known["schema"] not in (None, "named", "binned"):
            raise ValueError(f"not a step: {text[:40]}")
        return cls(
            number=number,
            ending=known["ending"],
            values_A=check_values(known["action"]),
            schema=known["schema"],
            tokens=tuple(int(token) for token in known["tokens"]),
        )


class CallFolder:
    """The steps so far, in memory and on disk; nothing is written before the first one is there."""

    def __init__(self, place: Path, start: Request, steps: list[DoneStep]) -> None:
        self.place = place
        """The folder."""
        self.start = start
        """The first request."""
        self.steps = steps
        """What was received, in order."""

    @classmethod
    def begin(cls, out: Path | str, start: Request) -> CallFolder:
        """A new call, in the first free of `out`, `out-2`, …"""
        return cls(free_folder(out, numbered=True), start, [])

    @classmethod
    def go_on(cls, out: Path | str, start: Request | None) -> CallFolder:
        """The call that lies in `out`; a new one when nothing does.

        Args:
            out: the folder.
            start: what the user says it began with; None to believe the folder.

        Raises:
            BadInputError: when it began with something else, or nothing is there and no start is given.
        """
        place = Path(out).absolute()
        known = _read_start(place / START_FILE)
        if known is None:
            if start is None:
                raise BadInputError(f"{out} holds no call to resume; begin one with --payload or --image")
            return cls(free_folder(out), start, [])
        if start is not None and start != known:
            raise BadInputError(
                f"the call in {out} began with another request; leave out what it began with, or --resume"
            )
        return cls(place, known, list(_read_steps(place)))

    def next_request(self, *, with_tokens: bool = True) -> Request:
        """What to ask for next: the context moved on by the steps that are done.

        Args:
            with_tokens: send the endpoint's own tokens back with its pictures; else it encodes them again.
        """
        entries = [self._entry(step, with_tokens) for step in self.steps[-context_limit(self.start) :]]
        return next_request(self.start, entries)

    def add(self, step: DoneStep, data: bytes) -> None:
        """Keep the next step and its picture's file.

        Raises:
            PlayloomError: when the place cannot be written to or the disk is full.
        """
        if not self.steps:
            self._write(START_FILE, json.dumps(self.start).encode())
        self._write(self.raw_name(step), data)
        self._write(f"steps/{step.number:02}.json", step.to_json().encode())
        self.steps.append(step)
        self.write_actions()

    def write_actions(self) -> None:
        """Write the table of actions anew."""
        write_actions(self.place / ACTIONS_FILE, np.stack([step.values_A for step in self.steps]))

    def raw_name(self, step: DoneStep) -> str:
        """A received picture's name inside the folder."""
        return f"raw/{step.number:02}{step.ending}"

    def _entry(self, step: DoneStep, with_tokens: bool) -> dict[str, Any]:
        name = self.raw_name(step)
        try:
            data = (self.place / name).read_bytes()
        except OSError as error:
            raise BadInputError(f"{self.place / name} is gone ({error.strerror}); begin a new call") from error
        return context_entry(data, step.values_A, step.tokens if with_tokens else ())

    def _write(self, name: str, data: bytes) -> None:
        with atomic_write(self.place / name) as temporary:
            temporary.write_bytes(data)


def _read_start(path: Path) -> Request | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        _ = known["input_data"]["context"][0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInputError(f"{path} is damaged ({error}); begin a new call") from error
    return dict(known)


def _read_steps(place: Path) -> list[DoneStep]:
    """The complete steps from the first on; what lies behind a gap is taken again."""
    steps: list[DoneStep] = []
    while True:
        number = len(steps) + 1
        try:
            step = DoneStep.from_json(number, (place / f"steps/{number:02}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, PlayloomError):
            return steps
        if not (place / f"raw/{number:02}{step.ending}").is_file():
            return steps
        steps.append(step)

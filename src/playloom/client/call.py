"""The iterating client: ask for one step, append it to the context, ask again.

Owns the loop, and that whatever happens in it leaves complete files of every step received. Reports by callbacks.

    >>> job = CallJob(start=start_from_picture("me.png")[0], steps=5)  # doctest: +SKIP
    >>> run_call(job).folder  # doctest: +SKIP
    PosixPath('out/call')
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from playloom.actions import Schema
from playloom.actions.script import describe
from playloom.client.endpoint import DEFAULT_ENDPOINT, Endpoint, printable
from playloom.client.fallback import random_action
from playloom.client.film import Film, Upscale
from playloom.client.folder import ACTIONS_FILE, CallFolder, DoneStep
from playloom.client.key import Key
from playloom.client.reply import Reply, choose_action, read_reply
from playloom.client.retry import Retries
from playloom.client.start import Request
from playloom.client.walk import walk
from playloom.errors import BadInputError, EndpointError, nearest

MAX_STEPS = 10_000
"""The longest call: a quarter of an hour of play."""
SHOWN = 2048
"""Characters of a reply that are shown on request."""


@dataclass(frozen=True, kw_only=True)
class CallJob:
    """What to ask for."""

    start: Request | None = None
    """The first request (`start_from_file`, `start_from_picture`); None to resume with what the folder has."""
    steps: int = 10
    """Steps in all, those received earlier included."""
    endpoint: str = DEFAULT_ENDPOINT
    """Its address."""
    key: Key | None = field(default=None, repr=False)
    """Its key, where it wants one."""
    out: Path | str = Path("out/call")
    """The folder; numbered if it is taken and `resume` is off."""
    resume: bool = False
    """Go on in `out` where an earlier call stopped."""
    upscale: Upscale = "lanczos"
    """How pictures are enlarged."""
    schema: Schema | Literal["auto"] = "auto"
    """How a reply's sixteen numbers are read."""
    with_tokens: bool = True
    """Send the endpoint's tokens back with its pictures, so that it need not encode them again."""
    seed: int = 0
    """Of the random actions."""
    delay: float = 0.0
    """Seconds between a reply and the next request."""
    timeout: float = 60.0
    """Seconds for one attempt."""
    retries: Retries = field(default_factory=Retries)
    """How often a request is repeated."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise BadInputError(f"steps is {self.steps}; expected 1 to {MAX_STEPS}")
        if not (self.delay >= 0 and math.isfinite(self.delay)):
            raise BadInputError(f"the delay is {self.delay:g} s; expected 0 or more")
        if self.seed < 0:
            raise BadInputError(f"seed is {self.seed}; expected 0 or more")
        if self.schema not in (*get_args(Schema), "auto"):
            raise BadInputError(f"unknown schema {self.schema!r}; {nearest(self.schema, (*get_args(Schema), 'auto'))}")
        if self.start is None and not self.resume:
            raise BadInputError("a call needs something to begin with: give --payload or --image, or --resume")
        if self.key is not None and any(map(self.key.is_in, _texts(self.start))):
            raise BadInputError("the payload holds the key; take it out, so that it is not written to the disk")


def _texts(start: Request | None) -> Iterator[str]:
    """The texts of a request that are not pictures: in base64, any short key may turn up by chance."""
    return (value for name, value in walk(start, ("image",)) if isinstance(value, str))


@dataclass(frozen=True, kw_only=True)
class CallEvents:
    """Whom to tell what; everything told is free of the key and safe to print."""

    step: Callable[[int, int, str], None] = lambda number, of, words: None
    """After every step: its number, how many there will be, and what came."""
    note: Callable[[str], None] = lambda words: None
    """What was chosen, repeated or is worth knowing, as a sentence."""
    reply: Callable[[str], None] | None = None
    """The first 2 KB of every reply."""


@dataclass(frozen=True, kw_only=True)
class CallReport:
    """What came of it."""

    folder: Path
    """Where the files are."""
    files: tuple[str, ...]
    """The moving pictures and the table, as names inside the folder."""
    steps: int
    """Steps in the folder."""
    asked: int
    """Steps asked for this time; the others were there already."""
    random_steps: tuple[int, ...]
    """The steps whose replies held no action."""
    seconds: float
    """How long it took, waiting included."""


def run_call(
    job: CallJob, events: CallEvents | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> CallReport:
    """Ask for the steps one after another and write everything as it comes.

    Args:
        job: what to ask for.
        events: whom to tell.
        sleep: waits so many seconds.

    Raises:
        EndpointError: when a step could not be got; those before it are complete, with GIF, MP4 and table. The
            message says which step it was, why, and how to go on.
        PlayloomError: when the job cannot be done, or the disk is full.
    """
    events, begun = events or CallEvents(), time.monotonic()
    folder = CallFolder.go_on(job.out, job.start) if job.resume else CallFolder.begin(job.out, job.start or {})
    film = Film(folder, job.upscale, job.seed)
    before = len(folder.steps)
    endpoint = Endpoint(
        job.endpoint, job.key, timeout=job.timeout, retries=job.retries, on_retry=events.note, sleep=sleep
    )
    if endpoint.is_open_to_readers:
        events.note(f"the key travels unencrypted to {endpoint.shown}; use https where the endpoint has it")
    files: tuple[str, ...] = ()
    try:
        with endpoint:
            _ask_for_all(job, folder, film, endpoint, events, sleep)
    finally:  # also when interrupted
        files = film.finish()
    return CallReport(
        folder=folder.place,
        files=(*files, ACTIONS_FILE),
        steps=len(folder.steps),
        asked=len(folder.steps) - before,
        random_steps=tuple(step.number for step in folder.steps if step.schema is None),
        seconds=time.monotonic() - begun,
    )


def _ask_for_all(
    job: CallJob,
    folder: CallFolder,
    film: Film,
    endpoint: Endpoint,
    events: CallEvents,
    sleep: Callable[[float], None],
) -> None:
    for number in range(len(folder.steps) + 1, job.steps + 1):
        if folder.steps and job.delay:
            sleep(job.delay)
        begun = time.monotonic()
        try:
            body = endpoint.send(folder.next_request(with_tokens=job.with_tokens))
            if events.reply is not None:
                events.reply(printable(endpoint.hide(body.decode("utf-8", "replace")), SHOWN))
            reply = read_reply(body)
        except EndpointError as error:
            raise EndpointError(_stopped(number, job, folder, str(error))) from error
        step = _step(number, reply, job, folder, events)
        folder.add(step, reply.data)
        film.add(step, reply.picture)
        source = f"{step.schema}, from the reply" if step.schema else "random"
        took = f"{time.monotonic() - begun:.1f} s"
        events.step(number, job.steps, f"{folder.raw_name(step)}  {describe(step.values_A)} ({source})  {took}")


def _step(number: int, reply: Reply, job: CallJob, folder: CallFolder, events: CallEvents) -> DoneStep:
    last = next((step.schema for step in reversed(folder.steps) if step.schema is not None), None)
    found = choose_action(reply.rows, job.schema, last)
    if found is None:
        why = "no list of 16 numbers" if not reply.rows else f"no 16 numbers that are an action ({job.schema} schema)"
        events.note(f"step {number}: the reply holds {why}; a random action is taken (seed {job.seed})")
        values_A, schema = random_action(job.seed, number), None
    else:
        values_A, schema = found
        if job.schema == "auto" and schema != last:
            events.note(f"step {number}: the reply's actions are read in the {schema} schema, by their numbers")
    return DoneStep(number=number, ending=reply.ending, values_A=values_A, schema=schema, tokens=reply.tokens)


def _stopped(number: int, job: CallJob, folder: CallFolder, reason: str) -> str:
    done = len(folder.steps)
    if not done:
        return f"step {number} of {job.steps} failed: {reason}"
    kept = "1 step is" if done == 1 else f"{done} steps are"
    go_on = f"go on with --resume --out {folder.place}"
    return f"step {number} of {job.steps} failed: {reason}. {kept} complete in {folder.place}; {go_on}"

"""Iterating client: request one step, append it to the context, request the next.

The files of every received step are complete, also after an error or an interruption.

    >>> job = CallJob(start=start_from_picture("me.png")[0], steps=5)  # doctest: +SKIP
    >>> run_call(job).folder  # doctest: +SKIP
    PosixPath('out/call')
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playloom.actions.codec import Schema, check_schema
from playloom.actions.script import describe
from playloom.client.endpoint import DEFAULT_ENDPOINT, Endpoint, Key, Retries, printable
from playloom.client.output import ACTIONS_FILE, CallFolder, CallStep, Upscale
from playloom.client.payload import Request
from playloom.client.response import ENDINGS, choose_action, iter_json, random_action, read_response
from playloom.errors import BadInputError, EndpointError

MAX_STEPS = 10_000
"""Longest call: a quarter of an hour of play."""
_SHOWN_CHARACTERS = 2048


@dataclass(frozen=True, kw_only=True)
class CallJob:
    """One call: its start, its endpoint and its folder."""

    start: Request | None = None
    """First request (`start_from_file`, `start_from_picture`); None: the one in the folder, with `resume`."""
    steps: int = 10
    """Number of steps, with those received earlier."""
    endpoint: str = DEFAULT_ENDPOINT
    """Address."""
    key: Key | None = field(default=None, repr=False)
    """API key; None: none is sent."""
    out: Path | str = Path("out/call")
    """Output folder; numbered when it is taken and `resume` is False."""
    resume: bool = False
    """Continue the call in `out`."""
    upscale: Upscale = "lanczos"
    """Method of enlarging the pictures."""
    schema: Schema | Literal["auto"] = "auto"
    """Encoding of the responses' actions."""
    with_tokens: bool = True
    """Send the endpoint's tokens back with its pictures, so that it does not encode them again."""
    seed: int = 0
    """Seed of the random actions."""
    delay: float = 0.0
    """Seconds between a response and the next request."""
    timeout: float = 60.0
    """Seconds for one attempt."""
    retries: Retries = field(default_factory=Retries)
    """Retries of one request."""

    def __post_init__(self) -> None:
        check_schema(self.schema)
        if not 1 <= self.steps <= MAX_STEPS:
            raise BadInputError(f"steps are out of range: got {self.steps}, expected 1 to {MAX_STEPS}")
        if not (self.delay >= 0 and math.isfinite(self.delay)):
            raise BadInputError(f"the delay is out of range: got {self.delay:g} s, expected 0 or more")
        if self.seed < 0:
            raise BadInputError(f"the seed is out of range: got {self.seed}, expected 0 or more")
        if self.start is None and not self.resume:
            raise BadInputError("a call has no start; give --payload or --image, or --resume")
        # Not the pictures: base64 may hold a short key by chance.
        texts = (value for _, value in iter_json(self.start, ("image",)) if isinstance(value, str))
        if self.key is not None and any(self.key.redact(text) != text for text in texts):
            raise BadInputError("the payload holds the key; remove it, so that it is not written to the disk")


@dataclass(frozen=True, kw_only=True)
class CallEvents:
    """Callbacks; their texts do not hold the key and are safe to print."""

    step: Callable[[int, int, str], None] = lambda number, of, words: None
    """After every step: its number, the number of steps, and a description."""
    note: Callable[[str], None] = lambda words: None
    """A sentence about a choice, a retry or a warning."""
    reply: Callable[[str], None] | None = None
    """First 2 KB of every response."""


@dataclass(frozen=True, kw_only=True)
class CallReport:
    """Result of a call."""

    folder: Path
    """Output folder."""
    files: tuple[str, ...]
    """Animations and table, as names inside the folder."""
    steps: int
    """Steps in the folder."""
    received: int
    """Steps received by this call; the others were there before."""
    random_steps: tuple[int, ...]
    """Steps without an action in the response."""
    seconds: float
    """Duration, with waits."""


def run_call(
    job: CallJob, events: CallEvents | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> CallReport:
    """Request the steps one after another and write each as it arrives.

    After an EndpointError earlier steps are complete, with GIF, MP4 and table; the message says how to continue.
    """
    events, begun = events or CallEvents(), time.monotonic()
    folder = CallFolder(job.out, job.start, resume=job.resume, upscale=job.upscale, seed=job.seed)
    before = len(folder.steps)
    endpoint = Endpoint(
        job.endpoint, job.key, timeout=job.timeout, retries=job.retries, on_retry=events.note, sleep=sleep
    )
    if endpoint.exposes_key:
        events.note(f"the key is sent unencrypted to {endpoint.shown}; use https where the endpoint has it")
    try:
        with endpoint:
            for number in range(before + 1, job.steps + 1):
                if number > 1 and job.delay:
                    sleep(job.delay)
                _request_step(number, job, folder, endpoint, events)
    finally:  # also when interrupted
        files = folder.finish()
    return CallReport(
        folder=folder.path,
        files=(*files, ACTIONS_FILE),
        steps=len(folder.steps),
        received=len(folder.steps) - before,
        random_steps=tuple(step.number for step in folder.steps if step.source == "random"),
        seconds=time.monotonic() - begun,
    )


def _request_step(number: int, job: CallJob, folder: CallFolder, endpoint: Endpoint, events: CallEvents) -> None:
    begun = time.monotonic()
    try:
        body = endpoint.send(folder.next_request(with_tokens=job.with_tokens))
        if events.reply is not None:
            events.reply(printable(endpoint.redact(body.decode("utf-8", "replace")), _SHOWN_CHARACTERS))
        response = read_response(body)
    except EndpointError as error:
        kept = f"; {number - 1} complete in {folder.path}: continue with --resume --out {folder.path}"
        raise EndpointError(f"step {number} of {job.steps} failed: {error}{kept if number > 1 else ''}") from error
    last = next((step.schema for step in reversed(folder.steps) if step.schema is not None), None)
    found = choose_action(response.rows, job.schema, last)
    if found is None:
        reason = f"no action in the {job.schema} schema" if response.rows else "no list of 16 numbers"
        events.note(f"step {number}: the response holds {reason}; a random action is used (seed {job.seed})")
    elif job.schema == "auto" and found[1] != last:
        events.note(f"step {number}: the response's actions are read in the {found[1]} schema, by their numbers")
    values_A, schema = found or (random_action(job.seed, number), None)
    step = CallStep(
        number=number,
        ending=ENDINGS[response.picture.format],
        action=tuple(values_A.tolist()),
        source="random" if schema is None else "reply",
        schema=schema,
        tokens=response.tokens,
    )
    folder.add(step, response.data, response.picture)
    source = f"{schema}, from the response" if schema else "random"
    seconds = time.monotonic() - begun
    events.step(number, job.steps, f"{step.file}  {describe(values_A)} ({source})  {seconds:.1f} s")

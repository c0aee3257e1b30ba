"""One endpoint: a request's body out, a reply's bytes in, whatever happens on the way between.

Owns the connection: address, key, time limit, size limit, repetitions. Knows nothing of what is asked and answered.
Redirections are not followed: the key goes where the user sent it and nowhere else.

    >>> with Endpoint("http://127.0.0.1:5000/score", Key("abc")) as endpoint:  # doctest: +SKIP
    ...     reply = endpoint.send({"input_data": {}})

The key of an endpoint: where it is found, how it is sent, and that it is never shown.

Owns the key's text, which leaves this file in two ways only: in the header of a request, and as something to be
hidden in other texts. Knows nothing of connections.

    >>> key = Key("abc123"); key, key.hide("no access for abc123")
    (Key(hidden), 'no access for ***')

When to ask again: which answers pass by themselves, and how long to wait for it.

Owns the waiting times. Knows nothing of connections; the one who sleeps is the caller.

The iterating client: ask for one step, append it to the context, ask again.

Owns the loop, and that whatever happens in it leaves complete files of every step received. Reports by callbacks.

    >>> job = CallJob(start=start_from_picture("me.png")[0], steps=5)  # doctest: +SKIP
    >>> run_call(job).folder  # doctest: +SKIP
    PosixPath('out/call')
"""

from __future__ import annotations

import ipaddress
import json
import math
import random
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import SplitResult, urlsplit

from playloom.actions.codec import Schema
from playloom.actions.script import describe
from playloom.client.output import ACTIONS_FILE, CallFolder, DoneStep, Film, Upscale
from playloom.client.payload import Request
from playloom.client.response import Reply, choose_action, random_action, read_reply, walk
from playloom.errors import BadInputError, EndpointError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    import httpx

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


PASSING = frozenset({408, 425, 429})
"""Refusals that pass by themselves; so do all from 500 on."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often and how patiently one request is sent again."""

    times: int = 4
    """How often again after the first time, 0 or more."""
    first_wait: float = 0.5
    """Seconds before the first repetition; doubled each time."""
    longest_wait: float = 30.0
    """Seconds beyond which the doubling stops."""
    longest_asked: float = 300.0
    """Seconds an endpoint may ask us to wait; one that asks for more is taken at its word, and given up."""

    def __post_init__(self) -> None:
        if self.times < 0:
            raise BadInputError(f"retries is {self.times}; expected 0 or more")

    def wait(self, failures: int, asked: float | None, source: random.Random) -> float:
        """Seconds to wait after so many failures (from 1).

        Half of the doubled time is drawn, so that clients that failed together do not come back together.
        What the endpoint asked for is never undercut.
        """
        doubled = min(self.longest_wait, self.first_wait * 2 ** min(failures - 1, 30))
        drawn = doubled * source.uniform(0.5, 1)
        return drawn if asked is None else max(asked + doubled * source.uniform(0, 0.1), drawn)


def passes(status: int) -> bool:
    """Whether a refusal with this status may pass by itself."""
    return status in PASSING or 500 <= status < 600


def asked_wait(header: str | None, now: datetime | None = None) -> float | None:
    """The seconds a `Retry-After` header asks for: a number, or a date from now; None when it says neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        seconds = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


DEFAULT_ENDPOINT = "http://127.0.0.1:5000/score"
"""Where `playloom serve` answers."""
ENDPOINT_VARIABLE = "MUSE_ENDPOINT_URL"
"""Environment variable that may hold another address."""
MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Replies beyond this are cut off; one step is far below a megabyte."""
_MAX_REFUSAL_BYTES = 64 * 1024
_EXCERPT = 200
_HINTS = {
    401: "; check the key (--key, or MUSE_API_KEY or PLAYLOOM_API_KEY in the environment)",
    403: "; check the key (--key, or MUSE_API_KEY or PLAYLOOM_API_KEY in the environment)",
    404: "; check the address: its path is /score on most endpoints",
    405: "; check the address: its path is /score on most endpoints",
    413: "; use smaller pictures or a shorter context",
}


class _PassingError(Exception):
    """Raised when a request failed in a way that may pass by itself."""

    def __init__(self, reason: str, asked: float | None = None) -> None:
        super().__init__(reason)
        self.asked = asked


class Endpoint:
    """A connection that is kept open between requests; close it, or use it as a context manager."""

    def __init__(
        self,
        address: str = DEFAULT_ENDPOINT,
        key: Key | None = None,
        *,
        timeout: float = 60.0,
        retries: Retries | None = None,
        on_retry: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Check the address; nothing is sent yet.

        Args:
            address: http or https; without a path, `/score` is meant.
            key: sent as `Authorization: Bearer`.
            timeout: seconds for one attempt.
            retries: how often an attempt is repeated.
            on_retry: told why and when it is tried again, as a sentence.
            sleep: waits so many seconds.

        Raises:
            BadInputError: when the address or the time limit cannot be used.
            MissingExtraError: when httpx is not installed.
        """
        if not (timeout > 0 and math.isfinite(timeout)):
            raise BadInputError(f"the timeout is {timeout:g} s; expected more than 0")
        parts = _split(address)
        self.is_local = _is_local(parts.hostname or "")
        self.is_open_to_readers = key is not None and parts.scheme == "http" and not self.is_local
        """Whether the key travels unencrypted over a network."""
        self._address, self._key, self._timeout = parts.geturl(), key, timeout
        self.shown = self.hide(f"{parts.scheme}://{parts.netloc}{parts.path}")
        """The address without its query, which may hold secrets."""
        self._retries = retries or Retries()
        self._on_retry, self._sleep = on_retry or (lambda words: None), sleep
        self._jitter = random.Random()
        self._httpx = _httpx()
        # A proxy from the environment is for the world outside, not for this machine.
        self._client = self._httpx.Client(timeout=timeout, trust_env=not self.is_local, follow_redirects=False)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def send(self, request: Mapping[str, Any]) -> bytes:
        """Send one request and return the reply's body.

        Raises:
            EndpointError: when the endpoint refuses it, or every attempt failed; the message never holds the key.
        """
        body = json.dumps(request).encode()
        for failures in range(1, self._retries.times + 2):
            try:
                return self._attempt(body)
            except _PassingError as error:
                self._wait_or_give_up(failures, error)
        raise AssertionError("unreachable: the last failure gives up")

    def hide(self, text: str) -> str:
        """The text without the key."""
        return self._key.hide(text) if self._key is not None else text

    def _wait_or_give_up(self, failures: int, error: _PassingError) -> None:
        again = self._retries.times - failures + 1
        asked = error.asked
        if asked is not None and asked > self._retries.longest_asked:
            raise EndpointError(f"{error}; it asks to be left alone for {asked:.0f} s, so try again later") from None
        if again < 1:
            tries = f" ({failures} attempts)" if failures > 1 else ""
            raise EndpointError(f"{error}{tries}") from None
        wait = self._retries.wait(failures, asked, self._jitter)
        self._on_retry(f"{error}; trying again in {wait:.1f} s ({again} left)")
        self._sleep(wait)

    def _attempt(self, body: bytes) -> bytes:
        # Nothing below is raised `from` httpx's error: that one holds the request, and the request the key.
        httpx = self._httpx
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= self._key.header() if self._key is not None else {}
        try:
            with self._client.stream("POST", self._address, content=body, headers=headers) as response:
                return self._judge(response)
        except httpx.TimeoutException:
            raise _PassingError(f"{self.shown} gave no answer within {self._timeout:g} s") from None
        except httpx.ConnectError as error:
            where = "; is `playloom serve` running?" if self.is_local else ""
            raise _PassingError(f"no connection to {self.shown} ({self._why(error)}){where}") from None
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
            raise _PassingError(f"the connection to {self.shown} broke ({self._why(error)})") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EndpointError(f"{self.shown} cannot be asked ({self._why(error)})") from None

    def _judge(self, response: httpx.Response) -> bytes:
        """The body of a good reply; for any other, the error that says what it was."""
        status = response.status_code
        if response.is_redirect:
            target = self.hide(response.headers.get("location", "nowhere").split("?")[0])
            raise EndpointError(
                f"{self.shown} sends us on to {printable(target)}, which is not followed; "
                "if you trust that address, give it as --endpoint"
            )
        if response.is_success:
            return self._read(response, MAX_REPLY_BYTES, strict=True)
        words = self.hide(_words(self._read(response, _MAX_REFUSAL_BYTES, strict=False)))
        said = f": {printable(words)}" if words.strip() else ""
        reason = f"{self.shown} answered {status} {printable(self.hide(response.reason_phrase))}".rstrip() + said
        if passes(status):
            raise _PassingError(reason, asked_wait(response.headers.get("retry-after")))
        raise EndpointError(reason + _HINTS.get(status, ""))

    def _read(self, response: httpx.Response, limit: int, *, strict: bool) -> bytes:
        data, until = bytearray(), time.monotonic() + self._timeout
        for part in response.iter_bytes():
            data += part
            if len(data) > limit:
                if strict:
                    raise EndpointError(f"the reply of {self.shown} is larger than {limit >> 20} MiB; it was cut off")
                break
            if time.monotonic() > until:  # httpx's own limit is for each piece, and a slow one sends many
                raise _PassingError(f"{self.shown} did not finish its answer within {self._timeout:g} s")
        return bytes(data)

    def _why(self, error: Exception) -> str:
        return printable(self.hide(str(error))) or type(error).__name__


def printable(text: str, count: int = _EXCERPT) -> str:
    """The first characters of a text as one line; nothing in it can steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * count]).split())[:count]


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address.strip())
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        example = f"expected an address such as {DEFAULT_ENDPOINT}"
        raise BadInputError(f"the endpoint is not an http or https address; {example}")
    if "@" in parts.netloc:
        raise BadInputError("the endpoint's address holds a name or password; leave it out and give the key as --key")
    return parts._replace(path="/score") if parts.path in ("", "/") else parts


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _words(data: bytes) -> str:
    """What a refusal says: the text under the usual names of a JSON object, else all of it."""
    text = data.decode("utf-8", "replace")
    try:
        known = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "message", "detail"):
        if isinstance(known, dict) and isinstance(known.get(name), str):
            return str(known[name])
    return text


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError.of("httpx", "call") from error
    return httpx


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
            raise BadInputError(
                f"unknown schema {self.schema!r}; {did_you_mean(self.schema, (*get_args(Schema), 'auto'))}"
            )
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

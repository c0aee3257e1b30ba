"""An endpoint: the connection with its key, retries and limits of time and size; requests, and what a response holds.

Redirects are not followed: the key is sent to the given address only. Endpoints of one schema differ in small ways
(other names, one more level), so actions are found by their form.

    >>> with Endpoint("http://127.0.0.1:5000/score", Key("abc")) as endpoint:  # doctest: +SKIP
    ...     body = endpoint.send({"input_data": {}})
"""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import re
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, REST_VALUES, Schema, detect_schema, encode_named, rows_to_values
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError, BadInputError, EndpointError, PictureError, import_extra
from playloom.json_io import read_json
from playloom.media.images import Picture, encode_png, fit_picture, from_base64, read_picture

if TYPE_CHECKING:
    import httpx

KEY_VARIABLES = ("MUSE_API_KEY", "PLAYLOOM_API_KEY")
"""Environment variables that may hold the key, the first one first."""
DEFAULT_ENDPOINT = "http://127.0.0.1:5000/score"
"""Address of `playloom serve`."""
ENDPOINT_VARIABLE = "MUSE_ENDPOINT_URL"
"""Environment variable that may hold another address."""
_FRAME_SIZE = (180, 300)  # (H, W) of the frames of endpoints of this schema; a picture is resized to it
Request = dict[str, Any]
"""A body in the endpoint's format: `{"input_data": {"num_steps_to_predict", "context": [...], ...}}`."""
_TRIGGER_PROBABILITY = 0.4  # of the right trigger in a random action
_MAX_PIXELS = 2_000_000  # enlarged four times, a larger picture would take a hundred megabytes and more
ENDINGS: dict[str, Literal[".png", ".jpg", ".webp"]] = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""File endings of received pictures by format."""
_ACTION_NAMES = ("actions", "actions_output")
_REQUEST_NAMES = ("context", "input_data")  # a request that is repeated in the response
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024  # one step is far below a megabyte
_MAX_ERROR_BYTES = 64 * 1024
MAX_SECONDS = 86_400  # of a timeout or a delay
_FIRST_WAIT, _LONGEST_WAIT, _MAX_RETRY_AFTER = 0.5, 30.0, 300.0  # seconds
_CHECK_KEY = "; check the key (--key, or MUSE_API_KEY or PLAYLOOM_API_KEY in the environment)"
_CHECK_ADDRESS = "; check the address: its path is /score on most endpoints"
_HINTS = {401: _CHECK_KEY, 403: _CHECK_KEY, 404: _CHECK_ADDRESS, 405: _CHECK_ADDRESS}


class Key:
    """API key that `repr`, `str` and `vars` do not show."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Strip blanks and a leading `Bearer`. No error holds the key."""
        bare = re.sub(r"(?i)^bearer(\s+|$)", "", text.strip())
        if not bare:
            raise BadInputError("the key is empty; leave --key out, or give the endpoint's key")
        if not (bare.isascii() and bare.isprintable() and " " not in bare):
            raise BadInputError("the key has characters that do not fit into a header; expected printable ASCII")
        self._text = bare

    def header(self) -> dict[str, str]:
        """Return the header of a request."""
        return {"Authorization": f"Bearer {self._text}"}

    def redact(self, text: str) -> str:
        """Replace the key in a text by `***`, also as JSON and URLs write it."""
        forms = {self._text, json.dumps(self._text)[1:-1], urllib.parse.quote(self._text, safe="")}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "***")
        return text

    def __repr__(self) -> str:
        return "Key(hidden)"


def find_key(given: str | None, environment: Mapping[str, str], ask: Callable[[], str] | None = None) -> Key | None:
    """Return the given key, else the first of `KEY_VARIABLES` that is set, else the answer of `ask`.

    An empty answer means no key.
    """
    if given is not None:
        return Key(given)
    for name in KEY_VARIABLES:
        if environment.get(name, "").strip():
            return Key(environment[name])
    answer = ask() if ask is not None else ""
    return Key(answer) if answer.strip() else None


def parse_retry_after(header: str) -> float:
    """Return the seconds of a `Retry-After` header; 0 when it is no number."""
    with suppress(ValueError):
        return max(0.0, seconds) if math.isfinite(seconds := float(header)) else 0.0
    return 0.0


class _TransientError(EndpointError):
    """Raised when a request failed and may succeed when it is repeated."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Endpoint:
    """A connection; the context manager closes it."""

    def __init__(
        self,
        address: str = DEFAULT_ENDPOINT,
        key: Key | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        on_retry: Callable[[str], None] = lambda note: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Check the address (without a path, `/score` is used); nothing is sent yet.

        `timeout` is in seconds for one attempt. So many `retries` follow the first one, after 0.5 s, doubled each time
        up to 30 s, with up to 1 s at random; `on_retry` receives a sentence before each. BadInputError for an address,
        a timeout or a number of retries that is not valid.
        """
        if not 0 < timeout <= MAX_SECONDS:
            raise BadInputError(f"the timeout is out of range: got {timeout:g} s, expected 0 to {MAX_SECONDS:,}, not 0")
        if retries < 0:
            raise BadInputError(f"retries are out of range: got {retries}, expected 0 or more")
        parts = _parse_address(address)
        self._is_local = is_loopback(parts.hostname or "")
        self.exposes_key = key is not None and parts.scheme == "http" and not self._is_local
        """True when the key is sent unencrypted over a network."""
        self._address, self._key, self._timeout = parts.geturl(), key, timeout
        self.shown = self.redact(f"{parts.scheme}://{parts.netloc}{parts.path}")
        """The address without its query, which may hold secrets."""
        self._attempts, self._on_retry, self._sleep = retries + 1, on_retry, sleep
        self._httpx, self._tenacity = import_extra("httpx", "call"), import_extra("tenacity", "call")
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= key.header() if key is not None else {}
        try:  # a proxy of the environment is for other machines only
            self._client = self._httpx.Client(headers=headers, timeout=timeout, trust_env=not self._is_local)
        except (ImportError, ValueError) as error:
            advice = "correct or unset HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
            raise BadInputError(f"the proxy in the environment cannot be used: {error}; {advice}") from None

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def redact(self, text: str) -> str:
        """Replace the key in a text by `***`."""
        return self._key.redact(text) if self._key is not None else text

    def send(self, request: Mapping[str, Any]) -> bytes:
        """Send one request and return the response's body. No error holds the key."""
        backoff = self._tenacity.wait_exponential_jitter(_FIRST_WAIT, _LONGEST_WAIT, jitter=2 * _FIRST_WAIT)
        attempts = self._tenacity.Retrying(
            retry=self._tenacity.retry_if_exception_type(_TransientError),
            stop=self._tenacity.stop_after_attempt(self._attempts),
            wait=lambda state: backoff(state) + state.outcome.exception().retry_after,
            before_sleep=self._report,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return bytes(attempts(self._attempt, json.dumps(request).encode()))
        except _TransientError as error:
            tries = f" ({self._attempts} attempts)" if self._attempts > 1 else ""
            raise EndpointError(f"{error}{tries}") from None

    def _report(self, state: Any) -> None:
        reason, wait, left = state.outcome.exception(), state.next_action.sleep, self._attempts - state.attempt_number
        self._on_retry(f"{reason}; trying again in {wait:.1f} s ({left} left)")

    def _attempt(self, body: bytes) -> bytes:
        # Raised `from None`: an error of httpx holds the request, and the request holds the key.
        httpx = self._httpx
        try:
            with self._client.stream("POST", self._address, content=body) as response:
                return self._read(response)
        except httpx.TimeoutException:
            raise _TransientError(f"{self.shown} gave no answer within {self._timeout:g} s") from None
        except httpx.TransportError as error:
            hint = "; is `playloom serve` running?" if self._is_local and isinstance(error, httpx.ConnectError) else ""
            raise _TransientError(f"the connection to {self.shown} failed ({self._excerpt(error)}){hint}") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last for a host name that is too long
            raise EndpointError(f"the request to {self.shown} failed ({self._excerpt(error)})") from None

    def _read(self, response: httpx.Response) -> bytes:
        limit = _MAX_RESPONSE_BYTES if response.is_success else _MAX_ERROR_BYTES
        body, deadline = bytearray(), time.monotonic() + self._timeout
        for part in response.iter_bytes():
            body += part
            if len(body) > limit:
                break
            if time.monotonic() > deadline:  # the timeout of httpx is for each part
                raise _TransientError(f"{self.shown} did not finish its answer within {self._timeout:g} s")
        if not response.is_success:
            raise self._error(response, body.decode("utf-8", "replace"))
        if len(body) > limit:
            raise EndpointError(f"the response of {self.shown} is too large: expected at most {limit >> 20} MiB")
        return bytes(body)

    def _error(self, response: httpx.Response, body: str) -> EndpointError:
        status = response.status_code
        if response.is_redirect:
            target = self._excerpt(response.headers.get("location", "nowhere").partition("?")[0])
            return EndpointError(
                f"{self.shown} redirects to {target}, which is not followed; if you trust it, give it as --endpoint"
            )
        reason = f"{self.shown} answered {status} {self._excerpt(response.reason_phrase)}: {self._excerpt(body)}"
        if status not in (408, 425, 429) and status < 500:  # these may change by themselves
            return EndpointError(reason + _HINTS.get(status, ""))
        retry_after = parse_retry_after(response.headers.get("retry-after", ""))
        if retry_after > _MAX_RETRY_AFTER:
            return EndpointError(f"{reason}; try again after {retry_after:.0f} s, as it asks")
        return _TransientError(reason, retry_after)

    def _excerpt(self, text: object) -> str:
        return printable(self.redact(str(text))) or type(text).__name__


def printable(text: str, count: int = 200) -> str:
    """Return the first characters of a text as one line without terminal controls."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * count]).split())[:count]


def _parse_address(address: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(address.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise BadInputError(f"the endpoint is not an http or https address; expected for example {DEFAULT_ENDPOINT}")
    if "@" in parts.netloc:
        raise BadInputError("the endpoint's address holds a name or password; leave it out and give the key as --key")
    return parts._replace(path="/score") if parts.path in ("", "/") else parts


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's own name or address."""
    with suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


def start_from_file(path: Path | str) -> Request:
    """Read a request from a JSON file, with one step to predict."""
    request = read_request(Path(path), "give a payload in the endpoint's format")
    if (schema := request["input_data"].get("schema")) in ("named", "sticks"):
        raise BadInputError(f"{path}: the schema is {schema}: expected binned, as later steps have it; write bins")
    return {**request, "input_data": {**request["input_data"], "num_steps_to_predict": 1}}


def start_from_picture(path: Path | str) -> tuple[Request, tuple[str, ...]]:
    """Make a request whose context is one picture with the controller at rest; with notes on changes to the picture."""
    picture = read_picture(path)
    frame_HWC, note = fit_picture(picture.frame_HWC, _FRAME_SIZE)
    entry = context_entry(encode_png(frame_HWC), REST_VALUES.tolist())
    notes = [f"{path}: {words}" for words in (*picture.notes, note) if words]
    return {"input_data": {"num_steps_to_predict": 1, "context": [entry]}}, tuple(notes)


def context_entry(data: bytes, action: Sequence[int], tokens: Sequence[int] = ()) -> dict[str, Any]:
    """Return one context step: picture file, action in bins, and the picture's tokens (none: it is encoded again)."""
    image = base64.b64encode(data).decode("ascii")
    return {"image": image, "actions": list(action), "actions_output": list(action), "tokens": list(tokens)}


def read_request(path: Path, advice: str) -> Request:
    """Read and check a request; errors end with `advice`, and are those of `start_from_file`."""
    request = read_json(path, BadInputError, advice)
    inner = request.get("input_data")
    context = inner.get("context") if isinstance(inner, dict) else None
    if not isinstance(context, list) or not context:
        raise BadInputError(f'{path} holds no context; expected {{"input_data": {{"context": [{{"image": ...}}]}}}}')
    for number, entry in enumerate(context, 1):
        image = entry.get("image") if isinstance(entry, dict) else None
        name = f"{path}: the image of step {number}"
        if not isinstance(image, str):
            raise BadInputError(f"{name} is missing; expected base64 of a PNG or JPEG")
        read_picture(from_base64(image, name), name=name)
    return request


def random_action(seed: int, step: int) -> NDArray[np.uint8]:
    """Draw action values [16]: both sticks, one direction of the pad, sometimes the right trigger.

    They depend on seed and step only.
    """
    source = np.random.default_rng([seed, step])
    state = {c.name: source.uniform(-1, 1) for c in CONTROLS if c.kind == "axis"}
    state["trigger_RT"] = float(source.random() < _TRIGGER_PROBABILITY)
    state[str(source.choice([c.name for c in CONTROLS if c.name.startswith("dpad_")]))] = 1.0
    return encode_named([state.get(c.name, 0.0) for c in CONTROLS])


def iter_json(value: Any, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every (name, value) inside a JSON value in the order of its text, itself first.

    An item of a list has the list's name; numbers, booleans and nulls inside lists are not yielded.
    """
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        name, inner = waiting.pop()
        yield name, inner
        if isinstance(inner, dict):
            waiting += [(key, part) for key, part in reversed(inner.items()) if key not in leave_out]
        elif isinstance(inner, list):
            waiting += [(name, part) for part in reversed(inner) if isinstance(part, dict | list | str)]


class Response(NamedTuple):
    """First predicted step of a response."""

    data: bytes  # picture file, as received
    picture: Picture  # the same, decoded
    rows: tuple[tuple[float, ...], ...]  # all lists of sixteen numbers in any schema, the likeliest action first
    tokens: tuple[int, ...]  # of the picture; may be empty


def read_response(body: bytes) -> Response:
    """Find picture, actions and tokens of the first predicted step."""
    try:
        content = json.loads(body)
        content = json.loads(content) if isinstance(content, str) else content  # some hosts encode twice
    except (ValueError, RecursionError) as error:
        raise EndpointError("the response is not JSON; is this the address of a scoring endpoint?") from error
    if (results := _first(content, "results", list)) == []:
        raise EndpointError("the response holds no results: got 0 steps, expected 1")
    result = results[0] if results else content
    image = _first(result, "image", str)
    if image is None:
        raise EndpointError("the response holds no picture; expected base64 under results[0].image")
    name = "the response's picture"
    try:
        data = from_base64(image, name)
        picture = read_picture(data, name=name)
    except PictureError as error:
        raise EndpointError(str(error)) from error
    height, width = picture.frame_HWC.shape[:2]
    if picture.format not in ENDINGS or height * width > _MAX_PIXELS:
        got = f"{picture.format} of {width} x {height}"
        raise EndpointError(
            f"{name} cannot be used: got {got}, expected {', '.join(ENDINGS)} of {_MAX_PIXELS:,} pixels"
        )
    tokens = _first(result, "tokens", list) or []
    valid = all(type(token) is int and token >= 0 for token in tokens)
    return Response(data, picture, _rows(result) or _rows(content), tuple(tokens) if valid else ())


def choose_action(
    rows: tuple[tuple[float, ...], ...], schema: Schema | Literal["auto"], last: Schema | None = None
) -> tuple[NDArray[np.uint8], Schema] | None:
    """Return the action values [16] of the first row that is an action, and its schema; None without one.

    With `auto` the schema of the previous response, `last`, is tried first, because zeros and ones may fit both.
    """
    tried: list[Schema | Literal["auto"]] = [last, "auto"] if schema == "auto" and last is not None else [schema]
    for row in rows:
        for name in tried:
            with suppress(ActionError):
                found: Schema = detect_schema(row)[0] if name == "auto" else name
                return rows_to_values(row, found), found
    return None


def _first(value: Any, name: str, kind: type) -> Any:
    found = (inner for key, inner in iter_json(value, _REQUEST_NAMES) if key == name and isinstance(inner, kind))
    return next(found, None)


def _rows(value: Any) -> tuple[tuple[float, ...], ...]:
    found = [(name, v) for name, v in iter_json(value, _REQUEST_NAMES) if name != "tokens" and _is_row(v)]
    found.sort(key=lambda pair: [*_ACTION_NAMES, pair[0]].index(pair[0]))
    return tuple(tuple(float(number) for number in row) for _, row in found)


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == ACTION_SLOTS
        and all(type(number) in (int, float) and abs(number) < 1e9 for number in value)
    )

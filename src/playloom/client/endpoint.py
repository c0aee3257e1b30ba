"""Connection to one endpoint: its key, its retries, and limits of time and size.

Redirects are not followed: the key is sent to the given address only.

    >>> with Endpoint("http://127.0.0.1:5000/score", Key("abc")) as endpoint:  # doctest: +SKIP
    ...     body = endpoint.send({"input_data": {}})
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from playloom.errors import BadInputError, EndpointError, MissingExtraError

if TYPE_CHECKING:
    import httpx

KEY_VARIABLES = ("MUSE_API_KEY", "PLAYLOOM_API_KEY")
"""Environment variables that may hold the key, the first one first."""
DEFAULT_ENDPOINT = "http://127.0.0.1:5000/score"
"""Address of `playloom serve`."""
ENDPOINT_VARIABLE = "MUSE_ENDPOINT_URL"
"""Environment variable that may hold another address."""
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024  # one step is far below a megabyte
_MAX_ERROR_BYTES = 64 * 1024
_LONGEST_WAIT, _MAX_RETRY_AFTER = 30.0, 300.0  # seconds
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


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Retries of one request; BadInputError when their number is out of range."""

    times: int = 4
    """Attempts after the first one, 0 or more."""
    first_wait: float = 0.5
    """Seconds before the first retry; doubled each time up to 30 s, plus up to twice this time at random."""

    def __post_init__(self) -> None:
        if self.times < 0:
            raise BadInputError(f"retries are out of range: got {self.times}, expected 0 or more")


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
        retries: Retries | None = None,
        on_retry: Callable[[str], None] = lambda note: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Check the address (without a path, `/score` is used); nothing is sent yet.

        `timeout` is in seconds for one attempt; `on_retry` receives a sentence before every retry.
        """
        if not (timeout > 0 and math.isfinite(timeout)):
            raise BadInputError(f"the timeout is out of range: got {timeout:g} s, expected more than 0")
        parts = _parse_address(address)
        self._is_local = _is_local(parts.hostname or "")
        self.exposes_key = key is not None and parts.scheme == "http" and not self._is_local
        """True when the key is sent unencrypted over a network."""
        self._address, self._key, self._timeout = parts.geturl(), key, timeout
        self.shown = self.redact(f"{parts.scheme}://{parts.netloc}{parts.path}")
        """The address without its query, which may hold secrets."""
        self._retries = retries or Retries()
        self._on_retry, self._sleep = on_retry, sleep
        try:
            import httpx
            import tenacity
        except ImportError as error:
            raise MissingExtraError.of(error.name or "httpx", "call") from error
        self._httpx: Any = httpx
        self._tenacity: Any = tenacity
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= key.header() if key is not None else {}
        # A proxy of the environment is for other machines only.
        self._client = httpx.Client(headers=headers, timeout=timeout, trust_env=not self._is_local)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def redact(self, text: str) -> str:
        """Replace the key in a text by `***`."""
        return self._key.redact(text) if self._key is not None else text

    def send(self, request: Mapping[str, Any]) -> bytes:
        """Send one request and return the response's body. No error holds the key."""
        first = self._retries.first_wait
        backoff = self._tenacity.wait_exponential_jitter(initial=first, max=_LONGEST_WAIT, jitter=2 * first)
        attempts = self._tenacity.Retrying(
            retry=self._tenacity.retry_if_exception_type(_TransientError),
            stop=self._tenacity.stop_after_attempt(self._retries.times + 1),
            wait=lambda state: backoff(state) + state.outcome.exception().retry_after,
            before_sleep=self._report,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return bytes(attempts(self._attempt, json.dumps(request).encode()))
        except _TransientError as error:
            tries = f" ({self._retries.times + 1} attempts)" if self._retries.times else ""
            raise EndpointError(f"{error}{tries}") from None

    def _report(self, state: Any) -> None:
        left = self._retries.times + 1 - state.attempt_number
        reason, wait = state.outcome.exception(), state.next_action.sleep
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
        except (httpx.HTTPError, httpx.InvalidURL) as error:
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


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""One endpoint: a request's body out, a reply's bytes in, whatever happens on the way between.

Owns the connection: address, key, time limit, size limit, repetitions. Knows nothing of what is asked and answered.
Redirections are not followed: the key goes where the user sent it and nowhere else.

    >>> with Endpoint("http://127.0.0.1:5000/score", Key("abc")) as endpoint:  # doctest: +SKIP
    ...     reply = endpoint.send({"input_data": {}})
"""

from __future__ import annotations

import ipaddress
import json
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from playloom.client.key import Key
from playloom.client.retry import Retries, asked_wait, passes
from playloom.errors import BadInputError, EndpointError, MissingExtraError

if TYPE_CHECKING:
    import httpx

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

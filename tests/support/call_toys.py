"""A real HTTP server on loopback that answers as its script says, and remembers what it was asked."""

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from playloom.actions.script import parse_script
from playloom.media.images import encode_png

ACTIONS_SA = parse_script("forward for 2; turn_right=0.6 + fire for 2; left + use for 2; rest for 6").values_SA
Behaviour = Callable[["_Handler", int], None]


def frame(number: int, size: tuple[int, int] = (18, 30)) -> np.ndarray:
    """A flat frame that tells its number."""
    return np.full((*size, 3), 10 + 20 * (number % 12), np.uint8)


def result(number: int, **changes) -> dict:
    """A predicted step as the schema has it."""
    action = ACTIONS_SA[(number - 1) % len(ACTIONS_SA)].tolist()
    image = base64.b64encode(encode_png(frame(number))).decode()
    known = {"image": image, "actions": action, "actions_output": action, "tokens": [number, 7, 9]}
    return {name: value for name, value in {**known, **changes}.items() if value is not None}


def says(status: int, body: bytes | dict | list | str = b"", **headers: str) -> Behaviour:
    """Answers with a status, a body (as JSON unless bytes) and headers (Retry_After for Retry-After)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def behave(handler: "_Handler", step: int) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return behave


def good(**changes) -> Behaviour:
    """A step that depends on the request alone: the tokens of the last picture say which is next."""

    def behave(handler: "_Handler", step: int) -> None:
        says(200, {"results": [result(step, **changes)]})(handler, step)

    return behave


def drops(handler: "_Handler", step: int) -> None:
    """Ends the connection without a word."""
    handler.close_connection = True
    handler.connection.shutdown(2)


def stops_halfway(handler: "_Handler", step: int) -> None:
    """Promises more bytes than it sends."""
    data = json.dumps({"results": [result(step)]}).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def hangs(handler: "_Handler", step: int) -> None:
    """Never answers."""
    handler.server.closing.wait(20)
    handler.close_connection = True


class Scripted(ThreadingHTTPServer):
    """Answers request n as behaviour n of the script; the last one goes on for ever."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *script: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.closing = list(script), threading.Event()
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/score"

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up on us is part of the script."""


class _Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers))
        turn = min(len(self.server.bodies), len(self.server.script)) - 1
        context = body["input_data"]["context"]
        seen = context[-1].get("tokens") or [0]
        self.server.script[turn](self, seen[0] + 1)

    def log_message(self, *_) -> None:
        pass

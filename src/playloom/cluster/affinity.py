"""Which replica a request must reach, read from what it names. ASGI.

Sessions and jobs live in one replica's memory, and their names begin with it (`playloom.server.settings`); any request
may also say `?at=REPLICA`. What is found goes on as a header that Ray hands to the router.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from playloom.server.errors import ApiError
from playloom.server.settings import REPLICA_PATTERN, replica_in

_SESSION = re.compile(r"/v1/sessions/([^/]+)")
_MOST_FIELDS = 200
_STICKY = "x-session-id"
"""Ray's own name for it; the router reads its value as `metadata.session_id`."""
_RAYS_OWN = re.compile(r"x[-_]session[-_]id|serve[-_]multiplexed[-_]model[-_]id|x[-_]request[-_](timeout|disconnect).*")
"""Headers by which a client could steer Ray itself."""


class Affinity:
    """Marks a request with its replica; what names none may go to any."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        wanted = replicas_in(scope["path"], scope.get("query_string", b""))
        if len(wanted) > 1:
            sentence = "these jobs are on different replicas of the cluster; ask for those of one replica at a time"
            return await ApiError(400, sentence).response()(scope, receive, send)
        headers = [(name, value) for name, value in scope["headers"] if not _RAYS_OWN.fullmatch(name.decode("latin-1"))]
        headers += [(_STICKY.encode(), replica.encode()) for replica in wanted]
        return await self.app({**scope, "headers": headers}, receive, send)


def replicas_in(path: str, query: bytes) -> set[str]:
    """The replicas that a request names; only ids of jobs can name several."""
    session = _SESSION.match(path)
    if session is not None and (replica := replica_in(session[1])):
        return {replica}
    try:
        fields = parse_qsl(query.decode("latin-1"), max_num_fields=_MOST_FIELDS)
    except ValueError:  # too many; the application has its own sentence for it
        return set()
    jobs = {replica_in(value) for name, value in fields if name in ("job_ids", "job_id")} - {None}
    asked = [value for name, value in fields if name == "at" and re.fullmatch(REPLICA_PATTERN, value)]
    return {replica for replica in jobs if replica} or set(asked[-1:])

"""What stands before Ray's HTTP proxy, as Ray asks for it: by a name in the environment (`CALLBACK`).

The proxies are processes of their own, and read the settings from the environment as every server does.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from playloom.cluster.affinity import Affinity
from playloom.cluster.messages import Messages
from playloom.cluster.newest import Newest
from playloom.cluster.plain import Plain
from playloom.server.middleware import AuthMiddleware, BodyLimitMiddleware
from playloom.server.settings import Settings, read_settings

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""The environment variable that Ray's proxies read."""
CALLBACK = "playloom.cluster.layers.layers"
"""What it must say."""


def layers() -> list[Middleware]:
    """The layers, innermost first."""
    return layers_of(read_settings())


def layers_of(settings: Settings) -> list[Middleware]:
    """The same for settings that are known."""
    origins = settings.allowed_origins
    cors = [Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])]
    return [
        Middleware(Plain),
        Middleware(Messages, settings=settings),
        Middleware(Newest),
        Middleware(Affinity),
        Middleware(BodyLimitMiddleware, settings=settings),
        Middleware(AuthMiddleware, settings=settings),
        *(cors if origins else []),
    ]

"""Every limit and choice of the server, as one value: from the environment (`PLAYLOOM_...`), over defaults.

    PLAYLOOM_API_KEY=... PLAYLOOM_MAX_SESSIONS=4 playloom serve --host 0.0.0.0

Owns names, defaults and ranges. Knows nothing of what is limited.

Names of sessions and jobs: secret, and beginning with the server that has them where there are several.

    new_token("a7")        # 'a7.6f0c...': a load balancer that reads `replica_in` sends it back to a7
    new_token(None)        # '6f0c...'

Knows nothing of what is named.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from playloom.errors import ConfigError

REPLICA_PATTERN = r"[A-Za-z0-9_-]{1,64}"
"""What a server may be called."""
MAX_TOKEN_LENGTH = 128
"""Characters of a name."""
REPLICA_HEADER = "x-playloom-replica"
"""The header of an answer in which a server among several says which one it is."""
_TAGGED = re.compile(rf"({REPLICA_PATTERN})\.")


def new_token(replica: str | None) -> str:
    """A new name that nobody can guess, led by the server's own where it has one."""
    secret = secrets.token_hex(24)
    return secret if replica is None else f"{replica}.{secret}"


def replica_in(name: str) -> str | None:
    """The server that a session's or job's name leads to; None: the name does not say."""
    found = _TAGGED.match(name)
    return found and found[1]


_MIB = 2**20
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class Settings(BaseSettings):
    """What the server is asked to be."""

    model_config = SettingsConfigDict(
        env_prefix="PLAYLOOM_", frozen=True, extra="forbid", use_attribute_docstrings=True, env_ignore_empty=True
    )

    model: str | None = None
    """A bundled model's name or a model's folder; none: the first bundled one."""
    decode_order: Annotated[int, Field(ge=1)] | Literal["raster"] | None = None
    """`raster`, or the row delay of the decoding order; none: the model card's, else raster."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or one of torch's names."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one operation; none: `OMP_NUM_THREADS`, else the cores this process may use."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs a key."""
    port: int = Field(default=5000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    api_key: SecretStr | None = None
    """The key that requests must carry as `Authorization: Bearer KEY`; none: this machine only."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins besides our own whose pages may call the server (CORS), as a JSON list; none by default."""
    max_sessions: Count = 16
    """Live and stepped sessions at once, those waiting for their player to come back included."""
    max_requests: Count = 8
    """Dreams of `/score`, `/v1/dream` and `/v1/policy` in progress at once; they share batches."""
    queue: int = Field(default=32, ge=0)
    """Requests that may wait for their turn; one more is refused at once, with 503."""
    max_jobs: Count = 16
    """Unfinished jobs of the job API at once; one more is refused with 400, as its clients expect."""
    job_seconds: Seconds = 600
    """Life of a job from its creation; then it is cancelled and its results are dropped."""
    max_steps: Count = 100
    """Steps one request or job may ask for."""
    batch: Count = 16
    """Sessions that are dreamed as one batch."""
    body_bytes: Count = 32 * _MIB
    """Size of one request's body."""
    max_inflight_bytes: Count = 256 * _MIB
    """Size of all bodies held at once; what comes beyond is refused with 503."""
    socket_bytes: Count = 8 * _MIB
    """Size of one WebSocket message."""
    picture_pixels: Count = 16_777_216
    """Pixels of one picture; refused before it is decoded."""
    request_seconds: Seconds = 120
    """Time one request may take, waiting for its turn included; then 504."""
    header_seconds: Seconds = 10
    """Time a connection may take to send a request's head; then it is cut off."""
    body_seconds: Seconds = 30
    """Time a request may take to send its body; then 408."""
    max_connections: Count = 512
    """Connections at once; at the limit the longest idle one makes room."""
    handshake_timeout: Seconds = 5
    """Time a live player may take to send the first message."""
    reconnect_grace_seconds: Seconds = 60
    """How long a live session waits for a player whose connection dropped."""
    idle_seconds: Seconds = 300
    """How long a stepped session may go without a step."""
    fps: float = Field(default=10, gt=0, le=120)
    """Frames a second of live play."""
    recording_frames: Count = 600
    """Newest frames a session keeps for its recording."""
    token_cache_size: int = Field(default=4096, ge=0)
    """Pictures sent out whose tokens are remembered: one that comes back goes on without its mark and without drift."""
    stories: Path = Path("out/stories")
    """Folder of the stories; made when the first one is."""
    max_stories: Count = 100
    """Stories in it; one more is refused until one is deleted."""
    max_story_frames: Count = 2000
    """Frames of one story, those still to be dreamed included. A frame takes about 0.1 MB on the disk."""
    max_branches: Count = 16
    """Branches of stories that are dreamed at once; more wait for their turn."""
    drain_seconds: Seconds = 8
    """After SIGTERM: how long what runs may take to finish."""

    access_log: bool = True
    """Whether `playloom serve` writes a line for each request to stderr."""
    replica: str | None = Field(default=None, pattern=f"^{REPLICA_PATTERN}$")
    """Name of this server among several at one address: leads the names of its sessions and jobs (`NAME.secret`)."""
    replicas: Count = 2
    """With `--cluster`: servers of the model, at least."""
    max_replicas: int | None = Field(default=None, ge=1)
    """With `--cluster`: servers of the model at most, as work comes; none: no more than `replicas`."""

    @property
    def most_replicas(self) -> int:
        """How many servers of the model there may be in a cluster."""
        return self.max_replicas or self.replicas

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def key(self) -> str | None:
        """The key in the clear; None without one."""
        return None if self.api_key is None else self.api_key.get_secret_value() or None


def read_settings(**asked: Any) -> Settings:
    """The settings: what is asked for (None: not asked), over the environment, over defaults.

    Raises:
        ConfigError: when a value cannot be, or an address that others can reach is to be served without a key.
    """
    try:
        settings = Settings(**{name: value for name, value in asked.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(f"the setting {name} is out of range or of another kind: {reason}") from None
    except ValueError as error:  # pydantic-settings' own, for a list that is no JSON
        raise ConfigError(f"a setting in the environment cannot be read: {error}") from None
    if not settings.local and settings.key is None:
        raise ConfigError(
            f"without a key only this machine is served, and {settings.host} can be reached by others; "
            "set PLAYLOOM_API_KEY (or --key), or listen on 127.0.0.1"
        )
    if settings.most_replicas < settings.replicas:
        raise ConfigError(
            f"at least {settings.replicas} replicas and at most {settings.most_replicas} do not fit together; "
            "raise max_replicas or leave it out"
        )
    return settings

"""Settings of the server from the environment (`PLAYLOOM_...`), and the tokens of sessions and jobs."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from playloom.client.endpoint import is_loopback
from playloom.errors import ConfigError
from playloom.server.errors import validation_message

_REPLICA_PATTERN = r"[A-Za-z0-9_-]{1,64}"
_MIB = 2**20
MAX_TOKEN_LENGTH = 128

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Origin = Annotated[str, Field(pattern=r"^(null|[a-z][a-z0-9+.-]*://[^/\sA-Z]+)$")]  # as browsers send it


def new_token(replica: str | None) -> str:
    """Return a new secret token; with a replica's name as prefix, it is routed back to that replica."""
    secret = secrets.token_hex(24)
    return secret if replica is None else f"{replica}.{secret}"


def replica_in(name: str) -> str | None:
    """Return the replica that a token names; None without a prefix."""
    found = re.match(rf"({_REPLICA_PATTERN})\.", name)
    return found and found[1]


class Settings(BaseSettings):
    """All limits and options of the server."""

    model_config = SettingsConfigDict(
        env_prefix="PLAYLOOM_", frozen=True, extra="forbid", use_attribute_docstrings=True, env_ignore_empty=True
    )

    model: str | None = None
    """A bundled model's name or a model's folder; none: the first bundled one."""
    decode_order: Annotated[int, Field(ge=1)] | Literal["raster"] | None = None
    """`raster`, or the row delay of the decoding order; none: the model card's, else raster."""
    device: str = "auto"
    """Device: auto, cpu, cuda or one of torch's names."""
    backend: Literal["torch", "onnx", "onnx-int8", "auto"] = "auto"
    """What runs the networks: torch, onnx or onnx-int8 (onnxruntime on a CPU), auto (onnx-int8 where it can run)."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one operation; none: `OMP_NUM_THREADS`, else the cores this process may use."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs a key."""
    port: int = Field(default=5000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    api_key: SecretStr | None = None
    """Key that requests must carry as `Authorization: Bearer KEY`; none: this machine only."""
    allowed_origins: tuple[Origin, ...] = ()
    """Other web origins whose pages may call the server (CORS), as a JSON list: `["https://a.example"]`."""
    max_sessions: Count = 16
    """Most live and HTTP sessions, those waiting for a reconnect included."""
    max_requests: Count = 8
    """Most concurrent `/score`, `/v1/dream` and `/v1/policy` requests; they share batches."""
    queue: int = Field(default=32, ge=0)
    """Most waiting requests; one more gets 503 at once."""
    max_jobs: Count = 16
    """Most unfinished jobs of the job API; one more gets 400, as its clients expect."""
    job_seconds: Seconds = 600
    """Lifetime of a job in seconds from its creation; then it is cancelled and its results are dropped."""
    max_steps: Count = 100
    """Most steps of one request or job."""
    batch: Count = 16
    """Most sessions in one batch."""
    body_bytes: Count = 32 * _MIB
    """Most bytes of one request's body."""
    max_inflight_bytes: Count = 256 * _MIB
    """Most bytes of all request bodies together; more get 503."""
    socket_bytes: Count = 8 * _MIB
    """Most bytes of one WebSocket message."""
    picture_pixels: Count = 16_777_216
    """Most pixels of one image; larger ones are refused before decoding."""
    request_seconds: Seconds = 120
    """Seconds one request may take, its wait included; then 504."""
    header_seconds: Seconds = 10
    """Seconds a connection may take to send a request's head; then it is closed."""
    body_seconds: Seconds = 30
    """Seconds a request may take to send its body; then 408."""
    max_connections: Count = 512
    """Most connections; above the limit the longest idle one is closed."""
    handshake_timeout: Seconds = 5
    """Seconds a live player may take to send the first message."""
    reconnect_grace_seconds: Seconds = 60
    """Seconds a live session waits for a reconnect."""
    idle_seconds: Seconds = 300
    """Seconds an HTTP session may go without a step."""
    fps: float = Field(default=10, gt=0, le=120)
    """Frames per second of live play."""
    recording_frames: Count = 600
    """Newest frames kept for a session's recording."""
    token_cache_size: int = Field(default=4096, ge=0)
    """Images sent out whose tokens are kept: one that comes back continues without watermark and drift."""
    stories: Path = Path("out/stories")
    """Folder of the stories; created with the first one."""
    max_stories: Count = 100
    """Most stories in it; one more is refused until one is deleted."""
    max_story_frames: Count = 2000
    """Most frames of one story, those still to be generated included. A frame takes about 0.1 MB of disk."""
    max_branches: Count = 16
    """Most branches of stories that run at once; more wait."""
    drain_seconds: Seconds = 8
    """Seconds that running work may take after SIGTERM."""
    access_log: bool = True
    """Write a line for each request to stderr (`playloom serve`)."""
    replica: str | None = Field(default=None, pattern=f"^{_REPLICA_PATTERN}$")
    """Name of this server among several; prefixes its session and job tokens (`NAME.secret`)."""
    replicas: Count = 2
    """With `--cluster`: replicas of the model, at least."""
    max_replicas: int | None = Field(default=None, ge=1)
    """With `--cluster`: replicas of the model at most; none: no more than `replicas`."""

    @property
    def most_replicas(self) -> int:
        """Most replicas of the model in a cluster."""
        return self.max_replicas or self.replicas

    @property
    def local(self) -> bool:
        """True when only this machine can reach the address."""
        return is_loopback(self.host)

    @property
    def key(self) -> str | None:
        """The key as text, without blanks around it, as no header has them; None without one."""
        return None if self.api_key is None else self.api_key.get_secret_value().strip() or None


def read_settings(**given: Any) -> Settings:
    """Read the settings: given values (not None) override the environment, which overrides the defaults."""
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        name, _, reason = validation_message(error.errors(include_url=False, include_input=False)).partition(": ")
        raise ConfigError(f"the setting {name} is invalid: {reason}") from None
    except ValueError as error:  # of pydantic-settings, for a list that is not JSON
        raise ConfigError(f"a setting in the environment cannot be read: {error}") from None
    if not settings.local and settings.key is None:
        raise ConfigError(
            f"without a key only this machine can be served, and other machines can reach {settings.host}; "
            "set PLAYLOOM_API_KEY (or --key), or listen on 127.0.0.1"
        )
    if not (settings.key or "").isascii():
        raise ConfigError("the setting api_key is invalid: some characters do not fit into a header; use ASCII only")
    if settings.most_replicas < settings.replicas:
        raise ConfigError(
            f"max_replicas is too small: got {settings.most_replicas}, expected at least {settings.replicas} (replicas)"
        )
    return settings

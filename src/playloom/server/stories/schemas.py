"""Types of `/v1/stories`. `Node`, `Branch` and `Removed` are the same in memory, in the log and on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from playloom.actions.codec import REST_VALUES
from playloom.errors import RecordingError
from playloom.inference.types import ActionSource
from playloom.server.schemas import PromptFields, RequestModel, SamplingFields, Schema, Vector

State = Literal["waiting", "dreaming", "done", "cancelled", "failed"]
ACTIVE_STATES = ("waiting", "dreaming")  # not final
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
_Whole = Annotated[int, Field(ge=0)]
_Bin = Annotated[int, Field(ge=0, le=255)]
_Bins = Annotated[tuple[_Bin, ...], Field(min_length=len(REST_VALUES), max_length=len(REST_VALUES))]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, serialize_by_alias=True)


class Node(_Model):
    """One frame of a story."""

    kind: ClassVar[str] = "node"

    id: Id = Field(description="Id, counted from 0, never reused; its images are `nodes/ID.png` and `nodes/ID.webp`.")
    parent: Id | None = Field(description="Id of the frame before it; null for a root and for an edit of a root.")
    origin: Literal["given", "dreamed", "edited"]
    """`given`, `dreamed` (generated, here or in the session it came from) or `edited`."""
    action: _Bins | None = Field(description="Action that led to it, sixteen bins; null for a root.")
    action_source: ActionSource | None = None
    """Source of that action; null for given frames."""
    branch: Id | None = Field(default=None, description="Id of the branch that generated it.")
    starred: bool = False
    note: str = ""
    edit_of: Id | None = None
    """Id of the frame that it is an edit of; that frame may be removed."""


class Branch(_Model):
    """One branch."""

    kind: ClassVar[str] = "branch"

    id: Id = Field(description="Id, counted from 0, never reused.")
    from_: Id = Field(validation_alias=AliasChoices("from", "from_", "start"), serialization_alias="from")
    """Id of the frame it starts from. (Older logs call it `start`.)"""
    frames: _Whole = Field(description="Number of frames requested.")
    frames_done: _Whole = Field(default=0, description="Number of frames finished.")
    state: State = "waiting"
    error: str | None = Field(default=None, description="Error message of a failed branch.")
    seed: _Whole
    temperature: float = Field(allow_inf_nan=False, description="Divides the logits.")
    top_k: _Whole | None = Field(description="Sample from the k likeliest tokens only.")
    top_p: Annotated[float, Field(allow_inf_nan=False)] | None
    """Sample from the likeliest tokens that reach p together."""
    context: _Whole = Field(description="Most context frames.")
    controlled_by: ActionSource = Field(description="Source of the actions.")
    first: Id | None = Field(default=None, description="Id of its first frame; null: none yet.")
    last: Id | None = Field(default=None, description="Id of its newest frame.")


class Removed(_Model):
    """Removed frames and branches."""

    kind: ClassVar[str] = "removed"

    nodes: tuple[Id, ...] = Field(description="Ids of the frame and its descendants.")
    branches: tuple[Id, ...]
    """Ids of branches that started there, and of finished ones without a frame left."""


class _StoryFields(_Model):
    name: str
    created: str = Field(description="Creation time, ISO 8601, UTC.")
    size: tuple[_Whole, _Whole] = Field(default=(0, 0), description="Height and width of its frames.")
    revision: _Whole = Field(default=1, description="Number of the newest change.")


class Header(_StoryFields):
    """Name and counters of a story; a new header replaces the old one."""

    kind: ClassVar[str] = "story"

    next_node: _Whole = Field(default=0, description="Next free node id.")
    next_branch: _Whole = Field(default=0, description="Next free branch id.")


Change: TypeAlias = Header | Node | Branch | Removed
"""One change of a story; a known `Node` or `Branch` is replaced."""


class StoryInfo(_StoryFields):
    """A whole story."""

    id: str = Field(description="Id of the story; secret, because it gives read access.")
    context: int = Field(description="Context length of the model in frames.")
    fps: int = Field(default=10, description="Frames per second of playback.")
    model: str = Field(description="Name of the served model.")
    nodes: tuple[Node, ...] = Field(description="All frames, parents before children.")
    branches: tuple[Branch, ...] = Field(description="All branches, oldest first.")


class StoryItem(_Model):
    """One story in the list."""

    id: str
    name: str
    created: str = Field(default="", description="Creation time, ISO 8601, UTC; empty for a damaged story.")
    frames: int = 0
    branches: int = 0
    picture: str | None = None
    """Path of its thumbnail: the newest starred frame, else the newest frame."""
    error: str | None = Field(default=None, description="Error message of a damaged story; null: it can be opened.")


class StoryList(_Model):
    """All stories, newest first."""

    stories: list[StoryItem]


class NodeList(_Model):
    """Some frames."""

    nodes: Sequence[Node]


class BranchList(_Model):
    """Some branches."""

    branches: Sequence[Branch]
    notes: list[str] = Field(description="Notes about choices that the server made, such as a shortened script.")


class _Line(_Model):
    story: Header | None = None
    node: Node | None = None
    branch: Branch | None = None
    removed: Removed | None = None


def to_line(change: Change) -> str:
    """Serialize a change as one line of the log, without the line end."""
    return f'{{"{change.kind}": {change.model_dump_json()}}}'


def from_line(line: bytes) -> Change:
    """Parse a line of the log; RecordingError when it holds no valid change."""
    try:
        (change,) = (found for _, found in _Line.model_validate_json(line, strict=True) if found is not None)
    except ValueError as error:
        raise RecordingError(f"a line of its log cannot be read: {str(error)[:200]}") from None
    return change


class NewStory(PromptFields):
    """Request of a new story: a prompt, images, or a session."""

    name: Name | None = Field(default=None, description="Display name; none: the name of the prompt.")
    session: str | None = Field(default=None, max_length=255)
    """Token of a session, live or HTTP; the story starts with its newest frames."""


class StoryUpdate(RequestModel):
    """New name of a story."""

    name: Name


class BranchRequest(SamplingFields, RequestModel):
    """Request of one or more branches from one frame, which differ in their seeds."""

    from_: Id = Field(alias="from", description="Id of the frame to continue from.")
    count: int = Field(default=1, ge=1, le=8, description="Number of branches; their seeds count up.")
    frames: int = Field(default=10, ge=1, description="Frames of each branch.")
    context: int | None = Field(default=None, ge=1)
    """Most context frames, the start frame included; none: the model's context."""
    controlled_by: ActionSource = "player"
    """`player`: the actions below, the last one repeated. `model`: the actions below, then sampled ones."""
    actions: Annotated[list[Vector], Field(min_length=1, max_length=10_000)] | None = None
    """Actions of the first frames, sixteen numbers each."""
    script: str | None = Field(default=None, max_length=10_000)
    """Action script instead, as `forward for 2s; turn_left`; see docs/dream.md."""
    action: Vector | None = Field(default=None, description="One action for all frames instead.")
    schema_: Schema = Field(default="named", alias="schema", description="Schema of every action in this request.")


class EditRequest(RequestModel):
    """Request of an edit: an overlay for a frame and optionally for the next ones."""

    overlay: str = Field(description="PNG with transparency, base64; resized to the frame's size.")
    copies: int = Field(default=0, ge=0, le=9)
    """Number of next frames that get the overlay too; the model follows an edit better on several frames."""
    toward: Id | None = None
    """Id of a descendant that selects the next frames; none: always the first child."""


class NodeUpdate(RequestModel):
    """Changes of a frame; none: unchanged."""

    starred: bool | None = None
    note: Annotated[str, Field(max_length=2000)] | None = None

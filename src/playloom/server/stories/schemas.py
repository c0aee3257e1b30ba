"""Request and response types of `/v1/stories`, and the log's line format.

>>> to_line(Removed(nodes=(3, 4), branches=()))
'{"removed": {"nodes": [3, 4], "branches": []}}'
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from playloom.actions.codec import REST_VALUES
from playloom.errors import RecordingError
from playloom.inference.types import ActionSource
from playloom.server.schemas import Picture, RequestModel, Seed, Temperature, TopK, TopP, Vector
from playloom.server.stories.tree import Branch, Change, Header, Node, Origin, Removed, State, Tree

MOST_BRANCHES = 8
"""Most branches of one request."""
MOST_COPIES = 9
"""Most frames after the first that one edit is copied to."""
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Note = Annotated[str, Field(max_length=2000)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
_Form = ConfigDict(use_attribute_docstrings=True)


class NewStory(RequestModel):
    """Request of a new story: a prompt, images, or a session."""

    name: Name | None = None
    """Display name; none: the name of the prompt."""
    prompt: str | None = Field(default=None, max_length=255)
    """Name of a bundled prompt, see `/v1/prompts`; none, and nothing else: the first one."""
    images: Annotated[list[Picture], Field(min_length=1, max_length=100)] | None = None
    """Images instead of a prompt, oldest first; the last ones that fit the context are used."""
    context_actions: Annotated[list[Vector], Field(max_length=100)] | None = None
    """Actions between the images, one less than images; none: at rest."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """Schema of every action in this request."""
    session: str | None = Field(default=None, max_length=255)
    """Token of a session, live or HTTP; the story starts with its newest frames."""


class StoryUpdate(RequestModel):
    """New name of a story."""

    name: Name
    """Display name."""


class BranchRequest(RequestModel):
    """Request of one or more branches from one frame, which differ in their seeds."""

    from_: Id = Field(alias="from")
    """Id of the frame to continue from."""
    count: int = Field(default=1, ge=1, le=MOST_BRANCHES)
    """Number of branches; their seeds count up."""
    frames: int = Field(default=10, ge=1)
    """Frames of each branch."""
    context: int | None = Field(default=None, ge=1)
    """Most context frames, the start frame included; none: the model's context."""
    controlled_by: ActionSource = "player"
    """`player`: the actions below, the last one repeated. `model`: the actions below, then sampled ones."""
    actions: Annotated[list[Vector], Field(min_length=1, max_length=10_000)] | None = None
    """Actions of the first frames, sixteen numbers each."""
    script: str | None = Field(default=None, max_length=10_000)
    """Action script instead, as `forward for 2s; turn_left`; see docs/dream.md."""
    action: Vector | None = None
    """One action for all frames instead."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """Schema of every action in this request."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's default."""
    top_k: TopK = None
    """Sample from the k likeliest tokens only."""
    top_p: TopP = None
    """Sample from the likeliest tokens that reach p together."""
    seed: Seed = None
    """Seed of the first branch; the same request and seed give the same branches. None: a random one."""


class EditRequest(RequestModel):
    """Request of an edit: an overlay for a frame and optionally for the next ones."""

    overlay: str
    """PNG with transparency, base64; resized to the frame's size."""
    copies: int = Field(default=0, ge=0, le=MOST_COPIES)
    """Number of next frames that get the overlay too; the model follows an edit better on several frames."""
    toward: Id | None = None
    """Id of a descendant that selects the next frames; none: always the first child."""


class NodeUpdate(RequestModel):
    """Changes of a frame."""

    starred: bool | None = None
    """Star; none: unchanged."""
    note: Note | None = None
    """Note; none: unchanged."""


class NodeInfo(BaseModel):
    """One frame of a story."""

    model_config = _Form

    id: int
    """Id, counted from 0, never reused; its images are `nodes/ID.png` and `nodes/ID.webp`."""
    parent: int | None
    """Id of the frame before it; null for a root."""
    origin: Origin
    """`given`, `dreamed` (generated) or `edited`."""
    action: list[int] | None
    """Action that led to it, sixteen bins; null for a root."""
    action_source: ActionSource | None
    """Source of that action; null for given frames."""
    branch: int | None
    """Id of the branch that generated it."""
    starred: bool
    """Star."""
    note: str
    """Note."""
    edit_of: int | None
    """Id of the frame that it is an edit of; that frame may be removed."""


class BranchInfo(BaseModel):
    """One branch."""

    model_config = _Form

    id: int
    """Id, counted from 0, never reused."""
    from_: int = Field(alias="from")
    """Id of the frame it starts from."""
    frames: int
    """Number of frames requested."""
    frames_done: int
    """Number of frames finished."""
    state: State
    """State of the branch."""
    error: str | None
    """Error message of a failed branch."""
    seed: int
    """Random seed."""
    temperature: float
    """Divides the logits."""
    top_k: int | None
    """Sample from the k likeliest tokens only."""
    top_p: float | None
    """Sample from the likeliest tokens that reach p together."""
    context: int
    """Most context frames."""
    controlled_by: ActionSource
    """Source of the actions."""
    first: int | None
    """Id of its first frame; null: none yet."""
    last: int | None
    """Id of its newest frame."""


class StoryInfo(BaseModel):
    """A whole story."""

    model_config = _Form

    id: str
    """Id of the story; secret, because it gives read access."""
    name: str
    """Display name."""
    created: str
    """Creation time, ISO 8601, UTC."""
    size: list[int]
    """Height and width of its frames."""
    context: int
    """Context length of the model in frames."""
    fps: int
    """Frames per second of playback."""
    model: str
    """Name of the served model."""
    revision: int
    """Number of the newest event."""
    nodes: list[NodeInfo]
    """All frames, parents before children."""
    branches: list[BranchInfo]
    """All branches, oldest first."""


class StoryItem(BaseModel):
    """One story in the list."""

    model_config = _Form

    id: str
    """Id of the story."""
    name: str
    """Display name."""
    created: str
    """Creation time, ISO 8601, UTC; empty for a damaged story."""
    frames: int
    """Number of frames."""
    branches: int
    """Number of branches."""
    picture: str | None
    """Path of its thumbnail: the newest starred frame, else the newest frame."""
    error: str | None
    """Error message of a damaged story; null: it can be opened."""


class StoryList(BaseModel):
    """All stories, newest first."""

    stories: list[StoryItem]


class NodeList(BaseModel):
    """Some frames."""

    nodes: list[NodeInfo]


class BranchList(BaseModel):
    """Some branches."""

    model_config = _Form

    branches: list[BranchInfo]
    """Branches with their states."""
    notes: list[str]
    """Notes about choices that the server made, such as a shortened script."""


class RemovedInfo(BaseModel):
    """Removed frames and branches."""

    model_config = _Form

    nodes: list[int]
    """Ids of the frame and its descendants."""
    branches: list[int]
    """Ids of branches that started there, and of finished ones without a frame left."""


def node_dict(node: Node) -> dict[str, Any]:
    """Serialize as `NodeInfo`."""
    return {
        "id": node.id,
        "parent": node.parent,
        "origin": node.origin,
        "action": None if node.action is None else list(node.action),
        "action_source": node.action_source,
        "branch": node.branch,
        "starred": node.starred,
        "note": node.note,
        "edit_of": node.edit_of,
    }


def branch_dict(branch: Branch, tree: Tree) -> dict[str, Any]:
    """Serialize as `BranchInfo`."""
    made = tree.frames_of(branch.id)
    return {
        "id": branch.id,
        "from": branch.start,
        "frames": branch.frames,
        "frames_done": len(made),
        "state": branch.state,
        "error": branch.error,
        "seed": branch.seed,
        "temperature": branch.temperature,
        "top_k": branch.top_k,
        "top_p": branch.top_p,
        "context": branch.context,
        "controlled_by": branch.controlled_by,
        "first": made[0] if made else None,
        "last": made[-1] if made else None,
    }


def removed_dict(removed: Removed) -> dict[str, Any]:
    """Serialize as `RemovedInfo`."""
    return {"nodes": list(removed.nodes), "branches": list(removed.branches)}


def story_dict(name: str, tree: Tree, *, context: int, model: str) -> dict[str, Any]:
    """Serialize as `StoryInfo`."""
    return {
        "id": name,
        "name": tree.header.name,
        "created": tree.header.created,
        "size": list(tree.header.size),
        "context": context,
        "fps": 10,
        "model": model,
        "revision": tree.header.revision,
        "nodes": [node_dict(node) for node in tree.nodes.values()],
        "branches": [branch_dict(branch, tree) for branch in tree.branches.values()],
    }


def item_dict(name: str, tree: Tree) -> dict[str, Any]:
    """Serialize as `StoryItem`."""
    stars = [node.id for node in tree.nodes.values() if node.starred]
    return {
        "id": name,
        "name": tree.header.name,
        "created": tree.header.created,
        "frames": len(tree.nodes),
        "branches": len(tree.branches),
        "picture": f"/v1/stories/{name}/nodes/{max(stars or tree.nodes)}.webp",
        "error": None,
    }


def event_dict(what: Header | Node | Branch | Removed, name: str, tree: Tree) -> dict[str, Any]:
    """Serialize an event with the newest value of its subject."""
    if isinstance(what, Node):
        return node_dict(tree.nodes.get(what.id, what))
    if isinstance(what, Branch):
        return branch_dict(tree.branches.get(what.id, what), tree)
    return removed_dict(what) if isinstance(what, Removed) else {"id": name, "name": what.name}


_Check = Callable[[Any], bool]


def to_line(change: Change) -> str:
    """Serialize a change as one line, without its end."""
    return json.dumps({_NAMES[type(change)]: asdict(change)})


def from_line(line: bytes) -> Change:
    """Parse a line into a change.

    Raises:
        RecordingError: when it says none.
    """
    try:
        ((name, said),) = json.loads(line).items()
        kind, checks = _KINDS[name]
        if set(said) != set(checks):
            raise ValueError(f"{name} with {', '.join(said)}")
        for field, check in checks.items():
            if not check(said[field]):
                raise ValueError(f"{field} is {str(said[field])[:40]!r}")
        change: Change = kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordingError(f"a line of its log cannot be read ({error})") from None
    return change


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wholes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value))


def _pair(value: Any) -> bool:
    return _wholes(value) and len(value) == 2


def _action(value: Any) -> bool:
    return _wholes(value) and len(value) == len(REST_VALUES) and max(value) <= 255


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _one_of(words: Any) -> _Check:
    return lambda value: value in get_args(words)


_KINDS: Mapping[str, tuple[type[Any], Mapping[str, _Check]]] = {
    "story": (
        Header,
        {
            "name": _text,
            "created": _text,
            "size": _pair,
            "revision": _whole,
            "next_node": _whole,
            "next_branch": _whole,
        },
    ),
    "node": (
        Node,
        {
            "id": _whole,
            "parent": _or_none(_whole),
            "origin": _one_of(Origin),
            "action": _or_none(_action),
            "action_source": _or_none(_one_of(ActionSource)),
            "branch": _or_none(_whole),
            "starred": _flag,
            "note": _text,
            "edit_of": _or_none(_whole),
        },
    ),
    "branch": (
        Branch,
        {
            "id": _whole,
            "start": _whole,
            "frames": _whole,
            "state": _one_of(State),
            "error": _or_none(_text),
            "seed": _whole,
            "temperature": _number,
            "top_k": _or_none(_whole),
            "top_p": _or_none(_number),
            "context": _whole,
            "controlled_by": _one_of(ActionSource),
        },
    ),
    "removed": (Removed, {"nodes": _wholes, "branches": _wholes}),
}
_NAMES = {kind: name for name, (kind, _) in _KINDS.items()}

"""What `/v1/stories` takes and gives, as types. Knows only the format.

A story's values in the form that `/v1/stories` gives; see the types of `story_format`.

Changes of a story as lines of JSON, and back. Owns the words that stand on disk.

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
from playloom.server.schemas import Picture, Seed, Temperature, TopK, TopP, Vector
from playloom.server.service import RequestModel
from playloom.server.stories.tree import Branch, Change, Header, Node, Origin, Removed, State, Tree

MOST_BRANCHES = 8
"""Branches of one order."""
MOST_COPIES = 9
"""Frames after the first that one edit is copied to."""
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Note = Annotated[str, Field(max_length=2000)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
_Form = ConfigDict(use_attribute_docstrings=True)


class NewStory(RequestModel):
    """Where a story begins: a moment, pictures, or what somebody plays."""

    name: Name | None = None
    """For people; none: what it begins at."""
    prompt: str | None = Field(default=None, max_length=255)
    """A bundled moment's name; see `/v1/prompts`. None, and nothing else: the first one."""
    images: Annotated[list[Picture], Field(min_length=1, max_length=100)] | None = None
    """Or pictures, oldest first; as many of the last as the model sees are used."""
    context_actions: Annotated[list[Vector], Field(max_length=100)] | None = None
    """The actions between the images, one less than images; none: at rest."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """What the sixteen numbers of every action in this request are."""
    session: str | None = Field(default=None, max_length=255)
    """Or the token of a session, live or stepped: its newest frames, as many as the model sees."""


class StoryUpdate(RequestModel):
    """A story's new name."""

    name: Name
    """For people."""


class BranchRequest(RequestModel):
    """One or more branches from one frame, all alike but for their seeds."""

    from_: Id = Field(alias="from")
    """The frame to go on from."""
    count: int = Field(default=1, ge=1, le=MOST_BRANCHES)
    """How many branches; their seeds count up."""
    frames: int = Field(default=10, ge=1)
    """How many frames each."""
    context: int | None = Field(default=None, ge=1)
    """Most frames that the model sees of what came before, that one included; none: as many as it can."""
    controlled_by: ActionSource = "player"
    """`player`: what is given below is pressed. `model`: it presses itself, after what is given."""
    actions: Annotated[list[Vector], Field(min_length=1, max_length=10_000)] | None = None
    """Sixteen numbers a frame. The player holds the last one to the end."""
    script: str | None = Field(default=None, max_length=10_000)
    """Or held inputs, as `forward for 2s; turn_left`; see docs/dream.md."""
    action: Vector | None = None
    """Or one action held all toward."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """What the sixteen numbers of every action in this request are."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's own."""
    top_k: TopK = None
    """Only the k likeliest tokens."""
    top_p: TopP = None
    """Only the likeliest tokens that reach p together."""
    seed: Seed = None
    """Of the first branch; same frames, same order, same seed: same branches; none: any."""


class EditRequest(RequestModel):
    """A picture to lay over a frame, and over some of those that follow."""

    overlay: str
    """PNG with transparency, base64, of the frame's size; another size is stretched to it."""
    copies: int = Field(default=0, ge=0, le=MOST_COPIES)
    """On how many of the next frames too: the more frames show it, the more the model has to go by."""
    toward: Id | None = None
    """A frame further on: which way the next frames are; none: always the first that was made."""


class NodeUpdate(RequestModel):
    """What somebody says about a frame."""

    starred: bool | None = None
    """One of the best; none: as it is."""
    note: Note | None = None
    """Words beside it; none: as they are."""


class NodeInfo(BaseModel):
    """One frame of a story."""

    model_config = _Form

    id: int
    """Counted up from 0, never used again; its pictures are `nodes/ID.png` and `nodes/ID.webp`."""
    parent: int | None
    """The frame before it; null where there is none."""
    origin: Origin
    """`given`, `dreamed`, or `edited` by hand."""
    action: list[int] | None
    """The action that led to it, sixteen bins; null without a parent."""
    action_source: ActionSource | None
    """Who pressed that; null for frames given."""
    branch: int | None
    """The branch that dreamed it."""
    starred: bool
    """One of the best, somebody said."""
    note: str
    """Words beside it."""
    edit_of: int | None
    """The frame that it is an edit of; it may be gone."""


class BranchInfo(BaseModel):
    """One order to dream on."""

    model_config = _Form

    id: int
    """Counted up from 0, never used again."""
    from_: int = Field(alias="from")
    """The frame it goes on from."""
    frames: int
    """How many were asked for."""
    frames_done: int
    """How many are there."""
    state: State
    """How it stands."""
    error: str | None
    """Why it failed, in a sentence."""
    seed: int
    """Asked for again, the same comes."""
    temperature: float
    """Divides the logits."""
    top_k: int | None
    """Only the k likeliest tokens."""
    top_p: float | None
    """Only the likeliest tokens that reach p together."""
    context: int
    """Most frames it sees of what came before."""
    controlled_by: ActionSource
    """Who holds the controller."""
    first: int | None
    """Its first frame; null: none yet."""
    last: int | None
    """Its newest frame."""


class StoryInfo(BaseModel):
    """A whole story."""

    model_config = _Form

    id: str
    """Secret: whoever knows it can look at the story."""
    name: str
    """For people."""
    created: str
    """ISO 8601, UTC."""
    size: list[int]
    """Height and width of its frames."""
    context: int
    """Most frames that the model sees of what came before."""
    fps: int
    """Frames a second when it is played."""
    model: str
    """What dreams on now."""
    revision: int
    """Number of the newest event."""
    nodes: list[NodeInfo]
    """All frames, each after the one before it."""
    branches: list[BranchInfo]
    """All branches, oldest first."""


class StoryItem(BaseModel):
    """A story in the list."""

    model_config = _Form

    id: str
    """Its id."""
    name: str
    """For people."""
    created: str
    """ISO 8601, UTC; empty where it is damaged."""
    frames: int
    """How many."""
    branches: int
    """How many."""
    picture: str | None
    """Where a picture of it is: its newest star, else its newest frame."""
    error: str | None
    """Why it cannot be opened, in a sentence; null: it can."""


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
    """As they stand."""
    notes: list[str]
    """What was chosen on the way, in sentences."""


class RemovedInfo(BaseModel):
    """What is gone."""

    model_config = _Form

    nodes: list[int]
    """Frames: the one named, and all after it."""
    branches: list[int]
    """Branches that began there, and ended ones of which no frame is left."""


def node_dict(node: Node) -> dict[str, Any]:
    """As `NodeInfo`."""
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
    """As `BranchInfo`."""
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
    """As `RemovedInfo`."""
    return {"nodes": list(removed.nodes), "branches": list(removed.branches)}


def story_dict(name: str, tree: Tree, *, context: int, model: str) -> dict[str, Any]:
    """As `StoryInfo`."""
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
    """As `StoryItem`."""
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
    """The data of an event: the newest that is known of what it is about."""
    if isinstance(what, Node):
        return node_dict(tree.nodes.get(what.id, what))
    if isinstance(what, Branch):
        return branch_dict(tree.branches.get(what.id, what), tree)
    return removed_dict(what) if isinstance(what, Removed) else {"id": name, "name": what.name}


_Check = Callable[[Any], bool]


def to_line(change: Change) -> str:
    """One line, without its end."""
    return json.dumps({_NAMES[type(change)]: asdict(change)})


def from_line(line: bytes) -> Change:
    """The change a line says.

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

"""Types of `/v1/stories`, and the tree of a story.

`Node`, `Branch` and `Removed` are the same in memory, in the log and on the wire. A tree changes by `Change`s only, so
disk, memory and events hold the same sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError, RecordingError
from playloom.inference.session import ActionSource
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

    next_node: _Whole = Field(default=0, description="Next free node id.")
    next_branch: _Whole = Field(default=0, description="Next free branch id.")


Change: TypeAlias = Header | Node | Branch | Removed
"""One change of a story; a known `Node` or `Branch` is replaced."""
KINDS: dict[type[Change], str] = {Header: "story", Node: "node", Branch: "branch", Removed: "removed"}
"""Names of changes in the log and in events."""


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
    return f'{{"{KINDS[type(change)]}": {change.model_dump_json()}}}'


def from_line(line: bytes) -> Change:
    """Parse a line of the log; RecordingError when it holds no valid change."""
    try:
        (change,) = (found for _, found in _Line.model_validate_json(line, strict=True) if found is not None)
    except ValueError as error:
        raise RecordingError(f"a line of its log cannot be read: {str(error)[:200]}") from None
    return change


class Tree:
    """All frames and branches of a story."""

    def __init__(self) -> None:
        self.header = Header(name="", created="", revision=0)
        self.nodes: dict[int, Node] = {}
        self.branches: dict[int, Branch] = {}

    def apply(self, change: Change) -> None:
        """Apply a change; RecordingError when it contradicts the tree, which stays unchanged then."""
        before = self.header
        if isinstance(change, Header):
            if change.revision <= before.revision:
                raise RecordingError(f"its change {change.revision} comes after change {before.revision}")
            self.header = change
            return
        counters = {"revision": before.revision + 1}
        if isinstance(change, Node):
            self._put_node(change)
            counters["next_node"] = max(before.next_node, change.id + 1)
        elif isinstance(change, Branch):
            self._require(change.from_)
            self.branches[change.id] = change
            self._count_frames(change.id)
            counters["next_branch"] = max(before.next_branch, change.id + 1)
        else:
            self._remove(change)
        self.header = before.model_copy(update=counters)

    def renamed(self, name: str) -> Header:
        """Return the change that renames the story."""
        return self.header.model_copy(update={"name": name, "revision": self.header.revision + 1})

    def node(self, node: int) -> Node:
        """Return a frame by its id; an unknown one is a BadInputError, here and below."""
        if node not in self.nodes:
            raise BadInputError(f"there is no frame {node} in this story")
        return self.nodes[node]

    def path(self, node: int) -> list[Node]:
        """Return the path from the root to a frame."""
        found = [self.node(node)]
        while found[-1].parent is not None:
            found.append(self.nodes[found[-1].parent])
        return found[::-1]

    def forward_path(self, node: int, toward: int | None, count: int) -> list[Node]:
        """Return the next `count` frames after one: towards its descendant `toward`, else always the first child."""
        if toward is None:
            toward = node
            for _ in range(count):
                toward = next(iter(self._children(toward)), toward)
        path = self.path(toward)
        if self.node(node) not in path:
            raise BadInputError(f"toward is no descendant of frame {node}: got {toward}")
        found = path[path.index(self.nodes[node]) + 1 :][:count]
        if len(found) < count:
            raise BadInputError(f"too few frames follow {node}: got {len(found)}, expected {count}; send fewer copies")
        return found

    def descendants(self, node: int) -> list[int]:
        """Return the ids of a frame and its descendants."""
        found = {self.node(node).id}
        for other in self.nodes.values():  # parents come first
            if other.parent in found:
                found.add(other.id)
        return sorted(found)

    def removal(self, node: int) -> Removed:
        """Return the removal of a frame and its descendants, unless it is the only root or a branch is active there."""
        gone, branches = set(self.descendants(node)), []
        if self.nodes[node].parent is None and len(self._children(None)) == 1:
            raise BadInputError("the story begins with this frame; delete the story instead")
        for branch in self.branches.values():
            frames = self._frames_of(branch.id)
            touched = branch.from_ in gone or bool(gone.intersection(frames))
            if touched and branch.state in ACTIVE_STATES:
                raise BadInputError(f"branch {branch.id} is still to be dreamed there; cancel it first")
            if touched and gone.issuperset(frames):
                branches.append(branch.id)
        return Removed(nodes=tuple(sorted(gone)), branches=tuple(sorted(branches)))

    def active_branches(self) -> list[Branch]:
        """Return waiting and running branches."""
        return [branch for branch in self.branches.values() if branch.state in ACTIVE_STATES]

    def _children(self, node: int | None) -> list[int]:  # oldest first; of None: the roots
        return [child.id for child in self.nodes.values() if child.parent == node]

    def _put_node(self, node: Node) -> None:
        if node.parent is not None:
            self._require(node.parent)
        known = self.nodes.get(node.id)
        if known is not None and (known.parent, known.branch) != (node.parent, node.branch):
            raise RecordingError(f"its frame {node.id} changes its place")
        self.nodes[node.id] = node
        if known is None:
            self._count_frames(node.branch)

    def _remove(self, removed: Removed) -> None:
        gone = set(removed.nodes)
        for id_ in gone:
            self._require(id_)
        for node in self.nodes.values():
            if node.parent in gone and node.id not in gone:
                raise RecordingError(f"its frame {node.parent} is removed without its descendants")
        for branch in {self.nodes.pop(id_).branch for id_ in gone}:
            self._count_frames(branch)
        for branch in removed.branches:
            self.branches.pop(branch, None)

    def _frames_of(self, branch: int) -> list[int]:
        return [node.id for node in self.nodes.values() if node.branch == branch]

    def _count_frames(self, branch: int | None) -> None:
        if branch in self.branches:
            frames = self._frames_of(branch)
            first, last = (frames[0], frames[-1]) if frames else (None, None)
            counts = {"frames_done": len(frames), "first": first, "last": last}
            self.branches[branch] = self.branches[branch].model_copy(update=counts)

    def _require(self, node: int) -> None:
        if node not in self.nodes:
            raise RecordingError(f"its frame {node} is missing")


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

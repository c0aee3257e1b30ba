"""A story as a tree of frames: its values, and the rules of its changes.

A tree changes by `Change`s only, so disk, memory and events hold the same sequence.

    >>> tree = Tree()
    >>> tree.apply(Header(name="what if", created="2026-01-01T00:00:00+00:00"))
    >>> tree.apply(Node(id=0, parent=None, origin="given", action=None))
    >>> [node.id for node in tree.path(0)]
    [0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from playloom.errors import BadInputError, RecordingError
from playloom.inference.types import ActionSource

Origin = Literal["given", "dreamed", "edited"]
"""Origin of a frame: given, generated (here or in the session it came from), or edited."""
State = Literal["waiting", "dreaming", "done", "cancelled", "failed"]
"""State of a branch; the last three are final."""
ACTIVE_STATES = ("waiting", "dreaming")
"""States that are not final."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One frame of a story."""

    id: int
    """Id, from 0 in order of creation; never reused."""
    parent: int | None
    """Id of the frame before it; None for a root or an edit of a root."""
    origin: Origin
    """Origin of the frame."""
    action: tuple[int, ...] | None
    """Action that led to it, sixteen values; None without a parent."""
    action_source: ActionSource | None = None
    """Source of that action; None for given frames."""
    branch: int | None = None
    """Id of the branch that generated it; None for the others."""
    starred: bool = False
    """Star."""
    note: str = ""
    """Note."""
    edit_of: int | None = None
    """Id of the frame it was edited from; that frame may be removed."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One branch and its state."""

    id: int
    """Id, from 0; never reused."""
    start: int
    """Id of the frame it starts from."""
    frames: int
    """Number of frames requested."""
    state: State = "waiting"
    """State of the branch."""
    error: str | None = None
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


@dataclass(frozen=True, kw_only=True)
class Header:
    """Name and counters of a story; a new header replaces the old one."""

    name: str
    """Display name."""
    created: str
    """Creation time, ISO 8601, UTC."""
    size: tuple[int, int] = (0, 0)
    """(H, W) of its frames."""
    revision: int = 1
    """Number of changes, this one included."""
    next_node: int = 0
    """Next free node id."""
    next_branch: int = 0
    """Next free branch id."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Removed frames and branches."""

    nodes: tuple[int, ...]
    """Ids of a frame and its descendants."""
    branches: tuple[int, ...]
    """Ids of branches that started there, and of finished ones without a frame left."""


Change: TypeAlias = Header | Node | Branch | Removed
"""One change; a known `Node` or `Branch` is replaced."""


class Tree:
    """All frames and branches of a story."""

    def __init__(self) -> None:
        self.header = Header(name="", created="", revision=0)
        self.nodes: dict[int, Node] = {}
        self.branches: dict[int, Branch] = {}
        self._children: dict[int | None, list[int]] = {}
        self._frames_of: dict[int, list[int]] = {}

    def apply(self, change: Change) -> None:
        """Apply a change.

        Raises:
            RecordingError: when it does not follow from what is there; nothing is changed then.
        """
        counting = self.header
        if isinstance(change, Header):
            if change.revision <= counting.revision:
                raise RecordingError(f"its change {change.revision} comes after change {counting.revision}")
            self.header = change
            return
        if isinstance(change, Node):
            self._put_node(change)
        elif isinstance(change, Branch):
            self._require(change.start)
            self.branches[change.id] = change
        else:
            self._remove(change)
        self.header = replace(
            counting,
            revision=counting.revision + 1,
            next_node=max(counting.next_node, change.id + 1) if isinstance(change, Node) else counting.next_node,
            next_branch=max(counting.next_branch, change.id + 1)
            if isinstance(change, Branch)
            else counting.next_branch,
        )

    def renamed(self, name: str) -> Header:
        """Return the change that renames the story."""
        return replace(self.header, name=name, revision=self.header.revision + 1)

    def snapshot(self) -> list[Change]:
        """Return the shortest list of changes that builds this tree, at the same revision."""
        changes: list[Change] = [*self.nodes.values(), *self.branches.values()]
        return [replace(self.header, revision=self.header.revision - len(changes)), *changes]

    def children(self, node: int | None) -> Sequence[int]:
        """Return the children of a frame, oldest first; of None: the roots."""
        return self._children.get(node, ())

    def path(self, node: int) -> list[Node]:
        """Return the path from the root to a frame.

        Raises:
            BadInputError: when there is no such frame.
        """
        found = [self.node(node)]
        while found[-1].parent is not None:
            found.append(self.nodes[found[-1].parent])
        return found[::-1]

    def forward_path(self, node: int, toward: int | None, count: int) -> list[Node]:
        """Return the next `count` frames after one: towards `toward`, else always the first child.

        Raises:
            BadInputError: when there is no such frame, `toward` does not come after it, or fewer follow.
        """
        if toward is None:
            found: list[Node] = []
            last = node
            while len(found) < count and (after := self.children(last)):
                last = after[0]
                found.append(self.nodes[last])
        else:
            path = self.path(toward)
            at = next((index for index, step in enumerate(path) if step.id == node), None)
            if at is None:
                raise BadInputError(f"frame {toward} does not come after frame {node}; pass one that does as toward")
            found = path[at + 1 : at + 1 + count]
        if len(found) < count:
            follow = f"{len(found)} frame{'' if len(found) == 1 else 's'}"
            raise BadInputError(f"only {follow} follow frame {node} along that line; copy the edit to no more")
        return found

    def descendants(self, node: int) -> list[int]:
        """Return the ids of a frame and its descendants.

        Raises:
            BadInputError: when there is no such frame.
        """
        found, open_ = [], [self.node(node).id]
        while open_:
            found.append(open_.pop())
            open_ += self.children(found[-1])
        return sorted(found)

    def removal(self, node: int) -> Removed:
        """Return the removal of a frame and its descendants.

        Raises:
            BadInputError: when there is no such frame, it is the story's only beginning, or something is being
                dreamed there.
        """
        gone = set(self.descendants(node))
        made = {branch: self.frames_of(branch) for branch in self.branches}
        if self.nodes[node].parent is None and len(self.children(None)) == 1:
            raise BadInputError("the story begins with this frame; delete the story instead")
        for branch in self.branches.values():
            if branch.state in ACTIVE_STATES and (branch.start in gone or gone.intersection(made[branch.id])):
                raise BadInputError(f"branch {branch.id} is still to be dreamed there; cancel it first")
        empty = {
            branch.id
            for branch in self.branches.values()
            if branch.start in gone or (made[branch.id] and gone.issuperset(made[branch.id]))
        }
        return Removed(nodes=tuple(sorted(gone)), branches=tuple(sorted(empty)))

    def frames_of(self, branch: int) -> Sequence[int]:
        """Return the ids of a branch's frames, in order."""
        return self._frames_of.get(branch, ())

    def unfinished(self) -> list[Branch]:
        """Return queued and running branches."""
        return [branch for branch in self.branches.values() if branch.state in ACTIVE_STATES]

    def node(self, node: int) -> Node:
        """Return a frame by its id.

        Raises:
            BadInputError: when there is none.
        """
        if node not in self.nodes:
            raise BadInputError(f"there is no frame {node} in this story")
        return self.nodes[node]

    def _put_node(self, node: Node) -> None:
        if node.parent is not None:
            self._require(node.parent)
        known = self.nodes.get(node.id)
        if known is None:
            self._children.setdefault(node.parent, []).append(node.id)
            if node.branch is not None:
                self._frames_of.setdefault(node.branch, []).append(node.id)
        elif (known.parent, known.branch) != (node.parent, node.branch):
            raise RecordingError(f"its frame {node.id} changes its place")
        self.nodes[node.id] = node

    def _remove(self, removed: Removed) -> None:
        for name in removed.nodes:
            self._require(name)
        for name in removed.nodes:
            node = self.nodes.pop(name)
            self._children.pop(name, None)
            if node.parent in self._children:
                self._children[node.parent].remove(name)
            if node.branch in self._frames_of:
                self._frames_of[node.branch].remove(name)
        for branch in removed.branches:
            self.branches.pop(branch, None)
            self._frames_of.pop(branch, None)

    def _require(self, node: int) -> None:
        if node not in self.nodes:
            raise RecordingError(f"its frame {node} is missing")

"""A story as a tree of frames: its values, and every rule of how it may change.

A tree changes by `Change`s alone, so that what is kept on disk, what pages are told and what is in memory are the same
sequence. Knows no pictures, no files and no model.

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
"""Where a frame comes from: brought toward, dreamed here (or in the live session it came from), edited by hand."""
State = Literal["waiting", "dreaming", "done", "cancelled", "failed"]
"""How a branch stands; the last three are ends."""
ACTIVE_STATES = ("waiting", "dreaming")
"""States that come to an end by themselves."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One frame of a story."""

    id: int
    """From 0 in order of appearance; never used again."""
    parent: int | None
    """The frame before it; None: the story, or an edit of its first frame, begins here."""
    origin: Origin
    """Where it comes from."""
    action: tuple[int, ...] | None
    """The action that led to it, sixteen values; None without a parent."""
    action_source: ActionSource | None = None
    """Who pressed that; None where nobody here did (frames given)."""
    branch: int | None = None
    """The branch that dreamed it; None for the others."""
    starred: bool = False
    """Whether somebody marked it as one of the best."""
    note: str = ""
    """What somebody wrote beside it."""
    edit_of: int | None = None
    """The frame it was edited from; that one may be gone."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One order to dream on, and how it stands."""

    id: int
    """From 0; never used again."""
    start: int
    """The frame it goes on from."""
    frames: int
    """How many were asked for."""
    state: State = "waiting"
    """How it stands."""
    error: str | None = None
    """Why it failed, in a sentence."""
    seed: int
    """Of its draws."""
    temperature: float
    """Divides the logits."""
    top_k: int | None
    """Only the k likeliest tokens."""
    top_p: float | None
    """Only the likeliest tokens that reach p together."""
    context: int
    """Most frames before it that it sees."""
    controlled_by: ActionSource
    """Who holds the controller."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a story is called, and where its counting stands; every one replaces the one before."""

    name: str
    """For people."""
    created: str
    """ISO 8601, UTC."""
    size: tuple[int, int] = (0, 0)
    """(H, W) of its frames."""
    revision: int = 1
    """Changes so far, this one included."""
    next_node: int = 0
    """The least id that no frame has had."""
    next_branch: int = 0
    """The same of branches."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What is gone."""

    nodes: tuple[int, ...]
    """Frames: one, and all after it."""
    branches: tuple[int, ...]
    """Branches that began there, and ended ones of which no frame is left."""


Change: TypeAlias = Header | Node | Branch | Removed
"""One step of a story's life. A `Node` or `Branch` that is known already takes the place of what was known."""


class Tree:
    """All frames and branches of a story."""

    def __init__(self) -> None:
        self.header = Header(name="", created="", revision=0)
        self.nodes: dict[int, Node] = {}
        self.branches: dict[int, Branch] = {}
        self._children: dict[int | None, list[int]] = {}
        self._frames_of: dict[int, list[int]] = {}

    def apply(self, change: Change) -> None:
        """Take a change in.

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
        """The change that gives it another name."""
        return replace(self.header, name=name, revision=self.header.revision + 1)

    def snapshot(self) -> list[Change]:
        """Changes that lead to this tree, as few as can be; the revision stays what it is."""
        changes: list[Change] = [*self.nodes.values(), *self.branches.values()]
        return [replace(self.header, revision=self.header.revision - len(changes)), *changes]

    def children(self, node: int | None) -> Sequence[int]:
        """The frames right after one, oldest first; of None: those without a frame before them."""
        return self._children.get(node, ())

    def path(self, node: int) -> list[Node]:
        """From the beginning to a frame.

        Raises:
            BadInputError: when there is no such frame.
        """
        found = [self.node(node)]
        while found[-1].parent is not None:
            found.append(self.nodes[found[-1].parent])
        return found[::-1]

    def forward_path(self, node: int, toward: int | None, count: int) -> list[Node]:
        """The next `count` frames after one: towards `toward`, or always the first that was made.

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
        """A frame and all after it, by id.

        Raises:
            BadInputError: when there is no such frame.
        """
        found, open_ = [], [self.node(node).id]
        while open_:
            found.append(open_.pop())
            open_ += self.children(found[-1])
        return sorted(found)

    def removal(self, node: int) -> Removed:
        """What goes when a frame and all after it go.

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
        """The frames of a branch that are there, in order."""
        return self._frames_of.get(branch, ())

    def unfinished(self) -> list[Branch]:
        """Branches that wait or are being dreamed."""
        return [branch for branch in self.branches.values() if branch.state in ACTIVE_STATES]

    def node(self, node: int) -> Node:
        """A frame by its id.

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

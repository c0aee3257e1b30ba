"""A story as a tree of frames, and the rules of its changes.

A tree changes by `Change`s only, so disk, memory and events hold the same sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from playloom.errors import BadInputError, RecordingError
from playloom.server.stories.schemas import ACTIVE_STATES, Branch, Change, Header, Node, Removed


class Tree:
    """All frames and branches of a story."""

    def __init__(self) -> None:
        self.header = Header(name="", created="", revision=0)
        self.nodes: dict[int, Node] = {}
        self.branches: dict[int, Branch] = {}
        self._children: dict[int | None, list[int]] = {}
        self._frames_of: dict[int, list[int]] = {}

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

    def snapshot(self) -> list[Change]:
        """Return the shortest list of changes that builds this tree, at the same revision."""
        changes: list[Change] = [*self.nodes.values(), *self.branches.values()]
        return [self.header.model_copy(update={"revision": self.header.revision - len(changes)}), *changes]

    def children(self, node: int | None) -> Sequence[int]:
        """Return the children of a frame, oldest first; of None: the roots."""
        return self._children.get(node, ())

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
            found: list[Node] = []
            last = node
            while len(found) < count and (after := self.children(last)):
                last = after[0]
                found.append(self.nodes[last])
        else:
            path = self.path(toward)
            ids = [step.id for step in path]
            if node not in ids:
                raise BadInputError(f"toward is no descendant of frame {node}: got {toward}")
            found = path[ids.index(node) + 1 :][:count]
        if len(found) < count:
            raise BadInputError(
                f"too few frames follow frame {node}: got {len(found)}, expected {count}; send fewer copies"
            )
        return found

    def descendants(self, node: int) -> list[int]:
        """Return the ids of a frame and its descendants."""
        found, open_ = [], [self.node(node).id]
        while open_:
            found.append(open_.pop())
            open_ += self.children(found[-1])
        return sorted(found)

    def removal(self, node: int) -> Removed:
        """Return the removal of a frame and its descendants, unless it is the only root or a branch is active there."""
        gone, branches = set(self.descendants(node)), []
        if self.nodes[node].parent is None and len(self.children(None)) == 1:
            raise BadInputError("the story begins with this frame; delete the story instead")
        for branch in self.branches.values():
            frames = self._frames_of.get(branch.id, [])
            touched = branch.from_ in gone or bool(gone.intersection(frames))
            if touched and branch.state in ACTIVE_STATES:
                raise BadInputError(f"branch {branch.id} is still to be dreamed there; cancel it first")
            if touched and gone.issuperset(frames):
                branches.append(branch.id)
        return Removed(nodes=tuple(sorted(gone)), branches=tuple(sorted(branches)))

    def active_branches(self) -> list[Branch]:
        """Return queued and running branches."""
        return [branch for branch in self.branches.values() if branch.state in ACTIVE_STATES]

    def _put_node(self, node: Node) -> None:
        if node.parent is not None:
            self._require(node.parent)
        known = self.nodes.get(node.id)
        if known is not None and (known.parent, known.branch) != (node.parent, node.branch):
            raise RecordingError(f"its frame {node.id} changes its place")
        self.nodes[node.id] = node
        if known is None:
            self._children.setdefault(node.parent, []).append(node.id)
            if node.branch is not None:
                self._frames_of.setdefault(node.branch, []).append(node.id)
                self._count_frames(node.branch)

    def _remove(self, removed: Removed) -> None:
        for id_ in removed.nodes:
            self._require(id_)
        for id_ in removed.nodes:
            node = self.nodes.pop(id_)
            self._children.pop(id_, None)
            if node.parent in self._children:
                self._children[node.parent].remove(id_)
            if node.branch in self._frames_of:
                self._frames_of[node.branch].remove(id_)
                self._count_frames(node.branch)
        for branch in removed.branches:
            self.branches.pop(branch, None)
            self._frames_of.pop(branch, None)

    def _count_frames(self, branch: int) -> None:
        if branch in self.branches:
            frames = self._frames_of.get(branch, [])
            counts = {"frames_done": len(frames), "first": frames[0] if frames else None}
            counts["last"] = frames[-1] if frames else None
            self.branches[branch] = self.branches[branch].model_copy(update=counts)

    def _require(self, node: int) -> None:
        if node not in self.nodes:
            raise RecordingError(f"its frame {node} is missing")

"""A story's values in the form that `/v1/stories` gives; see the types of `story_format`."""

from __future__ import annotations

from typing import Any

from playloom.stories.tree import Branch, Header, Node, Removed, Tree


def node_dict(node: Node) -> dict[str, Any]:
    """As `NodeInfo`."""
    return {
        "id": node.id,
        "parent": node.parent,
        "origin": node.origin,
        "action": None if node.action is None else list(node.action),
        "pressed": node.pressed,
        "branch": node.branch,
        "starred": node.starred,
        "note": node.note,
        "edit_of": node.edit_of,
    }


def branch_dict(branch: Branch, tree: Tree) -> dict[str, Any]:
    """As `BranchInfo`."""
    made = tree.made(branch.id)
    return {
        "id": branch.id,
        "from": branch.start,
        "frames": branch.frames,
        "made": len(made),
        "state": branch.state,
        "problem": branch.problem,
        "seed": branch.seed,
        "temperature": branch.temperature,
        "top_k": branch.top_k,
        "top_p": branch.top_p,
        "context": branch.context,
        "presses": branch.presses,
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
        "hertz": 10,
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
        "problem": None,
    }


def event_dict(what: Header | Node | Branch | Removed, name: str, tree: Tree) -> dict[str, Any]:
    """The data of an event: the newest that is known of what it is about."""
    if isinstance(what, Node):
        return node_dict(tree.nodes.get(what.id, what))
    if isinstance(what, Branch):
        return branch_dict(tree.branches.get(what.id, what), tree)
    return removed_dict(what) if isinstance(what, Removed) else {"id": name, "name": what.name}

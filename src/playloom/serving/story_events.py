"""What happens to a story as Server-Sent Events: a browser that comes back hears what it missed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from playloom.serving.gate import Gate
from playloom.serving.story import Event, Story
from playloom.serving.story_shown import branch_dict, event_dict
from playloom.stories.tree import Node

_HEARTBEAT = 10.0  # seconds without a word after which one is said, so that nobody in between hangs up
_LOOK = 1.0  # seconds between looks whether the server is stopping


async def event_stream(story: Story, after: int, gate: Gate) -> AsyncIterator[str]:
    """Events after a revision, for ever; ends when the story is deleted or the server stops."""
    watcher = story.watch()
    try:
        yield "retry: 1000\n\n"
        silence = 0.0
        while not gate.draining:
            watcher.clear()
            if story.deleted:
                yield _said("gone", after, {})
                return
            events, now = story.events(after), story.tree.header.revision
            if events is None:
                yield _said("reload", now, {})
            for event in events or ():
                yield _told(event, story)
            if events is None or events:
                after, silence = now, 0.0
                continue
            try:
                await asyncio.wait_for(watcher.wait(), _LOOK)
            except asyncio.TimeoutError:
                silence += _LOOK
            if silence >= _HEARTBEAT:
                silence = 0.0
                yield ": still here\n\n"
    finally:
        story.unwatch(watcher)


def _told(event: Event, story: Story) -> str:
    """An event as it stands now; a frame of a branch brings the branch along, which has one more."""
    what, tree = event.what, story.tree
    told = _said(event.kind, event.number, event_dict(what, story.name, tree))
    branch = tree.branches.get(what.branch) if isinstance(what, Node) and what.branch is not None else None
    return told if branch is None else told + _said("branch", event.number, branch_dict(branch, tree))


def _said(kind: str, number: int, data: object) -> str:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"

"""One story in memory: its tree, its folder, and whoever watches it change.

Owns that a change is on the disk before anybody hears of it, that changes come one after the other, and that who comes
back hears what was missed. Used from one event loop; the disk has a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from playloom.errors import BadInputError, PlayloomError
from playloom.serving.refusals import Refusal
from playloom.stories.frames import Frame
from playloom.stories.store import Place
from playloom.stories.tree import Branch, Change, Header, Node, Removed, Tree

_T = TypeVar("_T")
_KEPT_EVENTS = 4000
_KINDS: dict[type[Change], str] = {Header: "story", Node: "node", Branch: "branch", Removed: "removed"}


class Event(NamedTuple):
    """Something that happened to a story."""

    number: int
    """The story's revision since then."""
    kind: str
    """`story`, `node`, `branch` or `removed`."""
    what: Change
    """What it was."""


class Story:
    """A story that is open."""

    def __init__(self, name: str, place: Place, tree: Tree, disk: Executor) -> None:
        self.name, self.place, self.tree = name, place, tree
        self.deleted = False
        self.lock = asyncio.Lock()
        """Held from deciding on a change until it is made."""
        self._disk = disk
        self._events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._watchers: set[asyncio.Event] = set()

    async def add(self, changes: Sequence[Change], frames: Sequence[Frame] = ()) -> None:
        """Make changes, with the frames of the nodes among them. To be called with the lock held.

        Raises:
            PlayloomError: when they cannot be written; nothing has happened then.
        """
        self.check_there()
        await to_the_end(self._add(changes, frames))

    async def settle(self, ended: Branch) -> None:
        """Make a branch's end known, on the disk where that can still be written to: else nobody would ever hear of it.

        To be called with the lock held.
        """
        try:
            await self.add([ended])
        except PlayloomError:
            self._apply([ended])
            self.wake()

    async def remove(self, node: int) -> Removed:
        """Remove a frame and all after it.

        Raises:
            BadInputError: when that may not be; see `Tree.removal`.
        """
        async with self.lock:
            removed = self.tree.removal(node)
            await self.add([removed])
            await self.disk(lambda: self.place.remove_frames(removed.nodes))
        return removed

    async def _add(self, changes: Sequence[Change], frames: Sequence[Frame]) -> None:
        nodes = [change.id for change in changes if isinstance(change, Node)] if frames else []

        def write() -> None:
            for node, frame in zip(nodes, frames, strict=True):
                self.place.write_frame(node, frame)
            self.place.append(changes)

        await self.disk(write)
        self._apply(changes)
        self.wake()
        if self.place.untidy(self.tree):
            short = self.tree.snapshot()
            with suppress(PlayloomError):  # the changes are made; a long log is no trouble, and is tried again
                await self.disk(lambda: self.place.rewrite(short))

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.tree.apply(change)
            self._events.append(Event(self.tree.header.revision, _KINDS[type(change)], change))

    async def disk(self, work: Callable[[], _T]) -> _T:
        """Do it in the disk's thread, after what was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    def node(self, node: int) -> Node:
        """A frame that a request's path names.

        Raises:
            Refusal: 404.
        """
        try:
            return self.tree.node(node)
        except BadInputError as error:
            raise Refusal(404, str(error)) from None

    def check_there(self) -> None:
        """Refuse what comes after the story was deleted.

        Raises:
            Refusal: 404.
        """
        if self.deleted:
            raise Refusal(404, "this story was deleted")

    def events(self, after: int) -> list[Event] | None:
        """What happened after a revision; None where that is not known any more: then look at the whole again."""
        now = self.tree.header.revision
        known_from = self._events[0].number if self._events else now + 1
        if after > now or after + 1 < known_from:
            return None
        return [event for event in self._events if event.number > after]

    def watch(self) -> asyncio.Event:
        """Something that is set whenever the story changes, until `unwatch`."""
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: asyncio.Event) -> None:
        """Set it no more."""
        self._watchers.discard(watcher)

    def wake(self) -> None:
        """Tell whoever watches to look."""
        for watcher in self._watchers:
            watcher.set()


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """What some work gives. Who is cancelled meanwhile waits for its end all the same: what is on the disk must be in
    memory before a lock is let go."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise

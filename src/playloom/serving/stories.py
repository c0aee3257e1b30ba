"""All stories of a server: opening them from the disk, beginning new ones, edits, and their end.

Dreaming on is `story_branches`' business. Used from one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError, PictureError, PlayloomError
from playloom.provenance.manifest import created_at
from playloom.serving.pictures import from_base64, picture_size
from playloom.serving.refusals import Refusal
from playloom.serving.story import Story, to_the_end
from playloom.serving.story_beginnings import Beginning, RecentOf, beginning
from playloom.serving.story_format import EditOrder, NewStory
from playloom.serving.story_shown import item_dict
from playloom.serving.studio import Studio
from playloom.stories.frames import Frame
from playloom.stories.overlay import laid_over, read_overlay
from playloom.stories.store import Place, Shelf
from playloom.stories.tree import UNFINISHED, Branch, Change, Header, Node, Tree

_CUT_OFF = "the server ended before this was done; what was made is kept"
_EDITED = "generated, then edited by hand"
_UNKNOWN = "there is no such story; it was deleted, or its address is incomplete"


class Stories:
    """The stories of a folder."""

    def __init__(self, studio: Studio, recent_of: RecentOf) -> None:
        """See the module.

        Args:
            studio: encodes and dreams.
            recent_of: see `RecentOf`.
        """
        self.studio, self._recent_of = studio, recent_of
        self._shelf = Shelf(studio.settings.stories)
        self._disk = ThreadPoolExecutor(1, "playloom-stories")
        self._open: dict[str, Story] = {}
        self._damaged: dict[str, tuple[Place, str]] = {}
        self._read = False
        self._lock = asyncio.Lock()

    async def find(self, name: str) -> Story:
        """A story by its id.

        Raises:
            Refusal: 404.
            PlayloomError: when it is damaged, or another server has the folder.
        """
        await self.look()
        if name in self._damaged:
            raise BadInputError(self._damaged[name][1])
        if name not in self._open:
            raise Refusal(404, _UNKNOWN)
        return self._open[name]

    async def find_open(self, name: str) -> Story | None:
        """A story by its id; None where there is none, or it is damaged."""
        await self.look()
        return self._open.get(name)

    async def items(self) -> list[dict[str, Any]]:
        """All stories as the list shows them, newest first, damaged ones last."""
        await self.look()
        whole = sorted(self._open.values(), key=lambda story: story.tree.header.created)[::-1]
        nothing: dict[str, Any] = {"created": "", "frames": 0, "branches": 0, "picture": None}
        return [
            *(item_dict(story.name, story.tree) for story in whole),
            *({"id": name, "name": name, **nothing, "problem": said} for name, (_, said) in self._damaged.items()),
        ]

    async def begin(self, asked: NewStory) -> Story:
        """A new story.

        Raises:
            PlayloomError: when what it begins with cannot be used.
            Refusal: 503 when too many wait; 400 when there are as many as may be.
        """
        await self.look()
        self._check_room()
        async with self.studio.gate.turn():
            start = await beginning(self.studio, asked, self._recent_of)
        return await self._create(start if asked.name is None else start._replace(name=asked.name))

    async def delete(self, name: str) -> Story | None:
        """Take a story away; its branches must have been cancelled. Returns it, where it was open."""
        await self.look()
        if name in self._damaged:
            place = self._damaged[name][0]
            await self._in_disk_thread(lambda: self._shelf.delete(place))
            self._damaged.pop(name, None)
            return None
        story = await self.find(name)
        async with story.lock:
            story.check_there()
            await story.disk(lambda: self._shelf.delete(story.place))
            story.deleted = True
            del self._open[name]
        story.wake()
        return story

    async def edit(self, story: Story, node: int, order: EditOrder) -> list[Node]:
        """Lay a picture over a frame, and over some after it: new frames beside them.

        Raises:
            PlayloomError: when the picture cannot be used, or fewer frames follow.
        """
        overlay_HW4 = await self.studio.side(lambda: self._overlay(order.overlay, story.tree.header.size))
        edited = [story.node(node), *story.tree.line(node, order.along, order.copies)]
        self.check_size(story)
        self.check_frames(story, len(edited))
        async with self.studio.gate.turn():
            frames = [await self._edited(story, old, overlay_HW4) for old in edited]
        async with story.lock:
            self.check_frames(story, len(edited))
            nodes, parent = [], edited[0].parent
            if parent is not None:
                story.node(parent)  # it may have been removed meanwhile
            for number, old in enumerate(edited, story.tree.header.next_node):
                nodes.append(
                    Node(
                        id=number,
                        parent=parent,
                        origin="edited",
                        action=old.action,
                        pressed=old.pressed,
                        edit_of=old.id,
                    )
                )
                parent = number
            await story.add(nodes, frames)
        return nodes

    def check_size(self, story: Story) -> None:
        """Refuse to dream on from frames of another size than the model's.

        Raises:
            BadInputError: names both.
        """
        (height, width), (wanted_height, wanted_width) = story.tree.header.size, self.studio.size
        if (height, width) != (wanted_height, wanted_width):
            raise BadInputError(
                f"the frames of this story are {width} x {height} and {self.studio.model.config.name} dreams "
                f"{wanted_width} x {wanted_height}; serve the model that it was made with"
            )

    def check_frames(self, story: Story, more: int) -> None:
        """Refuse more frames than a story may have, those still to be dreamed counted.

        Raises:
            BadInputError: names the limit.
        """
        tree, limit = story.tree, self.studio.settings.story_frames
        coming = sum(branch.frames - len(tree.made(branch.id)) for branch in tree.unfinished())
        if len(tree.nodes) + coming + more > limit:
            raise BadInputError(
                f"this story has {len(tree.nodes)} frames, {coming} are being dreamed, and {more} more would be over "
                f"its {limit}; remove some, or begin another story"
            )

    async def look(self) -> None:
        """Read what is on the disk, once.

        Raises:
            Refusal: 404 on one server of several, which would not all see the same stories.
            PlayloomError: when another server has the folder.
        """
        if self.studio.settings.replica is not None:
            raise Refusal(404, "stories are kept by a server of its own; start it without --cluster")
        async with self._lock:
            if not self._read:
                await self._read_all()
                self._read = True

    def wake(self) -> None:
        """Tell whoever watches a story to look."""
        for story in self._open.values():
            story.wake()

    def close(self) -> None:
        """Let others have the folder, after what is being written."""
        self._disk.submit(self._shelf.close)
        self._disk.shutdown(wait=False)

    async def _read_all(self) -> None:
        for place, tree, problem in await self._in_disk_thread(self._load_all):
            name = place.folder.name
            if tree is None:
                self._damaged[name] = place, problem
            else:
                self._open[name] = Story(name, place, tree, self._disk)

    def _load_all(self) -> list[tuple[Place, Tree | None, str]]:
        found: list[tuple[Place, Tree | None, str]] = []
        for place in self._shelf.places():
            try:
                tree = place.load()
                ended = [_ended(branch, tree) for branch in tree.unfinished()]
                if ended:
                    place.append(ended)
                for branch in ended:
                    tree.apply(branch)
                found.append((place, tree, ""))
            except PlayloomError as error:
                found.append((place, None, str(error)))
        return found

    async def _create(self, start: Beginning) -> Story:
        name, tree = secrets.token_hex(16), Tree()
        changes: list[Change] = [Header(name=start.name, created=created_at(), size=self.studio.size), *start.nodes()]
        for change in changes:
            tree.apply(change)
        frames = start.frames(self.studio.model.fingerprint)

        async def create() -> Story:
            async with self._lock:
                self._check_room()
                place = await self._in_disk_thread(lambda: self._shelf.create(name, changes, frames))
                story = self._open[name] = Story(name, place, tree, self._disk)
            return story

        return await to_the_end(create())

    async def _edited(self, story: Story, node: Node, overlay_HW4: NDArray[np.uint8]) -> Frame:
        """A frame with an overlay on it, encoded; it is as much dreamed as it was."""
        old = await story.disk(lambda: story.place.read_frame(node.id))
        frame_HWC = laid_over(old.frame_HWC, overlay_HW4)
        return Frame(
            frame_HWC=frame_HWC,
            codes_N=await self.studio.codes(frame_HWC),
            weights=self.studio.model.fingerprint,
            manifest=None if old.manifest is None else replace(old.manifest, note=_EDITED),
        )

    def _overlay(self, text: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        png, limit = from_base64(text, "the overlay"), self.studio.settings.picture_pixels
        width, height = picture_size(png, "the overlay")
        if not 0 < width * height <= limit:
            raise PictureError(f"the overlay is {width} x {height}; at most {limit:,} pixels are read: scale it down")
        return read_overlay(png, size)

    def _check_room(self) -> None:
        limit = self.studio.settings.most_stories
        if len(self._open) + len(self._damaged) >= limit:
            raise BadInputError(f"there are {limit} stories, as many as may be; delete one first")

    async def _in_disk_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


def _ended(branch: Branch, tree: Tree) -> Branch:
    """How a branch stands that a server left unfinished."""
    if len(tree.made(branch.id)) >= branch.frames:
        return replace(branch, state="done")
    return replace(branch, state="failed", problem=_CUT_OFF)


def is_open(story: Story, branch: int) -> bool:
    """Whether a branch is still to be dreamed, or being dreamed."""
    found = story.tree.branches.get(branch)
    return not story.deleted and found is not None and found.state in UNFINISHED

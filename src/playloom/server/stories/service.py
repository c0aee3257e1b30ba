"""Story service: open, create, edit and delete stories. Used from one event loop; the disk has its own thread.

A change is on disk before it is in memory or in an event. Changes of a story are serialized by its lock.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray
from PIL import Image

from playloom.errors import BadInputError, PictureError, PlayloomError, StorageError
from playloom.inference.realtime.recorder import ContextFrame, FrameHistory
from playloom.media.images import from_base64, picture_size
from playloom.provenance import Manifest, created_at
from playloom.server.schemas import build_prompt
from playloom.server.service import InferenceService, run_in
from playloom.server.stories.schemas import Change, EditRequest, Header, NewStory, Node, StoryInfo, StoryItem, Tree
from playloom.server.stories.store import Frame, StoryDir, StoryStore

_C = TypeVar("_C", bound=Change)
_KEPT_EVENTS = 4000
_CUT_OFF = "the server ended before this was done; what was made is kept"
_EDITED = "generated, then edited by hand"


class Story:
    """An open story."""

    def __init__(self, directory: StoryDir, tree: Tree, disk: Executor, error: str | None = None) -> None:
        """Open a story; `error` is the message of a damaged one, whose tree is empty."""
        self.name, self.directory, self.tree, self.error = directory.folder.name, directory, tree, error
        self.deleted = False
        self.lock = asyncio.Lock()  # held from validating a change until it is applied
        self.changed = asyncio.Event()  # set at the next change, then replaced by a new event
        self._disk = disk
        self._events: deque[tuple[int, Change]] = deque(maxlen=_KEPT_EVENTS)

    async def change(
        self, make: Callable[[], Sequence[_C]], frames: Sequence[Frame] = (), *, required: bool = True
    ) -> Sequence[_C]:
        """Make changes and return them; `make` validates and returns them while no other change is in progress.

        A cancelled call still completes, as memory must match the disk. `required` False ignores a failed write.
        """
        return await asyncio.shield(self._change(make, frames, required))

    async def read_frames(self, nodes: Sequence[Node]) -> list[Frame]:
        """Read frames from disk, in the order of `nodes`."""
        return await run_in(self._disk, lambda: [self.directory.read_frame(node.id) for node in nodes])

    def item(self) -> StoryItem:
        """Return the story's entry in the list of stories."""
        tree = self.tree
        if self.error is not None:
            return StoryItem(id=self.name, name=self.name, error=self.error)
        shown = max([node.id for node in tree.nodes.values() if node.starred] or tree.nodes)
        return StoryItem(
            id=self.name,
            name=tree.header.name,
            created=tree.header.created,
            frames=len(tree.nodes),
            branches=len(tree.branches),
            picture=f"/v1/stories/{self.name}/nodes/{shown}.webp",
        )

    def events(self, after: int) -> list[tuple[int, Change]] | None:
        """Return the changes after a revision, each with its revision; None when they are no longer kept."""
        now = self.tree.header.revision
        known_from = self._events[0][0] if self._events else now + 1
        if after > now or after + 1 < known_from:
            return None
        return [event for event in self._events if event[0] > after]

    def notify(self) -> None:
        """Wake all subscribers."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def _change(self, make: Callable[[], Sequence[_C]], frames: Sequence[Frame], required: bool) -> Sequence[_C]:
        async with self.lock:
            changes = make()
            if not changes:
                return changes
            if self.deleted:
                raise HTTPException(404, "this story was deleted")
            try:
                await run_in(self._disk, lambda: self.directory.append(changes, frames))
            except PlayloomError:
                if required:
                    raise
            for change in changes:
                self.tree.apply(change)
                self._events.append((self.tree.header.revision, change))
            self.notify()
            return changes


class StoryService:
    """All stories of a folder."""

    def __init__(self, service: InferenceService, history: Callable[[str], tuple[str, FrameHistory, Manifest]]) -> None:
        """Read nothing yet; `history` is that of `SessionManager`."""
        self.service, self._history = service, history
        self._store = StoryStore(service.settings.stories)
        self._disk = ThreadPoolExecutor(1, "playloom-stories")
        self._open: dict[str, Story] = {}  # damaged ones included
        self._loaded = False
        self._lock = asyncio.Lock()

    async def find(self, name: str, *, damaged: bool = False) -> Story:
        """Return a story by its id; an unknown one is a 404, a damaged one a BadInputError unless `damaged`."""
        await self._load()
        if name not in self._open:
            raise HTTPException(404, "there is no such story; it was deleted, or its address is incomplete")
        story = self._open[name]
        if story.error is not None and not damaged:
            raise BadInputError(story.error)
        return story

    def info(self, story: Story) -> StoryInfo:
        """Return a whole story."""
        tree = story.tree
        return StoryInfo(
            **tree.header.model_dump(exclude={"next_node", "next_branch"}),
            id=story.name,
            context=self.service.context,
            model=self.service.model.config.name,
            nodes=tuple(tree.nodes.values()),
            branches=tuple(tree.branches.values()),
        )

    async def items(self) -> list[StoryItem]:
        """List all stories, newest first, damaged ones last."""
        await self._load()
        newest = sorted(self._open.values(), key=lambda story: story.tree.header.created)[::-1]
        return [story.item() for story in newest]

    async def create(self, params: NewStory) -> Story:
        """Create a story. A cancelled call that has started to write still completes."""
        await self._load()
        async with self.service.limiter.slot():
            name, start = await self._start(params)
        return await asyncio.shield(self._create(params.name or name, start))

    async def delete(self, name: str) -> None:
        """Delete a story; its running branches end."""
        story = await self.find(name, damaged=True)
        async with story.lock:
            if not story.deleted:
                await run_in(self._disk, lambda: self._store.delete(story.directory))
                story.deleted = True
                del self._open[name]
        story.notify()

    async def edit(self, story: Story, node: Node, params: EditRequest) -> Sequence[Node]:
        """Composite an overlay on a frame, and on some after it, as new frames."""
        targets = [node, *story.tree.forward_path(node.id, params.toward, params.copies)]
        self.check_size(story)
        self.check_frames(story, len(targets))
        async with self.service.limiter.slot():
            frames = await self._edited_frames(story, targets, params.overlay)

        def new_nodes() -> list[Node]:
            self.check_frames(story, len(targets))
            if node.parent is not None:
                story.tree.node(node.parent)  # it may have been removed meanwhile
            ids = range(story.tree.header.next_node, story.tree.header.next_node + len(targets))
            parents = [node.parent, *ids[:-1]]
            plain = {"origin": "edited", "branch": None, "starred": False, "note": ""}
            return [
                old.model_copy(update={**plain, "id": id_, "parent": parent, "edit_of": old.id})
                for id_, parent, old in zip(ids, parents, targets, strict=True)
            ]

        return await story.change(new_nodes, frames)

    def check_size(self, story: Story) -> None:
        """Raise BadInputError unless the story's frames have the model's size."""
        size, expected = story.tree.header.size, self.service.size
        if size != expected:
            raise BadInputError(
                f"the frames of this story have another size: got {size[1]} x {size[0]}, expected {expected[1]} x "
                f"{expected[0]} of {self.service.model.config.name}; serve the model that made them"
            )

    def check_frames(self, story: Story, more: int) -> None:
        """Raise BadInputError when the story would have too many frames, those still to be generated included."""
        tree, limit = story.tree, self.service.settings.max_story_frames
        coming = sum(branch.frames - branch.frames_done for branch in tree.active_branches())
        if len(tree.nodes) + coming + more > limit:
            raise BadInputError(
                f"the story has too many frames: got {len(tree.nodes)}, {coming} being generated and {more} more, "
                f"expected at most {limit}; remove some, or start another story"
            )

    def notify(self) -> None:
        """Wake the subscribers of all stories."""
        for story in list(self._open.values()):
            story.notify()

    def close(self) -> None:
        """Release the folder after pending writes."""
        self._disk.submit(self._store.close)
        self._disk.shutdown(wait=False)

    async def _load(self) -> None:
        if self.service.settings.replica is not None:  # several servers would not all see the same stories
            raise HTTPException(404, "stories are kept by a server of its own; start it without --cluster")
        async with self._lock:
            if not self._loaded:
                await run_in(self._disk, self._read_all)
                self._loaded = True

    def _read_all(self) -> None:
        for directory in self._store.directories():
            name = directory.folder.name
            try:
                tree = directory.load()
                for branch in tree.active_branches():
                    done = branch.frames_done >= branch.frames
                    end = {"state": "done"} if done else {"state": "failed", "error": _CUT_OFF}
                    ended = branch.model_copy(update=end)
                    with suppress(StorageError):  # on a full disk it can still be read
                        directory.append([ended])
                    tree.apply(ended)
                self._open[name] = Story(directory, tree, self._disk)
            except PlayloomError as error:
                self._open[name] = Story(directory, Tree(), self._disk, str(error))

    async def _create(self, name: str, start: Sequence[ContextFrame]) -> Story:
        weights = self.service.model.fingerprint
        frames = [Frame(f.frame_HWC, f.codes_N, weights, f.manifest) for f in start]
        id_, limit, tree = secrets.token_hex(16), self.service.settings.max_stories, Tree()
        nodes = [
            Node(
                id=index,
                parent=index - 1 if index else None,
                origin="given" if frame.action_source is None else "dreamed",
                action=tuple(frame.action_A.tolist()) if index else None,
                action_source=frame.action_source if index else None,
            )
            for index, frame in enumerate(start)
        ]
        changes: list[Change] = [Header(name=name, created=created_at(), size=self.service.size), *nodes]
        for change in changes:
            tree.apply(change)
        async with self._lock:
            if len(self._open) >= limit:
                raise BadInputError(f"there are too many stories: expected at most {limit}; delete one first")
            directory = await run_in(self._disk, lambda: self._store.create(id_, changes, frames))
            story = self._open[id_] = Story(directory, tree, self._disk)
        return story

    async def _start(self, params: NewStory) -> tuple[str, list[ContextFrame]]:
        if params.session is not None:
            if params.prompt is not None or params.images is not None or params.context_actions:
                raise BadInputError("session was sent together with prompt, images or their actions; send one of them")
            name, recent, _ = self._history(params.session)
        else:
            prompt = await build_prompt(self.service, params)
            name = self.service.resolve_prompt(params.prompt) if params.images is None else "my pictures"
            recent = FrameHistory(prompt, context=len(prompt.frames_THWC), sent=0)
        return name, [await self._unmarked(frame) for frame in recent.frames()]

    async def _unmarked(self, frame: ContextFrame) -> ContextFrame:
        """Replace an image that this server sent by its unmarked frame: an edit would encode the watermark."""
        _, manifest = await run_in(self.service.io_pool, self.service.sent_images.find, frame.frame_HWC)
        if manifest is None:
            return frame
        frame_HWC = await self.service.frame(frame.codes_N)
        return frame._replace(frame_HWC=frame_HWC, manifest=frame.manifest or manifest)

    async def _edited_frames(self, story: Story, nodes: Sequence[Node], overlay: str) -> list[Frame]:
        size, pixels = story.tree.header.size, self.service.settings.picture_pixels
        overlay_HW4 = await run_in(
            self.service.io_pool, lambda: read_overlay(from_base64(overlay, "the overlay"), size, pixels=pixels)
        )
        before = await story.read_frames(nodes)
        edited_THWC = np.stack([composite(frame.frame_HWC, overlay_HW4) for frame in before])
        manifests = [None if frame.manifest is None else replace(frame.manifest, note=_EDITED) for frame in before]
        weights, codes_TN = self.service.model.fingerprint, await self.service.codes(edited_THWC)
        edited = zip(edited_THWC, codes_TN, manifests, strict=True)
        return [Frame(frame_HWC, codes_N, weights, manifest) for frame_HWC, codes_N, manifest in edited]


def read_overlay(png: bytes, size: tuple[int, int], *, pixels: int = 2**24) -> NDArray[np.uint8]:
    """Decode a PNG with a visible pixel as an overlay, RGBA uint8 [H, W, 4], resized to `size`, (H, W)."""
    width, height = picture_size(png, "the overlay")
    if not 0 < width * height <= pixels:
        raise PictureError(f"the overlay is too large: got {width} x {height}, expected at most {pixels:,} pixels")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            layer = image.convert("RGBA")
    except Exception as error:  # damaged files make decoders raise anything
        raise PictureError("the overlay cannot be read; send a PNG with transparency") from error
    if layer.size != size[::-1]:
        layer = layer.resize(size[::-1], Image.Resampling.LANCZOS)
    overlay_HW4 = np.array(layer)
    if not overlay_HW4[..., 3].any():
        raise PictureError("the overlay is transparent everywhere: got no visible pixel, expected some")
    return overlay_HW4


def composite(frame_HWC: NDArray[np.uint8], overlay_HW4: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite an overlay, RGBA uint8 [H, W, 4], on a copy of a frame, uint8 [H, W, 3]."""
    alpha_HW1 = overlay_HW4[..., 3:].astype(np.float32) / 255
    mixed_HWC = overlay_HW4[..., :3] * alpha_HW1 + frame_HWC * (1 - alpha_HW1)
    return np.rint(mixed_HWC).astype(np.uint8)

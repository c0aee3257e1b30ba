"""Story service and branch runner: create, edit, branch, cancel and delete. Used from one event loop.

A change is on disk before it is in memory or in an event. Changes of a story are serialized by its lock; the disk has
its own thread. A cancelled branch ends after its current frame, which is dropped.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, read_vector
from playloom.actions.script import parse_script
from playloom.errors import BadInputError, PictureError, PlayloomError
from playloom.inference.realtime.recorder import FrameHistory
from playloom.inference.sampling import Sampling
from playloom.inference.types import ActionSource, Prompt, StepResult
from playloom.media.images import from_base64, picture_size
from playloom.provenance import Manifest, created_at
from playloom.server.errors import ApiError, to_api_error
from playloom.server.scheduler import Frame as Following
from playloom.server.schemas import SEED_END, PromptParams, build_prompt, read_actions
from playloom.server.service import InferenceService, resolve_prompt, resolve_seed
from playloom.server.stories.export import composite, read_overlay
from playloom.server.stories.schemas import BranchRequest, EditRequest, NewStory, item_dict
from playloom.server.stories.store import Frame, StoryDir, StoryStore
from playloom.server.stories.tree import ACTIVE_STATES, Branch, Change, Header, Node, Removed, State, Tree

_T = TypeVar("_T")
_KEPT_EVENTS = 4000
_KINDS: dict[type[Change], str] = {Header: "story", Node: "node", Branch: "branch", Removed: "removed"}


class Event(NamedTuple):
    """One change of a story."""

    number: int
    """Revision of the story after the change."""
    kind: str
    """`story`, `node`, `branch` or `removed`."""
    what: Change
    """The change."""


class Story:
    """An open story: its tree, its directory and its subscribers."""

    def __init__(self, name: str, directory: StoryDir, tree: Tree, disk: Executor) -> None:
        self.name, self.directory, self.tree = name, directory, tree
        self.deleted = False
        self.lock = asyncio.Lock()
        """Held from validating a change until it is applied."""
        self._disk = disk
        self._events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._watchers: set[asyncio.Event] = set()

    async def add(self, changes: Sequence[Change], frames: Sequence[Frame] = ()) -> None:
        """Write and apply changes, with the frames of their nodes. The caller holds the lock.

        Raises:
            PlayloomError: when they cannot be written; nothing has happened then.
        """
        self.check_exists()
        await uncancellable(self._add(changes, frames))

    async def finish_branch(self, ended: Branch) -> None:
        """Publish the end of a branch, on disk where it can be written. The caller holds the lock."""
        try:
            await self.add([ended])
        except PlayloomError:
            self._apply([ended])
            self.notify()

    async def remove(self, node: int) -> Removed:
        """Remove a frame and its descendants.

        Raises:
            BadInputError: when that may not be; see `Tree.removal`.
        """
        async with self.lock:
            removed = self.tree.removal(node)
            await self.add([removed])
            await self.disk(lambda: self.directory.remove_frames(removed.nodes))
        return removed

    async def _add(self, changes: Sequence[Change], frames: Sequence[Frame]) -> None:
        nodes = [change.id for change in changes if isinstance(change, Node)] if frames else []

        def write() -> None:
            for node, frame in zip(nodes, frames, strict=True):
                self.directory.write_frame(node, frame)
            self.directory.append(changes)

        await self.disk(write)
        self._apply(changes)
        self.notify()
        if self.directory.needs_compaction(self.tree):
            short = self.tree.snapshot()
            with suppress(PlayloomError):  # the changes are made; a long log is no trouble, and is tried again
                await self.disk(lambda: self.directory.rewrite(short))

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.tree.apply(change)
            self._events.append(Event(self.tree.header.revision, _KINDS[type(change)], change))

    async def disk(self, work: Callable[[], _T]) -> _T:
        """Run in the disk thread, in order."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    async def read_frames(self, nodes: Sequence[Node]) -> list[Frame]:
        """Read frames from disk, in the order of `nodes`."""
        return await self.disk(lambda: [self.directory.read_frame(node.id) for node in nodes])

    def node(self, node: int) -> Node:
        """Return a frame by its id.

        Raises:
            ApiError: 404.
        """
        try:
            return self.tree.node(node)
        except BadInputError as error:
            raise ApiError(404, str(error)) from None

    def check_exists(self) -> None:
        """Check that the story is not deleted.

        Raises:
            ApiError: 404.
        """
        if self.deleted:
            raise ApiError(404, "this story was deleted")

    def events(self, after: int) -> list[Event] | None:
        """Return the events after a revision; None when they are no longer kept: read the whole story again."""
        now = self.tree.header.revision
        known_from = self._events[0].number if self._events else now + 1
        if after > now or after + 1 < known_from:
            return None
        return [event for event in self._events if event.number > after]

    def watch(self) -> asyncio.Event:
        """Subscribe: return an event that is set at every change, until `unwatch`."""
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: asyncio.Event) -> None:
        """Unsubscribe."""
        self._watchers.discard(watcher)

    def notify(self) -> None:
        """Wake all subscribers."""
        for watcher in self._watchers:
            watcher.set()


async def uncancellable(work: Coroutine[Any, Any, _T]) -> _T:
    """Await a coroutine to its end even when cancelled: memory must match the disk before a lock is released."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


RecentOf = Callable[[str], tuple[str, FrameHistory]]
"""Returns the name of a session's prompt and its newest frames, by its token."""


class StoryStart(NamedTuple):
    """Start frames of a story."""

    name: str
    """Name of the story."""
    prompt: Prompt
    """Frames with their codes, and the actions between them."""
    manifests: tuple[Manifest | None, ...]
    """Manifest of each frame; None: a real frame."""
    action_source: tuple[ActionSource | None, ...]
    """Source of the action that led to each frame."""

    def nodes(self) -> list[Node]:
        """Return the first nodes of the tree."""
        actions = self.prompt.actions_TA
        return [
            Node(
                id=index,
                parent=index - 1 if index else None,
                origin="given" if self.action_source[index] is None else "dreamed",
                action=tuple(actions[index - 1].tolist()) if index else None,
                action_source=self.action_source[index] if index else None,
            )
            for index in range(len(self.manifests))
        ]

    def frames(self, weights: str) -> list[Frame]:
        """Return the frames.

        Args:
            weights: fingerprint of those that the codes belong to.
        """
        prompt = self.prompt
        assert prompt.codes_TN is not None, "a beginning brings its codes"
        return [
            Frame(frame_HWC=frame_HWC, codes_N=codes_N, weights=weights, manifest=manifest)
            for frame_HWC, codes_N, manifest in zip(prompt.frames_THWC, prompt.codes_TN, self.manifests, strict=True)
        ]


async def story_start(service: InferenceService, params: NewStory, recent_of: RecentOf) -> StoryStart:
    """Build the start frames of a story.

    Raises:
        PlayloomError: when it cannot be used.
        ApiError: 404 for a session that is not there.
    """
    if params.session is not None:
        if params.prompt is not None or params.images is not None:
            raise BadInputError("a story begins at a moment, at images or at a session; send one of them")
        return await _unmarked(service, _of_session(*recent_of(params.session)))
    prompt = await build_prompt(
        service,
        PromptParams(
            prompt=params.prompt,
            images=params.images,
            context_actions=params.context_actions,
            schema=params.schema_,
        ),
    )
    nothing = (None,) * len(prompt.frames_THWC)
    if params.images is None:
        return StoryStart(resolve_prompt(params.prompt), prompt, nothing, nothing)
    return await _unmarked(service, StoryStart("my pictures", prompt, nothing, nothing))


async def _unmarked(service: InferenceService, start: StoryStart) -> StoryStart:
    """Replace images that this server sent by their unmarked frames.

    Their codes are known, but an edit starts at the pixels and would encode the watermark.
    """
    prompt, known = start.prompt, service.sent_images.manifest
    assert prompt.codes_TN is not None, "a beginning brings its codes"
    found = await service.run_in_io_pool(lambda: [known(frame_HWC) for frame_HWC in prompt.frames_THWC])
    made = [old or new for old, new in zip(start.manifests, found, strict=True)]
    frames = [
        frame_HWC if new is None else await service.frame(codes_N)
        for frame_HWC, codes_N, new in zip(prompt.frames_THWC, prompt.codes_TN, found, strict=True)
    ]
    return start._replace(prompt=replace(prompt, frames_THWC=np.stack(frames)), manifests=tuple(made))


def _of_session(name: str, recent: FrameHistory) -> StoryStart:
    kept = recent.frames()
    actions = [frame.action_A for frame in kept[1:]]
    prompt = Prompt(
        frames_THWC=np.stack([frame.frame_HWC for frame in kept]),
        actions_TA=np.stack(actions) if actions else np.zeros((0, len(REST_VALUES)), np.uint8),
        codes_TN=np.stack([frame.codes_N for frame in kept]),
    )
    return StoryStart(
        name, prompt, tuple(frame.manifest for frame in kept), tuple(frame.action_source for frame in kept)
    )


_CUT_OFF = "the server ended before this was done; what was made is kept"
_EDITED = "generated, then edited by hand"
_UNKNOWN = "there is no such story; it was deleted, or its address is incomplete"


class StoryService:
    """All stories of a folder."""

    def __init__(self, service: InferenceService, recent_of: RecentOf) -> None:
        """Create the service; the folder is read at first use.

        Args:
            service: encodes and dreams.
            recent_of: see `RecentOf`.
        """
        self.service, self._recent_of = service, recent_of
        self._store = StoryStore(service.settings.stories)
        self._disk = ThreadPoolExecutor(1, "playloom-stories")
        self._open: dict[str, Story] = {}
        self._damaged: dict[str, tuple[StoryDir, str]] = {}
        self._read = False
        self._lock = asyncio.Lock()

    async def find(self, name: str) -> Story:
        """Return a story by its id.

        Raises:
            ApiError: 404.
            PlayloomError: when it is damaged, or another server has the folder.
        """
        await self.load()
        if name in self._damaged:
            raise BadInputError(self._damaged[name][1])
        if name not in self._open:
            raise ApiError(404, _UNKNOWN)
        return self._open[name]

    async def find_open(self, name: str) -> Story | None:
        """Return a story by its id; None for an unknown or damaged one."""
        await self.load()
        return self._open.get(name)

    async def items(self) -> list[dict[str, Any]]:
        """List all stories, newest first, damaged ones last."""
        await self.load()
        whole = sorted(self._open.values(), key=lambda story: story.tree.header.created)[::-1]
        nothing: dict[str, Any] = {"created": "", "frames": 0, "branches": 0, "picture": None}
        return [
            *(item_dict(story.name, story.tree) for story in whole),
            *({"id": name, "name": name, **nothing, "error": said} for name, (_, said) in self._damaged.items()),
        ]

    async def create(self, params: NewStory) -> Story:
        """Create a story.

        Raises:
            PlayloomError: when what it begins with cannot be used.
            ApiError: 503 when too many wait; 400 when there are as many as may be.
        """
        await self.load()
        self._check_room()
        async with self.service.limiter.slot():
            start = await story_start(self.service, params, self._recent_of)
        return await self._create(start if params.name is None else start._replace(name=params.name))

    async def delete(self, name: str) -> Story | None:
        """Delete a story whose branches are cancelled; returns it where it was open."""
        await self.load()
        if name in self._damaged:
            directory = self._damaged[name][0]
            await self._in_disk_thread(lambda: self._store.delete(directory))
            self._damaged.pop(name, None)
            return None
        story = await self.find(name)
        async with story.lock:
            story.check_exists()
            await story.disk(lambda: self._store.delete(story.directory))
            story.deleted = True
            del self._open[name]
        story.notify()
        return story

    async def edit(self, story: Story, node: int, order: EditRequest) -> list[Node]:
        """Composite an overlay on a frame, and on some after it, as new frames.

        Raises:
            PlayloomError: when the picture cannot be used, or fewer frames follow.
        """
        overlay_HW4 = await self.service.run_in_io_pool(lambda: self._overlay(order.overlay, story.tree.header.size))
        edited = [story.node(node), *story.tree.forward_path(node, order.toward, order.copies)]
        self.check_size(story)
        self.check_frames(story, len(edited))
        async with self.service.limiter.slot():
            frames = await self._edited(story, edited, overlay_HW4)
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
                        action_source=old.action_source,
                        edit_of=old.id,
                    )
                )
                parent = number
            await story.add(nodes, frames)
        return nodes

    def check_size(self, story: Story) -> None:
        """Check that the story's frames have the model's size.

        Raises:
            BadInputError: names both.
        """
        (height, width), (wanted_height, wanted_width) = story.tree.header.size, self.service.size
        if (height, width) != (wanted_height, wanted_width):
            raise BadInputError(
                f"the frames of this story are {width} x {height} and {self.service.model.config.name} dreams "
                f"{wanted_width} x {wanted_height}; serve the model that it was made with"
            )

    def check_frames(self, story: Story, more: int) -> None:
        """Check the number of frames, those still to be generated included.

        Raises:
            BadInputError: names the limit.
        """
        tree, limit = story.tree, self.service.settings.max_story_frames
        coming = sum(branch.frames - len(tree.frames_of(branch.id)) for branch in tree.unfinished())
        if len(tree.nodes) + coming + more > limit:
            raise BadInputError(
                f"this story has {len(tree.nodes)} frames, {coming} are being dreamed, and {more} more would be over "
                f"its {limit}; remove some, or begin another story"
            )

    async def load(self) -> None:
        """Read the folder, once.

        Raises:
            ApiError: 404 on one server of several, which would not all see the same stories.
            PlayloomError: when another server has the folder.
        """
        if self.service.settings.replica is not None:
            raise ApiError(404, "stories are kept by a server of its own; start it without --cluster")
        async with self._lock:
            if not self._read:
                await self._read_all()
                self._read = True

    def notify(self) -> None:
        """Wake the subscribers of all stories."""
        for story in self._open.values():
            story.notify()

    def close(self) -> None:
        """Release the folder after pending writes."""
        self._disk.submit(self._store.close)
        self._disk.shutdown(wait=False)

    async def _read_all(self) -> None:
        for directory, tree, problem in await self._in_disk_thread(self._load_all):
            name = directory.folder.name
            if tree is None:
                self._damaged[name] = directory, problem
            else:
                self._open[name] = Story(name, directory, tree, self._disk)

    def _load_all(self) -> list[tuple[StoryDir, Tree | None, str]]:
        found: list[tuple[StoryDir, Tree | None, str]] = []
        for directory in self._store.directories():
            try:
                tree = directory.load()
                ended = [_ended(branch, tree) for branch in tree.unfinished()]
                if ended:
                    directory.append(ended)
                for branch in ended:
                    tree.apply(branch)
                found.append((directory, tree, ""))
            except PlayloomError as error:
                found.append((directory, None, str(error)))
        return found

    async def _create(self, start: StoryStart) -> Story:
        name, tree = secrets.token_hex(16), Tree()
        changes: list[Change] = [Header(name=start.name, created=created_at(), size=self.service.size), *start.nodes()]
        for change in changes:
            tree.apply(change)
        frames = start.frames(self.service.model.fingerprint)

        async def create() -> Story:
            async with self._lock:
                self._check_room()
                directory = await self._in_disk_thread(lambda: self._store.create(name, changes, frames))
                story = self._open[name] = Story(name, directory, tree, self._disk)
            return story

        return await uncancellable(create())

    async def _edited(self, story: Story, nodes: Sequence[Node], overlay_HW4: NDArray[np.uint8]) -> list[Frame]:
        """Composite an overlay on frames and encode them; a generated frame keeps its manifest."""
        old = await story.read_frames(nodes)
        edited_THWC = np.stack([composite(frame.frame_HWC, overlay_HW4) for frame in old])
        return [
            Frame(
                frame_HWC=frame_HWC,
                codes_N=codes_N,
                weights=self.service.model.fingerprint,
                manifest=None if before.manifest is None else replace(before.manifest, note=_EDITED),
            )
            for before, frame_HWC, codes_N in zip(old, edited_THWC, await self.service.codes(edited_THWC), strict=True)
        ]

    def _overlay(self, text: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        png, limit = from_base64(text, "the overlay"), self.service.settings.picture_pixels
        width, height = picture_size(png, "the overlay")
        if not 0 < width * height <= limit:
            raise PictureError(f"the overlay is {width} x {height}; at most {limit:,} pixels are read: scale it down")
        return read_overlay(png, size)

    def _check_room(self) -> None:
        limit = self.service.settings.max_stories
        if len(self._open) + len(self._damaged) >= limit:
            raise BadInputError(f"there are {limit} stories, as many as may be; delete one first")

    async def _in_disk_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


def _ended(branch: Branch, tree: Tree) -> Branch:
    """Return the final state of a branch that a stopped server left unfinished."""
    if len(tree.frames_of(branch.id)) >= branch.frames:
        return replace(branch, state="done")
    return replace(branch, state="failed", error=_CUT_OFF)


def is_open(story: Story, branch: int) -> bool:
    """True while a branch is queued or running."""
    found = story.tree.branches.get(branch)
    return not story.deleted and found is not None and found.state in ACTIVE_STATES


_Actions = Sequence[NDArray[np.uint8] | None]


@dataclass(kw_only=True, eq=False)
class _Order:
    """Parameters that the branches of one request share."""

    story: Story
    start: int
    context: int
    actions: _Actions
    sampling: Sampling
    prompt: asyncio.Task[Prompt] | None = None


class BranchRunner:
    """All unfinished branches of a server."""

    def __init__(self, stories: StoryService) -> None:
        self.stories, self.service = stories, stories.service
        self._slots = asyncio.Semaphore(self.service.settings.max_branches)
        self._tasks: set[asyncio.Task[None]] = set()
        self.dreaming = 0
        """Number of running branches."""

    @property
    def unfinished(self) -> int:
        """Number of running and queued branches."""
        return len(self._tasks)

    async def start(self, story: Story, params: BranchRequest) -> tuple[list[Branch], list[str]]:
        """Start branches.

        Returns:
            The branches, and what was chosen on the way, in sentences.

        Raises:
            PlayloomError: when what was asked for cannot be.
        """
        service = self.service
        service.limiter.check_open()
        service.check_steps(params.frames)
        story.tree.node(params.from_)
        self.stories.check_size(story)
        if params.context is not None and params.context > service.context:
            raise BadInputError(f"a context of {params.context} frames was asked for; the model sees {service.context}")
        actions, notes = _actions(params)
        sampling, seed = service.sampling(params.temperature, params.top_k, params.top_p), resolve_seed(params.seed)
        if seed + params.count > SEED_END:
            raise BadInputError(
                f"{params.count} branches count up from seed {seed:,}, past the last one; send one below 2**63 - 8"
            )
        order = _Order(
            story=story,
            start=params.from_,
            context=params.context or service.context,
            actions=actions,
            sampling=sampling,
        )
        async with story.lock:
            story.tree.node(params.from_)
            self.stories.check_frames(story, params.count * params.frames)
            first = story.tree.header.next_branch
            branches = [
                Branch(
                    id=first + index,
                    start=params.from_,
                    frames=params.frames,
                    seed=seed + index,
                    temperature=sampling.temperature,
                    top_k=sampling.top_k,
                    top_p=sampling.top_p,
                    context=order.context,
                    controlled_by=params.controlled_by,
                )
                for index in range(params.count)
            ]
            await story.add(branches)
        for branch in branches:
            task = asyncio.get_running_loop().create_task(self._run(order, branch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return branches, notes

    async def cancel(self, story: Story, branch: int) -> None:
        """Cancel a branch; its finished frames stay.

        Raises:
            ApiError: 404.
        """
        if branch not in story.tree.branches:
            raise ApiError(404, f"there is no branch {branch} in this story")
        await self._finish_branch(story, branch, "cancelled")

    async def cancel_all_of(self, name: str) -> None:
        """Cancel every branch of a story, where it is open."""
        story = await self.stories.find_open(name)
        if story is not None:
            for branch in story.tree.unfinished():
                await self._finish_branch(story, branch.id, "cancelled")

    async def close(self) -> None:
        """Stop unfinished branches; they are marked failed when the stories are read again."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, order: _Order, branch: Branch) -> None:
        async with self._slots:
            self.dreaming += 1
            try:
                await self._to_its_end(order, branch)
            finally:
                self.dreaming -= 1  # not before its end is written down: a server that stops waits for it

    async def _to_its_end(self, order: _Order, branch: Branch) -> None:
        story = order.story
        try:
            await self._dream(order, branch)
            await self._finish_branch(story, branch.id, "done")
        except Exception as error:
            if not story.deleted:
                await self._finish_branch(story, branch.id, "failed", to_api_error(error).message)

    async def _dream(self, order: _Order, branch: Branch) -> None:
        story, service = order.story, self.service
        if not is_open(story, branch.id):
            return
        service.limiter.check_open()
        prompt = await self._prompt(order)
        marked = asyncio.ensure_future(self._mark(story, branch.id))
        try:  # beside it, so that the branches of an order begin together and share every batch
            await self._dream_on(order, branch, prompt)
        finally:
            await marked

    async def _dream_on(self, order: _Order, branch: Branch, prompt: Prompt) -> None:
        story, service = order.story, self.service
        mode = "world" if branch.controlled_by == "player" else "full"
        manifest = service.manifest(prompt, order.sampling, branch.seed, mode)
        turns: list[tuple[NDArray[np.uint8] | None, Following]] = [(action_A, "dream") for action_A in order.actions]
        parent = branch.start
        async with aclosing(service.dream(prompt, turns, order.sampling, branch.seed)) as steps:
            async for step in steps:
                kept = await self._keep(story, branch.id, parent, step, manifest)
                if kept is None:
                    return
                parent = kept

    async def _mark(self, story: Story, branch: int) -> None:
        async with story.lock:
            if is_open(story, branch):
                await story.add([replace(story.tree.branches[branch], state="dreaming")])

    async def _keep(self, story: Story, branch: int, parent: int, step: StepResult, manifest: Manifest) -> int | None:
        """Add a generated step to the tree; returns its id, or None when the branch was cancelled."""
        assert step.frame_HWC is not None and step.codes_N is not None, "every step of a branch has a frame"
        frame = Frame(
            frame_HWC=step.frame_HWC,
            codes_N=step.codes_N,
            weights=manifest.weights,
            manifest=manifest.at_step(step.index + 1),
        )
        async with story.lock:
            if not is_open(story, branch):
                return None
            node = Node(
                id=story.tree.header.next_node,
                parent=parent,
                origin="dreamed",
                action=tuple(step.action_A.tolist()),
                action_source="player" if step.action_given else "model",
                branch=branch,
            )
            await story.add([node], [frame])
        return node.id

    async def _finish_branch(self, story: Story, branch: int, state: State, error: str | None = None) -> None:
        """Record the end of a branch, unless it has ended."""
        async with story.lock:
            if is_open(story, branch):
                ended = replace(story.tree.branches[branch], state=state, error=error)
                await story.finish_branch(ended)

    async def _prompt(self, order: _Order) -> Prompt:
        """Read the prompt that all branches of a request share, once."""
        if order.prompt is None:
            order.prompt = asyncio.get_running_loop().create_task(self._read_prompt(order))
        return await order.prompt

    async def _read_prompt(self, order: _Order) -> Prompt:
        story, service = order.story, self.service
        nodes = story.tree.path(order.start)[-order.context :]
        frames = await story.read_frames(nodes)
        frames_THWC, weights = np.stack([frame.frame_HWC for frame in frames]), service.model.fingerprint
        codes = [frame.codes_N if frame.weights == weights else None for frame in frames]
        actions = [np.array(node.action, np.uint8) for node in nodes[1:]]
        return Prompt(
            frames_THWC=frames_THWC,
            actions_TA=np.stack(actions) if actions else np.zeros((0, len(REST_VALUES)), np.uint8),
            codes_TN=await service.known_codes(frames_THWC, codes),
        )


def _actions(params: BranchRequest) -> tuple[_Actions, list[str]]:
    """Return the action of every frame, None where it is sampled, and notes about them."""
    ways = {"actions": params.actions, "script": params.script, "action": params.action}
    said = [name for name, value in ways.items() if value is not None]
    if len(said) > 1:
        raise BadInputError(f"{' and '.join(said)} were sent; send one of them")
    model = params.controlled_by == "model"
    notes: list[str] = []
    given: list[NDArray[np.uint8]] = []
    if params.actions is not None:
        given = read_actions(params.actions, params.schema_, "action")[: params.frames]
    elif params.script is not None:
        script = parse_script(params.script, None if model else params.frames)
        given, notes = list(script.values_SA[: params.frames]), list(script.notes)
    elif params.action is not None and model:
        raise BadInputError(
            "action applies to controlled_by: player only; with controlled_by: model send actions or script"
        )
    elif params.action is not None:
        given = [read_vector(params.action, params.schema_, "action")]
    elif not model:
        given = [REST_VALUES]
    rest = params.frames - len(given)
    return [*given, *([None] * rest if model else [given[-1]] * rest)], notes

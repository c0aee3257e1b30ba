"""`/v1/stories`: the branches that are being generated, and the routes of stories with their Server-Sent Events.

A cancelled branch ends after its current frame, which is dropped.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi import Header as HeaderParam
from fastapi.sse import EventSourceResponse, ServerSentEvent
from numpy.typing import NDArray
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from playloom.actions.codec import REST_VALUES, read_vector
from playloom.actions.script import parse_script
from playloom.errors import BadInputError, RecordingError
from playloom.inference.sampling import Sampling
from playloom.inference.session import ActionSource, Prompt, StepResult
from playloom.server.errors import to_http_error
from playloom.server.schemas import download, file_response, read_actions
from playloom.server.service import SEED_END, run_in
from playloom.server.stories import schemas
from playloom.server.stories.schemas import ACTIVE_STATES, Branch, Change, Header, Node, Removed, StoryInfo
from playloom.server.stories.service import Story, StoryService
from playloom.server.stories.store import Frame, PathKind, export_path, load_path, write_story

_CHUNK = 2**18
_MEDIA_TYPES: dict[PathKind, str] = {
    "mp4": "video/mp4",
    "gif": "image/gif",
    "csv": "text/csv",
    "npz": "application/octet-stream",
    "zip": "application/zip",
}
_CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}
_Actions = Sequence[NDArray[np.uint8] | None]


class BranchRunner:
    """All unfinished branches of a server. Used from one event loop."""

    def __init__(self, stories: StoryService) -> None:
        self.stories, self.service = stories, stories.service
        self._slots = asyncio.Semaphore(self.service.settings.max_branches)
        self._tasks: set[asyncio.Task[None]] = set()
        self.dreaming = 0  # running branches; one counts until its end is on disk: a stopping server waits for it

    async def start(self, story: Story, params: schemas.BranchRequest) -> schemas.BranchList:
        """Start the branches of a request."""
        service, context = self.service, params.context or self.service.context
        service.limiter.check_open()
        service.check_steps(params.frames)
        self.stories.check_size(story)
        if context > service.context:
            raise BadInputError(f"context is too long: got {context} frames, expected at most {service.context}")
        actions, notes = _actions(params)
        sampling, seed = params.resolve(service)
        if seed + params.count > SEED_END:
            last = SEED_END - params.count
            raise BadInputError(f"seed is too large for {params.count} branches: got {seed}, expected at most {last}")

        def new_branches() -> list[Branch]:
            story.tree.node(params.from_)
            self.stories.check_frames(story, params.count * params.frames)
            first = story.tree.header.next_branch
            asked = params.model_dump(include={"from_", "frames", "controlled_by"}) | {"context": context}
            asked |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
            return [Branch(id=first + index, seed=seed + index, **asked) for index in range(params.count)]

        branches = await story.change(new_branches)
        prompt = asyncio.create_task(self._prompt(story, story.tree.path(params.from_)[-context:]))
        prompt.add_done_callback(lambda done: done.cancelled() or done.exception())  # branches may end before they wait
        for branch in branches:
            task = asyncio.create_task(self._run(story, branch, actions, sampling, prompt))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return schemas.BranchList(branches=branches, notes=notes)

    async def close(self) -> None:
        """Stop unfinished branches; they are marked failed when the stories are read again."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self, story: Story, branch: Branch, actions: _Actions, sampling: Sampling, encoding: asyncio.Task[Prompt]
    ) -> None:
        async with self._slots:
            self.dreaming += 1
            try:
                if _is_active(story, branch.id):
                    self.service.limiter.check_open()
                    prompt = await encoding
                    # Marked while it runs, so that the branches of a request start together and share every batch.
                    frames = self._generate(story, branch, actions, sampling, prompt)
                    await asyncio.gather(_set_state(story, branch.id, "dreaming"), frames)
                await _set_state(story, branch.id, "done")
            except Exception as error:
                await _set_state(story, branch.id, "failed", to_http_error(error).detail)
            finally:
                self.dreaming -= 1

    async def _generate(
        self, story: Story, branch: Branch, actions: _Actions, sampling: Sampling, prompt: Prompt
    ) -> None:
        mode = "world" if branch.controlled_by == "player" else "full"
        manifest = self.service.manifest(prompt, sampling, branch.seed, mode)
        turns = [(action_A, "dream") for action_A in actions]
        parent = branch.from_
        async with aclosing(self.service.dream(prompt, turns, sampling, branch.seed)) as steps:  # type: ignore[arg-type]
            async for step in steps:
                assert step.frame_HWC is not None and step.codes_N is not None, "every step of a branch has a frame"
                frame = Frame(step.frame_HWC, step.codes_N, manifest.weights, manifest.at_step(step.index + 1))
                added = await _add_step(story, branch.id, parent, step, frame)
                if not added:
                    return
                parent = added[0].id

    async def _prompt(self, story: Story, nodes: Sequence[Node]) -> Prompt:
        frames = await story.read_frames(nodes)
        frames_THWC, weights = np.stack([frame.frame_HWC for frame in frames]), self.service.model.fingerprint
        codes = [frame.codes_N if frame.weights == weights else None for frame in frames]
        return Prompt(
            frames_THWC=frames_THWC,
            actions_TA=np.array([node.action for node in nodes[1:]], np.uint8).reshape(-1, len(REST_VALUES)),
            codes_TN=await self.service.known_codes(frames_THWC, codes),
        )


def _is_active(story: Story, branch: int) -> bool:
    found = story.tree.branches.get(branch)
    return not story.deleted and found is not None and found.state in ACTIVE_STATES


async def _set_state(story: Story, branch: int, state: schemas.State, error: str | None = None) -> None:
    def changed() -> list[Branch]:
        if not _is_active(story, branch):
            return []
        return [story.tree.branches[branch].model_copy(update={"state": state, "error": error})]

    await story.change(changed, required=state == "dreaming")


async def _add_step(story: Story, branch: int, parent: int, step: StepResult, frame: Frame) -> Sequence[Node]:
    def new_node() -> list[Node]:
        if not _is_active(story, branch):
            return []
        source: ActionSource = "player" if step.action_given else "model"
        id_, action = story.tree.header.next_node, tuple(step.action_A.tolist())
        return [Node(id=id_, parent=parent, origin="dreamed", action=action, action_source=source, branch=branch)]

    return await story.change(new_node, [frame])


def _actions(params: schemas.BranchRequest) -> tuple[_Actions, list[str]]:
    """Return the action of every frame, None where it is sampled, and notes about them."""
    sources = {"actions": params.actions, "script": params.script, "action": params.action}
    sent = [name for name, value in sources.items() if value is not None]
    if len(sent) > 1:
        raise BadInputError(f"{' and '.join(sent)} were sent; send one of them")
    model = params.controlled_by == "model"
    notes: list[str] = []
    given: list[NDArray[np.uint8]] = [] if model else [REST_VALUES]
    if params.actions is not None:
        given = read_actions(params.actions, params.schema_, "action")[: params.frames]
    elif params.script is not None:
        script = parse_script(params.script, None if model else params.frames)
        given, notes = list(script.values_SA[: params.frames]), list(script.notes)
    elif params.action is not None:
        if model:
            raise BadInputError("action needs controlled_by: player; with controlled_by: model send actions or script")
        given = [read_vector(params.action, params.schema_, "action")]
    rest = params.frames - len(given)
    return [*given, *([None] * rest if model else [given[-1]] * rest)], notes


router = APIRouter(prefix="/v1/stories", tags=["stories"])


def _stories(request: Request) -> StoryService:
    return request.app.state.server.stories


Stories = Annotated[StoryService, Depends(_stories)]


async def _story(story: str, stories: Stories) -> Story:
    return await stories.find(story)


OpenStory = Annotated[Story, Depends(_story)]


async def _node(node: int, story: OpenStory) -> Node:
    if node not in story.tree.nodes:
        raise HTTPException(404, f"there is no frame {node} in this story")
    return story.tree.nodes[node]


KnownNode = Annotated[Node, Depends(_node)]


@router.post("", status_code=201)
async def create_story(params: schemas.NewStory, stories: Stories) -> StoryInfo:
    """Create a story from a prompt, images, or a session's newest frames."""
    async with stories.service.limiter.in_time():
        return stories.info(await stories.create(params))


@router.get("")
async def list_stories(stories: Stories) -> schemas.StoryList:
    """List all stories, newest first."""
    return schemas.StoryList(stories=await stories.items())


@router.get("/{story}")
async def get_story(story: OpenStory, stories: Stories) -> StoryInfo:
    """Return a story with its frames and branches."""
    return stories.info(story)


@router.patch("/{story}")
async def rename_story(story: OpenStory, params: schemas.StoryUpdate, stories: Stories) -> StoryInfo:
    """Rename a story."""
    await story.change(lambda: [story.tree.renamed(params.name)])
    return stories.info(story)


@router.delete("/{story}", status_code=204)
async def delete_story(story: str, stories: Stories) -> None:
    """Delete a story and its images; its running branches are cancelled."""
    await stories.delete(story)


class _EventStream(EventSourceResponse):
    media_type = ""  # else FastAPI documents errors as event streams too


@router.get("/{story}/events", response_class=_EventStream)
async def stream_events(
    story: OpenStory,
    stories: Stories,
    after: Annotated[int | None, Query(ge=0, description="Number of the newest known event; none: from now.")] = None,
    last_event_id: Annotated[int | None, HeaderParam(ge=0, description="The same, sent by browsers.")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Stream changes of a story: Server-Sent Events `node`, `branch`, `removed`, `story`.

    `reload`: events were missed that are no longer kept; get the story again. `gone`: it was deleted.
    """
    known = after if last_event_id is None else last_event_id
    sent = story.tree.header.revision if known is None else known
    yield ServerSentEvent(retry=1000)
    while not stories.service.limiter.draining:
        changed = story.changed
        if story.deleted:
            yield ServerSentEvent(event="gone", id=str(sent), raw_data="{}")
            return
        changes, now = story.events(sent), story.tree.header.revision
        if changes is None:
            yield ServerSentEvent(event="reload", id=str(now), raw_data="{}")
        for number, change in changes or ():
            for kind, item in _newest(change, story):
                yield ServerSentEvent(event=kind, id=str(number), data=item)
        if now == sent:
            await changed.wait()
        sent = now


@router.post("/{story}/branches", status_code=202)
async def create_branches(story: OpenStory, params: schemas.BranchRequest, request: Request) -> schemas.BranchList:
    """Generate one or more branches from a frame."""
    return await request.app.state.server.branches.start(story, params)


@router.delete("/{story}/branches/{branch}", status_code=204)
async def cancel_branch(story: OpenStory, branch: int) -> None:
    """Cancel a branch; its finished frames stay. A finished branch stays as it is."""
    if branch not in story.tree.branches:
        raise HTTPException(404, f"there is no branch {branch} in this story")
    await _set_state(story, branch, "cancelled")


@router.delete("/{story}/nodes/{node}")
async def remove_node(story: OpenStory, node: KnownNode) -> Removed:
    """Remove a frame and its descendants."""
    (removed,) = await story.change(lambda: [story.tree.removal(node.id)])
    return removed


@router.patch("/{story}/nodes/{node}")
async def update_node(story: OpenStory, node: KnownNode, params: schemas.NodeUpdate) -> Node:
    """Set the star or the note of a frame."""

    def updated() -> list[Node]:
        old = story.tree.node(node.id)
        new = old.model_copy(update=params.model_dump(exclude_none=True))
        return [] if new == old else [new]

    await story.change(updated)
    return story.tree.nodes.get(node.id, node)


@router.post("/{story}/nodes/{node}/edit", status_code=201)
async def edit_node(
    story: OpenStory, node: KnownNode, params: schemas.EditRequest, stories: Stories
) -> schemas.NodeList:
    """Composite an overlay on a frame, and optionally on the next ones, as new frames."""
    async with stories.service.limiter.in_time():
        return schemas.NodeList(nodes=await stories.edit(story, node, params))


@router.get("/{story}/nodes/{node}.png", **file_response("image/png"))
async def get_png(story: OpenStory, node: KnownNode, stories: Stories) -> Response:
    """Return a frame as PNG; a generated one is watermarked and carries its manifest."""
    service = stories.service
    (frame,) = await story.read_frames([node])

    def encode() -> bytes:
        if frame.manifest is not None and frame.weights == service.model.fingerprint:
            service.sent_images.keep(frame.published_HWC(), frame.codes_N, frame.manifest)  # a client may send it back
        return frame.png()

    return Response(await run_in(service.io_pool, encode), media_type="image/png", headers=_CACHED)


@router.get("/{story}/nodes/{node}.webp", **file_response("image/webp"))
async def get_webp(story: OpenStory, node: KnownNode) -> Response:
    """Return a frame as small WebP."""
    try:
        data = await asyncio.to_thread(story.directory.thumbnail(node.id).read_bytes)
    except OSError as error:
        raise RecordingError(f"the picture of frame {node.id} is missing") from error
    return Response(data, media_type="image/webp", headers=_CACHED)


@router.get("/{story}/nodes/{node}/path.{kind}", **file_response(*_MEDIA_TYPES.values()))
async def get_path(story: OpenStory, node: KnownNode, kind: PathKind, stories: Stories) -> Response:
    """Export the path from the root to a frame: video, GIF, actions, arrays, or a folder of all."""
    nodes = story.tree.path(node.id)
    async with stories.service.limiter.in_time():
        data = await run_in(stories.service.encode_pool, lambda: export_path(load_path(story.directory, nodes), kind))
    return download(data, f"story-{node.id}.{kind}", _MEDIA_TYPES[kind])


@router.get("/{story}/story.zip", **file_response("application/zip"))
async def get_zip(story: OpenStory, stories: Stories) -> Response:
    """Export a whole story as zip: its JSON, every image, and the codes of every frame."""
    file, info = tempfile.TemporaryFile(), stories.info(story)  # noqa: SIM115 - closed after it is sent
    async with stories.service.limiter.in_time():
        await run_in(stories.service.encode_pool, write_story, file, story.directory, info)
    file.seek(0)
    chunks, close = iter(partial(file.read, _CHUNK), b""), BackgroundTask(file.close)
    headers = {"Content-Disposition": 'attachment; filename="story.zip"', "Cache-Control": "no-store"}
    return StreamingResponse(chunks, media_type="application/zip", headers=headers, background=close)


def _newest(change: Change, story: Story) -> Iterator[tuple[str, Any]]:
    """Yield the kind and the newest value of a change's subject; a branch's frame is followed by its branch."""
    nodes, branches = story.tree.nodes, story.tree.branches
    if isinstance(change, Header):
        yield "story", {"id": story.name, "name": change.name}
    elif isinstance(change, Node):
        yield "node", nodes.get(change.id, change)
        if change.branch in branches:
            yield "branch", branches[change.branch]
    elif isinstance(change, Branch):
        yield "branch", branches.get(change.id, change)
    else:
        yield "removed", change

"""`/v1/stories`: routes of stories, and their changes as Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Header as HeaderParam
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from playloom.errors import RecordingError
from playloom.server.errors import ApiError
from playloom.server.service import RequestLimiter
from playloom.server.stories.branches import BranchRunner
from playloom.server.stories.export import PathKind, export_path, load_path, write_story
from playloom.server.stories.schemas import (
    Branch,
    BranchList,
    BranchRequest,
    Change,
    EditRequest,
    Header,
    NewStory,
    Node,
    NodeList,
    NodeUpdate,
    Removed,
    StoryInfo,
    StoryList,
    StoryUpdate,
)
from playloom.server.stories.service import Story, StoryService

_HEARTBEAT = 10.0  # seconds of silence before a comment line, which keeps proxies connected
_CHUNK = 2**18
_MEDIA_TYPES: dict[PathKind, str] = {
    "mp4": "video/mp4",
    "gif": "image/gif",
    "csv": "text/csv",
    "npz": "application/octet-stream",
    "zip": "application/zip",
}
_CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}
_STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
router = APIRouter(prefix="/v1/stories", tags=["stories"])


def _content(*media_types: str) -> dict[str, Any]:
    content: dict[str, dict[str, str]] = {media_type: {} for media_type in media_types}
    return {"response_class": Response, "responses": {200: {"content": content}}}


def _stories(request: Request) -> StoryService:
    return request.app.state.server.stories


def _branches(request: Request) -> BranchRunner:
    return request.app.state.server.branches


Stories = Annotated[StoryService, Depends(_stories)]
Branches = Annotated[BranchRunner, Depends(_branches)]


async def _story(story: str, stories: Stories) -> Story:
    return await stories.find(story)


OpenStory = Annotated[Story, Depends(_story)]


async def _node(node: int, story: OpenStory) -> Node:
    if node not in story.tree.nodes:
        raise ApiError(404, f"there is no frame {node} in this story")
    return story.tree.nodes[node]


KnownNode = Annotated[Node, Depends(_node)]


@router.post("", status_code=201)
async def create_story(params: NewStory, stories: Stories) -> StoryInfo:
    """Create a story from a prompt, images, or a session's newest frames."""
    return stories.info(await stories.service.limiter.in_time(stories.create(params)))


@router.get("")
async def list_stories(stories: Stories) -> StoryList:
    """List all stories, newest first."""
    return StoryList(stories=await stories.items())


@router.get("/{story}")
async def get_story(story: OpenStory, stories: Stories) -> StoryInfo:
    """Return a story with its frames and branches."""
    return stories.info(story)


@router.patch("/{story}")
async def rename_story(story: OpenStory, params: StoryUpdate, stories: Stories) -> StoryInfo:
    """Rename a story."""
    await story.change(lambda: [story.tree.renamed(params.name)])
    return stories.info(story)


@router.delete("/{story}", status_code=204)
async def delete_story(story: str, stories: Stories) -> None:
    """Delete a story and its images; its running branches are cancelled."""
    await stories.delete(story)


@router.get("/{story}/events", **_content("text/event-stream"))
async def stream_events(
    story: OpenStory,
    stories: Stories,
    after: Annotated[int | None, Query(ge=0, description="Number of the newest known event; none: from now.")] = None,
    last_event_id: Annotated[int | None, HeaderParam(ge=0, description="The same, sent by browsers.")] = None,
) -> Response:
    """Stream changes of a story: Server-Sent Events `node`, `branch`, `removed`, `story`.

    `reload`: events were missed that are no longer kept; get the story again. `gone`: it was deleted.
    """
    known = after if last_event_id is None else last_event_id
    start = story.tree.header.revision if known is None else known
    stream = event_stream(story, start, stories.service.limiter)
    return StreamingResponse(stream, media_type="text/event-stream", headers=_STREAM)


@router.post("/{story}/branches", status_code=202)
async def create_branches(story: OpenStory, params: BranchRequest, branches: Branches) -> BranchList:
    """Generate one or more branches from a frame."""
    return await branches.start(story, params)


@router.delete("/{story}/branches/{branch}", status_code=204)
async def cancel_branch(story: OpenStory, branch: int, branches: Branches) -> None:
    """Cancel a branch; its finished frames stay. A finished branch stays as it is."""
    await branches.cancel(story, branch)


@router.delete("/{story}/nodes/{node}")
async def remove_node(story: OpenStory, node: KnownNode) -> Removed:
    """Remove a frame and its descendants."""
    (removed,) = await story.change(lambda: [story.tree.removal(node.id)])
    return removed


@router.patch("/{story}/nodes/{node}")
async def update_node(story: OpenStory, node: KnownNode, params: NodeUpdate) -> Node:
    """Set the star or the note of a frame."""

    def updated() -> list[Node]:
        old = story.tree.node(node.id)
        new = old.model_copy(update=params.model_dump(exclude_none=True))
        return [] if new == old else [new]

    await story.change(updated)
    return story.tree.nodes.get(node.id, node)


@router.post("/{story}/nodes/{node}/edit", status_code=201)
async def edit_node(story: OpenStory, node: KnownNode, params: EditRequest, stories: Stories) -> NodeList:
    """Composite an overlay on a frame, and optionally on the next ones, as new frames."""
    return NodeList(nodes=await stories.service.limiter.in_time(stories.edit(story, node, params)))


@router.get("/{story}/nodes/{node}.png", **_content("image/png"))
async def get_png(story: OpenStory, node: KnownNode, stories: Stories) -> Response:
    """Return a frame as PNG; a generated one is watermarked and carries its manifest."""
    service = stories.service
    frame = await run_in_threadpool(story.directory.read_frame, node.id)

    def encode() -> bytes:
        if frame.manifest is not None and frame.weights == service.model.fingerprint:
            service.sent_images.keep(frame.published_HWC(), frame.codes_N, frame.manifest)  # a client may send it back
        return frame.png()

    return Response(await service.run_in_io_pool(encode), media_type="image/png", headers=_CACHED)


@router.get("/{story}/nodes/{node}.webp", **_content("image/webp"))
async def get_webp(story: OpenStory, node: KnownNode) -> Response:
    """Return a frame as small WebP."""
    try:
        data = await run_in_threadpool(story.directory.thumbnail(node.id).read_bytes)
    except OSError as error:
        raise RecordingError(f"the picture of frame {node.id} is missing") from error
    return Response(data, media_type="image/webp", headers=_CACHED)


@router.get("/{story}/nodes/{node}/path.{kind}", **_content(*_MEDIA_TYPES.values()))
async def get_path(story: OpenStory, node: KnownNode, kind: PathKind, stories: Stories) -> Response:
    """Export the path from the root to a frame: video, GIF, actions, arrays, or a folder of all."""
    nodes = story.tree.path(node.id)
    data = await stories.service.run_in_encode_pool(lambda: export_path(load_path(story.directory, nodes), kind))
    return Response(data, media_type=_MEDIA_TYPES[kind], headers=_download(f"story-{node.id}.{kind}"))


@router.get("/{story}/story.zip", **_content("application/zip"))
async def get_zip(story: OpenStory, stories: Stories) -> Response:
    """Export a whole story as zip: its JSON, every image, and the codes of every frame."""
    file, info = tempfile.TemporaryFile(), stories.info(story)  # noqa: SIM115 - closed after it is sent
    try:
        await stories.service.run_in_encode_pool(lambda: write_story(file, story.directory, info))
    except BaseException:
        file.close()
        raise
    return StreamingResponse(_chunks(file), media_type="application/zip", headers=_download("story.zip"))


async def event_stream(story: Story, after: int, limiter: RequestLimiter) -> AsyncIterator[str]:
    """Yield events after a revision until the story is deleted or the server stops."""
    yield "retry: 1000\n\n"
    while not limiter.draining:
        changed = story.changed
        if story.deleted:
            yield _format_sse("gone", after, "{}")
            return
        known, now = story.events(after), story.tree.header.revision
        if known is None:
            yield _format_sse("reload", now, "{}")
        for number, change in known or ():
            yield _serialize_event(number, change, story)
        if now != after:
            after = now
            continue
        try:
            await asyncio.wait_for(changed.wait(), _HEARTBEAT)
        except asyncio.TimeoutError:
            yield ": keep-alive\n\n"


def _serialize_event(number: int, change: Change, story: Story) -> str:
    """Serialize an event with the newest value of its subject; a branch's frame is followed by its branch."""
    tree = story.tree
    if isinstance(change, Header):
        return _format_sse(change.kind, number, json.dumps({"id": story.name, "name": change.name}))
    newest: list[Node | Branch | Removed] = [change]
    if isinstance(change, Node):
        newest = [tree.nodes.get(change.id, change)]
        if change.branch in tree.branches:
            newest.append(tree.branches[change.branch])
    elif isinstance(change, Branch):
        newest = [tree.branches.get(change.id, change)]
    return "".join(_format_sse(item.kind, number, item.model_dump_json()) for item in newest)


def _format_sse(kind: str, number: int, data: str) -> str:
    return f"id: {number}\nevent: {kind}\ndata: {data}\n\n"


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while chunk := file.read(_CHUNK):
            yield chunk


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}

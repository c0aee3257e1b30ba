"""`/v1/stories`: routes of stories, and their changes as Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from enum import Enum
from typing import IO, Annotated, Any

from fastapi import FastAPI, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from playloom.errors import RecordingError
from playloom.server.service import RequestLimiter
from playloom.server.stories.export import PathKind, export_path, load_path, write_story
from playloom.server.stories.schemas import (
    BranchList,
    BranchRequest,
    EditRequest,
    NewStory,
    NodeInfo,
    NodeList,
    NodeUpdate,
    RemovedInfo,
    StoryInfo,
    StoryList,
    StoryUpdate,
    branch_dict,
    event_dict,
    node_dict,
    removed_dict,
    story_dict,
)
from playloom.server.stories.service import BranchRunner, Event, Story, StoryService
from playloom.server.stories.tree import Node

_HEARTBEAT = 10.0  # seconds of silence before a comment line, which keeps proxies connected
_LOOK = 1.0  # seconds between looks whether the server is stopping


async def event_stream(story: Story, after: int, limiter: RequestLimiter) -> AsyncIterator[str]:
    """Yield events after a revision until the story is deleted or the server stops."""
    watcher = story.watch()
    try:
        yield "retry: 1000\n\n"
        silence = 0.0
        while not limiter.draining:
            watcher.clear()
            if story.deleted:
                yield _format_sse("gone", after, {})
                return
            events, now = story.events(after), story.tree.header.revision
            if events is None:
                yield _format_sse("reload", now, {})
            for event in events or ():
                yield _serialize_event(event, story)
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


def _serialize_event(event: Event, story: Story) -> str:
    """Serialize an event; a branch's frame is followed by its branch."""
    what, tree = event.what, story.tree
    told = _format_sse(event.kind, event.number, event_dict(what, story.name, tree))
    branch = tree.branches.get(what.branch) if isinstance(what, Node) and what.branch is not None else None
    return told if branch is None else told + _format_sse("branch", event.number, branch_dict(branch, tree))


def _format_sse(kind: str, number: int, data: object) -> str:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


_TAGS: list[str | Enum] = ["stories"]
_CHUNK = 2**18
_NUMBER = re.compile(r"[0-9]{1,18}")
_KINDS: dict[PathKind, str] = {
    "mp4": "video/mp4",
    "gif": "image/gif",
    "csv": "text/csv",
    "npz": "application/octet-stream",
    "zip": "application/zip",
}
_PATHS: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in _KINDS.values()}}}
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def register_story_routes(app: FastAPI, stories: StoryService, branches: BranchRunner) -> None:
    """Add the routes."""
    _add_whole(app, stories, branches)
    _add_parts(app, stories, branches)
    _add_pictures(app, stories)
    _add_files(app, stories)


def _add_whole(app: FastAPI, stories: StoryService, branches: BranchRunner) -> None:
    service = stories.service

    def story_response(story: Story, status: int = 200) -> Response:
        name = service.model.config.name
        return JSONResponse(story_dict(story.name, story.tree, context=service.context, model=name), status)

    @app.post("/v1/stories", status_code=201, response_model=StoryInfo, tags=_TAGS)
    async def begin_story(params: NewStory) -> Response:
        """Create a story from a prompt, images, or a session's newest frames."""
        service.limiter.check_open()
        return story_response(await service.in_time(stories.create(params)), 201)

    @app.get("/v1/stories", response_model=StoryList, tags=_TAGS)
    async def list_stories() -> Response:
        """List all stories, newest first."""
        return JSONResponse({"stories": await stories.items()})

    @app.get("/v1/stories/{story}", response_model=StoryInfo, tags=_TAGS)
    async def whole_story(story: str) -> Response:
        """Return a story with its frames and branches."""
        return story_response(await stories.find(story))

    @app.patch("/v1/stories/{story}", response_model=StoryInfo, tags=_TAGS)
    async def rename_story(story: str, params: StoryUpdate) -> Response:
        """Rename a story."""
        found = await stories.find(story)
        async with found.lock:
            await found.add([found.tree.renamed(params.name)])
        return story_response(found)

    @app.delete("/v1/stories/{story}", status_code=204, tags=_TAGS)
    async def delete_story(story: str) -> Response:
        """Delete a story and its images; its running branches are cancelled."""
        await branches.cancel_all_of(story)
        await stories.delete(story)
        return Response(status_code=204)

    @app.get(
        "/v1/stories/{story}/events",
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {}}}},
        tags=_TAGS,
    )
    async def events(
        story: str,
        after: Annotated[int | None, Query(ge=0, description="The newest event known; none: from now on.")] = None,
        last_event_id: Annotated[str | None, Header(description="The same, as a browser says it.")] = None,
    ) -> Response:
        """Stream changes of a story: Server-Sent Events `node`, `branch`, `removed`, `story`.

        `reload` says that what was missed is not known any more: ask for the story again; `gone`, that it was deleted.
        """
        found = await stories.find(story)
        known = int(last_event_id) if last_event_id and _NUMBER.fullmatch(last_event_id) else after
        stream = event_stream(found, found.tree.header.revision if known is None else known, service.limiter)
        quiet = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=quiet)


def _add_parts(app: FastAPI, stories: StoryService, branches: BranchRunner) -> None:
    service = stories.service

    @app.post(
        "/v1/stories/{story}/branches",
        status_code=202,
        response_model=BranchList,
        tags=_TAGS,
    )
    async def branch_story(story: str, params: BranchRequest) -> Response:
        """Generate one or more branches from a frame."""
        found = await stories.find(story)
        started, notes = await branches.start(found, params)
        told = [branch_dict(branch, found.tree) for branch in started]
        return JSONResponse({"branches": told, "notes": notes}, 202)

    @app.delete("/v1/stories/{story}/branches/{branch}", status_code=204, tags=_TAGS)
    async def cancel_branch(story: str, branch: int) -> Response:
        """Cancel a branch; its finished frames stay. A finished branch stays as it is."""
        await branches.cancel(await stories.find(story), branch)
        return Response(status_code=204)

    @app.delete("/v1/stories/{story}/nodes/{node}", response_model=RemovedInfo, tags=_TAGS)
    async def remove_node(story: str, node: int) -> Response:
        """Remove a frame and its descendants."""
        found = await stories.find(story)
        found.node(node)
        return JSONResponse(removed_dict(await found.remove(node)))

    @app.patch(
        "/v1/stories/{story}/nodes/{node}",
        response_model=NodeInfo,
        tags=_TAGS,
    )
    async def say_of_node(story: str, node: int, params: NodeUpdate) -> Response:
        """Set the star or the note of a frame."""
        found = await stories.find(story)
        async with found.lock:
            old = found.node(node)
            new = replace(
                old,
                starred=old.starred if params.starred is None else params.starred,
                note=old.note if params.note is None else params.note,
            )
            if new != old:
                await found.add([new])
        return JSONResponse(node_dict(new))

    @app.post(
        "/v1/stories/{story}/nodes/{node}/edit",
        status_code=201,
        response_model=NodeList,
        tags=_TAGS,
    )
    async def edit_node(story: str, node: int, params: EditRequest) -> Response:
        """Composite an overlay on a frame, and optionally on the next ones, as new frames."""
        service.limiter.check_open()
        found = await stories.find(story)
        made = await service.in_time(stories.edit(found, node, params))
        return JSONResponse({"nodes": [node_dict(new) for new in made]}, 201)


def _add_pictures(app: FastAPI, stories: StoryService) -> None:
    service = stories.service

    @app.get(
        "/v1/stories/{story}/nodes/{node}.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
        tags=_TAGS,
    )
    async def picture(story: str, node: int) -> Response:
        """Return a frame as PNG; a generated one is watermarked and carries its manifest."""
        found = await stories.find(story)
        found.node(node)
        frame = await run_in_threadpool(found.directory.read_frame, node)

        def encode() -> bytes:
            if frame.manifest is not None and frame.weights == service.model.fingerprint:
                service.sent_images.keep(frame.shown_HWC(), frame.codes_N, frame.manifest)  # should it come back
            return frame.png()

        png = await service.run_in_io_pool(encode)
        return Response(png, media_type="image/png", headers=_FOR_EVER)

    @app.get(
        "/v1/stories/{story}/nodes/{node}.webp",
        response_class=Response,
        responses={200: {"content": {"image/webp": {}}}},
        tags=_TAGS,
    )
    async def small_picture(story: str, node: int) -> Response:
        """Return a frame as small WebP."""
        found = await stories.find(story)
        found.node(node)
        try:
            data = await run_in_threadpool(found.directory.shown(node).read_bytes)
        except OSError as error:
            raise RecordingError(f"the picture of frame {node} is missing") from error
        return Response(data, media_type="image/webp", headers=_FOR_EVER)


def _add_files(app: FastAPI, stories: StoryService) -> None:
    service = stories.service

    @app.get("/v1/stories/{story}/nodes/{node}/path.{kind}", response_class=Response, responses=_PATHS, tags=_TAGS)
    async def path_file(story: str, node: int, kind: PathKind) -> Response:
        """Export the path from the root to a frame: video, GIF, actions, arrays, or a folder of all."""
        found = await stories.find(story)
        found.node(node)
        nodes = found.tree.path(node)
        data = await service.run_in_encode_pool(lambda: export_path(load_path(found.directory, nodes), kind))
        return Response(data, media_type=_KINDS[kind], headers=_download(f"story-{node}.{kind}"))

    @app.get(
        "/v1/stories/{story}/story.zip",
        response_class=Response,
        responses={200: {"content": {"application/zip": {}}}},
        tags=_TAGS,
    )
    async def story_file(story: str) -> Response:
        """Export a whole story as zip: its JSON, every image, and the codes of every frame."""
        found = await stories.find(story)
        about = story_dict(found.name, found.tree, context=service.context, model=service.model.config.name)
        nodes = list(found.tree.nodes.values())
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been sent
        try:
            await service.run_in_encode_pool(lambda: write_story(file, found.directory, nodes, about))
        except BaseException:
            file.close()
            raise
        return StreamingResponse(_chunks(file), media_type="application/zip", headers=_download("story.zip"))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while chunk := file.read(_CHUNK):
            yield chunk


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}

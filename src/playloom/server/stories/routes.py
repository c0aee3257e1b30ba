"""`/v1/stories`: routes of stories, their changes as Server-Sent Events, and their exports.

Generated frames leave watermarked and with their manifest; the arrays in `.npz` are unmarked, so that a dream can
continue from them (`playloom dream --prompt path.npz`). The content of each file is in docs/stories.md.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Header as HeaderParam
from numpy.typing import NDArray
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError, RecordingError
from playloom.media.action_table import write_actions
from playloom.media.clips import write_npz
from playloom.media.images import enlarge
from playloom.media.output_folder import GeneratedClip, OutputStep
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, frames_hash, stamp
from playloom.server.errors import ApiError
from playloom.server.schemas import download, file_response
from playloom.server.service import RequestLimiter
from playloom.server.stories import schemas
from playloom.server.stories.branches import BranchRunner
from playloom.server.stories.schemas import Branch, Change, Header, Node, Removed, StoryInfo
from playloom.server.stories.service import Story, StoryService
from playloom.server.stories.store import Frame, StoryDir

PathKind = Literal["mp4", "gif", "csv", "npz", "zip"]
_HEARTBEAT = 10.0  # seconds of silence before a comment line, which keeps proxies connected
_CHUNK = 2**18
_ENLARGED = 2
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


@router.get("/{story}/events", **file_response("text/event-stream"))
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
async def create_branches(story: OpenStory, params: schemas.BranchRequest, branches: Branches) -> schemas.BranchList:
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

    return Response(await service.run_in_io_pool(encode), media_type="image/png", headers=_CACHED)


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
    data = await stories.service.run_in_encode_pool(lambda: export_path(load_path(story.directory, nodes), kind))
    return download(data, f"story-{node.id}.{kind}", _MEDIA_TYPES[kind])


@router.get("/{story}/story.zip", **file_response("application/zip"))
async def get_zip(story: OpenStory, stories: Stories) -> Response:
    """Export a whole story as zip: its JSON, every image, and the codes of every frame."""
    file, info = tempfile.TemporaryFile(), stories.info(story)  # noqa: SIM115 - closed after it is sent
    await stories.service.run_in_encode_pool(lambda: write_story(file, story.directory, info))
    file.seek(0)
    chunks, close = iter(partial(file.read, _CHUNK), b""), BackgroundTask(file.close)
    headers = {"Content-Disposition": 'attachment; filename="story.zip"', "Cache-Control": "no-store"}
    return StreamingResponse(chunks, media_type="application/zip", headers=headers, background=close)


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
    nodes, branches = story.tree.nodes, story.tree.branches
    if isinstance(change, Header):
        return _format_sse(change.kind, number, json.dumps({"id": story.name, "name": change.name}))
    newest: list[Node | Branch | Removed] = [change]
    if isinstance(change, Node):
        newest = [nodes.get(change.id, change)]
        newest += [branches[change.branch]] if change.branch in branches else []
    elif isinstance(change, Branch):
        newest = [branches.get(change.id, change)]
    return "".join(_format_sse(item.kind, number, item.model_dump_json()) for item in newest)


def _format_sse(kind: str, number: int, data: str) -> str:
    return f"id: {number}\nevent: {kind}\ndata: {data}\n\n"


class PathClip(NamedTuple):
    """The frames of a path in order from the root, read from disk."""

    nodes: Sequence[Node]
    frames: Sequence[Frame]

    @property
    def seen(self) -> int:
        """Number of start frames: those before the first frame generated here; at least one."""
        for index, (node, frame) in enumerate(zip(self.nodes, self.frames, strict=True)):
            if frame.manifest is not None and (node.branch is not None or node.edit_of is not None):
                return max(1, index)
        return len(self.nodes)

    @property
    def manifest(self) -> Manifest | None:
        """Manifest of the last generated frame, with a note about branches and edits; None: all real."""
        made = [frame.manifest for frame in self.frames if frame.manifest is not None]
        if not made:
            return None
        parts = {(manifest.weights, manifest.seed, manifest.mode, manifest.parent) for manifest in made}
        edited = any(node.origin == "edited" for node in self.nodes)
        note = "generated" if len(parts) == 1 else "generated, a path of several branches"
        return replace(
            made[-1],
            mode="full" if any(manifest.mode == "full" for manifest in made) else made[-1].mode,
            parent=frames_hash(np.stack([frame.frame_HWC for frame in self.frames[: self.seen]])),
            step=None,
            note=f"{note}, with frames edited by hand" if edited else note,
        )

    def generated(self) -> GeneratedClip:
        """Return the path as a prompt and the steps after it; BadInputError when no frame was generated here."""
        seen, manifest = self.seen, self.manifest
        if seen == len(self.nodes) or manifest is None:
            raise BadInputError(f"nothing has been dreamed on the path to frame {self.nodes[-1].id}; branch from it")
        actions = [node.action for node in self.nodes if node.action is not None]  # all but the root's
        actions_TA = np.array(actions, np.uint8).reshape(-1, len(REST_VALUES))
        after = zip(self.frames[seen:], actions_TA[seen - 1 :], self.nodes[seen:], strict=True)
        known = all(frame.weights == manifest.weights for frame in self.frames)
        return GeneratedClip(
            real_frames_THWC=np.stack([frame.frame_HWC for frame in self.frames[:seen]]),
            real_actions_TA=actions_TA[: seen - 1],
            steps=tuple(OutputStep(f.frame_HWC, action_A, n.action_source == "player") for f, action_A, n in after),
            manifest=manifest,
            dreamed_before_T=np.array([frame.manifest is not None for frame in self.frames[:seen]]),
            codes_TN=np.stack([frame.codes_N for frame in self.frames]) if known else None,
        )


def load_path(directory: StoryDir, nodes: Sequence[Node]) -> PathClip:
    """Read the frames of a path."""
    return PathClip(nodes, [directory.read_frame(node.id) for node in nodes])


def export_path(clip: PathClip, kind: PathKind) -> bytes:
    """Return a path as a file; BadInputError for csv, npz, zip when nothing was generated here."""
    with tempfile.TemporaryDirectory(prefix="playloom-") as temporary:
        path = Path(temporary) / f"path.{kind}"
        if kind == "mp4":
            write_mp4(path, _animation(clip, smooth=True), manifest=clip.manifest)
        elif kind == "gif":
            write_gif(path, _animation(clip, smooth=False), manifest=clip.manifest)
        elif kind == "csv":
            write_actions(path, clip.generated().actions)
        elif kind == "npz":
            clip.generated().save(path)
        else:
            folder = clip.generated().write_folder(Path(temporary) / "path").folder
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                    archive.write(file, file.relative_to(folder))
        return path.read_bytes()


def write_story(file: IO[bytes], directory: StoryDir, info: StoryInfo) -> None:
    """Write a whole story as a zip; in the arrays -1 is no parent, and pads shorter code vectors."""
    codes, weights = [], []
    with zipfile.ZipFile(file, "w") as archive, tempfile.TemporaryDirectory(prefix="playloom-") as temporary:
        archive.writestr("story.json", info.model_dump_json(indent=1), zipfile.ZIP_DEFLATED)
        for node in info.nodes:  # one at a time: a story may be larger than the memory
            frame = directory.read_frame(node.id)
            archive.writestr(f"pictures/{node.id:04}.png", frame.png())
            codes.append(frame.codes_N.astype(np.int32))
            weights.append(frame.weights)
        longest = max(map(len, codes))
        arrays = {
            "ids": np.array([node.id for node in info.nodes]),
            "parents": np.array([-1 if node.parent is None else node.parent for node in info.nodes]),
            "actions": np.array([node.action or tuple(REST_VALUES.tolist()) for node in info.nodes], np.uint8),
            "codes": np.stack([np.pad(c, (0, longest - len(c)), constant_values=-1) for c in codes]),
            "weights": np.array(weights),
        }
        path = Path(temporary) / "codes.npz"
        write_npz(path, arrays)
        archive.write(path, path.name)


def _animation(clip: PathClip, *, smooth: bool) -> Iterator[NDArray[np.uint8]]:
    """Yield all frames enlarged: smooth for a video, in blocks for a GIF and its 256 colours."""
    for frame in clip.frames:
        small = frame.frame_HWC
        large = enlarge(small, _ENLARGED) if smooth else small.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
        yield large if frame.manifest is None else stamp(large)

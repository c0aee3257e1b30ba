"""Stories in memory and on disk: a tree of frames, and a directory that survives a kill at any moment.

A tree changes by `Change`s only, so disk, memory and events hold the same sequence. `log.jsonl` holds the changes, one
per line; an incomplete last line is dropped. A log much longer than its tree is rewritten atomically. One process
writes to a store, one thread to a story.

==============  ==========================================================================================
`7.frame.webp`  exact pixels of frame 7, unmarked, lossless
`7.npz`         its codes, the weights they belong to, and its manifest (empty: not generated)
`7.webp`        the image to show, watermarked where it was generated, its manifest in the XMP
==============  ==========================================================================================
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.atomic_io import atomic_folder, atomic_write, folder_lock
from playloom.errors import BadInputError, PlayloomError, RecordingError, StorageError
from playloom.media.clips import read_npz, write_npz
from playloom.media.images import encode_png, read_picture
from playloom.provenance import Manifest, stamp
from playloom.server.stories.schemas import ACTIVE_STATES, Branch, Change, Header, Node, Removed, from_line, to_line

LOG = "log.jsonl"
_QUALITY = 85
_STORY = re.compile(r"[0-9a-f]{32}")  # directory name of a story; other names are neither listed nor removed
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.([0-9a-f]{8}\.tmp|gone)")
"""Directory of a story that a killed process was creating or deleting."""
_SPARE_LINES = 1000  # lines a log may have beyond twice the size of its tree


class Tree:
    """All frames and branches of a story."""

    def __init__(self) -> None:
        self.header = Header(name="", created="", revision=0)
        self.nodes: dict[int, Node] = {}
        self.branches: dict[int, Branch] = {}
        self._children: defaultdict[int | None, list[int]] = defaultdict(list)
        self._frames_of: defaultdict[int | None, list[int]] = defaultdict(list)

    def apply(self, change: Change) -> None:
        """Apply a change; RecordingError when it contradicts the tree, which stays unchanged then."""
        before = self.header
        if isinstance(change, Header):
            if change.revision <= before.revision:
                raise RecordingError(f"its change {change.revision} comes after change {before.revision}")
            self.header = change
            return
        counters = {"revision": before.revision + 1}
        if isinstance(change, Node):
            self._put_node(change)
            counters["next_node"] = max(before.next_node, change.id + 1)
        elif isinstance(change, Branch):
            self._require(change.from_)
            self.branches[change.id] = change
            self._count_frames(change.id)
            counters["next_branch"] = max(before.next_branch, change.id + 1)
        else:
            self._remove(change)
        self.header = before.model_copy(update=counters)

    def renamed(self, name: str) -> Header:
        """Return the change that renames the story."""
        return self.header.model_copy(update={"name": name, "revision": self.header.revision + 1})

    def snapshot(self) -> list[Change]:
        """Return the shortest list of changes that builds this tree, at the same revision."""
        changes: list[Change] = [*self.nodes.values(), *self.branches.values()]
        return [self.header.model_copy(update={"revision": self.header.revision - len(changes)}), *changes]

    def children(self, node: int | None) -> Sequence[int]:
        """Return the children of a frame, oldest first; of None: the roots."""
        return self._children.get(node, ())

    def node(self, node: int) -> Node:
        """Return a frame by its id; an unknown one is a BadInputError, here and below."""
        if node not in self.nodes:
            raise BadInputError(f"there is no frame {node} in this story")
        return self.nodes[node]

    def path(self, node: int) -> list[Node]:
        """Return the path from the root to a frame."""
        found = [self.node(node)]
        while found[-1].parent is not None:
            found.append(self.nodes[found[-1].parent])
        return found[::-1]

    def forward_path(self, node: int, toward: int | None, count: int) -> list[Node]:
        """Return the next `count` frames after one: towards its descendant `toward`, else always the first child."""
        if toward is None:
            toward = node
            while after := self.children(toward):
                toward = after[0]
        path = self.path(toward)
        if self.node(node) not in path:
            raise BadInputError(f"toward is no descendant of frame {node}: got {toward}")
        found = path[path.index(self.nodes[node]) + 1 :][:count]
        if len(found) < count:
            raise BadInputError(f"too few frames follow {node}: got {len(found)}, expected {count}; send fewer copies")
        return found

    def descendants(self, node: int) -> list[int]:
        """Return the ids of a frame and its descendants."""
        found, open_ = [], [self.node(node).id]
        while open_:
            found.append(open_.pop())
            open_ += self.children(found[-1])
        return sorted(found)

    def removal(self, node: int) -> Removed:
        """Return the removal of a frame and its descendants, unless it is the only root or a branch is active there."""
        gone, branches = set(self.descendants(node)), []
        if self.nodes[node].parent is None and len(self.children(None)) == 1:
            raise BadInputError("the story begins with this frame; delete the story instead")
        for branch in self.branches.values():
            frames = self._frames_of[branch.id]
            touched = branch.from_ in gone or bool(gone.intersection(frames))
            if touched and branch.state in ACTIVE_STATES:
                raise BadInputError(f"branch {branch.id} is still to be dreamed there; cancel it first")
            if touched and gone.issuperset(frames):
                branches.append(branch.id)
        return Removed(nodes=tuple(sorted(gone)), branches=tuple(sorted(branches)))

    def active_branches(self) -> list[Branch]:
        """Return waiting and running branches."""
        return [branch for branch in self.branches.values() if branch.state in ACTIVE_STATES]

    def _put_node(self, node: Node) -> None:
        if node.parent is not None:
            self._require(node.parent)
        known = self.nodes.get(node.id)
        if known is not None and (known.parent, known.branch) != (node.parent, node.branch):
            raise RecordingError(f"its frame {node.id} changes its place")
        self.nodes[node.id] = node
        if known is None:
            self._children[node.parent].append(node.id)
            self._frames_of[node.branch].append(node.id)
            self._count_frames(node.branch)

    def _remove(self, removed: Removed) -> None:
        for id_ in removed.nodes:
            self._require(id_)
        for id_ in removed.nodes:
            node = self.nodes.pop(id_)
            self._children[node.parent].remove(id_)
            self._frames_of[node.branch].remove(id_)
            self._count_frames(node.branch)
        for branch in removed.branches:
            self.branches.pop(branch, None)

    def _count_frames(self, branch: int | None) -> None:
        if branch in self.branches:
            frames = self._frames_of[branch]
            first, last = (frames[0], frames[-1]) if frames else (None, None)
            counts = {"frames_done": len(frames), "first": first, "last": last}
            self.branches[branch] = self.branches[branch].model_copy(update=counts)

    def _require(self, node: int) -> None:
        if node not in self.nodes:
            raise RecordingError(f"its frame {node} is missing")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame with its codes and manifest."""

    frame_HWC: NDArray[np.uint8]  # RGB, uint8 [H, W, 3], unmarked
    codes_N: NDArray[np.int64]  # codes of the frame, int64 [N]
    weights: str
    manifest: Manifest | None = None
    """Manifest of a generated frame, edited or not; None: a real frame or an edit of one, without a watermark."""

    def published_HWC(self) -> NDArray[np.uint8]:
        """Return the pixels, watermarked where generated."""
        return self.frame_HWC if self.manifest is None else stamp(self.frame_HWC)

    def png(self) -> bytes:
        """Encode the frame as PNG with its manifest."""
        return encode_png(self.published_HWC(), self.manifest)


class StoryDir:
    """Directory of one story."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._log = folder, folder / LOG
        self._lines = self._size = 0

    def load(self) -> Tree:
        """Load the story from its log, or raise RecordingError; an incomplete last line is cut off on disk too."""
        tree, log = Tree(), self._log
        try:
            *lines, rest = log.read_bytes().split(b"\n")
            for line in lines:
                tree.apply(from_line(line))
            if not tree.header.created:
                raise RecordingError("its log has no header")
            self._lines, self._size = len(lines), log.stat().st_size - len(rest)
            if rest:
                self._truncate()
        except (OSError, RecordingError) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            raise RecordingError(f"the story in {self.folder.name} is damaged: {cause}") from error
        return tree

    def append(self, changes: Sequence[Change], frames: Sequence[Frame] = ()) -> None:
        """Append changes to the log, all or none; new `frames` are written before, removed ones deleted after."""
        text = self._written(changes, frames)
        try:
            with self._log.open("ab") as file:
                file.write(text)
        except OSError as error:
            with suppress(OSError):
                self._truncate()
            raise StorageError(f"the story cannot be written: {error.strerror}; make room on the disk") from error
        self._lines, self._size = self._lines + len(changes), self._size + len(text)
        for node in [node for change in changes if isinstance(change, Removed) for node in change.nodes]:
            for path in self._files(node):
                with suppress(OSError):  # some systems keep a file that is being read
                    path.unlink()

    def needs_compaction(self, tree: Tree) -> bool:
        """Return whether the log is much longer than `tree`."""
        return self._lines > _SPARE_LINES + 2 * (len(tree.nodes) + len(tree.branches))

    def rewrite(self, changes: Sequence[Change], frames: Sequence[Frame] = ()) -> None:
        """Replace the log, as by `Tree.snapshot`; `frames` as in `append`."""
        text = self._written(changes, frames)
        with atomic_write(self._log) as temporary:
            temporary.write_bytes(text)
        self._lines, self._size = len(changes), len(text)

    def write_frame(self, node: int, frame: Frame) -> None:
        """Write a frame's files; each appears whole or not at all."""
        text, (exact, arrays, thumbnail) = frame.manifest.to_json() if frame.manifest else "", self._files(node)
        codes_N = frame.codes_N.astype(np.int32)
        write_npz(arrays, {"codes": codes_N, "weights": np.array(frame.weights), "manifest": np.array(text)})
        with atomic_write(exact) as temporary:
            Image.fromarray(frame.frame_HWC).save(temporary, "WEBP", lossless=True, quality=0, method=0, exact=True)
        with atomic_write(thumbnail) as temporary:
            pixels_HWC = frame.published_HWC()
            Image.fromarray(pixels_HWC).save(temporary, "WEBP", quality=_QUALITY, method=0, xmp=text.encode())

    def read_frame(self, node: int) -> Frame:
        """Read a frame; RecordingError when one of its files is missing or damaged."""
        exact, npz, _ = self._files(node)
        try:
            frame_HWC = read_picture(exact).frame_HWC
            arrays = read_npz(npz, ("codes", "weights", "manifest"))
            text = str(arrays["manifest"])
            manifest = Manifest.from_json(text) if text else None
        except PlayloomError as error:
            raise RecordingError(f"frame {node} cannot be read: its files are missing or damaged") from error
        codes_N, weights = arrays["codes"].astype(np.int64), str(arrays["weights"])
        return Frame(frame_HWC=frame_HWC, codes_N=codes_N, weights=weights, manifest=manifest)

    def thumbnail(self, node: int) -> Path:
        """Return the path of a frame's small image."""
        return self._files(node)[2]

    def _files(self, node: int) -> tuple[Path, Path, Path]:
        return self.folder / f"{node}.frame.webp", self.folder / f"{node}.npz", self.folder / f"{node}.webp"

    def _written(self, changes: Sequence[Change], frames: Sequence[Frame]) -> bytes:
        """Write the frames before the lines that name them, and return these lines."""
        nodes = [change for change in changes if isinstance(change, Node)] if frames else []
        for node, frame in zip(nodes, frames, strict=True):
            self.write_frame(node.id, frame)
        return "".join(f"{to_line(change)}\n" for change in changes).encode()

    def _truncate(self) -> None:
        with self._log.open("rb+") as file:
            file.truncate(self._size)


class StoryStore:
    """A folder of stories, locked for this process from first use."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._claim, self._held = folder, ExitStack(), False

    def directories(self) -> list[StoryDir]:
        """List every story, remove leftovers of a killed process; StorageError when another one uses the folder."""
        if not self.folder.is_dir():
            return []
        self._hold()
        found = []
        for path in sorted(self.folder.iterdir()):
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif _STORY.fullmatch(path.name) and (path / LOG).is_file():
                for half in path.glob(".*.tmp.*"):  # a file that was being written when a process was killed
                    with suppress(OSError):
                        half.unlink()
                found.append(StoryDir(path))
        return found

    def create(self, name: str, changes: Sequence[Change], frames: Sequence[Frame]) -> StoryDir:
        """Create a story from a `Header` and the nodes of `frames`, in order; it appears whole or not at all."""
        self._hold()
        with atomic_folder(self.folder / name) as temporary:
            StoryDir(temporary).rewrite(changes, frames)
        directory = StoryDir(self.folder / name)
        directory.load()
        return directory

    def delete(self, directory: StoryDir) -> None:
        """Delete a story; a kill meanwhile still deletes it."""
        gone = directory.folder.with_name(f".{directory.folder.name}.gone")
        try:
            directory.folder.replace(gone)
        except OSError as error:
            raise BadInputError(f"the story cannot be removed: {error.strerror}") from error
        shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        """Release the folder."""
        self._claim.close()
        self._held = False

    def _hold(self) -> None:
        if self._held:
            return
        try:
            self._claim.enter_context(folder_lock(self.folder))
        except BadInputError as error:
            raise StorageError(
                f"the stories in {self.folder} cannot be used: another server uses them, or the folder cannot be "
                "written; choose another one with --stories"
            ) from error
        self._held = True

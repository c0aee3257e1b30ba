"""Story storage: a directory per story that survives a kill at any moment.

`log.jsonl` holds the changes, one per line; an incomplete last line is dropped. A log much longer than its tree is
rewritten atomically. A damaged story is reported when it is opened; the others are unaffected. One process writes to a
store, one thread to a story.

==============  ==========================================================================================
`7.frame.webp`  exact pixels of frame 7, unmarked, lossless
`7.npz`         its codes, the weights they belong to, and its manifest (empty: not generated)
`7.webp`        the image to show, watermarked where it was generated, its manifest in the XMP
==============  ==========================================================================================
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.atomic_io import atomic_folder, atomic_write, folder_lock
from playloom.errors import BadInputError, PlayloomError, RecordingError, StorageError
from playloom.media.clips import read_npz, write_npz
from playloom.media.images import encode_png, read_picture
from playloom.provenance import Manifest, stamp
from playloom.server.stories.schemas import Change, Node, Removed, from_line, to_line
from playloom.server.stories.tree import Tree

LOG = "log.jsonl"
_QUALITY = 85
_STORY = re.compile(r"[0-9a-f]{32}")  # directory name of a story; other names are neither listed nor removed
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.([0-9a-f]{8}\.tmp|gone)")
"""Directory of a story that a killed process was creating or deleting."""
_SPARE_LINES = 1000  # lines a log may have beyond twice the size of its tree


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame with its codes and manifest."""

    frame_HWC: NDArray[np.uint8]  # RGB, uint8 [H, W, 3], unmarked
    codes_N: NDArray[np.int64]  # codes of the frame, int64 [N]
    weights: str
    manifest: Manifest | None = None
    """Manifest of a generated frame, edited or not; None: a real frame or an edit of one, without a watermark."""

    def published_HWC(self) -> NDArray[np.uint8]:
        """Return the pixels to publish: watermarked where generated."""
        return self.frame_HWC if self.manifest is None else stamp(self.frame_HWC)

    def png(self) -> bytes:
        """Encode the frame as PNG with its manifest."""
        return encode_png(self.published_HWC(), self.manifest)


class StoryDir:
    """Directory of one story."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = self._size = 0

    def load(self) -> Tree:
        """Load the story from its log, or raise RecordingError; an incomplete last line is cut off on disk too."""
        tree, log = Tree(), self.folder / LOG
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
        self._write_frames(changes, frames)
        text = _lines_of(changes)
        try:
            with (self.folder / LOG).open("ab") as file:
                file.write(text)
        except OSError as error:
            with suppress(OSError):
                self._truncate()
            raise StorageError(f"the story cannot be written: {error.strerror}; make room on the disk") from error
        self._lines, self._size = self._lines + len(changes), self._size + len(text)
        for change in changes:
            if isinstance(change, Removed):
                self._remove_frames(change.nodes)

    def needs_compaction(self, tree: Tree) -> bool:
        """Return whether the log is much longer than `tree`."""
        return self._lines > _SPARE_LINES + 2 * (len(tree.nodes) + len(tree.branches))

    def rewrite(self, changes: Sequence[Change], frames: Sequence[Frame] = ()) -> None:
        """Replace the log, as by `Tree.snapshot`; `frames` as in `append`."""
        self._write_frames(changes, frames)
        text = _lines_of(changes)
        with atomic_write(self.folder / LOG) as temporary:
            temporary.write_bytes(text)
        self._lines, self._size = len(changes), len(text)

    def write_frame(self, node: int, frame: Frame) -> None:
        """Write a frame's files; each appears whole or not at all."""
        text = "" if frame.manifest is None else frame.manifest.to_json()
        arrays = {"codes": frame.codes_N.astype(np.int32), "weights": np.array(frame.weights)}
        write_npz(self.folder / f"{node}.npz", {**arrays, "manifest": np.array(text)})
        exact = _webp(frame.frame_HWC, lossless=True, quality=0, method=0, exact=True)
        thumbnail = _webp(frame.published_HWC(), quality=_QUALITY, method=0, xmp=text.encode())
        for path, data in ((self._exact(node), exact), (self.thumbnail(node), thumbnail)):
            with atomic_write(path) as temporary:
                temporary.write_bytes(data)

    def read_frame(self, node: int) -> Frame:
        """Read a frame; RecordingError when one of its files is missing or damaged."""
        try:
            frame_HWC = read_picture(self._exact(node)).frame_HWC
            arrays = read_npz(self.folder / f"{node}.npz", ("codes", "weights", "manifest"))
            text = str(arrays["manifest"])
            manifest = Manifest.from_json(text) if text else None
        except PlayloomError as error:
            raise RecordingError(f"frame {node} cannot be read: its files are missing or damaged") from error
        codes_N, weights = arrays["codes"].astype(np.int64), str(arrays["weights"])
        return Frame(frame_HWC=frame_HWC, codes_N=codes_N, weights=weights, manifest=manifest)

    def thumbnail(self, node: int) -> Path:
        """Return the path of a frame's small image."""
        return self.folder / f"{node}.webp"

    def _exact(self, node: int) -> Path:
        return self.folder / f"{node}.frame.webp"

    def _write_frames(self, changes: Sequence[Change], frames: Sequence[Frame]) -> None:
        nodes = [change for change in changes if isinstance(change, Node)] if frames else []
        for node, frame in zip(nodes, frames, strict=True):
            self.write_frame(node.id, frame)

    def _remove_frames(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            for path in (self._exact(node), self.folder / f"{node}.npz", self.thumbnail(node)):
                with suppress(OSError):  # some systems keep a file that is being read
                    path.unlink()

    def _truncate(self) -> None:
        with (self.folder / LOG).open("rb+") as file:
            file.truncate(self._size)


class StoryStore:
    """A folder of stories, locked for this process from first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claim: ExitStack | None = None

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
            directory = StoryDir(temporary)
            directory.rewrite(changes, frames)
        directory.folder = self.folder / name
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
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _hold(self) -> None:
        if self._claim is not None:
            return
        claim = ExitStack()
        try:
            claim.enter_context(folder_lock(self.folder))
        except BadInputError as error:
            raise StorageError(
                f"the stories in {self.folder} cannot be used: another server uses them, or the folder cannot be "
                "written; choose another one with --stories"
            ) from error
        self._claim = claim


def _lines_of(changes: Sequence[Change]) -> bytes:
    return "".join(f"{to_line(change)}\n" for change in changes).encode()


def _webp(frame_HWC: NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, "WEBP", **options)
    return buffer.getvalue()

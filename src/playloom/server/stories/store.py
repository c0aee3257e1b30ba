"""Stories on disk: a directory that survives a kill at any moment, and the exports.

`log.jsonl` holds the changes of the tree, one per line; an incomplete last line is dropped. One process writes to a
store, one thread to a story.

Generated frames leave watermarked and with their manifest; the arrays in `.npz` are unmarked, so that a dream can
continue from them (`playloom dream --prompt path.npz`). The content of each file is in docs/stories.md.

==============  ==========================================================================================
`7.frame.webp`  exact pixels of frame 7, unmarked, lossless
`7.npz`         its codes, the weights they belong to, and its manifest (empty: not generated)
`7.webp`        the image to show, watermarked where it was generated, its manifest in the XMP
==============  ==========================================================================================
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.actions.codec import REST_VALUES
from playloom.atomic_io import atomic_folder, atomic_write, folder_lock
from playloom.errors import BadInputError, PlayloomError, RecordingError, StorageError
from playloom.media.action_table import write_actions
from playloom.media.clips import read_npz, write_npz
from playloom.media.images import encode_png, enlarge, read_picture
from playloom.media.output_folder import GeneratedClip, OutputStep
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, frames_hash, stamp
from playloom.server.stories.schemas import Change, Node, Removed, StoryInfo, Tree, from_line, to_line

PathKind = Literal["mp4", "gif", "csv", "npz", "zip"]
_ENLARGED = 2
LOG = "log.jsonl"
_QUALITY = 85
_STORY = re.compile(r"[0-9a-f]{32}")  # directory name of a story; other names are neither listed nor removed
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.([0-9a-f]{8}\.tmp|gone)")
"""Directory of a story that a killed process was creating or deleting."""


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

    def load(self) -> Tree:
        """Load the story from its log, or raise RecordingError; an incomplete last line is cut off on disk too."""
        tree, log = Tree(), self._log
        try:
            *lines, rest = log.read_bytes().split(b"\n")
            for line in lines:
                tree.apply(from_line(line))
            if not (tree.header.created and tree.nodes):
                raise RecordingError("its log has no header or no frame")
            if rest:
                os.truncate(log, log.stat().st_size - len(rest))
        except (OSError, RecordingError) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            raise RecordingError(f"the story in {self.folder.name} is damaged: {cause}") from error
        return tree

    def append(self, changes: Sequence[Change], frames: Sequence[Frame] = ()) -> None:
        """Append changes to the log, all or none; new `frames` are written before, removed ones deleted after."""
        nodes = [change for change in changes if isinstance(change, Node)] if frames else []
        for node, frame in zip(nodes, frames, strict=True):
            self.write_frame(node.id, frame)
        size = self._log.stat().st_size if self._log.exists() else 0
        try:
            with self._log.open("ab") as file:
                file.write("".join(f"{to_line(change)}\n" for change in changes).encode())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._log, size)
            raise StorageError(f"the story cannot be written: {error.strerror}; make room on the disk") from error
        for gone in [node for change in changes if isinstance(change, Removed) for node in change.nodes]:
            for path in self._files(gone):
                with suppress(OSError):  # some systems keep a file that is being read
                    path.unlink()

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
            StoryDir(temporary).append(changes, frames)
        return StoryDir(self.folder / name)

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

"""Story storage: a directory per story that survives a kill at any moment.

    store = StoryStore(Path("out/stories"))
    directory = store.create("3f0c...", header, frames)    # appears whole or not at all
    tree = directory.load()
    directory.write_frame(7, frame); directory.append(node)    # the frame first, then its log line

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
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.atomic_io import atomic_folder, atomic_write, folder_lock
from playloom.errors import BadInputError, PlayloomError, RecordingError, StorageError
from playloom.media.clips import read_npz, write_npz
from playloom.media.images import encode_png
from playloom.provenance import Manifest, stamp
from playloom.server.stories.schemas import from_line, to_line
from playloom.server.stories.tree import Change, Header, Node, Tree

_QUALITY = 85
_ARRAYS = ("codes", "weights", "manifest")


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame with its codes and manifest."""

    frame_HWC: NDArray[np.uint8]
    """RGB, uint8 [H, W, 3], unmarked."""
    codes_N: NDArray[np.int64]
    """Codes of the frame, int64 [N]."""
    weights: str
    """Fingerprint of the weights that the codes belong to."""
    manifest: Manifest | None = None
    """Manifest of a generated frame; None: a real frame or an edit of one, shown without a watermark."""

    @property
    def dreamed(self) -> bool:
        """True for a frame that a model generated, edited or not."""
        return self.manifest is not None

    def shown_HWC(self) -> NDArray[np.uint8]:
        """Return the pixels to publish: watermarked where generated."""
        return stamp(self.frame_HWC) if self.dreamed else self.frame_HWC

    def png(self) -> bytes:
        """Encode the frame as PNG with its manifest."""
        return encode_png(self.shown_HWC(), self.manifest)


def write_frame(folder: Path, node: int, frame: Frame) -> None:
    """Write a frame's files; each appears whole or not at all.

    Raises:
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    exact, text = io.BytesIO(), "" if frame.manifest is None else frame.manifest.to_json()
    Image.fromarray(frame.frame_HWC).save(exact, "WEBP", lossless=True, quality=0, method=0, exact=True)
    with atomic_write(exact_path(folder, node)) as temporary:
        temporary.write_bytes(exact.getvalue())
    write_npz(
        folder / f"{node}.npz",
        {"codes": frame.codes_N.astype(np.int32), "weights": np.array(frame.weights), "manifest": np.array(text)},
    )
    shown = io.BytesIO()
    Image.fromarray(frame.shown_HWC()).save(shown, "WEBP", quality=_QUALITY, method=0, xmp=text.encode())
    with atomic_write(shown_path(folder, node)) as temporary:
        temporary.write_bytes(shown.getvalue())


def read_frame(folder: Path, node: int) -> Frame:
    """Read a frame.

    Raises:
        RecordingError: when a file of it is missing or damaged.
    """
    try:
        with Image.open(exact_path(folder, node), formats=["WEBP"]) as image:
            frame_HWC = np.array(image.convert("RGB"))
        arrays = read_npz(folder / f"{node}.npz", _ARRAYS)
        text = str(arrays["manifest"])
        manifest = Manifest.from_json(text) if text else None
        codes_N = arrays["codes"]
        if codes_N.ndim != 1 or codes_N.dtype.kind not in "iu":
            raise RecordingError("its codes are none")
    except (PlayloomError, OSError, ValueError, SyntaxError) as error:
        raise RecordingError(f"frame {node} cannot be read: its files are missing or damaged") from error
    return Frame(
        frame_HWC=frame_HWC, codes_N=codes_N.astype(np.int64), weights=str(arrays["weights"]), manifest=manifest
    )


def remove_frame(folder: Path, node: int) -> None:
    """Remove a frame's files as far as possible; some systems keep a file that is being read."""
    for path in (exact_path(folder, node), folder / f"{node}.npz", shown_path(folder, node)):
        with suppress(OSError):
            path.unlink()


def exact_path(folder: Path, node: int) -> Path:
    """Path of a frame's exact pixels."""
    return folder / f"{node}.frame.webp"


def shown_path(folder: Path, node: int) -> Path:
    """Path of the image to show."""
    return folder / f"{node}.webp"


LOG = "log.jsonl"
_STORY = re.compile(r"[0-9a-f]{32}")
"""Directory name of a story; other names are neither listed nor removed."""
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.([0-9a-f]{8}\.tmp|gone)")
"""Directory of a story that a killed process was creating or deleting."""
_SPARE_LINES = 1000
"""Lines a log may have beyond twice the size of its tree."""


class StoryDir:
    """Directory of one story."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = self._size = 0

    def load(self) -> Tree:
        """Load the story from its log; an incomplete last line is cut off on disk too.

        Raises:
            RecordingError: when the log is missing or damaged.
        """
        tree, log = Tree(), self.folder / LOG
        try:
            whole = log.read_bytes()
            lines, rest = whole.split(b"\n")[:-1], whole.rpartition(b"\n")[2]
            for line in lines:
                tree.apply(from_line(line))
            if not tree.header.created:
                raise RecordingError("its log does not begin with its name")
            if rest:
                with log.open("rb+") as file:
                    file.truncate(len(whole) - len(rest))
        except (OSError, RecordingError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise RecordingError(f"the story in {self.folder.name} is damaged: {said}") from error
        self._lines, self._size = len(lines), len(whole) - len(rest)
        return tree

    def append(self, changes: Sequence[Change]) -> None:
        """Append changes to the log, all or none.

        Raises:
            StorageError: when it cannot be written; the log is then as it was.
        """
        text = "".join(to_line(change) + "\n" for change in changes).encode()
        log = self.folder / LOG
        try:
            with log.open("ab") as file:
                file.write(text)
        except OSError as error:
            with suppress(OSError), log.open("rb+") as file:
                file.truncate(self._size)
            raise StorageError(f"the story cannot be written: {error.strerror}; make room on the disk") from error
        self._lines, self._size = self._lines + len(changes), self._size + len(text)

    def needs_compaction(self, tree: Tree) -> bool:
        """True when the log is much longer than `tree`."""
        return self._lines > _SPARE_LINES + 2 * (len(tree.nodes) + len(tree.branches))

    def rewrite(self, changes: Sequence[Change]) -> None:
        """Rewrite the log from `Tree.snapshot`."""
        self._lines, self._size = _write_log(self.folder, changes)

    def write_frame(self, node: int, frame: Frame) -> None:
        """Write a frame, before its log line; see `playloom.server.stories.store.write_frame`."""
        write_frame(self.folder, node, frame)

    def read_frame(self, node: int) -> Frame:
        """Read a frame; see `playloom.server.stories.store.read_frame`."""
        return read_frame(self.folder, node)

    def remove_frames(self, nodes: Iterable[int]) -> None:
        """Remove frames, after the log line."""
        for node in nodes:
            remove_frame(self.folder, node)

    def shown(self, node: int) -> Path:
        """Path of the small image of a frame."""
        return shown_path(self.folder, node)


class StoryStore:
    """A folder of stories, locked for this process from first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claim = ExitStack()
        self._claimed = False

    def directories(self) -> list[StoryDir]:
        """List every story; leftovers of a killed process are removed.

        Raises:
            StorageError: when another process has the folder.
        """
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
        """Create a story; it appears whole or not at all.

        Args:
            name: of its folder; free, 32 hexadecimal digits.
            changes: a `Header`, then the nodes of these frames.
            frames: of the nodes, in order.

        Raises:
            StorageError: when the place cannot be written to, the disk is full, or another process has the folder.
        """
        self._hold()
        nodes = [change for change in changes if isinstance(change, Node)]
        assert isinstance(changes[0], Header), "a log begins with its name"
        with atomic_folder(self.folder / name) as directory:
            for node, frame in zip(nodes, frames, strict=True):
                write_frame(directory, node.id, frame)
            _write_log(directory, changes)
        return StoryDir(self.folder / name)

    def delete(self, directory: StoryDir) -> None:
        """Delete a story; a kill meanwhile still deletes it.

        Raises:
            BadInputError: when it cannot be.
        """
        gone = directory.folder.with_name(f".{directory.folder.name}.gone")
        try:
            directory.folder.replace(gone)
        except OSError as error:
            raise BadInputError(f"the story cannot be removed: {error.strerror}") from error
        shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        """Release the folder."""
        self._claim.close()
        self._claimed = False

    def _hold(self) -> None:
        if not self._claimed:
            try:
                self._claim.enter_context(folder_lock(self.folder))
            except BadInputError as error:
                raise StorageError(
                    f"the stories in {self.folder} cannot be used: another server has them, or the folder cannot be "
                    "written to; choose another one with --stories"
                ) from error
            self._claimed = True


def _write_log(folder: Path, changes: Sequence[Change]) -> tuple[int, int]:
    """Write a whole log; returns its lines and bytes."""
    text = "".join(to_line(change) + "\n" for change in changes).encode()
    with atomic_write(folder / LOG) as temporary:
        temporary.write_bytes(text)
    return len(changes), len(text)

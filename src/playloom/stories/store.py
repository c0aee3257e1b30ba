"""Stories on disk: a folder of folders, one a story, that survives being killed at any moment.

    shelf = Shelf(Path("out/stories"))
    place = shelf.create("3f0c...", header, frames)     # appears whole or not at all
    tree = place.load()
    place.write_frame(7, frame); place.append(node)     # the frame first, then the line that speaks of it

`log.jsonl` of a story is the sequence of its changes, a line each; a last line that was cut off is not counted, and a
log much longer than what it leads to is written anew, whole or not at all. A damaged story is told in one sentence when
it is opened; the others do not notice. One process writes to a shelf, one thread to a story.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from playloom.errors import BadInputError, RecordingError, StorageError
from playloom.files import atomic_folder, atomic_write, claimed
from playloom.stories.frames import Frame, read_frame, remove_frame, shown_path, write_frame
from playloom.stories.lines import from_line, to_line
from playloom.stories.tree import Change, Header, Node, Tree

LOG = "log.jsonl"
_STORY = re.compile(r"[0-9a-f]{32}")
"""Names of stories. Whatever else lies there is somebody else's, a log in it or not: never shown, never removed."""
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.([0-9a-f]{8}\.tmp|gone)")
"""A story that was not whole yet, or was being deleted, when a process was killed."""
_SPARE_LINES = 1000
"""Lines a log may have beyond twice what it leads to."""


class Place:
    """One story's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = self._size = 0

    def load(self) -> Tree:
        """The story as its log leads to it; what was cut off at the end is cut off on disk too.

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
        """Add changes to the log, all or none.

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

    def untidy(self, tree: Tree) -> bool:
        """Whether the log is much longer than what it leads to, which is `tree`."""
        return self._lines > _SPARE_LINES + 2 * (len(tree.nodes) + len(tree.branches))

    def rewrite(self, changes: Sequence[Change]) -> None:
        """Write the log anew from `Tree.snapshot`."""
        self._lines, self._size = _write_log(self.folder, changes)

    def write_frame(self, node: int, frame: Frame) -> None:
        """Write a frame, before the log speaks of it; see `playloom.stories.frames.write_frame`."""
        write_frame(self.folder, node, frame)

    def read_frame(self, node: int) -> Frame:
        """A frame; see `playloom.stories.frames.read_frame`."""
        return read_frame(self.folder, node)

    def remove_frames(self, nodes: Iterable[int]) -> None:
        """Remove frames, after the log has said that they are gone."""
        for node in nodes:
            remove_frame(self.folder, node)

    def shown(self, node: int) -> Path:
        """Where the small picture of a frame lies."""
        return shown_path(self.folder, node)


class Shelf:
    """A folder of stories; claimed for this process from when it is first there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claim = ExitStack()
        self._claimed = False

    def places(self) -> list[Place]:
        """Every story there is; leftovers of a process that was killed are removed.

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
                found.append(Place(path))
        return found

    def create(self, name: str, changes: Sequence[Change], frames: Sequence[Frame]) -> Place:
        """A new story, which appears whole or not at all.

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
        with atomic_folder(self.folder / name) as place:
            for node, frame in zip(nodes, frames, strict=True):
                write_frame(place, node.id, frame)
            _write_log(place, changes)
        return Place(self.folder / name)

    def delete(self, place: Place) -> None:
        """Remove a story; killed meanwhile, it is gone all the same.

        Raises:
            BadInputError: when it cannot be.
        """
        gone = place.folder.with_name(f".{place.folder.name}.gone")
        try:
            place.folder.replace(gone)
        except OSError as error:
            raise BadInputError(f"the story cannot be removed: {error.strerror}") from error
        shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        """Let other processes have the folder."""
        self._claim.close()
        self._claimed = False

    def _hold(self) -> None:
        if not self._claimed:
            try:
                self._claim.enter_context(claimed(self.folder))
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

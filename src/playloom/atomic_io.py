"""Files and folders that appear whole or not at all, and checks of a place before long work."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playloom.errors import BadInputError, PlayloomError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the last one is a file size limit of the process
# Safetensors ("os error 28") and ndarray.tofile ("9 requested and 5 written") give the cause only as text.
_FULL_TEXT = re.compile(r"no space left|file too large|os error (27|28)\b|requested and \d+ written", re.IGNORECASE)
_RESULTS = ("manifest.json", "report.json", "start.json")
"""Files that mark a folder as an earlier result; so do videos with arrays of the same name."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all; missing folders above it are made.

    The body writes to the temporary path (same folder and ending). Afterwards the bytes are flushed to the disk and the
    file is renamed. When the body raises, nothing is left, and an older file stays as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        with _storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Not made by tempfile, so that the file has the permissions of the user's umask.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = temporary.stat().st_mode
        with _storage_errors(target, only_full=True):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        with _storage_errors(target):
            temporary.chmod(mode)  # safetensors puts a file of mode 0600 in its place
            temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path | str) -> Iterator[Path]:
    """Fill a folder so that it appears with everything in it, or not at all.

    The body fills the temporary folder, which is renamed afterwards. The folder may exist if it is empty.
    """
    target = next_free_path(folder)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _storage_errors(target):
            temporary.mkdir(parents=True)
        with _storage_errors(target, only_full=True):
            yield temporary
        with _storage_errors(target):
            with suppress(FileNotFoundError):
                target.rmdir()  # Windows replaces no folder, not even an empty one
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def next_free_path(folder: Path | str, *, numbered: bool = False) -> Path:
    """Return the folder itself when it is absent or empty; else raise a BadInputError.

    With `numbered` it is the first free of `folder-2`, `folder-3`, … when the folder holds an earlier result.
    """
    wanted = Path(folder).absolute()
    check_own_folder(wanted)
    with _storage_errors(wanted):
        if not _is_free(wanted) and not (numbered and _is_result(wanted)):
            content = "files that are no earlier result" if numbered else "files"
            raise BadInputError(f"{folder} already holds {content}; choose another folder, or remove it first")
        candidate, number = wanted, 1
        while not _is_free(candidate):
            number += 1
            candidate = wanted.with_name(f"{wanted.name}-{number}")
        return candidate


def check_own_folder(folder: Path | str) -> None:
    """Check that a folder to write is not a file, the current folder or one above it; BadInputError when it is."""
    wanted = Path(folder).absolute()
    with _storage_errors(wanted):
        if wanted.exists() and not wanted.is_dir():
            raise BadInputError(f"cannot write the folder {folder}: it is a file; choose another folder")
    if Path.cwd().is_relative_to(wanted.resolve()):
        raise BadInputError(
            f"cannot write the folder {str(folder)!r}: it is the current folder or above it; name a folder of its own"
        )


def ensure_writable(folder: Path | str, *, numbered: bool = False) -> None:
    """Check before long work that a folder, or its `next_free_path`, can be written; nothing is left there."""
    target = next_free_path(folder, numbered=True) if numbered else Path(folder).absolute()
    with _storage_errors(target):
        above = next(place for place in target.parents if place.exists())
        with tempfile.TemporaryFile(dir=above) as probe:
            probe.write(b"room")
            probe.flush()


@contextmanager
def folder_lock(folder: Path | str) -> Iterator[None]:
    """Keep other processes out of a folder (made if needed) while the body runs.

    Without effect where the system has no file locks (Windows, some network disks).
    """
    target = Path(folder)
    with _storage_errors(target):
        made = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None:
            import fcntl

            with suppress(OSError):  # a disk without locks
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise StorageError(f"another process works in {folder}; wait, or choose another folder") from None
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if made:
            with suppress(OSError):  # it holds something
                target.rmdir()


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and next(folder.iterdir(), None) is None)


def _is_result(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _RESULTS):
        return True
    videos = (video for pattern in ("*.mp4", "*/*.mp4") for video in folder.glob(pattern))
    return any(video.with_suffix(".npz").is_file() for video in videos)


@contextmanager
def _storage_errors(target: Path, *, only_full: bool = False) -> Iterator[None]:
    """Turn a full disk, and with `only_full` off any OSError, into a StorageError."""
    try:
        yield
    except PlayloomError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _FULL or _FULL_TEXT.search(str(error)):
            raise StorageError(
                f"no room left on the disk (or a file size limit was reached) while writing {target}; nothing was "
                "kept of it: free some space or choose another place, then run again"
            ) from error
        if only_full or not isinstance(error, OSError):
            raise
        raise StorageError(f"cannot write {target}: {error.strerror or error}; choose another place") from error

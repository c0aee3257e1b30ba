"""Files and folders that are whole or absent, and whose places are known to be good before long work begins.

Holds no state. Knows nothing of what is written.

    >>> with atomic_write(Path("notes.txt")) as temporary:  # doctest: +SKIP
    ...     temporary.write_text("all of it, or nothing")
"""

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

# EFBIG is what a per-process file size limit gives; to the user it is the same trouble as a full disk.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Some libraries keep the cause only in their text: safetensors
# ("os error 28"), ndarray.tofile ("9 requested and 5 written").
_FULL_TEXT = re.compile(r"no space left|file too large|os error (27|28)\b|requested and \d+ written", re.IGNORECASE)
_RESULTS = ("manifest.json", "report.json", "start.json")
"""Files that tell a folder with an earlier dream, play, act or call; else films beside arrays of the same name do."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all, whatever happens in between.

    The body writes to the temporary path it is given (same folder and ending as `path`); afterwards the
    bytes are flushed to the disk and the name is swapped in. When the body raises, nothing is left and an
    older file stays as it was.

    Args:
        path: the file to appear; missing folders above it are made.

    Raises:
        StorageError: when the place cannot be written to, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        with _os_errors_as_sentences(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Opened here, not with tempfile, so that the file gets the permissions the user's umask asks for.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = temporary.stat().st_mode
        with _full_disk_as_sentence(target):
            yield temporary
            _flush(temporary)
        with _os_errors_as_sentences(target):
            temporary.chmod(mode)  # safetensors puts a file of mode 0600 in its place
            temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path | str) -> Iterator[Path]:
    """Fill a folder so that it appears with everything in it, or not at all.

    The body fills the temporary folder it is given, beside the final one, which takes its place afterwards.

    Args:
        folder: the folder to appear; it may exist if it is empty. See `next_free_path` for a numbered one.

    Raises:
        BadInputError: when the folder holds something already.
        StorageError: when it cannot be made, or the disk is full.
    """
    target = next_free_path(folder)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _os_errors_as_sentences(target):
            temporary.mkdir(parents=True)
        with _full_disk_as_sentence(target):
            yield temporary
        with _os_errors_as_sentences(target):
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def next_free_path(folder: Path | str, *, numbered: bool = False) -> Path:
    """Return the folder itself when it is absent or empty; else an error, or its first free numbered sibling.

    Args:
        folder: where something is to be written.
        numbered: choose `folder-2`, `folder-3`, … when the folder holds an earlier result.

    Raises:
        BadInputError: when it is a file, the current folder or one above it, or holds anything else.
    """
    wanted = Path(folder).absolute()
    check_own_folder(wanted)
    if not _is_free(wanted) and not (numbered and _is_result(wanted)):
        which = "files that are no earlier result" if numbered else "files"
        raise BadInputError(f"{folder} already holds {which}; choose another folder, or remove it first")
    candidate, number = wanted, 1
    while not _is_free(candidate):
        number += 1
        candidate = wanted.with_name(f"{wanted.name}-{number}")
    return candidate


def check_own_folder(folder: Path | str) -> None:
    """Check that a folder to write is neither a file nor the current folder nor one above it.

    Raises:
        BadInputError: when it is.
    """
    wanted = Path(folder).absolute()
    if wanted.exists() and not wanted.is_dir():
        raise BadInputError(f"cannot write the folder {folder}: it is a file; choose another folder")
    if Path.cwd().is_relative_to(wanted.resolve()):
        raise BadInputError(
            f"cannot write the folder {str(folder)!r}: it is the current folder or above it; name a folder of its own"
        )


def ensure_writable(folder: Path | str, *, numbered: bool = False) -> None:
    """Check before long work, not after it, that a folder can be written; nothing stays behind.

    Args:
        folder: where something is to be written.
        numbered: also apply the rule of `next_free_path(folder, numbered=True)`.

    Raises:
        StorageError: when the nearest folder above it that exists cannot be written to or is a file, or the disk is
            full.
    """
    target = next_free_path(folder, numbered=True) if numbered else Path(folder).absolute()
    above = next(place for place in target.parents if place.exists())
    with _os_errors_as_sentences(target), tempfile.TemporaryFile(dir=above) as probe:
        probe.write(b"room")
        probe.flush()


@contextmanager
def folder_lock(folder: Path | str) -> Iterator[None]:
    """Keep a second process out of a folder (made if needed) for as long as the body runs, or this process lives.

    Where the system has no such claims (Windows, some network disks) nobody is kept out.

    Raises:
        StorageError: when another process has claimed it, or the folder cannot be made.
    """
    target = Path(folder)
    made = not target.exists()
    with _os_errors_as_sentences(target):
        target.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None and not _is_claimed(descriptor):
            raise StorageError(f"another process works in {folder}; wait for its end, or choose another --out")
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if made:
            with suppress(OSError):  # it holds something
                target.rmdir()


def _is_claimed(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without claims
        return True
    return True


def _is_free(folder: Path) -> bool:
    if not folder.exists():
        return True
    return folder.is_dir() and next(folder.iterdir(), None) is None


def _is_result(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _RESULTS):
        return True
    films = (film for pattern in ("*.mp4", "*/*.mp4") for film in folder.glob(pattern))
    return any(film.with_suffix(".npz").is_file() for film in films)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _os_errors_as_sentences(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if _is_disk_full(error):
            raise _disk_full(target) from error
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {target}: {reason}; choose another place") from error


@contextmanager
def _full_disk_as_sentence(target: Path) -> Iterator[None]:
    try:
        yield
    except PlayloomError:
        raise
    except Exception as error:
        if _is_disk_full(error):
            raise _disk_full(target) from error
        raise


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return _FULL_TEXT.search(str(error)) is not None


def _disk_full(target: Path) -> StorageError:
    return StorageError(
        f"no room left on the disk (or a file size limit was reached) while writing {target}; nothing was "
        "kept of it: free some space or choose another place, then run again"
    )

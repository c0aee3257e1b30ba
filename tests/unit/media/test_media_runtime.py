"""Files appear whole or not at all, a full disk is a sentence, and devices, dtypes and seeds are checked."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from playloom.atomic_io import atomic_folder, atomic_write, ensure_writable, folder_lock, next_free_path
from playloom.device import check_seed, pick_device, run_in_temporary_thread
from playloom.errors import BadInputError, ConfigError, PlayloomError, StorageError


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_everything_in_it(tmp_path):
    target = tmp_path / "new" / "notes.txt"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".txt" and not target.exists()
        temporary.write_text("all of it")
    assert target.read_text() == "all of it" and names_in(target.parent) == ["notes.txt"]


def test_the_file_has_the_permissions_the_umask_asks_for(tmp_path):
    """A file made by tempfile and renamed is unreadable to everyone else."""
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_when_the_body_fails_nothing_is_left_and_the_old_file_stays(tmp_path, error):
    target = tmp_path / "notes.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and names_in(tmp_path) == ["notes.txt"]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInputError, match="cannot write"), atomic_write(tmp_path / "file" / "b.txt"):
        pass
    with pytest.raises(BadInputError, match="cannot write"), atomic_folder(tmp_path / "file" / "b"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInputError, match="cannot write"), atomic_write(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert names_in(tmp_path) == ["file", "folder"]


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that the test may not look into, root neither."""
    folder, user = tmp_path / "closed", os.geteuid()
    folder.mkdir(mode=0)
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_a_place_that_may_not_be_looked_at_is_a_sentence(closed_folder):
    """It was a traceback: `Path.exists` raises a PermissionError there."""
    for numbered in (False, True):
        with pytest.raises(StorageError, match="Permission denied"):
            ensure_writable(closed_folder / "dream" / "a", numbered=numbered)
    with pytest.raises(StorageError, match="Permission denied"), folder_lock(closed_folder):
        pass


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    target = tmp_path / "out" / "dream"
    with pytest.raises(RuntimeError), atomic_folder(target) as place:
        (place / "half.txt").write_text("x")
        raise RuntimeError
    assert names_in(tmp_path / "out") == []
    target.mkdir()
    with atomic_folder(target) as place:
        (place / "sub").mkdir()
        (place / "sub" / "whole.txt").write_text("x")
        assert names_in(target) == []
    assert (target / "sub" / "whole.txt").is_file() and names_in(tmp_path / "out") == ["dream"]
    with pytest.raises(BadInputError, match="already"), atomic_folder(target):
        pass


def test_a_place_is_tried_without_leaving_anything(tmp_path):
    ensure_writable(tmp_path / "a" / "b" / "c")
    (tmp_path / "file").write_text("taken")
    with pytest.raises(BadInputError, match="cannot write"):
        ensure_writable(tmp_path / "file" / "c")
    assert names_in(tmp_path) == ["file"]


def test_a_taken_folder_gets_a_number(tmp_path):
    target = tmp_path / "dream"
    assert next_free_path(target, numbered=True) == target
    for expected in ("dream-2", "dream-3"):
        taken = next_free_path(target, numbered=True)
        taken.mkdir()
        (taken / "report.json").touch()
        assert next_free_path(target, numbered=True).name == expected
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="is a file"):
        next_free_path(tmp_path / "file")


def test_devices():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="cuda"):
        pick_device("cdua")
    with pytest.raises(ConfigError, match="not available"):
        pick_device("cuda:99")


def test_seeds():
    assert check_seed(2**63 - 1) == 2**63 - 1
    for seed in (-1, 2**63):
        with pytest.raises(ConfigError, match="seed"):
            check_seed(seed)


def test_work_in_passing_leaves_its_thread_behind():
    assert run_in_temporary_thread(lambda: threading.current_thread().name).startswith("playloom-temporary")
    assert all(not thread.name.startswith("playloom-temporary") for thread in threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        run_in_temporary_thread(lambda: 1 // 0)


def test_errors_of_the_body_stay_what_they_are(tmp_path):
    class OwnError(PlayloomError):
        pass

    with pytest.raises(OwnError), atomic_write(tmp_path / "a"):
        raise OwnError("no space left")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "missing").read_text()

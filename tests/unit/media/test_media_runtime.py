"""Files appear whole or not at all, a full disk is a sentence, and devices, dtypes and seeds are checked."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from playloom.atomic_io import atomic_folder, atomic_write, ensure_writable, folder_lock, next_free_path
from playloom.device import generator, pick_device, pick_dtype, run_in_temporary_thread
from playloom.errors import BadInputError, ConfigError, PlayloomError


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


FULL_DISK = """
import os, resource, sys
import numpy as np
from pathlib import Path
from safetensors.numpy import save_file
from playloom.errors import PlayloomError
from playloom.media.video import write_gif, write_mp4
from playloom.media.clips import write_npz
from playloom.media.images import write_picture
from playloom.atomic_io import atomic_write

def through(write):
    def writer(target):
        with atomic_write(target) as temporary:
            write(temporary)
    return writer

resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
big = np.random.default_rng(0).integers(0, 256, (12, 100, 160, 3), dtype=np.uint8)
writers = {
    "bytes": through(lambda path: path.write_bytes(big.tobytes())),
    "tofile": through(big.tofile),
    "safetensors": through(lambda path: save_file({"a": big}, path)),
    "npz": lambda target: write_npz(target, {"a": big}),
    "mp4": lambda target: write_mp4(target, big),
    "gif": lambda target: write_gif(target, big),
    "png": lambda target: write_picture(target, np.concatenate(big)),
}
folder = Path(sys.argv[1])
for name, write in writers.items():
    try:
        write(folder / name)
    except PlayloomError as error:
        assert "no room left on the disk" in str(error) and str(folder / name) in str(error), (name, error)
        print(name)
    assert os.listdir(folder) == [], (name, os.listdir(folder))
assert "torch" not in sys.modules, "files are written without waiting for torch"
"""


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    """Every kind of writer, under a file size limit of 64 KiB: to them it is a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["bytes", "tofile", "safetensors", "npz", "mp4", "gif", "png"]


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
    with pytest.raises(BadInputError, match="already holds files"), atomic_folder(target):
        pass


def test_a_place_is_tried_without_leaving_anything(tmp_path):
    ensure_writable(tmp_path / "a" / "b" / "c")
    (tmp_path / "file").write_text("taken")
    with pytest.raises(BadInputError, match="cannot write"):
        ensure_writable(tmp_path / "file" / "c")
    assert names_in(tmp_path) == ["file"]


def test_a_folder_is_claimed_by_one_process_at_a_time(tmp_path):
    """Two trainings in one folder wrote over each other, and both said that all went well."""
    code = "import sys, playloom.atomic_io as r\nwith r.folder_lock(sys.argv[1]): print('mine', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(BadInputError, match="another process works in"), folder_lock(tmp_path / "run"):
            pass
        other.kill()
    with folder_lock(tmp_path / "run"):
        assert not list((tmp_path / "run").iterdir())


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
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="unknown device 'cdua'; did you mean cuda"):
        pick_device("cdua")
    with pytest.raises(ConfigError, match="not available"):
        pick_device("cuda:99")


def test_dtypes():
    assert pick_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ConfigError, match="unknown dtype 'float33'; did you mean float32"):
        pick_dtype("float33")


def test_a_generator_belongs_to_its_request():
    before = torch.random.get_rng_state()
    first, second = (torch.rand(4, generator=generator(7)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, torch.rand(4, generator=generator(8)))
    assert torch.equal(before, torch.random.get_rng_state())
    for seed in (-1, 2**63):
        with pytest.raises(ConfigError, match="seed"):
            generator(seed)


def test_work_in_passing_leaves_its_thread_behind():
    assert run_in_temporary_thread(lambda: threading.current_thread().name) == "playloom-in-passing"
    assert all(thread.name != "playloom-in-passing" for thread in threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        run_in_temporary_thread(lambda: 1 // 0)


def test_errors_of_the_body_stay_what_they_are(tmp_path):
    class OwnError(PlayloomError):
        pass

    with pytest.raises(OwnError), atomic_write(tmp_path / "a"):
        raise OwnError("no space left")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "missing").read_text()

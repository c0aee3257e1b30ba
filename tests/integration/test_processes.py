"""What needs a second process: runs that are killed, two processes under torchrun, full disks, claimed folders."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from playloom.atomic_io import folder_lock
from playloom.data.dataset import TokenDataset
from playloom.envs import ENV_ID, WorldModelEnv
from playloom.errors import BadInputError
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.quantizer import Quantizer
from playloom.server.stories.store import StoryStore
from playloom.training.checkpoint import load_newest
from stories_toys import frame
from training_toys import TINY, frame_dataset, read_log, token_dataset, train_world, world_config

TESTS = Path(__file__).parents[1]
PATH = os.pathsep.join([str(TESTS / "support"), str(TESTS), *sys.path])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH}
TRAIN = """
import json, sys
from pathlib import Path
from playloom.data.dataset import TokenDataset
from training_toys import TINY, train_world, world_config
data, out, runs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
for name, settings in runs.items():
    train_world(TINY, world_config(**settings), TokenDataset.open(data), out / name)
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> TokenDataset:
    return token_dataset(tmp_path_factory.mktemp("tokens"))


def log_of(out: Path) -> list[dict]:
    """The log without what depends on the clock."""
    return [{k: v for k, v in line.items() if k != "elapsed" and not k.endswith("/s")} for line in read_log(out)]


def weights_of(out: Path, step: int) -> bytes:
    return (out / "checkpoints" / f"step-{step:09d}" / "tensors.safetensors").read_bytes()


def wait_for(condition, process) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, "the process ended by itself"
        time.sleep(0.01)
    raise AssertionError("it did not happen in a minute")


def test_a_run_killed_at_any_moment_resumes_exactly(tokens, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    settings = {"steps": 100000, "save_steps": 5}
    words = [sys.executable, "-c", TRAIN, str(tokens.folder), str(tmp_path), json.dumps({"killed": settings})]
    process = subprocess.Popen(words, env=ENVIRONMENT)
    log = killed / "log.jsonl"
    try:
        wait_for(
            lambda: list(killed.glob("checkpoints/step-*")) and log.read_text().count("\n") % 5 == 3,
            process,
        )
    finally:
        process.kill()
        process.wait()
    newest = load_newest(killed / "checkpoints")
    assert newest is not None
    end = newest.step + 12

    def terminate(progress):
        if progress.step == end - 1 and progress.rates:
            os.kill(os.getpid(), signal.SIGTERM)

    for out in (killed, whole):
        train_world(TINY, world_config(steps=100000), tokens, out, report=terminate)
    assert weights_of(killed, end) == weights_of(whole, end)
    assert log_of(killed) == log_of(whole)


QUANTIZE = """
import numpy as np, torch, torch.distributed as dist
from test_processes import codebook_of
codebook = codebook_of(dist.get_rank(), dist.get_world_size())
np.save(Path(out) / f"codebook-{dist.get_rank()}.npy", codebook)
"""


def codebook_of(rank: int, ranks: int) -> np.ndarray:
    """The codebook after three updates, each from this rank's share of twelve pictures' latents."""
    sizes = TokenizerConfig(codebook_size=16, code_width=4, codebook_decay=0.9, revive_after=1000, recent_outputs=32)
    quantizer = Quantizer(sizes)
    quantizer.updates += 1  # as of a started codebook: the first batch alone is not shared
    source = torch.Generator().manual_seed(0)
    for _ in range(3):
        quantizer(torch.randn(12, 3, 5, 4, generator=source).chunk(ranks)[rank])
    return quantizer.codebook_KC.numpy()


RUNS = {
    "ddp": {},
    "fsdp": {
        "strategy": "fsdp",
        "activation_checkpointing": True,
        "optimizer": "muon",
        "row_delays": (1,),
        "row_delay_weights": (1.0,),
    },
}


def test_two_processes_train_like_one_with_the_doubled_batch(tokens, tmp_path):
    """Also after the two give way to one: the position in the data is the number of windows, whoever took them."""
    settings = {"steps": 3, "learning_rate": 1e-3, "validate_steps": 1, "warmup_steps": 1}
    (tmp_path / "train.py").write_text(TRAIN + QUANTIZE)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    runs = {name: {"batch": 2, **settings, **extra} for name, extra in RUNS.items()}
    words += [str(tmp_path / "train.py"), str(tokens.folder), str(tmp_path / "two"), json.dumps(runs)]
    path = os.pathsep.join([PATH, str(Path(__file__).parent)])
    done = subprocess.run(words, env={**ENVIRONMENT, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, extra in RUNS.items():
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        train_world(TINY, world_config(batch=4, **settings, **extra), tokens, one)
        assert len({line["loss"] for line in log_of(two) if "loss" in line}) == 3
        _compare(log_of(one), log_of(two))
    for folder, share in ((one, {"batch": 4}), (two, {"batch": 2, "accumulate": 2})):
        train_world(TINY, world_config(**{**settings, **RUNS["fsdp"], **share, "steps": 5}), tokens, folder)
    _compare(log_of(one), log_of(two))
    books = [np.load(tmp_path / "two" / f"codebook-{rank}.npy") for rank in range(2)]
    assert np.array_equal(*books)
    np.testing.assert_allclose(books[0], codebook_of(0, 1), atol=1e-6)


def _compare(*logs: list[dict]) -> None:
    for line in (line for log in logs for line in log):
        line.pop("validation/shuffled_gap", None)  # shuffled inside a batch, so it depends on the batch's size
    assert [sorted(line) for line in logs[0]] == [sorted(line) for line in logs[1]]
    for first, second in zip(*logs, strict=True):
        assert second == pytest.approx(first, abs=2e-5)


def test_training_on_your_own_game_needs_no_other_game(tmp_path):
    """Training asked for the arena's packages, whatever it was to learn from."""
    data = frame_dataset(tmp_path / "data").folder
    words = ["train", "tokenizer", "--data", str(data), "--out", str(tmp_path / "t"), "--preset", "tiny"]
    code = (
        "import sys; sys.modules.update(gymnasium=None, vizdoom=None); from playloom.cli.app import app; "
        "app(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, *words, "--steps", "1", "--batch", "2", "--device", "cpu", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "finished after 1 step " in done.stdout, done.stderr


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
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["bytes", "tofile", "safetensors", "npz", "mp4", "gif", "png"]


def test_a_folder_is_claimed_by_one_process_at_a_time(tmp_path):
    """Two trainings in one folder wrote over each other, and both said that all went well."""
    code = "import sys, playloom.atomic_io as r\nwith r.folder_lock(sys.argv[1]): print('mine', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(BadInputError, match="another process"), folder_lock(tmp_path / "run"):
            pass
        other.kill()
    with folder_lock(tmp_path / "run"):
        assert not list((tmp_path / "run").iterdir())


WRITER = """
import sys
from pathlib import Path
from playloom.server.stories.store import StoryStore
from stories_toys import begun, frame, node
shelf = StoryStore(Path(sys.argv[1]))
places = shelf.directories()
place = places[0] if places else begun(shelf)
tree = place.load()
print("ready", flush=True)
while True:
    new = node(tree.header.next_node, max(tree.nodes))
    place.write_frame(new.id, frame(new.id))
    place.append([new])
    tree.apply(new)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_at_any_moment_every_frame_it_speaks_of_is_there(tmp_path):
    folder, seen = tmp_path / "stories", 3
    for wait in (0.03, 0.11, 0.17, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, env=ENVIRONMENT)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(wait)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        shelf = StoryStore(folder)
        (place,) = shelf.directories()
        tree = place.load()
        assert len(tree.nodes) >= seen
        seen = len(tree.nodes)
        for number in tree.nodes:
            assert (place.read_frame(number).frame_HWC == frame(number).frame_HWC).all()
        shelf.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_environments_load_models_of_their_own():
    """An engine of the process before the fork was taken over; its threads are not there, so the first step hung."""
    settings = {"prompts": "plaza-explorer", "actions": ["rest", "forward"]}
    with closing(WorldModelEnv(**settings)) as here:
        here.reset(seed=1)
        envs = gym.make_vec(
            ENV_ID, num_envs=2, vectorization_mode="async", vector_kwargs={"context": "fork"}, **settings
        )
        try:
            envs.reset_async(seed=1)
            envs.reset_wait(timeout=300)
            envs.step_async(np.array([1, 0]))
            frames_NHWC = envs.step_wait(timeout=300)[0]
        finally:
            envs.close(terminate=True)
        np.testing.assert_array_equal(frames_NHWC[0], here.step(1)[0])

"""The loop's promises: same seed same bytes, exact resume after any end, golden losses, averaged weights."""

import contextlib
import json
import os
import signal
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from playloom.errors import CheckpointError, PlayloomError, RecordingError
from playloom.models.presets import preset
from playloom.training.checkpoint import load_newest
from playloom.training.distributed import make_fabric
from playloom.training.loop import Loop
from playloom.training.optim import AveragedWeights, make_optimiser, orthogonalize
from playloom.training.task import LoopConfig, StepContext
from playloom.training.world_model import CrossEntropy, WorldTask
from training_toys import TINY, read_log, token_dataset, train_world, world_config

GOLDEN = Path(__file__).parents[2] / "assets" / "losses_world_tiny.json"
TIMED = ("elapsed",)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return token_dataset(tmp_path_factory.mktemp("tokens"))


def train(store, out, report=None, **settings):
    return train_world(TINY, world_config(**settings), store, out, report)


def log_of(out):
    """The log without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in TIMED and not k.endswith("/s")} for line in read_log(out)]


def weights_of(out, step):
    return (out / "checkpoints" / f"step-{step:09d}" / "tensors.safetensors").read_bytes()


def test_losses_are_the_golden_ones(store, tmp_path):
    train(store, tmp_path, steps=50, learning_rate=1e-3)
    losses = [line["loss"] for line in log_of(tmp_path) if "loss" in line]
    if os.environ.get("PLAYLOOM_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(losses, indent=0))
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == 50
    np.testing.assert_allclose(losses, golden, rtol=0, atol=1e-5)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_program_that_trained_still_knows_the_smallest_numbers(store, tmp_path):
    for steps_and_seed in ((2, 0), (2, 1)):  # the second is another run in the same folder: refused
        with contextlib.suppress(CheckpointError):
            steps, seed = steps_and_seed
            train_world(preset("tiny"), world_config(steps=steps, seed=seed), store, tmp_path)
        assert float(torch.tensor(1e-40) * 1.0) > 0


def test_same_seed_same_bytes_and_another_seed_others(store, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(store, tmp_path / name, steps=6, seed=seed)
    assert weights_of(tmp_path / "a", 6) == weights_of(tmp_path / "b", 6)
    assert weights_of(tmp_path / "a", 6) != weights_of(tmp_path / "c", 6)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")


def terminate_after(steps):
    """A report callback that ends a run after this many steps, politely: the step after the signal is the last."""

    def report(progress):
        if progress.step == steps - 1 and progress.rates:
            os.kill(os.getpid(), signal.SIGTERM)

    return report


def test_sigterm_saves_and_the_run_goes_on_from_there(store, tmp_path):
    first = train(store, tmp_path / "a", report=terminate_after(4), steps=9)
    assert (first.step, first.finished) == (4, False)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    second = train(store, tmp_path / "a", steps=9)
    assert (second.step, second.finished) == (9, True)
    train(store, tmp_path / "b", steps=9)
    assert weights_of(tmp_path / "a", 9) == weights_of(tmp_path / "b", 9)


def test_a_session_ends_in_time_and_a_timed_run_ends_with_its_decay(store, tmp_path):
    session = train(store, tmp_path, steps=None, minutes=0.05, max_minutes=0.01)
    assert not session.finished
    rest = train(store, tmp_path, steps=None, minutes=0.05)
    assert rest.finished
    assert rest.step > session.step
    assert 3.0 <= rest.elapsed < 6.0
    assert log_of(tmp_path)[-1]["lr"] < 0.1 * LoopConfig(steps=1).learning_rate  # the rate itself, not its factor
    again = train(store, tmp_path, steps=None, minutes=0.05)
    assert again.step == rest.step


def test_another_run_in_the_same_folder_is_refused(store, tmp_path):
    train(store, tmp_path, steps=2)
    with pytest.raises(CheckpointError, match="learning_rate"):
        train(store, tmp_path, steps=4, learning_rate=0.1)
    with pytest.raises(CheckpointError, match="window_steps"):
        train(store, tmp_path, steps=4, window_steps=4)


def test_damaged_checkpoints_fall_back_to_the_one_before(store, tmp_path):
    train(store, tmp_path, steps=8, save_steps=3)
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step-000000006", "step-000000008"]
    (folder / ".step-000000009.ab.tmp").mkdir()
    newest = folder / "step-000000008" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert load_newest(folder).step == 6
    assert not (folder / ".step-000000009.ab.tmp").exists()
    train(store, tmp_path, steps=8, save_steps=3)
    assert load_newest(folder).step == 8
    for path in folder.glob("*/state.json"):
        path.write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_newest(folder)


def test_a_damaged_checkpoint_does_not_displace_a_new_one(store, tmp_path):
    train(store, tmp_path, steps=8, save_steps=3)
    folder = tmp_path / "checkpoints"
    (folder / "step-000000008" / "state.json").write_text("{")
    train(store, tmp_path, steps=7, keep=1)
    assert [path.name for path in folder.iterdir()] == ["step-000000007"]
    assert load_newest(folder).step == 7


def test_accumulated_batches_equal_one_large_batch(store, tmp_path):
    plain = {"steps": 3, "row_delays": (0,), "row_delay_weights": (1.0,), "first_step_image_loss": True}
    train(store, tmp_path / "large", batch=6, **plain)
    train(store, tmp_path / "small", batch=2, accumulate=3, **plain)
    large, small = log_of(tmp_path / "large"), log_of(tmp_path / "small")
    for a, b in zip(large[:3], small[:3], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["gradient"] == pytest.approx(b["gradient"], abs=1e-4)


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(store, tmp_path):
    with pytest.raises(PlayloomError, match=r"number.*another --out"):
        train(store, tmp_path, steps=300, learning_rate=1e12, clip=1e20, warmup_steps=1)


def test_a_checkpoint_has_finite_weights(store, tmp_path):
    """A run that saved more often than it logged kept checkpoints of NaN only, and was told to resume from them."""
    with pytest.raises(PlayloomError, match="number"):
        train(store, tmp_path, steps=30, learning_rate=1e12, clip=1e20, warmup_steps=1, save_steps=1, log_steps=40)
    assert all(tensor.isfinite().all() for tensor in load_newest(tmp_path / "checkpoints").tensors.values())


def test_reports_tell_rates_and_the_time_left(store, tmp_path):
    reports = []
    train(store, tmp_path, report=reports.append, steps=6, validate_steps=3)
    trained = [r for r in reports if r.rates]
    assert [r.step for r in trained] == [1, 2, 3, 4, 5, 6]
    assert trained[-1].eta == 0
    assert trained[0].eta > 0
    slots = TINY.layout.slots
    assert all(r.rates["tokens"] == pytest.approx(slots * r.rates["frames"]) for r in trained)
    # Twice the parameters' products forward, four times backward; attention and the tied logits come on top.
    counted = trained[0].rates["flops"] / trained[0].rates["tokens"]
    weights = sum(p.numel() for p in WorldTask(TINY, world_config(), store).transformer.blocks.parameters())
    assert 6 * weights < counted < 20 * weights
    assert {"validation/image", "validation/shuffled_gap"} <= set(reports[3].metrics)


def test_a_resumed_run_estimates_the_time_left_by_its_own_steps(store, tmp_path):
    train(store, tmp_path, steps=20, report=terminate_after(19))
    reports = []
    train(store, tmp_path, steps=22, report=reports.append, validate_steps=20)
    validation = next(r for r in reports if not r.rates)
    before = reports[reports.index(validation) - 1]
    assert (before.step, validation.step) == (20, 20)
    assert validation.eta >= before.eta > 0


def test_a_finished_run_measures_again_for_another_export(store, tmp_path):
    first = train(store, tmp_path, steps=2)
    again = train(store, tmp_path, steps=2)
    assert first.validation == again.validation != {}


def test_a_log_line_without_its_end_is_not_joined_with_the_next(store, tmp_path):
    train(store, tmp_path, steps=2, report=terminate_after(2))
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text().rstrip("\n"))  # as if the writer was killed before the end of the line
    train(store, tmp_path, steps=4)
    assert {line["step"] for line in read_log(tmp_path)} == {1, 2, 3, 4}


@pytest.mark.parametrize(("name", "devices"), [("cuda:1", [1]), ("cuda", 1), ("cpu", 1)])
def test_a_run_takes_the_device_it_is_given(name, devices, monkeypatch):
    fabric = MagicMock()
    monkeypatch.setattr("playloom.training.distributed.import_extra", lambda *_: fabric)
    for module in ("distributed", "task"):
        monkeypatch.setattr(f"playloom.training.{module}.pick_device", lambda device: device)
    monkeypatch.setattr("torch.set_float32_matmul_precision", lambda _: None)
    make_fabric(LoopConfig(steps=1, device=name))
    options = fabric.Fabric.call_args.kwargs
    assert (options["accelerator"], options["devices"]) == (name.partition(":")[0], devices)


@pytest.mark.parametrize(
    ("capabilities", "expected"), [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]
)
def test_bfloat16_is_used_where_the_processor_has_it(capabilities, expected, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert LoopConfig(steps=1, device="cpu").bfloat16 is expected
    assert LoopConfig(steps=1, device="cpu", precision="bf16-mixed").bfloat16
    assert not LoopConfig(steps=1, device="cpu", precision="32-true").bfloat16


def test_previews_and_exports_have_the_averaged_weights(store, tmp_path, monkeypatch):
    seen = []

    def preview(task):
        seen.append(task.transformer.token.weight.detach().clone())
        assert not task.transformer.training
        return np.full((4, 6, 3), 7, np.uint8)

    monkeypatch.setattr(WorldTask, "preview", preview)
    config = world_config(steps=4)
    task = WorldTask(TINY, config, store)
    loop = Loop(task, config.loop, tmp_path)
    loop.run()
    assert (tmp_path / "previews" / "step-000000004.png").exists()
    loop.export(lambda: preview(task))
    assert torch.equal(seen[0], seen[1])
    saved = load_newest(tmp_path / "checkpoints").tensors
    name = "world:transformer.token.weight"
    assert torch.equal(saved[f"average.{name}"], seen[0])
    assert not torch.equal(saved[f"model.{name}"], seen[0])


def test_the_average_is_the_recursion_it_says():
    module = torch.nn.Linear(2, 1)
    average = AveragedWeights(module, decay=0.5)
    expected = module.weight.detach().clone()
    for step in range(1, 20):
        with torch.no_grad():
            module.weight += step
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    assert torch.allclose(average.tensors["weight"], expected)
    live = module.weight.detach().clone()
    with average.applied():
        assert torch.allclose(module.weight, expected)
    assert torch.equal(module.weight, live)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_orthogonalized_matrices_have_equal_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalize(matrix, torch.float64))
    assert values.min() > 0.5 and values.max() < 1.3
    assert torch.linalg.svdvals(matrix).max() > 2 * torch.linalg.svdvals(matrix).min()


def test_muon_takes_matrices_and_adamw_the_rest():
    """One step from the same gradients: only matrices of layers differ, and their update is orthogonal."""
    steps = {}
    for optimizer in ("adamw", "muon"):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 8), torch.nn.Conv1d(8, 2, 1))
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        config = LoopConfig(steps=1, optimizer=optimizer, weight_decay=0.0)
        optimiser = make_optimiser(module, config, learning_rate=0.1)
        sum(p.square().sum() for p in module.parameters()).backward()
        optimiser.step()
        steps[optimizer] = {name: p.detach() - before[name] for name, p in module.named_parameters()}
    changed = [name for name, step in steps["muon"].items() if not torch.equal(step, steps["adamw"][name])]
    assert changed == ["1.weight"]
    for block in steps["muon"]["1.weight"].split(4):
        gram = block @ block.T / (0.1 * 0.2) ** 2 / 4
        assert torch.allclose(gram, torch.eye(4), atol=0.6)


def test_muon_resumes_exactly(store, tmp_path):
    settings = {"optimizer": "muon", "schedule": "wsd", "decay_fraction": 0.0}
    train(store, tmp_path / "whole", steps=8, **settings)
    for steps in (4, 8):
        train(store, tmp_path / "parts", steps=steps, **settings)
    assert weights_of(tmp_path / "whole", 8) == weights_of(tmp_path / "parts", 8)


def test_scheduled_sampling_changes_what_is_read_but_the_first_frame(store):
    task = WorldTask(TINY, world_config(steps=1), store)
    batch, mask = task.batch(0), task._masks[1]

    def loss(sampled):
        torch.manual_seed(0)
        return task.loss(batch["codes"], batch["actions"], mask, sampled).loss

    assert loss(0.0) == loss(0.0) != loss(0.9)
    read = task.loss._resample(batch["codes"], torch.zeros(*batch["codes"].shape, TINY.transformer.width), 1.0)
    changed = (read != batch["codes"]).float().mean((0, 2))
    assert changed[0] == 0
    assert (changed[1:] > 0).all()


def test_half_of_the_batches_are_sampled(store):
    task, shares = WorldTask(TINY, world_config(steps=1, scheduled_sampling=0.4), store), []

    def world(codes, actions, mask, sampled):
        shares.append(sampled)
        return task.loss(codes, actions, mask, sampled)

    for step in range(20):
        list(task.losses({"world": world}, task.batch(0), StepContext(step, 0.0, np.random.default_rng(step))))
    assert set(shares) == {0.0, 0.4}


def test_a_store_of_another_tokenizer_is_refused(store, tmp_path):
    with pytest.raises(RecordingError, match="tokenise again"):
        train_world(preset("arena-small"), world_config(), store, tmp_path)


def test_orders_are_validated_by_their_speed_and_wide_delays_are_raster(store):
    """They were taken in the order of the config, and one that is never drawn too."""
    config = world_config(row_delays=(1, 3, 0, 9), row_delay_weights=(0.5, 0, 0.25, 0.25))
    assert config.row_delay_shares(TINY) == {1: 0.5, 6: 0.5}
    task = WorldTask(TINY, config, store)
    with torch.no_grad():
        found = task.validate()
        raster = task._output(task.loss, task._windows(task._validation.rows(0)), 6)
    assert "image_row_delay_1" in found
    assert found["image"] == pytest.approx(float(raster.image))


def test_cross_entropy_in_parts_is_cross_entropy(monkeypatch):
    monkeypatch.setattr("playloom.training.world_model._CACHED", 3 * 7)  # three of eight rows
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 7, generator=source, dtype=torch.float64)
    logits[:, 2] = -torch.inf
    logits.requires_grad_()
    targets = torch.tensor([0, 1, 3, 4, 5, 6, 0, 1])
    loss, share = CrossEntropy.apply(logits, targets)
    expected = F.cross_entropy(logits, targets)
    assert loss.item() == pytest.approx(expected.item())
    assert share == (logits.argmax(-1) == targets).double().mean()
    mine, true = (torch.autograd.grad(2 * x, logits)[0] for x in (loss, expected))
    assert torch.allclose(mine.nan_to_num(), true.nan_to_num())

"""The plan of a training against a training."""

import dataclasses

import pytest
from typer.testing import CliRunner

from playloom.cli.app import app
from playloom.models.checkpoint import build_transformer
from playloom.training.loop import Loop
from playloom.training.plan import MACHINES, Machine, plan_training, step_cost
from playloom.training.world_model import WorldTask
from training_toys import TINY, token_dataset, world_config


def test_operations_and_values_are_those_of_a_training(tmp_path):
    config = world_config(
        steps=1, batch=2, optimizer="muon", precision="32-true", row_delays=(1,), row_delay_weights=(1,)
    )
    loop = Loop(WorldTask(TINY, config, token_dataset(tmp_path / "tokens")), config.loop, tmp_path / "run")
    loop.run()
    cost = step_cost(TINY, config)
    assert cost.operations == pytest.approx(loop._flops / 2)
    optimizer = loop._optimisers["world"].optimizer
    values = [v for state in optimizer.state.values() for name, v in state.items() if name != "step"]
    assert cost.optimizer_values == sum(value.numel() for value in values)
    assert cost.parameters == sum(p.numel() for p in loop.task.modules["world"].parameters())


def test_a_row_delay_wider_than_the_grid_is_planned_as_it_is_trained():
    """The plan was refused."""
    wide = world_config(steps=1, row_delays=(9,), row_delay_weights=(1,))
    assert step_cost(TINY, wide).operations == step_cost(TINY, world_config(steps=1)).operations


def test_a_deep_model_is_counted_from_its_periods():
    config = world_config(steps=1)
    transformer = dataclasses.replace(TINY.transformer, layers=5, global_every=1, local_steps=None)
    deep = dataclasses.replace(TINY, transformer=transformer)
    shallow = [dataclasses.replace(deep, transformer=dataclasses.replace(transformer, layers=n)) for n in (1, 2)]
    one, two, five = (step_cost(model, config) for model in (*shallow, deep))
    assert five.operations == one.operations + 4 * (two.operations - one.operations)
    assert five.parameters == sum(weight.numel() for weight in build_transformer(deep).parameters())


def test_checkpointing_and_shards_save_memory_and_devices_save_time():
    machine = Machine(memory=80e9, rate=1e12)
    transformer = dataclasses.replace(TINY.transformer, layers=3, local_steps=None)
    model = dataclasses.replace(TINY, transformer=transformer)

    def plan(devices=1, **loop):
        config = dataclasses.replace(world_config(steps=1, **loop), window_steps=3)
        return plan_training(model, config, frames=1e6, epochs=2, machine=machine, devices=devices, utilisation=0.5)

    # A plan traces a training step, which takes seconds: some of these change two settings that do not meet.
    plain, sharded, large = plan(), plan(devices=4, strategy="fsdp"), plan(batch=8, ema_decay=0)
    # The activations of one of the three blocks at a time.
    assert 1 / 3 < plan(activation_checkpointing=True).activation_bytes / plain.activation_bytes < 1 / 2
    assert sharded.state_bytes < plain.state_bytes / 2 and sharded.days == pytest.approx(plain.days / 4)
    assert large.activation_bytes == pytest.approx(2 * plain.activation_bytes, rel=0.1)
    # No averaged weights, on the device and in the checkpoints.
    assert plain.state_bytes - large.state_bytes == 4 * plain.parameters
    assert plain.checkpoint_bytes > large.checkpoint_bytes


def test_an_unknown_machine_is_said():
    refused = CliRunner().invoke(app, ["plan", "--machine", "h10"])
    assert refused.exit_code == 2 and all(name in refused.stderr for name in MACHINES)

"""Fabric, ranks, batch prefetch and stop signals; the only module that imports lightning."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from playloom.device import keep_freed_memory, pick_device, set_threads
from playloom.errors import import_extra
from playloom.models.transformer.transformer import Block
from playloom.training.task import Batch, LoopConfig


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one does what it did before."""
    stop = threading.Event()
    with contextlib.ExitStack() as before:

        def request(number: int, frame: FrameType | None) -> None:
            stop.set()
            before.close()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before.callback(signal.signal, number, signal.signal(number, request))
        yield stop


def make_fabric(config: LoopConfig) -> Any:
    """Return a launched fabric: one device, or one per process under torchrun."""
    lightning_fabric = import_extra("lightning_fabric", "train")
    device, devices = torch.device(pick_device(config.device)), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cpu":
        set_threads(config.threads)
        keep_freed_memory()
    else:
        torch.set_float32_matmul_precision("high")
    strategy: Any = "auto"
    if dist_info()[1] > 1:
        strategy = "ddp"
        if config.strategy == "fsdp":
            from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

            strategy = ModelParallelStrategy(_shard, data_parallel_size=dist_info()[1], tensor_parallel_size=1)
    fabric = lightning_fabric.Fabric(
        accelerator=device.type,
        devices=[device.index] if device.type == "cuda" and device.index is not None and devices == 1 else devices,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy=strategy,
        precision="bf16-mixed" if config.bfloat16 else "32-true",
    )
    fabric.launch()
    return fabric


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in module.modules():
        if isinstance(block, Block):
            fully_shard(block, mesh=mesh["data_parallel"])
            register_fsdp_forward_method(block, "steps")
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole one, in every process: all must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, target: Tensor) -> Tensor:
    """Return a tensor that all processes hold, sharded as `target` is."""
    if isinstance(tensor, DTensor) or not isinstance(target, DTensor):
        return tensor
    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)


def sharded_parts(modules: Iterable[nn.Module]) -> list[Any]:
    """Return the parts with sharded weights: all processes must call `unshard` of each together."""
    from torch.distributed.fsdp import FSDPModule

    return [part for module in modules for part in module.modules() if isinstance(part, FSDPModule)]


def dist_info() -> tuple[int, int]:
    """Return this process's rank and the world size, from torchrun's environment."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def read_ahead(batch: Callable[[int], Batch], seen: Iterator[int], device: torch.device) -> Iterator[Batch]:
    """Yield the batches of `seen` on the device; on a GPU a thread gathers the next two meanwhile."""
    if device.type == "cpu":
        yield from map(batch, seen)

    def pinned(index: int) -> Batch:
        return {name: tensor.pin_memory() for name, tensor in batch(index).items()}

    with ThreadPoolExecutor(1) as executor:
        queue = deque(executor.submit(pinned, index) for index in islice(seen, 2))
        for index in seen:
            ready = queue.popleft().result()
            queue.append(executor.submit(pinned, index))
            yield {name: tensor.to(device, non_blocking=True) for name, tensor in ready.items()}

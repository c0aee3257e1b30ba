"""Fabric, ranks, batch prefetch and stop signals; the only module that imports lightning."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import FrameType
from typing import Any

import torch

from playloom.device import pick_device, set_threads
from playloom.errors import MissingExtraError
from playloom.training.config import LoopConfig
from playloom.training.task import Batch


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one does what it did before."""
    stop, old = threading.Event(), dict[signal.Signals, Any]()

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)
        old.clear()

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


def make_fabric(config: LoopConfig) -> Any:
    """Return a launched fabric: one device, or one per process under torchrun."""
    fabric_class = _fabric_class()
    kind = pick_device(config.device).type
    if kind == "cpu":
        set_threads(config.threads)
    else:
        torch.set_float32_matmul_precision("high")
    precision = config.precision
    if precision == "auto":
        precision = "32-true" if kind == "cpu" else "bf16-mixed"
    fabric = fabric_class(
        accelerator=kind,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy="ddp" if dist_info()[1] > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


def _fabric_class() -> Any:
    for name in ("lightning_fabric", "lightning.fabric"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).Fabric
    raise MissingExtraError.of("lightning-fabric", "train")


def dist_info() -> tuple[int, int]:
    """Return this process's rank and the world size, from torchrun's environment."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def read_ahead(batch: Callable[[int], Batch], first: int, device: torch.device) -> Iterator[Batch]:
    """Yield batches `first`, `first` + 1, ... on the device; on a GPU a thread gathers the next two meanwhile."""
    if device.type == "cpu":
        yield from map(batch, count(first))

    def pinned(index: int) -> Batch:
        return {name: tensor.pin_memory() for name, tensor in batch(index).items()}

    with ThreadPoolExecutor(1) as executor:
        queue = deque(executor.submit(pinned, first + ahead) for ahead in range(2))
        for index in count(first + 2):
            ready = queue.popleft().result()
            queue.append(executor.submit(pinned, index))
            yield {name: tensor.to(device, non_blocking=True) for name, tensor in ready.items()}

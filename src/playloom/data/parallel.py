"""Calls in other processes or on a Ray cluster, with results in order, and files for their rows."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.errors import ResourceError, import_extra

R = TypeVar("R")
_KILLED = "ended before its work was done (memory?); the same command continues, perhaps with fewer workers"


def map_ordered(
    function: Callable[..., R],
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int = 0,
    cluster: bool = False,
    prepare: Callable[[], object] | None = None,
) -> Generator[R, None, None]:
    """Yield `function(*job)` for every job, in order; at most two jobs per worker are ahead of the reader.

    `workers` processes of this machine, which call `prepare` first, 0: this one. `cluster` uses the Ray cluster of
    `RAY_ADDRESS`, or a new one of this machine. There, function and jobs are pickled. ResourceError when a worker is
    killed. Processes are killed when the reader stops.
    """
    if cluster:
        yield from _on_ray(function, jobs)
    elif workers < 1:
        yield from starmap(function, jobs)
    else:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), prepare)
        try:
            submitted = (pool.submit(function, *job) for job in jobs)
            yield from _ahead(submitted, 2 * workers, lambda future: future.result())
        except BrokenProcessPool as error:
            raise ResourceError(f"a worker process {_KILLED}") from error
        finally:
            # One that started while another died would be waited for without end.
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(cancel_futures=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden folder for files of `write_rows`; that of a killed process is removed first."""
    for left in folder.glob(".rows-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".rows-") as scratch:
        yield Path(scratch)


def write_rows(path: Path, rows: Iterable[NDArray[Any]], count: int) -> int:
    """Write rows of one shape into a new `.npy` of `count` rows; return how many came, of which some may be too many.

    A worker writes a file so that no picture crosses a pipe. Rows are copied at once: a renderer may reuse its buffer.
    """
    number, target = -1, None
    for number, row in enumerate(rows):
        if target is None:
            target = np.lib.format.open_memmap(path, mode="w+", dtype=row.dtype, shape=(count, *row.shape))
        if number < count:
            target[number] = row
    return number + 1


def _ahead(submitted: Iterable[Any], ahead: int, result: Callable[[Any], R]) -> Generator[R, None, None]:
    queue: deque[Any] = deque()
    for future in submitted:
        queue.append(future)
        if len(queue) >= ahead:
            yield result(queue.popleft())
    while queue:
        yield result(queue.popleft())


def _on_ray(function: Callable[..., R], jobs: Iterable[tuple[Any, ...]]) -> Generator[R, None, None]:
    ray = import_extra("ray", "cluster")
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False)
    try:
        call = ray.remote(num_cpus=1)(function)
        submitted = (call.remote(*job) for job in jobs)
        yield from _ahead(submitted, 2 * int(ray.cluster_resources().get("CPU", 1)), ray.get)
    except ray.exceptions.WorkerCrashedError as error:
        raise ResourceError(f"a worker of the cluster {_KILLED}") from error
    finally:
        if started:
            ray.shutdown()

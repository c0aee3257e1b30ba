"""Sessions of onnxruntime for one graph: all threads in one run, or each thread in a run of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from playloom.device import cpu_threads
from playloom.errors import CheckpointError, MissingExtraError

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtraError("onnxruntime is not installed; get it with: pip install onnxruntime") from error

Part = TypeVar("Part")
Result = TypeVar("Result")


class GraphSessions:
    """Sessions of one graph. Threads that each run a part of a batch do not wait for each other after every operator.

    Each way has a copy of the weights, and most dreams need one way only, so a session is made on its first use.
    """

    def __init__(self, graph: Path) -> None:
        if not graph.is_file():
            raise CheckpointError(f"{graph} is missing; playloom export onnx again")
        self._graph, self._count = graph, cpu_threads()
        self._threads = ThreadPoolExecutor(self._count)

    @cached_property
    def together(self) -> onnxruntime.InferenceSession:
        """The session whose runs have all threads."""
        return self._open(self._count)

    @cached_property
    def apart(self) -> onnxruntime.InferenceSession:
        """The session whose runs have one thread."""
        return self._open(1)

    def run(self, work: Callable[[onnxruntime.InferenceSession, Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Call `work` with a session and each part of a batch, at the same time; a single part has all threads."""
        if len(parts) == 1:
            return [work(self.together, parts[0])]
        return list(self._threads.map(partial(work, self.apart), parts))

    def parts(self, size: int) -> list[slice]:
        """Divide a batch of a size among the threads."""
        count = min(size, self._count)
        return [slice(*pair) for pair in pairwise(size * number // count for number in range(count + 1))]

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads that spin hold the cores that others need: on a busy machine a frame takes twice as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(self._graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes are not public
            raise CheckpointError(f"{self._graph} is damaged ({error}); playloom export onnx again") from error

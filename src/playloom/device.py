"""Devices, dtypes, threads, memory and seeds.

torch is optional: only the functions that need it import it.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from playloom.errors import ConfigError, MissingExtraError, check_whole, did_you_mean

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
_MOST_THREADS = 4096


def pick_device(name: str = "auto") -> str:
    """Return the name of a device; `auto` is the first CUDA device, else `cpu` (never the untested `mps`).

    torch, which takes a second to import, is imported only where it may find a GPU.
    """
    installed = find_spec("torch") is not None
    if name == "cpu" or (name == "auto" and not (installed and _has_gpu_driver())):
        return "cpu"
    if not installed:
        raise MissingExtraError.of("torch", "gpu")
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        known = did_you_mean(name, ["auto", "cpu", "cuda", "mps"])
        raise ConfigError(f"unknown device {name!r}; {known}") from error
    if device.type == "cuda":
        there = (device.index or 0) < torch.cuda.device_count()
    else:
        there = device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())
    if not there:
        raise ConfigError(f"device {name} is not available here; use --device auto or --device cpu")
    return str(device)


def fast_bfloat16(device: str) -> bool:
    """Return True where products of bfloat16 are faster than of float32: on a GPU, or by instructions of the CPU."""
    if device != "cpu":
        return True
    import torch

    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def free_memory(device: torch.device | str = "cpu") -> int:
    """Return the free bytes of a device; those of the main memory for all but CUDA devices."""
    import psutil

    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def run_in_temporary_thread(work: Callable[[], _T]) -> _T:
    """Return the result of `work`, computed in a thread that ends with it.

    A thread that computes on the CPU keeps a team of OpenMP threads for as long as it lives. When two threads have one,
    the teams outnumber the cores, and libgomp lets their members sleep between any two operations: a frame of the
    bundled model then takes about twice as long. Load a model here when another thread uses it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="playloom-temporary") as pool:
        return pool.submit(work).result()


def usable_cores() -> int:
    """Number of cores that this process may use: its CPU affinity, and the CPU quota of its cgroup."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity mask
        cores = os.cpu_count() or 1
    return max(1, min(cores, _cgroup_quota() or cores))


def cpu_threads() -> int:
    """Return the threads of one operation: `OMP_NUM_THREADS`, else `usable_cores()`."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(chosen) if chosen.isdigit() and int(chosen) else usable_cores()


def set_threads(threads: int | None = None) -> int:
    """Set the number of threads of one operation, for torch too if it is imported, and return the number in use.

    None keeps torch's own number, at most `usable_cores()` unless `OMP_NUM_THREADS` is set.
    """
    torch: Any = sys.modules.get("torch")
    if threads is not None:
        check_whole("threads", threads, 1, _MOST_THREADS)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for processes it starts, and so that nothing adapts it
    if torch is None:
        return cpu_threads()
    if threads is not None or not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))
    return torch.get_num_threads()


def limit_spinning() -> None:
    """Let OpenMP threads that wait for another one sleep soon; call it before torch is imported.

    Spinning threads hold the core that the awaited thread needs, where other programs use the processor. The limit is
    long enough for the gap between two operations. It is left alone where `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY` is set.
    """
    if not os.environ.get("OMP_WAIT_POLICY"):
        os.environ.setdefault("GOMP_SPINCOUNT", "100000")


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation (glibc only).

    A training step frees what the next one allocates; pages given back to the system and zeroed again take time.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        mmap_threshold, trim_threshold = -3, -1  # of malloc.h
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**31 - 1)  # the largest it accepts


def machine(device: torch.device | str) -> dict[str, Any]:
    """Return what speed depends on: processor, cores, accelerator, versions (None: not installed)."""
    torch: Any = sys.modules.get("torch")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": cpu_threads() if torch is None else torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if str(device).startswith("cuda") else str(device),
        **{name: _version(name) for name in ("torch", "onnxruntime")},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def check_seed(seed: int) -> int:
    """Return the seed of a generator if it is in range."""
    if not 0 <= seed < 2**63:
        raise ConfigError(f"the seed is out of range: got {seed}, expected 0 to 2**63 - 1")
    return seed


def _cgroup_quota() -> int | None:
    """Whole cores of the CPU quota (cgroup v2, then v1); None without one."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((Path("/sys/fs/cgroup") / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return max(1, round(int(quota) / int(period))) if quota.isdigit() and int(period) > 0 else None
    return None


def _has_gpu_driver() -> bool:
    if Path("/dev/kfd").exists():  # AMD
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

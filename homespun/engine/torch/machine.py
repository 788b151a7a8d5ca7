"""This machine as PyTorch sees it: device, memory, speed, threads, and whether it computes in bfloat16.

The module is the engine's `base.Machine`.
"""

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from homespun.engine import hardware, traits
from homespun.engine.base import MEASURING_SECONDS, READ_BYTES
from homespun.errors import UserError

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc")
"""Parts of the messages of errors for lack of memory: CUDA's, and on a CPU those of the allocator and of oneDNN."""

LARGE_BLOCK = 2**23
"""Bytes of the smallest block that `return_freed_memory` returns. Smaller ones leave fewer gaps, but more of the time
goes into fetching them."""
MOST_BLOCKS = 2**15
"""Of those at a time. Linux allows a process twice as many mappings."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})"


def computing_dtype(precision: str) -> torch.dtype:
    """The dtype that `--precision` means here. `auto` is bfloat16 where the hardware computes in it; an emulation is
    slower than float32.

    Raises:
        UserError: the precision is float16.
    """
    if precision == "float16":
        raise UserError(
            "--engine torch does not compute in float16: choose --precision bfloat16 or float32"
        )
    if precision == "auto":
        if device().type == "cuda":
            precision = (
                "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
            )
        else:
            native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            precision = "bfloat16" if native else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def computes_in_half(precision: str) -> bool:
    return computing_dtype(precision) == torch.bfloat16


def step_traits(precision: str, seq_len: int) -> traits.StepTraits:
    """See `base.Machine`; `layers.attention` decides how attention is computed."""
    half = computes_in_half(precision)
    if device().type == "cuda":
        return traits.torch_on_cuda(half)
    return traits.torch_on_cpu(half, seq_len)


def on_device(
    array: npt.NDArray[np.int32] | npt.NDArray[np.float32], where: torch.device
) -> torch.Tensor:
    """The array as a tensor. A copy to CUDA goes through pinned memory, so the host does not wait for it."""
    tensor = torch.from_numpy(array)
    if where.type == "cpu":
        return tensor
    return tensor.pin_memory().to(where, non_blocking=True)


def to_array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """A copy in NumPy and float32, which later steps do not change."""
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()


def to_host(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """The tensor on the host. From CUDA the copy is on its way, and an event tells when it has arrived."""
    if tensor.device.type == "cpu":
        return tensor, None
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    on_host.copy_(tensor, non_blocking=True)
    arrived.record()
    return on_host, arrived


def flops_per_second(precision: str, threads: int | None = None) -> float:
    """The speed of the fastest of a few matrix products with so many CPU threads.

    On a GPU they are large, so that launching them takes no time. On a CPU they are those of a small model, each
    followed by a norm, since norms take most of the time if products are fast.
    """
    rows, n = (8192, 8192) if device().type == "cuda" else (2048, 256)
    dtype = computing_dtype(precision)
    x = torch.ones(rows, n, dtype=dtype, device=device())
    weight = torch.ones(n, n, dtype=dtype, device=device())
    best, began = float("inf"), time.perf_counter()
    with use_threads((threads or hardware.usable_cpus()) if device().type == "cpu" else None):
        for _ in range(8 if device().type == "cuda" else 100):
            start = time.perf_counter()
            y = x @ weight
            if device().type == "cpu":
                torch.nn.functional.rms_norm(y.float(), (n,)).to(dtype)
            y[0, 0].item()
            best = min(best, time.perf_counter() - start)
            if time.perf_counter() - began > MEASURING_SECONDS:
                break
    return 2 * rows * n * n / best


def peak_flops_per_second(precision: str, threads: int | None = None) -> float:
    """See `base.Machine`."""
    rows, n = (8192, 8192) if device().type == "cuda" else (2048, 1024)
    dtype = computing_dtype(precision)
    x = torch.ones(rows, n, dtype=dtype, device=device())
    weight = torch.ones(n, n, dtype=dtype, device=device())
    return 2 * rows * n * n / _least_seconds(lambda: (x @ weight)[0, 0].item(), threads)


def bytes_per_second(threads: int | None = None) -> float:
    """See `base.Machine`."""
    numbers = torch.ones(READ_BYTES // 4, device=device())
    return READ_BYTES / _least_seconds(lambda: numbers.sum().item(), threads)


def _least_seconds(work: Callable[[], object], threads: int | None) -> float:
    """The time of the fastest of some runs; a first one is not counted."""
    found: list[float] = []
    with use_threads((threads or hardware.usable_cpus()) if device().type == "cpu" else None):
        work()
        began = time.perf_counter()
        while not found or time.perf_counter() - began < MEASURING_SECONDS:
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    return min(found)


def has_own_memory() -> bool:
    return device().type == "cuda"


def memory_capacity() -> int:
    if device().type == "cuda":
        return torch.cuda.get_device_properties(device()).total_memory
    return hardware.capacity()


def memory_available() -> int:
    if device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return hardware.available()


def peak_memory() -> int:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def active_memory() -> int | None:
    return torch.cuda.memory_allocated() if device().type == "cuda" else None


def compiles_at_once() -> bool:
    """False: each kernel goes through a compiler."""
    return False


def can_compile() -> bool:
    """Whether there is a C++ compiler that works."""
    try:
        torch.compile(torch.neg)(torch.ones(1, device=device()))
    except Exception:  # a run works without compilation, whatever the fault of the compiler
        return False
    return True


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory. Each step frees and allocates the same large blocks; returning them to
    the system and fetching them again costs page faults. The setting holds for the whole process."""
    _set_glibc(trim_threshold=2**31 - 1, mmap_max=0)


def return_freed_memory() -> None:
    """Tell glibc to fetch large blocks from the system one by one, and to return them. Blocks of a divided model come
    and go among others that stay, and would otherwise leave gaps, half as large as the memory in use. The setting holds
    for the whole process."""
    _set_glibc(trim_threshold=2**31 - 1, mmap_max=MOST_BLOCKS, mmap_threshold=LARGE_BLOCK)


def _set_glibc(**values: int) -> None:
    """Set parameters of the allocation of memory, if the C library is glibc."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        numbers = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4}  # malloc.h
        for name, value in values.items():
            libc.mallopt(numbers[name], value)


@contextmanager
def use_threads(n: int | None) -> Iterator[None]:
    """Compute with `n` threads inside, and with the process's own number afterwards. None: do not change it."""
    before = torch.get_num_threads()
    if n is None or n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)

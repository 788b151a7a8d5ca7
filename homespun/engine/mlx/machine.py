"""This machine as MLX sees it: device, memory, speed, and whether it computes in 16 bits.

The module is the engine's `base.Machine`.
"""

import re
import shutil
import time
from functools import cache

import mlx.core as mx
import numpy as np

from homespun.engine import hardware, traits
from homespun.engine.base import MEASURING_SECONDS, READ_BYTES, Floats

OUT_OF_MEMORY = ("malloc", "allocate", "Insufficient Memory")
"""Parts of the messages of errors for lack of memory."""
FIRST_BFLOAT16_GENERATION = 14
"""The generation of Apple's GPUs, in the M2, that first computes in bfloat16. The M1 emulates it."""
MIN_FLOAT16_SPEEDUP = 1.1
"""Least speed of float16, relative to bfloat16, at which it is used: its range is small, and steps that leave it are
refused."""
CACHE_FRACTION = 0.5
"""Fraction of the memory that may hold freed blocks for the next step."""
LOW_CACHE_FRACTION = 0.03
"""The same with `--memory low`, where all blocks of a model share the memory of one."""


def device() -> mx.DeviceType:
    return mx.default_device().type


def device_name() -> str:
    return f"{mx.device_info()['device_name']} ({'CPU' if device() == mx.cpu else 'GPU'})"


def computing_dtype(precision: str) -> mx.Dtype:
    """The dtype that `--precision` means here. `auto` is the faster of the 16-bit formats on a GPU, and float32 on a
    CPU, where MLX only emulates them."""
    if precision == "auto":
        return mx.float32 if device() == mx.cpu else fastest_half()
    dtypes = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
    return dtypes[precision]


@cache  # measured speeds vary, but the choice must stay the same
def fastest_half() -> mx.Dtype:
    """bfloat16, or float16 where an early Apple GPU is clearly faster in it."""
    architecture = re.match(r"applegpu_g(\d+)", str(mx.device_info().get("architecture")))
    if architecture is None or int(architecture[1]) >= FIRST_BFLOAT16_GENERATION:
        return mx.bfloat16
    gain = measured_flops_per_second(mx.float16) / measured_flops_per_second(mx.bfloat16)
    return mx.float16 if gain >= MIN_FLOAT16_SPEEDUP else mx.bfloat16


def computes_in_half(precision: str) -> bool:
    return computing_dtype(precision) != mx.float32


def step_traits(precision: str, seq_len: int) -> traits.StepTraits:
    """See `base.Machine`."""
    return traits.mlx(computes_in_half(precision))


def flops_per_second(precision: str, threads: int | None = None) -> float:
    """See `base.Machine`. MLX chooses its threads itself."""
    return measured_flops_per_second(computing_dtype(precision))


def measured_flops_per_second(dtype: mx.Dtype) -> float:
    """The speed of the fastest of a few runs, each of several square matrix products in a row."""
    n, in_a_row = (512, 1) if device() == mx.cpu else (2048, 8)
    a = mx.full((n, n), 1 / n, dtype=dtype)
    best, began = float("inf"), time.perf_counter()
    for _ in range(4):
        start = time.perf_counter()
        product = a
        for _ in range(in_a_row):
            product = product @ a
        mx.eval(product)
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > MEASURING_SECONDS:
            break
    return in_a_row * 2 * n**3 / best


def peak_flops_per_second(precision: str, threads: int | None = None) -> float:
    """See `base.Machine`."""
    return measured_flops_per_second(computing_dtype(precision))


def bytes_per_second(threads: int | None = None) -> float:
    """See `base.Machine`."""
    numbers = mx.ones(READ_BYTES // 4)
    mx.eval(numbers)
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < MEASURING_SECONDS:
        start = time.perf_counter()
        mx.eval(numbers.sum())
        best = min(best, time.perf_counter() - start)
    return READ_BYTES / best


def compiles_at_once() -> bool:
    """True on a GPU. On a CPU each kernel goes through a C++ compiler."""
    return device() != mx.cpu


def can_compile() -> bool:
    """Whether compiled kernels can be made. On a CPU this needs a C++ compiler that works."""
    if device() == mx.cpu and shutil.which("g++") is None:
        return False
    try:
        mx.eval(mx.compile(lambda x: mx.exp(-x))(mx.ones(1)))
    except RuntimeError:  # a run works without compilation, whatever the fault of the compiler
        return False
    return True


def has_own_memory() -> bool:
    return False


def memory_capacity() -> int:
    """Bytes that a GPU may use of the memory that it shares with the CPU; on a CPU, the memory of this process."""
    on_gpu = mx.device_info().get("max_recommended_working_set_size")
    return hardware.capacity() if on_gpu is None else int(on_gpu)


def memory_available() -> int:
    return min(memory_capacity(), hardware.available())


def peak_memory() -> int:
    return mx.get_peak_memory()


def active_memory() -> int:
    return mx.get_active_memory()


def set_memory_limits(*, low: bool) -> None:
    """Set limits for the whole process: memory in use is not swapped out (on a Mac), and freed memory that is kept for
    reuse is bounded, and more so where memory is `low`."""
    capacity = memory_capacity()
    if mx.metal.is_available():
        mx.set_wired_limit(capacity)
    mx.set_cache_limit(int((LOW_CACHE_FRACTION if low else CACHE_FRACTION) * capacity))


def to_array(tensor: mx.array) -> Floats:
    """A copy in NumPy, float32; waits for it."""
    return np.array(tensor.astype(mx.float32))

"""What this machine is and has: device, memory, speed, and whether it computes in 16 bits.

The module is the engine's `base.Machine`.
"""

import re
import shutil
import time
from functools import cache

import mlx.core as mx
import numpy as np

from homespun.engine import hardware
from homespun.engine.base import Floats

OUT_OF_MEMORY = ("malloc", "allocate", "Insufficient Memory")
"""What an error says for want of memory."""
FIRST_WITH_BFLOAT16 = 14
"""Generation of Apple's GPUs, that of the M2, which computes in bfloat16 by itself; the M1's emulates it."""
WORTH_FLOAT16 = 1.1
"""How much faster than bfloat16 it has to be, since its range is small: steps that leave it are refused."""
CACHE_SHARE = 0.5
"""Of the memory, at most, for blocks that are free and kept for the next step."""


def device() -> mx.DeviceType:
    return mx.default_device().type


def device_name() -> str:
    return f"{mx.device_info()['device_name']} ({'CPU' if device() == mx.cpu else 'GPU'})"


def computing_dtype(precision: str) -> mx.Dtype:
    """What `--precision` means here; auto: on a GPU the faster of the 16-bit formats, on a CPU float32, as MLX only
    emulates them there."""
    if precision == "auto":
        return mx.float32 if device() == mx.cpu else _fastest_half()
    dtypes = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
    return dtypes[precision]


@cache  # so that all who ask are told the same
def _fastest_half() -> mx.Dtype:
    """bfloat16, unless an early Apple GPU is clearly faster in float16."""
    architecture = re.match(r"applegpu_g(\d+)", str(mx.device_info().get("architecture")))
    if architecture is None or int(architecture[1]) >= FIRST_WITH_BFLOAT16:
        return mx.bfloat16
    gain = _flops_per_second(mx.float16) / _flops_per_second(mx.bfloat16)
    return mx.float16 if gain >= WORTH_FLOAT16 else mx.bfloat16


def computes_in_half(precision: str) -> bool:
    return computing_dtype(precision) != mx.float32


def flops_per_second(precision: str) -> float:
    return _flops_per_second(computing_dtype(precision))


def _flops_per_second(dtype: mx.Dtype) -> float:
    """Of square matrix products, several in a row, the best of a few."""
    n, in_a_row = (512, 1) if device() == mx.cpu else (2048, 8)
    a = mx.full((n, n), 1 / n, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        product = a
        for _ in range(in_a_row):
            product = product @ a
        mx.eval(product)
        best = min(best, time.perf_counter() - start)
    return in_a_row * 2 * n**3 / best


def compiles_at_once() -> bool:
    """On a GPU; on a CPU a C++ compiler does it, kernel by kernel."""
    return device() != mx.cpu


def can_compile() -> bool:
    """Whether compiled kernels can be made: on a CPU there has to be a C++ compiler, and it has to work."""
    if device() == mx.cpu and shutil.which("g++") is None:
        return False
    try:
        mx.eval(mx.compile(lambda x: mx.exp(-x))(mx.ones(1)))
    except RuntimeError:  # whatever ails it, a run can go on without it
        return False
    return True


def memory_capacity() -> int:
    """What a GPU may use of the memory that it shares with the CPU."""
    on_gpu = mx.device_info().get("max_recommended_working_set_size")
    return hardware.capacity() if on_gpu is None else int(on_gpu)


def memory_available() -> int:
    return min(memory_capacity(), hardware.available())


def peak_memory() -> int:
    return mx.get_peak_memory()


def active_memory() -> int:
    return mx.get_active_memory()


def settle_memory() -> None:
    """Keep what is in use from being swapped out, where the system can do that, and bound what is kept for reuse."""
    capacity = memory_capacity()
    if mx.metal.is_available():
        mx.set_wired_limit(capacity)
    mx.set_cache_limit(int(CACHE_SHARE * capacity))


def to_array(tensor: mx.array) -> Floats:
    """A copy in NumPy, float32; waits for it."""
    return np.array(tensor.astype(mx.float32))

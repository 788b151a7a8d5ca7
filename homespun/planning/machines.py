"""Machines by their data sheets: a name such as "M1 Max 32GB" flows in, a machine to plan for comes out.

Figures are those that the makers publish, or the number of arithmetic units times their clock. Nothing here was
measured by this project.
"""

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass
from typing import Literal

from homespun.engine import traits
from homespun.errors import UserError

Kind = Literal["apple", "cuda", "cpu"]

GIGABYTE = 10**9
GIBIBYTE = 2**30
LARGE_MAC = 36 * GIBIBYTE
SHARES_FOR_GPU = (2 / 3, 3 / 4)
"""Of the memory of a Mac, its GPU may use the first share, or the second if the memory is larger than `LARGE_MAC`."""
REACHED: dict[Kind, float] = {"apple": 0.7, "cuda": 0.7, "cpu": 0.5}
"""The share of the peak that large matrix products usually reach. On CPUs less, since norms are part of the measure
there (`Machine.flops_per_second`)."""
BYTES_PER_WEIGHT = 28
"""An update reads weight, gradient and two moments, and writes all but the gradient."""


@dataclass(frozen=True)
class DataSheet:
    """A machine as its maker describes it. It is an `engine.base.Machine` that measures nothing."""

    name: str
    kind: Kind
    float32: float
    """Peak of matrix products in float32, in TFLOP/s."""
    half: float | None
    """The same in 16 bits; None if the machine does not compute in them."""
    bandwidth: float
    """Of the memory, in GB/s."""
    memory: float
    """GB, or GiB where the maker means these: the usual amount, if it can be chosen."""
    watts: float | None
    """At full load: of the whole computer for a Mac, else of the processor or the card alone. None: not known."""
    source: str

    def flops_per_second(self, precision: str, threads: int | None = None) -> float:
        return REACHED[self.kind] * self.peak_flops_per_second(precision)

    def peak_flops_per_second(self, precision: str, threads: int | None = None) -> float:
        peak = self.half if self.half and self.computes_in_half(precision) else self.float32
        return peak * 1e12

    def bytes_per_second(self, threads: int | None = None) -> float:
        return self.bandwidth * GIGABYTE

    def computes_in_half(self, precision: str) -> bool:
        return precision != "float32" and (precision != "auto" or self.half is not None)

    def step_traits(self, precision: str, seq_len: int) -> traits.StepTraits:
        """Those of the engine that would run there: PyTorch, and MLX on a Mac."""
        half = self.computes_in_half(precision)
        if self.kind == "apple":
            return traits.mlx(half)
        return (
            traits.torch_on_cuda(half)
            if self.kind == "cuda"
            else traits.torch_on_cpu(half, seq_len)
        )

    def compiles_at_once(self) -> bool:
        return self.kind == "apple"

    def can_compile(self) -> bool:
        return True

    def has_own_memory(self) -> bool:
        return self.kind == "cuda"

    def memory_capacity(self) -> int:
        n_bytes = math.floor(self.memory * GIBIBYTE)
        if self.kind != "apple":
            return n_bytes
        return math.floor(n_bytes * SHARES_FOR_GPU[n_bytes > LARGE_MAC])

    def memory_available(self) -> int:
        return self.memory_capacity()


_APPLE = "Apple's newsroom and specifications; power: Apple's support pages on the desktop with this chip"
_APPLE_CORES = "GPU cores x 128 x 2 x clock; bandwidth and power: Apple's specifications"
_NVIDIA = "NVIDIA's architecture papers; 16 bits: dense products summed in float32"
_CPU = "cores x clock under load x operations per cycle; bandwidth: two channels of the usual memory; power: maker"

SHEETS: dict[str, DataSheet] = {
    sheet.name: sheet
    for sheet in (
        DataSheet("M1", "apple", 2.6, 2.6, 68, 16, 39, _APPLE),
        DataSheet("M1 Pro", "apple", 5.2, 5.2, 200, 16, None, _APPLE),
        DataSheet("M1 Max", "apple", 10.4, 10.4, 400, 32, 115, _APPLE),
        DataSheet("M1 Ultra", "apple", 20.8, 20.8, 800, 64, 215, _APPLE),
        DataSheet("M2", "apple", 3.6, 3.6, 100, 16, 50, _APPLE),
        DataSheet("M2 Pro", "apple", 6.8, 6.8, 200, 16, 100, _APPLE),
        DataSheet("M2 Max", "apple", 13.6, 13.6, 400, 32, 145, _APPLE),
        DataSheet("M2 Ultra", "apple", 27.2, 27.2, 800, 64, 295, _APPLE),
        DataSheet("M3", "apple", 3.5, 3.5, 100, 16, None, _APPLE_CORES),
        DataSheet("M3 Pro", "apple", 6.4, 6.4, 150, 18, None, _APPLE_CORES),
        DataSheet("M3 Max", "apple", 14.1, 14.1, 400, 48, None, _APPLE_CORES),
        DataSheet("M3 Ultra", "apple", 28.3, 28.3, 819, 96, 270, _APPLE_CORES),
        DataSheet("M4", "apple", 3.8, 3.8, 120, 16, 65, _APPLE_CORES),
        DataSheet("M4 Pro", "apple", 8.1, 8.1, 273, 24, 140, _APPLE_CORES),
        DataSheet("M4 Max", "apple", 16.2, 16.2, 546, 36, 145, _APPLE_CORES),
        DataSheet("T4", "cuda", 8.1, None, 320, 16, 70, _NVIDIA),
        DataSheet("L4", "cuda", 30.3, 121, 300, 24, 72, _NVIDIA),
        DataSheet("A100", "cuda", 19.5, 312, 2039, 80, 400, _NVIDIA),
        DataSheet("H100", "cuda", 67, 989, 3350, 80, 700, _NVIDIA),
        DataSheet("H200", "cuda", 67, 989, 4800, 141, 700, _NVIDIA),
        DataSheet("RTX 3060", "cuda", 12.7, 25.5, 360, 12, 170, _NVIDIA),
        DataSheet("RTX 3070", "cuda", 20.3, 40.6, 448, 8, 220, _NVIDIA),
        DataSheet("RTX 3080", "cuda", 29.8, 59.5, 760, 10, 320, _NVIDIA),
        DataSheet("RTX 3090", "cuda", 35.6, 71, 936, 24, 350, _NVIDIA),
        DataSheet("RTX 4060", "cuda", 15.1, 30.2, 272, 8, 115, _NVIDIA),
        DataSheet("RTX 4070", "cuda", 29.1, 58.3, 504, 12, 200, _NVIDIA),
        DataSheet("RTX 4080", "cuda", 48.7, 97.5, 717, 16, 320, _NVIDIA),
        DataSheet("RTX 4090", "cuda", 82.6, 165.2, 1008, 24, 450, _NVIDIA),
        DataSheet("RTX 5090", "cuda", 104.8, 209.5, 1792, 32, 575, _NVIDIA),
        DataSheet("Ryzen 5 5600X", "cpu", 0.84, None, 51, 16, 76, _CPU),
        DataSheet("Ryzen 7 5800X", "cpu", 1.18, None, 51, 32, 142, _CPU),
        DataSheet("Ryzen 7 7700X", "cpu", 1.28, 2.56, 83, 32, 142, _CPU),
        DataSheet("Ryzen 9 7950X", "cpu", 2.3, 4.6, 83, 64, 230, _CPU),
        DataSheet("Core i5-12400", "cpu", 0.77, None, 77, 16, 117, _CPU),
        DataSheet("Core i7-12700", "cpu", 1.2, None, 77, 32, 180, _CPU),
        DataSheet("Core i9-13900K", "cpu", 2.3, None, 90, 32, 253, _CPU),
        DataSheet("Raspberry Pi 5", "cpu", 0.15, None, 17, 8, 12, _CPU),
    )
}
"""By name. A new machine is a line here."""

_UNSAID = r"\b(apple|nvidia|geforce|amd|intel|macbook|mac|mini|studio|air|gpu|chip)\b|\(r\)|\(tm\)"


def named(name: str) -> DataSheet:
    """The data sheet of a machine, with the memory that the name states, if any.

    Raises:
        UserError: there is none.
    """
    memory = re.search(r"(\d+)\s*gi?b\b", name.lower())
    words = name.lower().replace(memory[0], " ") if memory else name.lower()
    wanted = _plain(re.sub(_UNSAID, " ", words))
    by_plain = {_plain(known): sheet for known, sheet in SHEETS.items()}
    if wanted not in by_plain:
        close = difflib.get_close_matches(wanted, by_plain, n=1, cutoff=0.6)
        meant = f"did you mean {by_plain[close[0]].name}? " if close else ""
        raise UserError(
            f"--machine '{name}' is unknown: {meant}There are data sheets of {', '.join(SHEETS)}; memory is added as "
            'in "M1 Max 64GB"'
        )
    sheet = by_plain[wanted]
    if memory is None:
        return sheet
    if not 0 < int(memory[1]) <= 100_000:
        raise UserError(f"--machine '{name}': {memory[0]} is no amount of memory")
    return dataclasses.replace(sheet, memory=int(memory[1]))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

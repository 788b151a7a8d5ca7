"""The constants of Muon (Jordan et al., 2024) and the split of parameters between Muon and AdamW, for all engines."""

from collections.abc import Iterator

from homespun.architectures.base import Group, Parameter

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that makes an update nearly orthogonal."""
NEWTON_SCHULZ_STEPS = 5
"""Three steps with the best coefficients for three (Amsel et al., 2025) save 6% of a small model's time, but cost as
much progress as a quarter less text."""

MAX_STACK_SIZE = 2**24
"""Largest number of weights in a stack of matrices that Muon orthogonalises together. Small matrices are faster in one
stack; large stacks need memory."""
LARGEST_NARROW_STACK = 2**22
"""The same with `--memory low`: a smaller stack needs less memory."""

ADAMW_RATE_FACTORS: dict[Group, float] = {
    "embedding": 1.0,
    "head": 0.2,
    "vector": 0.2,
    "matrix": 1.0,
    "adapter": 1.0,
}
"""Factors on AdamW's learning rate where Muon updates the matrices. Without Muon, AdamW has one rate for all."""


def parameter_groups(
    spec: list[Parameter], optimizer: str, largest_stack: int = MAX_STACK_SIZE
) -> tuple[list[list[Parameter]], dict[tuple[float, bool], list[Parameter]]]:
    """Assign each parameter to one optimizer; `largest_stack` limits the numbers in a stack.

    Returns:
        The stacks of equal matrices that Muon updates together, and the parameters that AdamW updates, by rate factor
        and weight decay.
    """
    use_muon = optimizer == "muon"
    muon: dict[tuple[tuple[int, ...], int], list[Parameter]] = {}
    adamw: dict[tuple[float, bool], list[Parameter]] = {}
    for p in spec:
        if use_muon and p.group == "matrix":
            muon.setdefault((p.shape, p.stacked), []).append(p)
        else:
            factor = ADAMW_RATE_FACTORS[p.group] if use_muon else 1.0
            adamw.setdefault((factor, p.decay), []).append(p)
    return [stack for alike in muon.values() for stack in _stacks(alike, largest_stack)], adamw


def _stacks(alike: list[Parameter], largest: int) -> Iterator[list[Parameter]]:
    """Matrices of one shape, in lists of at most `largest` numbers, each list with at least one matrix. The
    matrices of experts are a stack already."""
    n = max(1, largest // alike[0].size) if len(alike[0].shape) == 2 else 1
    for start in range(0, len(alike), n):
        yield alike[start : start + n]

"""What defines Muon (Jordan et al., 2024), and how AdamW goes along with it: numbers that all engines share."""

from collections.abc import Iterator

from homespun.engine.memory import MUON_AT_ONCE
from homespun.model.spec import Group, Parameter

NEWTON_SCHULZ = (
    (8.2987, -24.4305, 18.0903),
    (3.9152, -2.9211, 0.5592),
    (3.1746, -2.3804, 0.4978),
)
"""Coefficients a, b, c of each step x -> a x + b (x xᵀ) x + c (x xᵀ)² x of the iteration that makes an update nearly
orthogonal. They are the ones that bring singular values from 0.005 to 1 as near to 1 as possible, step by step: each
minimises the largest error on the interval that the step before leaves (The Polar Express, Amsel et al., 2025). Three
of them teach as much as five of the fixed (3.4445, -4.7750, 2.0315), and cost three fifths."""
ROOM = 1.02
"""The norm is taken larger by this much: rounding in 16 bits must not lift a singular value above 1, where the first
step is steep."""

RATE_BESIDE_MUON: dict[Group, float] = {"embedding": 1.0, "head": 0.2, "vector": 0.2, "matrix": 1.0}
"""Share of AdamW's rate when Muon takes the matrices; by itself AdamW has one rate for all."""


def divided(
    spec: list[Parameter], optimizer: str
) -> tuple[list[list[Parameter]], dict[tuple[float, bool], list[Parameter]]]:
    """Who takes which parameter: for Muon matrices of one shape that are updated together, and the rest for AdamW, by
    rate and decay."""
    takes_matrices = optimizer == "muon"
    muon: dict[tuple[tuple[int, ...], int], list[Parameter]] = {}
    adam: dict[tuple[float, bool], list[Parameter]] = {}
    for p in spec:
        if takes_matrices and p.group == "matrix":
            muon.setdefault((p.shape, p.stacked), []).append(p)
        else:
            rate = RATE_BESIDE_MUON[p.group] if takes_matrices else 1.0
            adam.setdefault((rate, p.decay), []).append(p)
    return [some for alike in muon.values() for some in _in_parts(alike)], adam


def _in_parts(alike: list[Parameter]) -> Iterator[list[Parameter]]:
    """At most `MUON_AT_ONCE` numbers at a time."""
    n = max(1, MUON_AT_ONCE // alike[0].size)
    for start in range(0, len(alike), n):
        yield alike[start : start + n]

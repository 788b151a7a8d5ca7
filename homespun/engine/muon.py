"""What defines Muon (Jordan et al., 2024), and how AdamW goes along with it: numbers that all engines share."""

from collections.abc import Iterator

from homespun.architectures.base import Group, Parameter

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that makes an update (nearly) orthogonal."""
NEWTON_SCHULZ_STEPS = 5
"""Three with the best coefficients for three (Amsel et al., 2025) save 6% of a small model's time, and it learns as if
it had been given a quarter less text."""

MUON_AT_ONCE = 2**24
"""Numbers in the matrices that Muon makes orthogonal at a time: small ones are faster together, large ones need
memory."""

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

"""Counts flow in, the range flows out in which the true share lies. Every figure that counts texts is shown with it."""

import math

Z = 1.959964
"""Standard deviations around the mean that hold 95% of a normal distribution."""


def interval(right: float, n: int) -> tuple[float, float]:
    """The 95% interval of Wilson for the share that `right` of `n` independent trials estimate.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if n == 0:
        return 0.0, 1.0
    share, spread = right / n, Z * Z / n
    middle = share + spread / 2
    half = math.sqrt(max(0.0, spread * (share * (1 - share) + spread / 4)))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def percent_range(low: float, high: float) -> str:
    """Two shares in whole percent, as '69 to 90%'."""
    return f"{100 * low:.0f} to {100 * high:.0f}%"

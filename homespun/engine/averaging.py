"""How fast the mean of the weights follows them: the number of a step flows in, its share in the mean comes out.

The weights of single steps jump around better ones, and on a text that is read several times they keep what each batch
was like. Their mean over the last part of a run predicted new text better (benchmarks/LOG.md). The part is a fraction
of the steps so far, so the total need not be known: the weights of step s count in proportion to s ** (1 / fraction -
1), which is the polynomial-decay averaging of Shamir and Zhang (2013) and the power-function profile of Karras et al.
(2024).
"""

TRAINED = "trained"
"""In the state of an engine, the weights that training goes on with are `trained/NAME`."""

UPDATES_PER_DOUBLING = 50
"""From twice this step on, the mean takes in every second step, later every fourth, and so on: so many while the number
of steps doubles. More would cost time and change little."""


def share_of_step(step: int, fraction: float) -> float:
    """The share that the weights after a step get in the mean; 0.0 where the mean stays as it is.

    Args:
        step: the number of the step in its run, from 1 on.
        fraction: of the steps so far, over which the mean reaches; above 0.
    """
    spacing = 1 << max(0, (step // UPDATES_PER_DOUBLING).bit_length() - 1)
    if step % spacing:
        return 0.0
    before: float = (1.0 - spacing / step) ** (1.0 / fraction)
    return 1.0 - before


def is_trained(name: str) -> bool:
    """Whether a name in the state of an engine is that of weights that training goes on with, beside their mean."""
    return name.startswith(f"{TRAINED}/")

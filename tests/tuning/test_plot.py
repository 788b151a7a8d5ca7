"""The picture of a tune, and the importance of its settings."""

from pathlib import Path

from homespun.tuning.ladder import ladder
from homespun.tuning.plot import importances, plot_tune
from homespun.tuning.space import Dimension
from homespun.tuning.store import Trial

SPACE = (
    Dimension("learning_rate", low=1e-4, high=1e-2, log=True),
    Dimension("batch_size", (8, 16)),
)
LADDER = ladder(16_000, 1000, 4, 2)


def trials(count: int) -> list[Trial]:
    """The rate decides, and the batch hardly."""
    found = []
    for n in range(count):
        point = {"learning_rate": 1e-4 * 100 ** (n / count), "batch_size": 8 * (1 + n % 2)}
        losses = {LADDER.tokens[0]: 3 - n / count}
        if n in (0, count - 1):
            losses[LADDER.total] = 2 - n / count
        found.append(Trial(f"trial_{n}", point, {**point, "seed": 0}, losses))
    return found


def test_the_setting_that_decides_is_the_important_one() -> None:
    found = importances(SPACE, trials(20), LADDER)
    assert found["learning_rate"] > 0.8
    assert importances(SPACE, trials(5), LADDER) == {}


def test_a_picture_is_drawn_for_many_trials_few_and_failed_ones(tmp_path: Path) -> None:
    failed = Trial("trial_3", {"learning_rate": 1e-2}, {"learning_rate": 1e-2}, error="ruined")
    for number, some in enumerate([trials(20), [*trials(2), failed], trials(1)]):
        out = tmp_path / f"{number}.png"
        plot_tune(out, SPACE, some, some[:1], LADDER)
        assert out.read_bytes().startswith(b"\x89PNG")

"""The choice of the next trial."""

import importlib.util

import pytest

from homespun.errors import UserError
from homespun.tuning import sampling
from homespun.tuning.sampling import Seen, check_installed, next_point
from homespun.tuning.space import Dimension

SPACE = (
    Dimension("learning_rate", low=1e-4, high=1e-2, log=True),
    Dimension("batch_size", (8, 16, 32)),
    Dimension("warmup_steps", low=1, high=9),
)
SEEN = [
    Seen({"learning_rate": rate, "batch_size": size, "warmup_steps": 5}, abs(rate - 3e-3))
    for rate in (1e-4, 1e-3, 2e-3, 4e-3, 1e-2)
    for size in (8, 16)
]
RUNNING = Seen({"learning_rate": 3e-3, "batch_size": 8, "warmup_steps": 2})


@pytest.mark.parametrize("method", ["tpe", "gp"])
def test_a_point_depends_on_seed_number_and_earlier_trials_alone(method) -> None:
    seen = [*SEEN, RUNNING]
    points = [next_point(SPACE, method, 1, number, 20, seen) for number in (11, 11, 12)]
    assert points[0] == points[1] != points[2]
    if method == "tpe":
        assert points[0] != next_point(SPACE, method, 2, 11, 20, seen)
        assert points[0] != next_point(SPACE, method, 1, 11, 20, seen[:2])
    for point in points:
        assert all(dimension.contains(point[dimension.name]) for dimension in SPACE)
        assert isinstance(point["warmup_steps"], int)


def test_points_that_were_tried_are_not_repeated() -> None:
    space = (Dimension("batch_size", (8, 16, 32)),)
    seen = [Seen({"batch_size": 8}, 1.0), Seen({"batch_size": 32}, 2.0)]
    assert all(
        next_point(space, "tpe", seed, 2, 20, seen) == {"batch_size": 16} for seed in range(4)
    )


def test_points_gather_where_the_loss_is_low() -> None:
    points = [next_point(SPACE, "tpe", seed, 10, 10, SEEN) for seed in range(12)]
    near = [1e-3 < float(point["learning_rate"]) < 6e-3 for point in points]
    assert sum(near) >= 8


def test_a_recipe_outside_the_space_is_no_hindrance() -> None:
    outside = Seen({"learning_rate": 0.5, "batch_size": 8, "warmup_steps": 5}, 3.0)
    assert next_point(SPACE, "tpe", 0, 1, 20, [outside])


@pytest.mark.parametrize(
    ("missing", "method", "install"),
    [
        ("optuna", "tpe", "pip install 'homespun\\[tune\\]'"),
        ("scipy", "gp", "pip install 'homespun\\[tune\\]'"),
        ("torch", "gp", "pip install torch"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(monkeypatch, missing, method, install) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        sampling, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(UserError, match=f"needs {missing}, which is not installed here: {install}"):
        check_installed(method)

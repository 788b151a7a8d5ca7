"""The space of a search: what users write, the usual dimensions, and the settings at a point."""

from types import SimpleNamespace
from typing import Any

import pytest

from homespun.config import TuneConfig
from homespun.errors import UserError
from homespun.tuning.design import _that_fits
from homespun.tuning.space import (
    Dimension,
    at_edge,
    chosen_space,
    from_python,
    grid,
    parsed,
    settings_at,
    usual_dimension,
)

RECIPE = {
    "optimizer": "adamw",
    "learning_rate": 3e-4,
    "muon_learning_rate": 0.02,
    "batch_size": 16,
    "seq_len": 256,
    "weight_decay": 0.1,
    "schedule": "cosine",
}


def test_the_usual_grid_of_a_preset_is_that_of_the_specification() -> None:
    space = chosen_space(TuneConfig(method="grid"), RECIPE, 1000)
    assert space == (
        Dimension("learning_rate", (1e-4, 3e-4, 6e-4)),
        Dimension("batch_size", (8, 16, 32)),
    )
    assert len(grid(space)) == 9


def test_the_usual_dimensions_follow_the_priorities() -> None:
    space = chosen_space(TuneConfig(dimensions=5), RECIPE, 1000)
    assert [d.name for d in space] == [
        *("learning_rate", "batch_size", "seq_len", "warmup_steps", "weight_decay")
    ]
    assert (space[0].low, space[0].high, space[0].log) == (1e-4, 6e-4, True)
    assert (space[3].low, space[3].high) == (10, 50)
    assert usual_dimension("weight_decay", RECIPE, 1000, grid=True).choices == (0.05, 0.1, 0.2)


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("learning_rate=1e-4:6e-4", Dimension("learning_rate", low=1e-4, high=6e-4, log=True)),
        ("weight-decay=0:0.2", Dimension("weight_decay", low=0.0, high=0.2)),
        ("batch_size=8,16,32", Dimension("batch_size", (8, 16, 32))),
        ("batch_size=x0.5,x1", Dimension("batch_size", (8, 16))),
        ("learning_rate=x0.5:x2", Dimension("learning_rate", low=1.5e-4, high=6e-4, log=True)),
        ("schedule=cosine,linear", Dimension("schedule", ("cosine", "linear"))),
        ("learning_rate=1", Dimension("learning_rate", (1.0,))),
    ],
)
def test_a_dimension_is_read(text: str, dimension: Dimension) -> None:
    assert parsed(text, RECIPE) == dimension


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr=1,2", "did you mean learning_rate"),
        ("learning_rate", "has no values"),
        ("learning_rate=", "has no values"),
        ("learning_rate=0.2:0.1", "empty range"),
        ("learning_rate=1e-4:2", "at most 1"),
        ("learning_rate=1e-4:1e-3:cubic", "a range is"),
        ("weight_decay=0:1:log", "begins at 0"),
        ("batch_size=8,none", "a whole number is expected"),
        ("batch_size=0,1", "at least 1"),
        ("vocab_size=500,1000", "cannot be compared"),
        ("seed=1,2", "cannot be compared"),
        ("schedule=a:b", "expected"),
        ("batch_size=x2,xnan", "a whole number is expected"),
        ("weight_decay=x-1:x2", "a number is expected"),
        ("schedule=x2,linear", "has no number"),
    ],
)
def test_a_bad_dimension_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parsed(text, RECIPE)
    assert "\n" not in str(error.value)


def test_a_dimension_is_named_once_and_a_grid_needs_values() -> None:
    with pytest.raises(UserError, match="names learning_rate twice"):
        chosen_space(TuneConfig(search=("learning_rate=1,1", "learning_rate=1")), RECIPE, 100)
    with pytest.raises(UserError, match="a grid needs values"):
        chosen_space(TuneConfig(method="grid", search=("learning_rate=1e-4:1e-3",)), RECIPE, 100)


def test_a_space_from_python() -> None:
    space = {"learning_rate": (1e-4, 6e-4, "log"), "batch_size": [8, 16], "schedule": ("cosine",)}
    assert from_python(space) == (
        "learning_rate=0.0001:0.0006:log",
        "batch_size=8,16",
        "schedule=cosine",
    )
    for wrong in ([1, 2], {"learning_rate": 3}, {"learning_rate": []}):
        with pytest.raises(UserError):
            from_python(wrong)


def test_the_edge_of_a_space() -> None:
    space = [
        Dimension("learning_rate", low=1e-4, high=1e-2, log=True),
        Dimension("batch_size", (8, 16, 32)),
        Dimension("schedule", ("cosine", "linear")),
    ]
    middle = {"learning_rate": 1e-3, "batch_size": 16, "schedule": "cosine"}
    assert at_edge(space, middle) == []
    assert at_edge(space, {**middle, "learning_rate": 9.9e-3}) == ["learning_rate"]
    assert at_edge(space, {**middle, "batch_size": 8}) == ["batch_size"]


def test_the_rate_of_muon_follows_unless_it_is_a_dimension() -> None:
    muon = {**RECIPE, "optimizer": "muon", "learning_rate": 0.04}
    assert settings_at({"learning_rate": 0.02}, muon)["muon_learning_rate"] == 0.01
    assert settings_at({"learning_rate": 0.02}, RECIPE)["muon_learning_rate"] == 0.02
    both = {"learning_rate": 0.02, "muon_learning_rate": 0.03}
    assert settings_at(both, muon)["muon_learning_rate"] == 0.03


def test_samples_are_not_longer_than_the_context_of_a_model_that_goes_on() -> None:
    recipe: Any = SimpleNamespace(
        plan=SimpleNamespace(model=SimpleNamespace(seq_len=32)), has_answers=False
    )
    rates = Dimension("learning_rate", low=1e-4, high=1e-2, log=True)
    going_on = TuneConfig(init_from="model")
    for own, left in ((32, ()), (16, (16, 32))):
        contexts = Dimension("seq_len", (own, 2 * own))
        space = _that_fits((rates, contexts), recipe, going_on, print)
        assert [d.choices for d in space if d.name == "seq_len"] == [left] * bool(left)
        assert _that_fits((rates, contexts), recipe, TuneConfig(), print) == (rates, contexts)

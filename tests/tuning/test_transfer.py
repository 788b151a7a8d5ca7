"""Rules that carry settings over to another size."""

from pathlib import Path

import pytest

from homespun import durable
from homespun.errors import UserError
from homespun.tuning.transfer import RECORD, RESULTS, Run, around, carried, finished_tune

SMALL = {
    "optimizer": "adamw",
    "learning_rate": 4e-3,
    "muon_learning_rate": 0.02,
    "weight_decay": 0.1,
    "batch_size": 8,
    "grad_accumulation_steps": 1,
    "seq_len": 64,
}
RUN = Run(SMALL, 64, 512 * 1000)


def test_the_same_run_keeps_its_settings() -> None:
    assert carried(RUN, RUN).settings == {"learning_rate": 4e-3, "weight_decay": 0.1}


def test_the_rate_of_adamw_falls_with_the_width_and_that_of_muon_does_not() -> None:
    wide = Run(SMALL, 256, RUN.total_tokens)
    factor = 4**0.75
    assert carried(RUN, wide).settings == {
        "learning_rate": pytest.approx(4e-3 / factor, rel=1e-4),
        "weight_decay": pytest.approx(0.1 * factor, rel=1e-4),
    }
    muon = {**SMALL, "optimizer": "muon"}
    found = carried(Run(muon, 64, 1000), Run(muon, 256, 1000)).settings
    assert found == {"learning_rate": 4e-3, "muon_learning_rate": 0.02, "weight_decay": 0.1}


def test_rate_times_decay_times_steps_is_kept() -> None:
    target = Run({**SMALL, "batch_size": 32}, 128, 7 * RUN.total_tokens)
    found = carried(RUN, target).settings
    before = SMALL["learning_rate"] * SMALL["weight_decay"] * RUN.steps
    after = float(found["learning_rate"]) * float(found["weight_decay"]) * target.steps
    assert after == pytest.approx(before, rel=1e-4)
    # Twice the width, four times the batch, seven times the tokens.
    rate = 4e-3 * 2**-0.75 * 4**0.5 * 7**-0.32
    assert found["learning_rate"] == pytest.approx(rate, rel=1e-4)


def test_the_carried_point_comes_first_and_others_lie_around_it() -> None:
    points, space = around(carried(RUN, RUN))
    assert [point["learning_rate"] for point in points] == [4e-3, 2e-3, 8e-3]
    assert {d.name for d in space} == {"learning_rate", "weight_decay"}


def test_only_a_finished_tune_of_the_same_optimizer_is_carried_over(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no tune"):
        finished_tune(tmp_path)
    durable.write_json(tmp_path / RECORD, {"width": 64, "ladder": [10, 1000]})
    with pytest.raises(UserError, match="not finished"):
        finished_tune(tmp_path)
    durable.write_json(tmp_path / RESULTS, {"best": SMALL})
    assert finished_tune(tmp_path) == Run(SMALL, 64, 1000)
    with pytest.raises(UserError, match="--optimizer adamw"):
        carried(RUN, Run({**SMALL, "optimizer": "muon"}, 64, 1000))

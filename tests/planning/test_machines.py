"""Machines by name: their data sheets are found, and plan as an engine would on them."""

import pytest

from homespun.errors import UserError
from homespun.planning.machines import GIBIBYTE, SHEETS, named


@pytest.mark.parametrize(
    ("typed", "name", "memory"),
    [
        ("M1 Max 32GB", "M1 Max", 32),
        ("apple m1 max, 64 GB", "M1 Max", 64),
        ("MacBook Air M2", "M2", 16),
        ("GeForce RTX 4090", "RTX 4090", 24),
        ("nvidia a100 40gb", "A100", 40),
        ("AMD Ryzen 9 7950X 128 GiB", "Ryzen 9 7950X", 128),
        ("raspberry pi 5", "Raspberry Pi 5", 8),
    ],
)
def test_a_machine_is_found_under_the_names_that_people_use(
    typed: str, name: str, memory: int
) -> None:
    sheet = named(typed)
    assert (sheet.name, sheet.memory) == (name, memory)


@pytest.mark.parametrize("typed", ["M1 Mux", "", "0 GB", "toaster", "M1 0GB", "M1 999999999GB"])
def test_an_unknown_machine_is_refused_with_the_known_ones(typed: str) -> None:
    with pytest.raises(UserError, match=f"--machine '{typed}'"):
        named(typed)


def test_a_mistyped_name_is_corrected() -> None:
    with pytest.raises(UserError, match="did you mean M1 Max"):
        named("M1 Mux 32GB")


def test_a_gpu_of_a_mac_gets_a_share_of_the_memory_and_other_machines_all_of_it() -> None:
    assert named("M1 Max 32GB").memory_capacity() == int(32 * GIBIBYTE * 2 / 3)
    assert named("M1 Max 64GB").memory_capacity() == 48 * GIBIBYTE
    assert named("RTX 3090").memory_capacity() == 24 * GIBIBYTE


@pytest.mark.parametrize("name", SHEETS)
def test_a_data_sheet_has_sensible_figures(name: str) -> None:
    sheet = SHEETS[name]
    assert sheet.source
    assert sheet.half is None or sheet.float32 <= sheet.half <= 20 * sheet.float32
    assert sheet.computes_in_half("auto") == (sheet.half is not None)
    assert not sheet.computes_in_half("float32")
    assert sheet.flops_per_second("float32") < 1e12 * sheet.float32
    assert sheet.step_traits("auto", 256).keeps_attention == (
        sheet.kind == "apple" or (sheet.kind == "cpu" and sheet.half is not None)
    )
    # Machines compute between 5 and 500 operations for each byte that they can move.
    assert 5 < 1000 * (sheet.half or sheet.float32) / sheet.bandwidth < 500

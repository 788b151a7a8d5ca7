"""The page of faults shows the saved results, and names tests that exist."""

import json
import re

from tests.faults.runs import ROOT, Lost
from tests.faults.table import PAGE, RESULTS, Table, filled


def test_the_page_shows_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, json.loads(RESULTS.read_text(encoding="utf-8"))) == page


def test_nothing_is_lost() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for row in (row for found in results.values() for row in found["rows"]):
        assert (row["lost steps"], row["lost files"]) == (0, 0), row["fault"]


def test_the_tests_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(tests/.*?)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 5
    assert all((ROOT / name).exists() for name in named)


def test_a_page_is_filled() -> None:
    table = Table()
    table.red("smoke", "windows shut")
    table.row("smoke", tries=1200, lost=Lost(0, 3), result="seen")
    table.red("smoke", "nobody there")
    found = {
        "date": "2026-01-02",
        "machine": "2 cores",
        "minutes": 3,
        "rows": list(table.rows.values()),
    }
    page = filled("a\n<!-- results -->\nold\n<!-- end -->\nb\n", {"Fire": found})
    assert page.splitlines() == [
        "a",
        "<!-- results -->",
        "### Fire",
        "",
        "2026-01-02, 2 cores, 3 min:",
        "",
        "| fault | tries | lost steps | lost files | result | turns red when |",
        "| --- | ---: | ---: | ---: | --- | --- |",
        "| smoke | 1,200 | 0 | 3 | seen | windows shut; nobody there |",
        "<!-- end -->",
        "b",
    ]
    assert filled(page, {"Fire": found}) == page

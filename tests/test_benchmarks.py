"""The pages show the committed results, and nothing else."""

import re

import pytest

from benchmarks.figures import FIGURES
from benchmarks.report import PAGES, README, committed, filled, quoted, table


def test_the_page_shows_the_committed_results() -> None:
    page = README.read_text(encoding="utf-8")
    assert filled(page, committed()) == page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_quotes_the_committed_results(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert quoted(text, committed()) == text


def test_every_figure_is_quoted_somewhere() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"<!-- figure ([\w-]+) -->", text)) == FIGURES.keys()


def test_a_figure_follows_its_result() -> None:
    results = committed()
    rows = results["prose_recipe"]["tables"]["over the seeds"]
    rows[0] = rows[0] | {"mean bits/byte": 1.234}
    page = "<!-- figure prose-60s -->9<!-- end --> and <!-- figure prose-120s -->9<!-- end -->"
    assert quoted(page, results).startswith("<!-- figure prose-60s -->1.23<!-- end --> and ")


def test_a_result_replaces_what_stood_there() -> None:
    result = {
        "command": "python -m benchmarks.one",
        "machine": {"cores": "2 cores", "system": "Linux"},
        "tables": {"speed": [{"variant": "a", "tokens/s": 1234}]},
    }
    page = "<!-- machines -->\nx\n<!-- end -->\n<!-- one -->\ny\n<!-- end -->\n<!-- two -->\nz\n<!-- end -->\n"
    new = filled(page, {"one": result})
    assert new.split("\n") == [
        "<!-- machines -->",
        "- one: 2 cores, Linux",
        "<!-- end -->",
        "<!-- one -->",
        "```",
        "$ python -m benchmarks.one",
        "speed",
        "variant  tokens/s",
        "a           1,234",
        "```",
        "<!-- end -->",
        "<!-- two -->",
        "Not measured yet.",
        "<!-- end -->",
        "",
    ]
    assert filled(new, {"one": result}) == new


def test_numbers_of_a_column_have_equally_many_digits() -> None:
    rows = [{"name": "a", "ratio": 1.0}, {"name": "long", "ratio": 1234.25}]
    assert table(rows).split("\n") == ["name     ratio", "a         1.00", "long  1,234.25"]

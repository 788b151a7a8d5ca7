"""The benchmarks' page shows the committed results, and nothing else."""

from benchmarks.report import README, committed, filled, table


def test_the_page_shows_the_committed_results() -> None:
    page = README.read_text(encoding="utf-8")
    assert filled(page, committed()) == page


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

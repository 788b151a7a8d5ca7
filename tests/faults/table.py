"""Saves the results of `make faults` in `results.json`, and writes them as tables into docs/faults.md.

    python -m tests.faults.table

updates the page, so that nobody types a figure by hand.
"""

import json
import math
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.engine.hardware import usable_cpus
from homespun.terminal import counted
from tests.faults.runs import Lost

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "faults.md"
TITLES = ["fault", "tries", "lost steps", "lost files", "result", "turns red when"]


class Table:
    """The faults in one module of tests."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Time that the tests of the faults took."""
        self.rows: dict[str, dict[str, Any]] = {}

    def row(self, fault: str, *, tries: int, lost: Lost, result: str) -> None:
        """Record the result of a fault."""
        self._of(fault).update(
            {"tries": tries, "lost steps": lost.steps, "lost files": lost.files, "result": result}
        )

    def red(self, fault: str, sabotage: str) -> None:
        """Record that the check of this fault fails under a sabotage."""
        self._of(fault)["turns red when"].append(sabotage)

    def _of(self, fault: str) -> dict[str, Any]:
        return self.rows.setdefault(fault, {"fault": fault, "turns red when": []})


def save(tables: Mapping[str, Table]) -> None:
    """Write the tables to `results.json`, each in place of the earlier one of its title."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for title, table in tables.items():
        results[title] = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{counted(usable_cpus(), 'core')}, {platform.system()}, Python {platform.python_version()}",
            "minutes": math.ceil(table.seconds / 60),
            "rows": list(table.rows.values()),
        }
    durable.write(RESULTS, (json.dumps(results, indent=2) + "\n").encode())


def filled(page: str, results: Mapping[str, Any]) -> str:
    """The page with the results between the marks `<!-- results -->` and `<!-- end -->`."""
    parts = []
    for title, found in results.items():
        lines = [TITLES, ["---", "---:", "---:", "---:", "---", "---"]]
        lines += [[_cell(row[title]) for title in TITLES] for row in found["rows"]]
        where = f"{found['date']}, {found['machine']}, {found['minutes']} min:"
        parts += [f"### {title}", where, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    text = "\n\n".join(parts)
    found = re.sub(
        r"(<!-- results -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{text}\n{match[2]}",
        page,
        flags=re.DOTALL,
    )
    assert text in found, "the page has no marks"
    return found


def _cell(value: Any) -> str:
    return (
        "; ".join(value)
        if isinstance(value, list)
        else f"{value:,}"
        if isinstance(value, int)
        else value
    )


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    durable.write(PAGE, filled(PAGE.read_text(encoding="utf-8"), results).encode())


if __name__ == "__main__":
    main()

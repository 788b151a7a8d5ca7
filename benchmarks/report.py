"""Prints measured figures as tables, and saves them in `results/NAME.json`.

    python -m benchmarks.report

writes the tables into benchmarks/README.md, and the figures into the prose of README.md and docs/, so that nobody
types a figure by hand.
"""

import json
import os
import platform
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.figures import FIGURES, Results
from homespun import durable

Row = Mapping[str, str | int | float]
"""A value for each column, already rounded by the benchmark that measured it."""
Tables = Mapping[str, Sequence[Row]]
"""The rows of each table, by its title."""

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results"
PAGES = [HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md"))]
"""The pages that quote figures in their prose."""
PACKAGES = ("torch", "tokenizers", "transformers", "accelerate", "numpy")
MACHINES = "machines"


def save(name: str, tables: Tables) -> None:
    """Print the tables, and write them to `results/NAME.json` with the command and a description of the machine."""
    RESULTS.mkdir(exist_ok=True)
    result = {"command": _command(), "machine": _machine(), "tables": tables}
    durable.write(RESULTS / f"{name}.json", (json.dumps(result, indent=2) + "\n").encode())
    print(rendered(tables))


def rendered(tables: Tables) -> str:
    """The tables as plain text, each under its title."""
    return "\n\n".join(f"{title}\n{table(rows)}" for title, rows in tables.items())


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned columns: text on the left, numbers on the right with equally many decimal places per column."""
    columns = {}
    for title in rows[0]:
        values = [row[title] for row in rows]
        digits = max(len(str(v).partition(".")[2]) if isinstance(v, float) else 0 for v in values)
        cells = [v if isinstance(v, str) else f"{v:,.{digits}f}" for v in values]
        width = max(map(len, [title, *cells]))
        is_text = any(isinstance(v, str) for v in values)
        columns[title] = [
            f"{cell:<{width}}" if is_text else f"{cell:>{width}}" for cell in [title, *cells]
        ]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns.values(), strict=True))


def filled(readme: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of benchmarks/README.md with each result between its marks `<!-- NAME -->` and `<!-- end -->`."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        body = "Not measured yet."
        if name == MACHINES and results:
            body = _machines(results)
        elif name in results:
            shown = f"$ {results[name]['command']}\n{rendered(results[name]['tables'])}"
            body = f"```\n{shown}\n```"
        return f"<!-- {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", block, readme, flags=re.DOTALL)


def quoted(page: str, results: Results) -> str:
    """The text of a page with its figures filled in.

    Raises:
        KeyError: the page quotes a figure that does not exist.
    """

    def figure(match: re.Match[str]) -> str:
        return f"{match[1]}{FIGURES[match[2]](results)}<!-- end -->"

    return re.sub(r"(<!-- figure ([\w-]+) -->).*?<!-- end -->", figure, page)


def committed() -> dict[str, Any]:
    """All results, by name."""
    files = sorted(RESULTS.glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def main() -> None:
    results = committed()
    durable.write(README, filled(README.read_text(encoding="utf-8"), results).encode())
    for page in PAGES:
        durable.write(page, quoted(page.read_text(encoding="utf-8"), results).encode())


def _machines(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Each machine and the benchmarks measured on it."""
    measured: dict[str, list[str]] = defaultdict(list)
    for name, result in results.items():
        measured[", ".join(map(str, result["machine"].values()))].append(name)
    return "\n".join(f"- {', '.join(names)}: {where}" for where, names in measured.items())


def _machine() -> dict[str, str]:
    """The hardware and software that the figures depend on."""
    packages = {distribution.name for distribution in metadata.distributions()}
    return {
        "cores": f"{os.cpu_count()} cores",
        "cpu": _cpu(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": platform.system(),
        "python": f"Python {platform.python_version()}",
        **{name: f"{name} {metadata.version(name)}" for name in PACKAGES if name in packages},
    }


def _cpu() -> str:
    """Name of the CPU, with family and model if the system reports them, since the name can be vague."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    name, family, model = (
        re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        for key in ("model name", "cpu family", "model")
    )
    known = [match[1] for match in (name, family, model) if match]
    return (
        f"{known[0]} (family {known[1]}, model {known[2]})" if len(known) == 3 else "".join(known)
    )


def _command() -> str:
    """The command as typed, without the folders of its files."""
    words = [Path(word).name if Path(word).exists() else word for word in sys.orig_argv[1:]]
    return f"python {shlex.join(words)}"


if __name__ == "__main__":
    main()

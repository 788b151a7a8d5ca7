"""Runs the code cells of a notebook without Jupyter: a notebook flows in, the text of each cell comes out.

python -m tests.notebook NOTEBOOK          prints the texts as JSON
python -m tests.notebook NOTEBOOK --write  runs it in a temporary folder and stores the texts in it
"""

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored_texts(notebook: dict[str, Any]) -> list[str]:
    """The stored text of each code cell."""
    return ["".join(map(_text, cell["outputs"])) for cell in code_cells(notebook)]


def run(notebook: dict[str, Any]) -> list[str]:
    """The text that each code cell prints, and the value of its last line, as Jupyter shows it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    texts = []
    for number, cell in enumerate(code_cells(notebook)):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(tree, f"cell {number}", "exec"), namespace)
            if isinstance(last, ast.Expr):
                whole = compile(ast.Expression(last.value), f"cell {number}", "eval")
                value = eval(whole, namespace)  # noqa: S307 - a cell of our own
                if value is not None:
                    print(repr(value))
        texts.append(printed.getvalue())
    return texts


def with_texts(notebook: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """The notebook with these texts stored."""
    for number, (cell, text) in enumerate(zip(code_cells(notebook), texts, strict=True), 1):
        lines = text.splitlines(keepends=True)
        stored = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
        cell |= {"execution_count": number, "outputs": stored}
    return notebook


def _text(output: dict[str, Any]) -> str:
    return "".join(output["text"])


def main(path: str, *options: str) -> None:
    file = Path(path).resolve()
    notebook = json.loads(file.read_text(encoding="utf-8"))
    if options != ("--write",):
        print(json.dumps(run(notebook)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        texts = run(notebook)
        os.chdir(file.parent)
    stored = json.dumps(with_texts(notebook, texts), indent=1, ensure_ascii=False)
    file.write_text(stored + "\n", encoding="utf-8")
    print(textwrap.indent("".join(texts), "    "))


if __name__ == "__main__":
    main(*sys.argv[1:])

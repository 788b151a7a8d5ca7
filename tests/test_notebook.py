"""The notebook in docs runs from start to end, and shows what it would show today."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebook import code_cells, stored_texts

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "training-steps.ipynb"
NUMBER = re.compile(r"\d+\.\d+(?:e-?\d+)?")
"""Numbers with a point: machines may differ in their last digits."""


def test_the_notebook_runs_and_its_stored_texts_are_those_of_today(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebook", str(NOTEBOOK)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    texts = json.loads(done.stdout)
    for cell, stored, text in zip(code_cells(notebook), stored_texts(notebook), texts, strict=True):
        if "varies" in cell["metadata"].get("tags", ()):
            assert bool(stored) == bool(text)
            continue
        assert NUMBER.sub("#", stored) == NUMBER.sub("#", text)
        numbers = [float(number) for number in NUMBER.findall(stored)]
        assert [float(number) for number in NUMBER.findall(text)] == pytest.approx(
            numbers, rel=0.05, abs=0.1
        )
    assert (tmp_path / "best_model.npz").exists()
    assert len(list(tmp_path.glob("grid/*/best.npz"))) == 9


@pytest.mark.parametrize("section", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_the_notebook_has_each_section_of_the_guide(section: int) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert re.search(rf"^## {section}\. ", text, re.MULTILINE)


def test_links_in_the_notebook_have_a_target() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    for target in re.findall(r"\]\((?!https?:)([^)#]*)", text):
        assert (NOTEBOOK.parent / target).exists(), target

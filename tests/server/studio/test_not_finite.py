"""A model whose weights are not finite: every page says so, and no answer has a number that JSON does not have."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from homespun.architectures.families import initial_weights
from homespun.checkpoint.archive import write_archive
from tests.server.studio.asking import ask, told
from tests.server.studio.made import SMALL, header, tokenizer

BEST = "run/best.npz"


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose weights are NaN."""
    folder = tmp_path_factory.mktemp("diverged")
    weights = [(name, np.full_like(array, np.nan)) for name, array in initial_weights(SMALL, 1)]
    (folder / "run").mkdir()
    write_archive(folder / BEST, weights, header(SMALL, tokenizer()), step=7)
    shutil.copy(folder / BEST, folder / "run" / "checkpoint_step_7.npz")
    return folder


def test_streams_end_with_the_reason(diverged: Path, studio: Callable[[Path], str]) -> None:
    address = studio(diverged)
    written = {"model": BEST, "prompt": "Once", "settings": {}}
    growth = {"model": BEST, "prompt": "Once", "next": " upon", "ids": None, "token": None}
    for path, body in (("/api/write", written), ("/api/growth", growth)):
        assert "not finite" in told(address, path, body)[-1]["error"]["message"]


@pytest.mark.parametrize(
    ("path", "more"),
    [("inside", {}), ("attention", {"layer": 0, "head": 0}), ("lens", {"position": 0})],
)
def test_looks_inside_are_refused(
    diverged: Path, studio: Callable[[Path], str], path: str, more: dict[str, object]
) -> None:
    body = {"model": BEST, "text": "Once"} | more
    status, refused = ask(studio(diverged), f"/api/{path}", body)
    assert status == 400
    assert "not finite" in refused["error"]["message"]

"""A run reads its tokens from the disk: files that become shorter, and more files than the process may open."""

import signal
from pathlib import Path

import pytest

from homespun.stories import stories
from tests.faults import runs
from tests.faults.runs import NOTHING, SAVE_INTERVAL, lost
from tests.faults.table import Table

pytestmark = pytest.mark.faults

TITLE = "Tokens on disk"
TRUNCATED = "token shards truncated while a run reads them"
MANY = "more token shards than the process may open files"

DOCUMENTS = 120
MORE_FILES = 40


def truncated(place: Path, *wrong: str) -> tuple[int, str]:
    """Exit status and output of a run whose shards are truncated between two checkpoints."""
    cut = f"truncate-shards-in-step={2 * SAVE_INTERVAL + 2}"
    run = ["train", "--resume", "auto", *runs.RUN, "--checkpoint-dir", "cut"]
    status = runs.start(place, *run, wrong=[cut, *wrong]).wait(timeout=runs.LONGEST)
    return status, runs.log_of(place).read_text()


def test_shards_that_become_shorter(place: Path, table: Table) -> None:
    status, output = truncated(place)
    assert status == 2
    last = output.splitlines()[-1]
    assert "training-00000.tokens: " in last
    assert "it has changed since this process started" in last
    assert runs.newest_step(place / "cut") == 2 * SAVE_INTERVAL
    assert "made again" in runs.train(place, "cut")
    assert lost(place / "control", place / "cut") == NOTHING
    table.row(
        TRUNCATED,
        tries=1,
        lost=NOTHING,
        result="named; resumed with tokens made again, equal to control",
    )


def test_shards_that_become_shorter_would_show(place: Path, table: Table) -> None:
    assert truncated(place, "shards-mapped")[0] == -signal.SIGBUS
    table.red(TRUNCATED, "shards-mapped")


def many_shards(place: Path, *wrong: str) -> str:
    """Output of a run with a shard for each of many documents, under a low limit of open files."""
    text = "\n<|endoftext|>\n".join(stories(DOCUMENTS, seed=5))
    (place / "many.txt").write_text(text, encoding="utf-8")
    data = ["--data-file", "many.txt", "--tokenizer-path", "tokenizer_model"]
    runs.train(place, "many-control", *data)
    few = ["a-shard-for-each-document", f"few-open-files={MORE_FILES}", *wrong]
    return runs.train(place, "many", *data, "--tokens-dir", "many-tokens", wrong=few, status=None)


def test_many_shards(place: Path, table: Table) -> None:
    output = many_shards(place)
    assert len(list(place.glob("many-tokens/*/*.tokens"))) == DOCUMENTS
    assert lost(place / "many-control", place / "many") == NOTHING, output
    table.row(MANY, tries=1, lost=NOTHING, result="equal to a run with one shard")


def test_many_shards_would_show(place: Path, table: Table) -> None:
    assert "Too many open files" in many_shards(place, "shards-stay-open")
    assert lost(place / "many-control", place / "many") != NOTHING
    table.red(MANY, "shards-stay-open")

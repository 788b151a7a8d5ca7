"""`homespun prepare --part`: machines share a folder, and the tokens are those of one process."""

import errno
import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from homespun import child_process
from homespun.cli.main import main
from homespun.config import PrepareConfig
from homespun.data import prepare as prepare_module
from homespun.data.corpus import survey
from homespun.data.prepare import already_prepared, prepare
from homespun.data.shards import write_shard
from homespun.errors import DiskFullError, UserError
from homespun.preparing.several_machines import SharedWork, prepare_part
from homespun.tokenizer import Tokenizer
from tests.data.files import written
from tests.preparing.files import contents, expected, tokens_in

WAY_IN = ["prepare", "--data-file", "web", "--vocab-size", "400", "--workers", "1"]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 4_000)
    monkeypatch.setattr("homespun.data.manifest.TIMESTAMP_GRANULARITY", 0)


def silent(line: str) -> None:
    pass


def config(part: str, **settings: object) -> PrepareConfig:
    return PrepareConfig(data_file="web", vocab_size=400, workers=1, part=part, **settings)  # type: ignore[arg-type]


def work(n_parts: int, **settings: object) -> SharedWork:
    return SharedWork(config(f"1/{n_parts}", **settings), n_parts, silent)


def test_machines_that_are_killed_and_started_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes. The second is killed while it waits, and the first waits until somebody does its part."""
    environment = child_process.environment() | {"PYTHONUNBUFFERED": "1"}

    def started(part: str) -> "subprocess.Popen[str]":
        command = [*child_process.command("homespun"), *WAY_IN, "--part", part]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def says(process: "subprocess.Popen[str]", line: str) -> None:
        assert process.stdout
        assert any(said.startswith(line) for said in iter(process.stdout.readline, "")), line

    with started("2/2") as second:
        says(second, "Waiting for --part 1/2 to plan the work")
        second.kill()
    with started("1/2") as first:
        says(first, "Waiting for --part 2/2 to make tokens")
        with started("2/2") as again:
            says(again, "part 2 of 2: ")
            assert again.wait(60) == 0
        says(first, "next    homespun train --data-file web")
        assert first.wait(60) == 0
    assert contents(tokens_in(place / "data/tokens")) == expected()
    assert main(["verify", str(tokens_in(place / "data/tokens"))]) == 0
    assert main(WAY_IN) == 0
    assert "time    already there" in capsys.readouterr().out


@pytest.mark.usefixtures("small_shards")
def test_the_first_machine_waits_for_the_others(place: Path) -> None:
    said: list[str] = []
    other = work(2)
    turns = iter([lambda: None, lambda: other.read_files(1), lambda: other.tokenize(1)])
    prepare_part(config("1/2"), said.append, sleep=lambda seconds: next(turns)())
    waits = [line.partition(".")[0] for line in said if line.startswith("Waiting")]
    assert waits == [
        "Waiting for --part 2/2 to read the text",
        "Waiting for --part 2/2 to make tokens",
    ]
    assert said[-1] == "next    homespun train --data-file web"
    assert contents(tokens_in(place / "data/tokens")) == expected()
    left = {path.name.partition("-")[0] for path in (place / "data/tokens/web.parts").iterdir()}
    assert left == {"plan", "tokenizer"}
    tokenizer = Tokenizer.load(Path("tokenizer_model"))
    found = already_prepared(survey(Path("web")), tokenizer, Path("data/tokens"), any_split=False)
    assert found


@pytest.mark.usefixtures("small_shards")
def test_a_part_that_starts_late_finds_all_done(place: Path) -> None:
    prepare_part(config("1/1"), silent)
    before = contents(tokens_in(place / "data/tokens"))
    said: list[str] = []

    def sleep(seconds: float) -> None:
        raise AssertionError("it waits")

    prepare_part(config("3/3"), said.append, sleep)
    assert "of them from before" in said[-1]
    prepare_part(config("1/3"), said.append, sleep)
    assert contents(tokens_in(place / "data/tokens")) == before


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("then", ["other parts", "one process"])
def test_finished_shards_are_kept(place: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """The work goes on with another number of machines, or on one machine without parts."""
    for part in (0, 1):
        work(2).read_files(part)
    work(2).make_plan()
    n_written = 0

    def full(*arguments: object) -> None:
        nonlocal n_written
        n_written += 1
        if n_written == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_shard(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare_module, "write_shard", full)
    with pytest.raises(DiskFullError, match="tokens cannot be written"):
        prepare_part(config("2/2"), silent)
    monkeypatch.setattr(prepare_module, "write_shard", write_shard)
    [home] = [path.parent for path in (place / "data/tokens").glob("*/lock")]
    kept = {path: path.stat().st_mtime_ns for path in home.glob("*.tokens")}
    assert len(kept) >= 3
    if then == "other parts":
        for part in (2, 1, 0):
            prepare_part(config(f"{part + 1}/3"), silent)
    else:
        assert main(WAY_IN) == 0
    assert contents(home) == expected()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.usefixtures("small_shards")
def test_a_text_that_changes_gets_a_new_plan(place: Path) -> None:
    prepare_part(config("1/1"), silent)
    with (place / "web/a.txt").open("a") as file:
        file.write("\n<|endoftext|>\nOne story more.\n")
    prepare_part(config("1/1"), silent)
    homes = [path.parent for path in (place / "data/tokens").glob("*/index.json")]
    assert len(homes) == 2
    tokenizer = Tokenizer.load(Path("tokenizer_model"))
    control = prepare(survey(Path("web")), tokenizer, Path("control")).folder
    assert contents(place / "data/tokens" / control.name) == contents(control)


@pytest.mark.usefixtures("small_shards")
def test_a_text_that_is_replaced_with_its_size_and_time_is_surveyed_again(place: Path) -> None:
    prepare_part(config("1/1"), silent)
    record = place / "data/tokens/web.survey.json"
    before = record.read_bytes()
    text = place / "web/a.txt"
    then = text.stat()
    text.write_text(text.read_text().swapcase())
    os.utime(text, ns=(then.st_atime_ns, then.st_mtime_ns))
    prepare_part(config("1/1"), silent)
    assert record.read_bytes() == before
    assert survey(Path("web"), None, place / "data/tokens") == survey(Path("web"))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.write_text("Another."), "web: changed while it was being read"),
        (Path.unlink, "web/a.txt: cannot be read"),
    ],
)
def test_a_text_that_changes_while_a_machine_waits(
    place: Path, change: Callable[[Path], object], message: str
) -> None:
    turns = iter([lambda: change(place / "web/a.txt")])  # there is no second one
    with pytest.raises(UserError, match=message):
        prepare_part(config("1/2"), silent, sleep=lambda seconds: next(turns)())


@pytest.mark.usefixtures("small_shards")
def test_a_text_that_goes_away_at_the_end(place: Path) -> None:
    """All shards are made, so the text is not needed any more."""
    prepare_part(config("1/1"), silent)
    done = work(1)
    assert done.parts_that_tokenize() == set()
    (place / "web/a.txt").unlink()
    done.complete()


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_record_of_the_tokenizer_is_made_again(place: Path) -> None:
    prepare_part(config("1/1"), silent)
    [record] = place.glob("data/tokens/web.parts/tokenizer-*")
    before = record.read_bytes()
    record.write_bytes(before[:-9])
    assert work(2).parts_that_plan() == {0}
    prepare_part(config("1/1"), silent)
    assert record.read_bytes() == before


@pytest.mark.usefixtures("small_shards")
def test_a_shared_disk_without_locks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    prepare_part(config("1/1"), silent)
    home = tokens_in(place / "data/tokens")
    whole = contents(home)
    assert len(whole) > 3
    victim = home / "training-00002.tokens"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"this file system has no locks .* and start all parts"):
        prepare_part(config("1/1"), silent)
    victim.unlink()  # as the message says
    prepare_part(config("1/1"), silent)
    assert contents(home) == whole


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_is_made_again(place: Path) -> None:
    prepare_part(config("1/1"), silent)
    victim = tokens_in(place / "data/tokens") / "training-00002.tokens"
    victim.write_bytes(victim.read_bytes()[:-1])
    said: list[str] = []
    prepare_part(config("1/1"), said.append)
    assert any("training-00002.tokens: damaged token shard" in line for line in said)
    assert contents(tokens_in(place / "data/tokens")) == expected()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "0/2"], "--part is '0/2': write the number of the part and the number of all"),
        (["--part", "3/2"], "--part is '3/2': write the number"),
        (["--part", "two"], "--part is 'two': write the number"),
        (["--part", "1/2", "--drop-poor"], "--part divides the work on a finished text: first"),
        (["--part", "1/2", "--cluster", "c.toml"], "--cluster starts all parts by itself"),
        (["--part", "1/2", "--data-file", "mix.toml"], "mix.toml describes a text: divide the"),
        (["--part", "1/2", "--data-file", "chats.jsonl"], "chats.jsonl holds conversations, whose"),
        (["--part", "1/2", "--tokenizer-path", "none"], "none"),
        (["--part", "1/1", "--data-file", "short.txt"], "short.txt"),
    ],
)
def test_what_cannot_be_divided_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    written(place / "mix.toml", '[mixture]\n"web/a.txt" = 1\n"web/b.txt" = 2\n')
    chats = [json.dumps({"prompt": f"How many? {n}", "answer": "Two."}) for n in range(30)]
    written(place / "chats.jsonl", "\n".join(chats))
    written(place / "short.txt", "Too short.")
    text = [] if "--data-file" in arguments else ["--data-file", "web"]
    assert main(["prepare", *text, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1

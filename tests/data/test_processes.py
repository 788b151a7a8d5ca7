"""Other processes read and encode a text; the result is that of one process."""

import random
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from homespun.data import encoding, facts, processes
from homespun.data import prepare as prepare_module
from homespun.data.corpus import survey
from homespun.data.encoding import EncodingProcesses, pack, unpack
from homespun.data.prepare import VERIFIED, prepare
from homespun.data.processes import Ended
from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train
from tests.data.files import as_parquet, written

TEXTS = ["once upon a time", "größer 😀\n\n", "", "a\0b", END_OF_TEXT, "x" * 70_000]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["once upon a time the cat ran größer " * 20], 285)


def stories(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    words = ["once", "upon", "a", "time", "the", "cat", "größer", "ran", "😀", END_OF_TEXT]
    return [f"{number} " + " ".join(rng.choices(words, k=40)) for number in range(n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all kinds, among them an empty one, a book and one of 2,000 short documents."""
    folder = tmp_path / "texts"
    folder.mkdir()
    written(folder / "a.txt", f"\n{END_OF_TEXT}\n".join(stories(0, 60)))
    written(folder / "b.jsonl", "\n".join(f'{{"text": "number {n}"}}' for n in range(2000)))
    written(folder / "c.txt", "")
    as_parquet(folder / "d.parquet", text=[*stories(1, 50), None])
    written(folder / "e.txt", "A line of a book.\n\n" * 3000)
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 4_000)
    monkeypatch.setattr(facts, "IN_MEMORY", 1_000)


def test_texts_pass_unchanged() -> None:
    assert list(unpack(b"".join(pack(TEXTS)))) == TEXTS
    assert list(unpack(b"".join(pack([])))) == []


def test_processes_encode_as_the_tokenizer_does(tokenizer: Tokenizer) -> None:
    expected = tokenizer.join(TEXTS)
    with EncodingProcesses(tokenizer, 2) as encoder, ThreadPoolExecutor(4) as pool:
        assert (encoder.sha256, encoder.vocab_size) == (tokenizer.sha256, tokenizer.vocab_size)
        for ids in pool.map(encoder.join, [iter(TEXTS) for _ in range(8)]):
            assert np.array_equal(ids, expected)
            assert ids.dtype == expected.dtype
        started = encoder._started
        assert len(started) == 2
    assert all(worker._process.returncode is not None for worker in started)


def test_answers_that_nobody_read_are_not_those_of_the_next_file(folder: Path) -> None:
    """As when the disk is full while the facts of a file are kept."""

    def packed(name: str) -> Iterator[bytes]:
        return facts.packed_facts(folder / name, 1_000, workers, lambda n_bytes: None)

    with processes.Workers(facts.__name__, 1) as workers:
        given_up = packed("b.jsonl")
        next(given_up)
        cast(Generator[bytes], given_up).close()
        assert len(list(facts.unpacked(packed("a.txt")))) == 60


@pytest.mark.parametrize("n_workers", [2, 3])
def test_a_text_read_by_several_processes_is_the_same(folder: Path, n_workers: int) -> None:
    assert survey(folder, n_workers=n_workers) == survey(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.jsonl", '{"text": "good"}\n{"text": 7}\n', "b.jsonl:2: the document must be a string"),
        ("d.txt", b"fine\n\xff\xfe\xff", "not UTF-8 in line 2"),
        ("z.txt", b"one\0two", "NUL at byte 3"),
    ],
)
def test_a_bad_file_is_named_as_by_one_process(
    folder: Path, name: str, content: str | bytes, message: str
) -> None:
    written(folder / name, content)
    with pytest.raises(UserError) as alone:
        survey(folder)
    with pytest.raises(UserError) as error:
        survey(folder, n_workers=2)
    assert str(error.value) == str(alone.value)
    assert message in str(error.value)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "")
    written(tmp_path / "b.txt", " \n")
    with pytest.raises(UserError, match="there is no text in it"):
        survey(tmp_path, n_workers=2)


def contents(home: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in home.iterdir()
        if path.name not in (VERIFIED, "lock")
    }


@pytest.mark.parametrize("n_workers", [2, 3])
def test_tokens_are_the_same_bytes_for_any_number_of_processes(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, n_workers: int
) -> None:
    corpus = survey(folder)
    expected = contents(prepare(corpus, tokenizer, tmp_path / "one").folder)
    assert len(expected) > 5
    with EncodingProcesses(tokenizer, n_workers) as encoder:
        prepared = prepare(corpus, encoder, tmp_path / "several", threads=n_workers)
    assert contents(prepared.folder) == expected


def test_a_process_that_is_killed_ends_the_work_and_keeps_whole_shards(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = survey(folder)
    expected = contents(prepare(corpus, tokenizer, tmp_path / "control").folder)
    join = EncodingProcesses.join
    calls: list[int] = []

    def killed(encoder: EncodingProcesses, documents: list[str]) -> object:
        calls.append(1)
        if len(calls) == 5:
            for worker in encoder._started:
                worker._process.kill()
        return join(encoder, documents)

    monkeypatch.setattr(EncodingProcesses, "join", killed)
    with (
        EncodingProcesses(tokenizer, 2) as encoder,
        pytest.raises(Ended, match=r"has ended \(SIGKILL\): run this again"),
    ):
        prepare(corpus, encoder, tmp_path / "tokens", threads=2)
    monkeypatch.undo()
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 4_000)
    [home] = (tmp_path / "tokens").iterdir()
    partial = contents(home)
    assert 0 < len(partial) < len(expected)
    assert partial.items() <= expected.items()
    with EncodingProcesses(tokenizer, 2) as encoder:
        prepare(corpus, encoder, tmp_path / "tokens", threads=2)
    assert contents(home) == expected


def test_processes_end_with_the_one_that_started_them(tokenizer: Tokenizer) -> None:
    """A killed process closes its pipes; that ends the others."""
    worker = processes.Worker(encoding.__name__)
    worker.ask(tokenizer.to_json().encode())
    worker._to.close()
    assert worker._process.wait(60) == 0
    worker.stop()


def test_work_that_is_given_up_starts_no_process(tokenizer: Tokenizer) -> None:
    with EncodingProcesses(tokenizer, 1) as encoder:
        pass
    with pytest.raises(Ended), encoder.one():
        pass


# A second start ---------------------------------------------------------------------------------


def bytes_read() -> int:
    """Bytes that this process has read so far, from files and pipes."""
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(facts["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts bytes")
@pytest.mark.usefixtures("fine_clock")
def test_a_second_start_reads_neither_text_nor_tokens(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads about a thousand bytes for each shard of text, which stands for 8 MB of text."""
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 200_000)

    def start(text: Path) -> tuple[int, int]:
        before = bytes_read()
        corpus = survey(text, None, tmp_path / "tokens")
        prepared = prepare(corpus, tokenizer, tmp_path / "tokens")
        return bytes_read() - before, len(prepared.training)

    read: list[int] = []
    for n in (1_000, 4_000):
        text = written(tmp_path / f"{n}.txt", f"\n{END_OF_TEXT}\n".join(stories(n, n)))
        first, n_tokens = start(text)
        assert first > 2 * text.stat().st_size
        second, again = start(text)
        assert again == n_tokens
        n_shards = len(list((tmp_path / "tokens").glob("*/*.tokens")))
        assert second < 20_000 + 1_200 * n_shards
        read.append(second)
    assert read[1] < text.stat().st_size / 20


@pytest.fixture
def fine_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose times differ after every change, so that a file can be trusted at once."""
    monkeypatch.setattr("homespun.data.manifest.TIMESTAMP_GRANULARITY", 0)

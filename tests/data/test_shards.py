import dataclasses
import hashlib
import os
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.data import shards
from homespun.data.shards import MAX_OPEN_FILES, Header, TokenStream, open_shard, write_shard
from homespun.errors import ResourceError, UserError
from tests.checkpoint.faults import trace

TOKENIZER, DATA, TEXT = ("1" * 64, "2" * 64, "3" * 64)


def header(n_tokens: int, vocab_size: int = 300) -> Header:
    return Header(vocab_size, n_tokens, 2, 1000, TOKENIZER, DATA, TEXT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A shard of 50 ids."""
    write_shard(tmp_path / "some.tokens", np.arange(50), header(50))
    return tmp_path / "some.tokens"


@pytest.mark.parametrize(
    ("vocab_size", "itemsize"), [(257, 2), (65_536, 2), (65_537, 4), (1_000_000, 4)]
)
def test_every_id_survives(tmp_path: Path, vocab_size: int, itemsize: int) -> None:
    ids = np.array([0, 1, 255, 256, vocab_size - 1])
    write_shard(tmp_path / "s", ids, header(5, vocab_size))
    shard = open_shard(tmp_path / "s", tokenizer_sha256=TOKENIZER, data_sha256=DATA)
    assert shard[:].dtype.itemsize == itemsize
    assert shard[:].tolist() == ids.tolist()
    assert shard.header == header(5, vocab_size)
    assert TokenStream([shard]).read(0, 5).tolist() == ids.tolist()
    assert (tmp_path / "s").stat().st_size == 176 + 5 * itemsize


@pytest.mark.parametrize("ids", [[300], [-1], [65_536 + 5], [1, 2], []])
def test_ids_that_the_header_does_not_allow_are_not_written(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="ids"):
        write_shard(tmp_path / "s", np.array(ids, np.int64), header(min(len(ids), 1)))
    assert list(tmp_path.iterdir()) == []


def test_a_flip_anywhere_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"some\.tokens: "):
            open_shard(path)
    path.write_bytes(whole)
    open_shard(path)


def test_another_length_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for damaged in [whole[:length] for length in range(len(whole))] + [whole + b"\0", whole * 2]:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"some\.tokens: "):
            open_shard(path)


def test_an_id_beyond_the_vocabulary_is_found(path: Path) -> None:
    """The vocabulary is checked even if all hashes match."""
    packed, payload = header(1, 290).pack(), np.array([290], "<u2").tobytes()
    path.write_bytes(packed + hashlib.sha256(packed + payload).digest() + payload)
    with pytest.raises(UserError, match=r"some\.tokens: id 290 in a vocabulary of 290"):
        open_shard(path)


def test_two_bytes_per_id_for_a_large_vocabulary_are_refused(path: Path) -> None:
    packed = bytearray(header(1, 70_000).pack())
    packed[12] = 2
    payload = b"\0\0"
    path.write_bytes(packed + hashlib.sha256(packed + payload).digest() + payload)
    with pytest.raises(UserError, match=r"2 bytes per id for a vocabulary of 70,000"):
        open_shard(path)


def test_an_empty_shard_and_one_that_asks_for_exabytes_are_refused(path: Path) -> None:
    for n_tokens in (0, 1 << 60):
        packed = header(n_tokens).pack()
        path.write_bytes(packed + hashlib.sha256(packed).digest())
        with pytest.raises(UserError, match="damaged"):
            open_shard(path)


def test_another_origin_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match=r"some\.tokens: made by another tokenizer"):
        open_shard(path, tokenizer_sha256=DATA)
    with pytest.raises(UserError, match=r"some\.tokens: made from other data"):
        open_shard(path, data_sha256=TOKENIZER)
    path.write_bytes(path.read_bytes()[:8] + b"\2" + path.read_bytes()[9:])
    with pytest.raises(UserError, match=r"some\.tokens: token shard of version 2"):
        open_shard(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.tokens: .*No such file"):
        open_shard(tmp_path / "gone.tokens")
    with pytest.raises(UserError, match="directory"):
        open_shard(tmp_path)
    (tmp_path / "text").write_text("Once upon a time. " * 20)
    with pytest.raises(UserError, match="text: not a token shard"):
        open_shard(tmp_path / "text")


def test_verifying_needs_little_memory(tmp_path: Path) -> None:
    n_tokens = 8_000_000
    write_shard(tmp_path / "s", np.zeros(n_tokens, np.uint16), header(n_tokens))
    tracemalloc.start()
    try:
        shard = open_shard(tmp_path / "s")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000 < 2 * len(shard)


# Reading ----------------------------------------------------------------------------------------


@contextmanager
def few_open_files(n: int) -> Iterator[None]:
    """Allow `n` more open files than now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_open_files_do_not_grow_with_the_text(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.tokens" for number in range(3 * MAX_OPEN_FILES)]
    for number, path in enumerate(paths):
        write_shard(path, np.array([number, 0]), header(2))
    with few_open_files(MAX_OPEN_FILES + 2):
        stream = TokenStream([open_shard(path) for path in paths])
        assert stream[:].tolist() == [id for number in range(len(paths)) for id in (number, 0)]


def test_too_many_open_files_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = open_shard(path)
    monkeypatch.setattr(shards, "_open_files", shards._OpenFiles())  # none that could be closed
    with few_open_files(0):
        for read in (lambda: open_shard(path), lambda: shard[:]):
            with pytest.raises(ResourceError, match=r"Too many open files.*: allow more .*ulimit"):
                read()
    assert shard[:].tolist() == list(range(50))


@pytest.mark.parametrize("length", [0, 10, 176, 200, 275])
def test_a_shard_that_becomes_shorter_while_in_use_is_named(path: Path, length: int) -> None:
    shard = open_shard(path)
    assert shard[40:].tolist() == list(range(40, 50))
    os.truncate(path, length)
    for window in (slice(0, 5), slice(40, 50)):
        with pytest.raises(UserError, match=r"some\.tokens: .*it has changed since .* --resume"):
            shard[window]


def test_a_shard_that_becomes_shorter_between_the_check_and_the_reading_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = open_shard(path)
    monkeypatch.setattr(os, "pread", lambda *arguments: b"\0")
    with pytest.raises(UserError, match=r"some\.tokens: truncated token shard: it has changed"):
        shard[40:]


def rewritten(path: Path, content: bytes) -> None:
    """Write into the file itself until its time changes."""
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        with path.open("r+b") as file:
            file.write(content)


def test_a_shard_that_changes_while_in_use_is_verified_again(path: Path) -> None:
    shard, whole = open_shard(path), path.read_bytes()
    assert shard[:3].tolist() == [0, 1, 2]
    rewritten(path, whole)
    assert shard[:3].tolist() == [0, 1, 2]
    rewritten(path, whole[:-1] + b"\1")
    with pytest.raises(UserError, match=r"some\.tokens: damaged .*it has changed"):
        shard[:3]
    write_shard(path, np.arange(50)[::-1], header(50))
    path.with_name("copy").write_bytes(whole)
    path.with_name("copy").replace(path)
    assert shard[:3].tolist() == [0, 1, 2]


def test_a_shard_that_was_made_from_other_documents_meanwhile_is_refused(path: Path) -> None:
    shard = open_shard(path)
    write_shard(path, np.arange(50), dataclasses.replace(header(50), text_sha256="4" * 64))
    with pytest.raises(UserError, match=r"some\.tokens: holds other tokens"):
        shard[:3]


def test_a_shard_that_is_deleted_while_it_is_open_can_still_be_read(path: Path) -> None:
    shard = open_shard(path)
    assert shard[:1].tolist() == [0]
    path.unlink()
    assert shard[:].tolist() == list(range(50))


# Writing ----------------------------------------------------------------------------------------


def test_the_name_appears_after_the_content_is_on_disk(tmp_path: Path) -> None:
    calls = trace(lambda: write_shard(tmp_path / "s", np.arange(3), header(3)))
    assert [kind for kind, _ in calls] == ["write", "fsync", "rename", "fsync"]


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Limit the size of files, so that a write beyond the limit fails part-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()
    with largest_file(100_000), pytest.raises(OSError, match="File too large"):
        write_shard(path, np.zeros(100_000, int), header(100_000))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# The stream -------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), max_size=6),
    start=st.integers(-8, 35),
    stop=st.none() | st.integers(-8, 35),
)
def test_a_stream_is_its_shards_in_a_row(lengths: list[int], start: int, stop: int | None) -> None:
    whole = np.arange(sum(lengths), dtype=np.uint16)
    stream = TokenStream(np.split(whole, np.cumsum(lengths)[:-1]) if lengths else [])
    assert len(stream) == len(whole)
    assert stream[start:stop].tolist() == whole[start:stop].tolist()
    assert stream[start:stop].dtype == np.int32
    if 0 <= start <= len(whole):
        count = len(whole) - start
        assert stream.read(start, count).tolist() == whole[start:].tolist()


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 8), (7, 1), (8, 0), (3, -1)])
def test_a_stream_gives_no_token_that_it_does_not_have(start: int, count: int) -> None:
    with pytest.raises(IndexError):
        TokenStream([np.arange(3), np.arange(4)]).read(start, count)


def test_a_window_has_no_step() -> None:
    with pytest.raises(ValueError, match="step"):
        TokenStream([np.arange(9)])[::2]

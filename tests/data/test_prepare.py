import dataclasses
import errno
import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from homespun import durable
from homespun.data import manifest, shards
from homespun.data import prepare as module
from homespun.data.corpus import Corpus, survey
from homespun.data.manifest import TIMESTAMP_GRANULARITY
from homespun.data.prepare import VERIFIED, Prepared, check_folder, prepare
from homespun.errors import ResourceError, UserError, cannot_read
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train

SHARD_BYTES = 4_000


def write_data(path: Path, seed: int) -> Corpus:
    rng = random.Random(seed)
    words = ["once", "upon", "a", "time", "the", "cat", "größer", "ran", "😀", END_OF_TEXT]
    documents = [f"{number} " + " ".join(rng.choices(words, k=40)) for number in range(150)]
    path.write_text(f"\n{END_OF_TEXT}\n".join(documents), encoding="utf-8")
    return survey(path)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_data(tmp_path / "data.txt", seed=0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["once upon a time the cat ran größer " * 20], 285)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", SHARD_BYTES)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != VERIFIED)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def only_folder(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def shard_paths(prepared: Prepared) -> list[Path]:
    return sorted(prepared.folder.glob("*.tokens"))


def test_each_side_is_its_documents_behind_end_of_text_ids(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    prepared = prepare(corpus, tokenizer, tmp_path / "tokens")
    sides = {False: prepared.training, True: prepared.validation}
    for is_held_out, stream in sides.items():
        documents = [text for text, held_out in corpus.split() if held_out == is_held_out]
        expected = [id for text in documents for id in (0, *tokenizer.encode(text))]
        ids = stream.read(0, len(stream))
        assert ids.tolist() == expected
        n_bytes = sum(len(text.encode()) for text in documents)
        assert n_bytes == tokenizer.byte_lengths[ids].sum()
    names = [path.name for path in shard_paths(prepared)]
    assert names[:2] == ["training-00000.tokens", "training-00001.tokens"]
    assert len(names) > 5
    assert prepared.folder.name == f"{corpus.sha256[:12]}-{tokenizer.sha256[:12]}"


def test_what_is_done_is_not_done_again(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(corpus, tokenizer, tmp_path / "tokens")

    def unexpected(*_: object) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr(Tokenizer, "join", unexpected)
    monkeypatch.setattr(Corpus, "pieces", unexpected)
    again = prepare(corpus, tokenizer, tmp_path / "tokens")
    assert again.training[:].tolist() == first.training[:].tolist()
    assert again.validation[:].tolist() == first.validation[:].tolist()


def test_other_data_and_other_tokenizers_have_folders_of_their_own(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    other = write_data(tmp_path / "other.txt", seed=1)
    smaller = train(["once upon a time the cat ran größer " * 20], 275)
    pairs = [(corpus, tokenizer), (other, tokenizer), (corpus, smaller)]
    prepared = [prepare(*pair, tmp_path / "tokens") for pair in pairs]
    assert len({one.folder for one in prepared}) == 3
    for one, (data, encoder) in zip(prepared, pairs, strict=True):
        assert one.training[:].tolist() == encoder.join(data.training()).tolist()


def test_tokens_of_another_split_serve_only_the_runs_that_began_with_them(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    earlier = dataclasses.replace(
        corpus,
        validation_bytes=100,
        validation_hashes=frozenset(
            hashlib.sha256(text.encode()).hexdigest() for text in corpus.training()
        ),
    )
    folder = tmp_path / "tokens"
    first = prepare(earlier, tokenizer, folder, any_split=True)
    validation = tokenizer.join(corpus.training()).tolist()
    assert first.validation[:].tolist() == validation
    again = prepare(corpus, tokenizer, folder, any_split=True)
    assert again.validation[:].tolist() == validation
    fair = prepare(corpus, tokenizer, folder)
    assert fair.training[:].tolist() == validation
    assert first.validation[:].tolist() == validation  # still mapped


# Damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", [0, TIMESTAMP_GRANULARITY])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone", "of another place"])
def test_a_damaged_shard_is_named_and_made_again(
    corpus: Corpus,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    granularity: int,
) -> None:
    """Damage is found even if the bytes of the shard have been verified before."""
    monkeypatch.setattr(manifest, "TIMESTAMP_GRANULARITY", granularity)
    prepared = prepare(corpus, tokenizer, tmp_path / "tokens")
    before = contents(prepared.folder)
    victim, neighbour = shard_paths(prepared)[1:3]
    whole, written = victim.read_bytes(), victim.stat().st_ctime_ns
    damaged = {
        "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        "truncated": whole[:-1],
        "of another place": neighbour.read_bytes(),
    }
    victim.unlink()
    if damage != "gone":
        victim.write_bytes(damaged[damage])
        while victim.stat().st_ctime_ns == written:  # until the clock of the file system ticks
            victim.write_bytes(damaged[damage])
    said: list[str] = []
    again = prepare(corpus, tokenizer, tmp_path / "tokens", say=said.append)
    assert again.training[:].tolist() == prepared.training[:].tolist()
    assert contents(prepared.folder) == before
    assert [victim.name in line for line in said] == ([] if damage == "gone" else [True])


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"training": 1}',
        '{"training": {}}',
        '{"training": {}, "validation": {}}',
        '{"training": {"a": "b"}}',
    ],
)
def test_a_damaged_index_is_made_again(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, index: str
) -> None:
    prepared = prepare(corpus, tokenizer, tmp_path / "tokens")
    before = contents(prepared.folder)
    (prepared.folder / "index.json").write_text(index)
    prepare(corpus, tokenizer, tmp_path / "tokens")
    assert contents(prepared.folder) == before


def test_data_that_changes_after_the_survey_is_refused(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = corpus.path.read_text(encoding="utf-8")
    corpus.path.write_text(text.replace("cat", "car"), encoding="utf-8")
    with pytest.raises(UserError, match="changed"):
        prepare(corpus, tokenizer, tmp_path / "tokens")
    corpus.path.write_text(text, encoding="utf-8")
    prepared = prepare(corpus, tokenizer, tmp_path / "tokens")
    assert prepared.training[:].tolist() == tokenizer.join(corpus.training()).tolist()


@pytest.mark.parametrize("writes_that_succeed", range(0, 14, 3))
def test_a_full_disk_keeps_what_is_finished(
    corpus: Corpus,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes_that_succeed: int,
) -> None:
    control = prepare(corpus, tokenizer, tmp_path / "control").folder
    expected = contents(control)
    left = iter(range(writes_that_succeed))
    lock = threading.Lock()
    sync = durable.sync_descriptor

    def filling(descriptor: int) -> None:
        with lock:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "sync_descriptor", filling)
        with pytest.raises(UserError, match="No space left"):
            prepare(corpus, tokenizer, tmp_path / "tokens")
    home = tmp_path / "tokens" / control.name
    partial = contents(home)
    assert partial.items() < expected.items()
    prepare(corpus, tokenizer, tmp_path / "tokens")
    assert contents(home) == expected


def test_a_folder_that_cannot_be_made_is_refused(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("a file")
    with pytest.raises(UserError, match="tokens"):
        prepare(corpus, tokenizer, tmp_path / "tokens")


def test_a_folder_is_checked_without_writing(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "tokens"
    check_folder(folder)
    assert not folder.parent.exists()
    with pytest.raises(UserError, match=r"data\.txt is a file\): .*--tokens-dir"):
        check_folder(corpus.path / "tokens")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"new/tokens: tokens cannot be written .*--tokens-dir"):
        check_folder(folder)
    prepare(corpus, tokenizer, folder)
    check_folder(folder)  # it is only read


def test_a_lack_of_resources_does_not_make_tokens_again(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tokens"
    prepared = prepare(corpus, tokenizer, folder)
    before = contents(prepared.folder)

    def exhausted(path: Path, **_: object) -> None:
        raise cannot_read(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), str(path))

    monkeypatch.setattr(module, "open_shard", exhausted)
    with monkeypatch.context() as patched:
        patched.setattr(Corpus, "pieces", exhausted)  # the text is not even read
        with pytest.raises(
            ResourceError, match=r"00000\.tokens.*Too many open files\): allow more"
        ):
            prepare(corpus, tokenizer, folder)
    (prepared.folder / "index.json").unlink()
    with pytest.raises(ResourceError, match=r"00000\.tokens.*Too many open files\): allow more"):
        prepare(corpus, tokenizer, folder)
    before.pop("index.json")
    assert contents(prepared.folder) == before


# More than one process --------------------------------------------------------------------------

PROGRAM = """
import os
import sys
from pathlib import Path
from homespun.data import prepare as module, shards
from homespun.data.corpus import survey
from homespun.tokenizer import Tokenizer

data, tokenizer, folder, shard_bytes, stop_after, stop_in = sys.argv[1:]
module.SHARD_BYTES = int(shard_bytes)
finished = []

def stop():
    os.write(1, b"here\\n")  # in one piece: two threads may come by
    sys.stdin.read()  # until killed

def write_shard(path, ids, header):
    shards.write_shard(path, ids, header)
    finished.append(path)
    if stop_in == "between" and len(finished) == int(stop_after):
        stop()

replace = Path.replace
def rename(source, target):
    if stop_in == "inside" and len(finished) >= int(stop_after):
        stop()
    return replace(source, target)

module.write_shard = write_shard
Path.replace = rename
module.prepare(survey(Path(data)), Tokenizer.load(Path(tokenizer)), Path(folder))
print("done", flush=True)
"""


def start(corpus: Corpus, folder: Path, stop_after: int, stop_in: str) -> subprocess.Popen[bytes]:
    tokenizer = corpus.path.parent / "tokenizer"
    arguments = [str(corpus.path), str(tokenizer), str(folder), str(SHARD_BYTES), str(stop_after)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments, stop_in],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("stop_in", ["between", "inside"])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_killed_run_goes_on_to_the_same_bytes(
    corpus: Corpus,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    stop_in: str,
) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    expected = contents(prepare(corpus, tokenizer, tmp_path / "control").folder)
    with start(corpus, tmp_path / "tokens", stop_after, stop_in) as process:
        assert process.stdout
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    home = only_folder(tmp_path / "tokens")
    finished = {path.name for path in home.glob("*.tokens")}
    assert stop_after <= len(finished) < len(expected) - 2
    assert any(home.glob("*.tmp")) or stop_in == "between"

    written: list[str] = []

    def write_shard(path: Path, *arguments: object) -> None:
        written.append(path.name)
        shards.write_shard(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_shard", write_shard)
    prepare(corpus, tokenizer, tmp_path / "tokens")
    assert contents(home) == expected
    assert finished.isdisjoint(written)


def test_two_processes_at_once_agree(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    expected = contents(prepare(corpus, tokenizer, tmp_path / "control").folder)
    with (
        start(corpus, tmp_path / "tokens", 0, "nowhere") as first,
        start(corpus, tmp_path / "tokens", 0, "nowhere") as second,
    ):
        outputs = [process.communicate()[0] for process in (first, second)]
    assert [output.splitlines()[-1] for output in outputs] == [b"done", b"done"]
    home = only_folder(tmp_path / "tokens")
    assert contents(home) == expected


def test_a_second_process_waits_and_says_so(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    home = prepare(corpus, tokenizer, tmp_path / "tokens").folder
    (home / "index.json").unlink()
    said: list[str] = []
    waits = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    def work() -> None:
        prepare(corpus, tokenizer, tmp_path / "tokens", say=say)

    thread = threading.Thread(target=work)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        assert waits.wait(60)
        thread.join(0.3)  # long enough to finish if it did not wait
        assert not (home / "index.json").exists()
    thread.join(60)
    assert "Another process" in said[0]
    assert list(durable.read_json(home / "index.json")) == ["training", "validation"]

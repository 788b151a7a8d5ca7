"""`verify` names each fault in a folder in one line, and reports all other files as whole."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from homespun import durable
from homespun.checkpoint.folder import CheckpointFolder
from homespun.data.shards import Header, write_shard
from homespun.errors import UserError
from homespun.records.metrics import MetricsLog
from homespun.tokenizer import Tokenizer, train
from homespun.verify import verify

TEXTS = {"training": ["a" * 64, "b" * 64], "validation": ["c" * 64]}


def checked(path: Path) -> tuple[list[str], list[str]]:
    """The lines about whole files, and the lines about faulty ones."""
    lines, end = [], ""
    try:
        for line in verify(path):
            lines.append(line)
    except UserError as error:
        end = str(error)
    if not path.is_dir():
        return lines, [end] if end else []
    whole = [line for line in lines if line.endswith((" whole", " shards"))]
    wrong = [line for line in lines if line not in whole]
    complaint = f"{path}: {len(wrong)} of {len(lines)} cannot be used, see above"
    assert end == (complaint if wrong else "")
    return whole, wrong


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


# A run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with three checkpoints, the best weights, and metrics."""
    folder = CheckpointFolder(tmp_path / "checkpoints")
    losses = {10: 4.0, 20: 3.0, 30: 3.5}
    with folder.lock(), MetricsLog(folder.path / "metrics.jsonl") as log:
        for step, loss in losses.items():
            log.append({"step": step - 5, "loss": loss})
            best = min(value for n, value in losses.items() if n <= step)
            log.append({"step": step, "val_loss": loss})
            tensors = [("w", np.full(1000, step, np.float32))]
            if loss == best:
                folder.save_best(step, tensors, {"val_loss": loss})
            position = {"guard": {"best_val_loss": best}}
            state = {
                "position": position,
                "metrics_length": log.sync(),
                "metrics_sha256": log.sha256,
            }
            folder.save(step, tensors, tensors, {}, state)
    return folder.path


def test_a_whole_run(run: Path) -> None:
    lines, wrong = checked(run)
    assert wrong == []
    assert lines == [
        *(f"{run}/checkpoint_step_{step}.npz: step {step}, whole" for step in (30, 20, 10)),
        f"{run}/best.npz: step 20, whole",
        f"{run}/metrics.jsonl: 6 records up to step 30, whole",
    ]
    for path in run.glob("[!.]*"):
        assert checked(path)[1] == []


def cut(path: Path, lines: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "weights": ("checkpoint_step_30.npz", flip, "damaged (the array w)"),
    "state": ("checkpoint_step_20.state.npz", flip, "damaged (the array w)"),
    "no state": ("checkpoint_step_10.state.npz", Path.unlink, "was not saved completely"),
    "best": ("best.npz", flip, "damaged"),
    "no best": ("best.npz", Path.unlink, "there is no such file"),
    "a line": ("metrics.jsonl", lambda path: flip(path, 0.0), "line 1: not a JSON object"),
    "a short record": ("metrics.jsonl", lambda path: cut(path, 4), "not the record that checkpoint_step_30.npz"),
    "a record of others": ("metrics.jsonl", lambda path: path.write_text('{"step": 99}\n'), "not the record"),
    "a shifted record": ("metrics.jsonl", lambda path: path.write_bytes(b" " + path.read_bytes()), "not the record"),
    "disorder": ("metrics.jsonl", lambda path: path.write_text('{"step": 2}\n{"step": 1}\n'), "line 2: step 1 after"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_wrong_with_a_run_is_named(run: Path, what: str) -> None:
    name, damage, complaint = DAMAGE[what]
    damage(run / name)
    whole, wrong = checked(run)
    assert len(wrong) == 1
    assert name in wrong[0]
    assert complaint in wrong[0]
    assert len(whole) == 4


def test_every_changed_byte_of_a_record_is_found(run: Path) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 2, 16):
            content = bytearray(whole)
            content[place] ^= bit
            path.write_bytes(content)
            for checked_path in (path, run):
                assert "metrics.jsonl" in checked(checked_path)[1][0], bytes(content)


def test_a_record_without_a_hash_is_checked_by_its_length(run: Path) -> None:
    folder = CheckpointFolder(run)
    for step in (10, 20, 30):
        stored = folder.open(step)
        state = {k: v for k, v in stored.state.header.items() if k.startswith(("pos", "metrics_l"))}
        weights = [("w", np.full(1000, step, np.float32))]
        with folder.lock():
            folder.save(step, weights, weights, {}, state)
    assert checked(run)[1] == []


def test_best_weights_of_another_run_or_an_earlier_step_are_found(run: Path) -> None:
    folder = CheckpointFolder(run)
    folder.save_best(10, [("w", np.zeros(3))], {"val_loss": 4.0})
    assert checked(run)[1] == [
        f"{run}/best.npz: its validation loss is 4.0000, but checkpoint_step_30.npz states 3.0000: "
        "it is older, or belongs to another run"
    ]
    folder.save_best(35, [("w", np.zeros(3))], {"val_loss": 2.5})  # then killed
    assert checked(run)[1] == []


def test_a_run_that_was_killed_is_whole(run: Path) -> None:
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 31}\n{"ste')
    assert checked(run)[1] == []


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run, no tokens, no tokenizer and no download"):
        list(verify(tmp_path))
    with pytest.raises(UserError, match="there is no such file"):
        list(verify(tmp_path / "missing"))
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "x.tokens"):
        with pytest.raises(UserError) as refused:
            list(verify(path))
        assert str(path) in str(refused.value)


# Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    home = tmp_path / "222222222222-111111111111"
    home.mkdir()
    index: dict[str, dict[str, str]] = {}
    for side, texts in TEXTS.items():
        index[side] = {f"{side}-{n:05}.tokens": text for n, text in enumerate(texts)}
        for name, text in index[side].items():
            write_shard(
                home / name, np.arange(50), Header(300, 50, 2, 99, "1" * 64, "2" * 64, text)
            )
    durable.write_json(home / "index.json", index)
    return home


def test_whole_tokens(tokens: Path) -> None:
    lines, wrong = checked(tokens)
    assert wrong == []
    assert lines[0] == f"{tokens}/index.json: 3 shards"
    names = ("training-00000", "training-00001", "validation-00000")
    assert lines[1:] == [
        f"{tokens}/{name}.tokens: 50 tokens of 2 documents, whole" for name in names
    ]
    assert checked(tokens / "training-00000.tokens") == ([lines[1]], [])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (flip, "SHA-256 differs"),
        (Path.unlink, "cannot be read"),
        (lambda path: shutil.copy(path.with_name("training-00000.tokens"), path), "other documents"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged token shard"),
    ],
)  # fmt: skip
def test_the_damaged_shard_is_named(
    tokens: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(tokens / "training-00001.tokens")
    wrong = checked(tokens)[1]
    assert [complaint in line for line in wrong if "training-00001.tokens" in line] == [True]
    assert [line for line in wrong if ".tokens" in line and "00001" not in line] == []


def test_tokens_in_a_folder_of_another_name_or_without_an_index(tokens: Path) -> None:
    moved = tokens.rename(tokens.with_name("333333333333-111111111111"))
    assert all("belongs into 222222222222-111111111111" in line for line in checked(moved)[1][1:])
    moved.rename(tokens)
    (tokens / "index.json").unlink()
    whole, wrong = checked(tokens)
    assert len(whole) == 3
    assert "index.json: missing or damaged" in wrong[0]


# A tokenizer, a download


def test_a_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    train(["once upon a time the cat " * 20], 270).save(folder)
    assert checked(folder) == ([f"{folder}/tokenizer.json: 270 tokens, whole"], [])
    assert checked(folder / "tokenizer.json")[1] == []
    whole = (folder / "tokenizer.json").read_text()
    train(["upon the cat once a time " * 20], 270).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder)
    assert "damaged, or not the one that report.json describes" in checked(folder)[1][0]
    (folder / "tokenizer.json").write_text(whole[:-100])
    assert "not readable as JSON" in checked(folder)[1][0]
    (folder / "tokenizer.json").write_text(whole)
    (folder / "report.json").unlink()
    assert Tokenizer.load(folder).vocab_size == 270
    [line] = verify(folder)
    assert line.endswith("270 tokens; not checked, because report.json has no hash")


def test_a_download(tmp_path: Path) -> None:
    path = tmp_path / "book_all.txt"
    path.write_text("once\n<|endoftext|>\n")
    record = {"documents": 1, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (tmp_path / "book_all.txt.json").write_text(json.dumps(record))
    assert checked(path) == ([f"{path}: 1 document, whole"], [])
    assert checked(tmp_path) == ([f"{path}: 1 document, whole"], [])
    path.write_text("twice\n<|endoftext|>\n")
    complaint = f"{path}: changed since its download: move it away and download it again"
    assert checked(path)[1] == [complaint]
    assert checked(tmp_path)[1] == [complaint]


def test_a_damaged_record_of_a_download(tmp_path: Path) -> None:
    path = tmp_path / "book_all.txt"
    path.write_text("once\n<|endoftext|>\n")
    record = tmp_path / "book_all.txt.json"
    durable.write_json(record, {"documents": 1, "sha256": "0" * 64})
    record.write_text(record.read_text().replace("0000", "0001", 1))
    assert checked(path)[1] == [
        f"{path}: not checked, because {record} is damaged (its checksum differs): download it again"
    ]

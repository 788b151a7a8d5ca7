"""A damaged file is named and an older one is used; a file of another run is refused."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from homespun.checkpoint import archive
from homespun.checkpoint.archive import CheckpointError
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.opening import open_weights
from homespun.config import ModelConfig, TrainConfig
from homespun.config.checked import flag
from homespun.data.shards import open_shard, write_shard
from homespun.errors import UserError
from homespun.planning.resolved import ResolvedConfig
from homespun.training.checkpointing.resume import resumed_plan
from homespun.verify import verify
from tests.faults import runs
from tests.faults.runs import NOTHING, SAVE_INTERVAL, STEPS, Lost, lost
from tests.faults.table import Table
from tests.faults.wrong import apply
from tests.test_resume import kept

pytestmark = pytest.mark.faults

TITLE = "Damaged, or of another run"
DAMAGED = "checkpoint and best weights truncated or a bit flipped, at head, middle and tail"
RESUMED = "the newest checkpoint damaged, and the run resumed"
OTHER_TEXT = "other text of the same size"
OTHER_TOKENIZER = "another tokenizer of the same size"
SETTINGS = "a checkpoint of other settings (each)"
SHARDS = "token shards corrupt, of odd length, with ids outside the vocabulary"
RECORDS = "a record of a complete run damaged, and the run continued"
METRICS = "metrics.jsonl torn, deleted, or another run's"

NEWEST = f"checkpoint_step_{STEPS}"
FILES = (f"{NEWEST}.npz", f"{NEWEST}.state.npz", "best.npz")
EVERYWHERE = [i / 200 for i in range(10, 200)]
"""So many places in a shard that some of them lie in the samples of any few steps."""
PLACES = (0, 0.5, 1)
"""Positions in a file as fractions of its length: first byte, middle, last byte."""


def flip(path: Path, *places: float) -> None:
    """Flip a bit at each place, in a new file, since a process may have the old one open."""
    content = bytearray(path.read_bytes())
    for place in places:
        content[int(place * (len(content) - 1))] ^= 4
    path.unlink()
    path.write_bytes(content)


def truncate(path: Path, place: float) -> None:
    """Cut a file to this fraction of its length; 1 removes one byte."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: int(place * (len(content) - 1))])


DAMAGES = [(damage, place) for damage in (flip, truncate) for place in PLACES]


def unnoticed(place: Path) -> tuple[int, int]:
    """Number of damages tried, and number of those that some reader did not notice."""
    tries = missed = 0
    for name in FILES:
        for damage, at in DAMAGES:
            folder = shutil.copytree(place / "control", place / "damaged")
            damage(folder / name, at)
            tries += 1
            missed += not _is_noticed(folder, name)
            shutil.rmtree(folder)
    return tries, missed


def _is_noticed(folder: Path, name: str) -> bool:
    """Whether `homespun verify`, a loader of the named file, and a resumed run notice the damage.

    The resumed run must fall back to the previous checkpoint.
    """
    lines = verify(folder)
    told = False
    try:
        for line in lines:
            told |= name in line and "whole" not in line
    except UserError:
        pass
    else:
        return False
    if "state" not in name:
        try:
            open_weights(folder / name).verify()
        except CheckpointError as error:
            told &= name in str(error)
        else:
            return False
    said: list[str] = []
    newest = CheckpointFolder(folder).latest(said.append)
    fallen_back = STEPS if name == "best.npz" else STEPS - SAVE_INTERVAL
    return bool(newest and newest.step == fallen_back and told) and (
        name == "best.npz" or any(name in line for line in said)
    )


def test_damaged_files(place: Path, table: Table) -> None:
    tries, missed = unnoticed(place)
    assert missed == 0
    table.row(
        DAMAGED,
        tries=tries,
        lost=Lost(0, missed),
        result="named; the one before is taken; a named file is refused",
    )


def test_a_damage_would_show(place: Path, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homespun.checkpoint.archive.hashlib", archive.hashlib)  # to be restored
    apply(["hashes-of-arrays-ignored"])
    assert unnoticed(place)[1] > 0
    table.red(DAMAGED, "hashes-of-arrays-ignored")


def resumed_from_damaged(place: Path, damage: Any, at: float, name: str, *wrong: str) -> Lost:
    """Losses of a run that was killed, then resumed after damage to its newest checkpoint."""
    shutil.rmtree(place / "damaged", ignore_errors=True)
    runs.train(place, "damaged", wrong=[f"die-in-step={3 * SAVE_INTERVAL}"], status=-9)
    damage(place / "damaged" / f"checkpoint_step_{2 * SAVE_INTERVAL}{name}.npz", at)
    output = runs.train(place, "damaged", wrong=list(wrong))
    assert wrong or "skipped: " in output
    assert wrong or f"Resuming at step {SAVE_INTERVAL}\n" in output
    return lost(place / "control", place / "damaged")


def test_a_run_goes_on_from_an_older_checkpoint(place: Path, table: Table) -> None:
    damages = [(flip, 0.3, ""), (truncate, 0.9, ""), (flip, 0.6, ".state"), (truncate, 0, ".state")]
    for damage, at, name in damages:
        assert resumed_from_damaged(place, damage, at, name) == NOTHING
    table.row(
        RESUMED, tries=len(damages), lost=NOTHING, result="said, older one taken, equal to control"
    )


def test_going_on_from_a_damaged_one_would_show(place: Path, table: Table) -> None:
    sabotage = "hashes-of-arrays-ignored"
    assert resumed_from_damaged(place, flip, 0.3, "", sabotage) != NOTHING
    table.red(RESUMED, sabotage)


# Files of another run

RESUME = ["train", "--resume", "--checkpoint-dir", "control", "--max-steps", STEPS + 1]


def other_text(place: Path) -> list[object]:
    text = (place / "stories.txt").read_text()
    (place / "other.txt").write_text(text.replace("the", "teh", 1))
    return ["--data-file", "other.txt"]


def other_tokenizer(place: Path) -> list[object]:
    text = (place / "stories.txt").read_text()
    (place / "other.txt").write_text(text.swapcase())
    runs.run(
        place, "tokenizer", "--data-file", "other.txt", "--vocab-size", 400, "--output-dir", "other"
    )
    return ["--tokenizer-path", "other"]


@pytest.mark.parametrize(
    ("fault", "other", "sabotage"),
    [
        (OTHER_TEXT, other_text, "hash-of-the-text-ignored"),
        (OTHER_TOKENIZER, other_tokenizer, "hash-of-the-tokenizer-ignored"),
    ],
)
def test_what_belongs_to_another_run(
    place: Path, table: Table, fault: str, other: Any, sabotage: str
) -> None:
    more = other(place)
    before = {path.name: path.read_bytes() for path in (place / "control").glob("*.npz")}
    output = runs.run(place, *RESUME, *more, status=2)
    assert "of this run: " in output
    assert before == {path.name: path.read_bytes() for path in (place / "control").glob("*.npz")}
    table.row(fault, tries=1, lost=NOTHING, result="refused by its hash, nothing touched")
    runs.run(place, *RESUME, *more, wrong=[sabotage])
    table.red(fault, sabotage)


OTHER_VALUES = {
    "architecture": "gpt2", "optimizer": "adamw", "schedule": "linear", "engine": "torch", "precision": "float32",
    "compile": "on", "time_budget": "90s", "model_size": "nano", "config": "run.toml", "data_file": "b.txt",
    "checkpoint_dir": "b", "tokenizer_path": "b", "tokens_dir": "b", "sample_prompts": ("The dog",), "resume": "auto",
    "n_kv_heads": 2, "on_spike": "skip", "dropout": 0.1, "memory": "low",
    "gradient_checkpointing": True, "batch_size": 4, "grad_accumulation_steps": 1,
}  # fmt: skip


def answers(place: Path) -> dict[str, str]:
    """The effect of another value on resume, for each setting: fixed, announced or free."""
    checkpoint = CheckpointFolder(place / "control").open(STEPS)
    stored = checkpoint.weights.header
    asked = TrainConfig(**stored["requested"])
    found = {}
    for field in dataclasses.fields(TrainConfig):
        was = getattr(ResolvedConfig(**stored["resolved"]), field.name)
        other = OTHER_VALUES.get(field.name)
        if other is None:
            other = was * 0.9 if isinstance(was, float) else (was or 0) + 1
        elif field.name == "precision" and other == was:  # it depends on the processor
            other = "bfloat16"
        changes = {field.name: other}
        if field.name in ("batch_size", "grad_accumulation_steps"):  # keep their product
            changes = {"batch_size": 4, "grad_accumulation_steps": 1}
        said: list[str] = []
        try:
            plan = resumed_plan(dataclasses.replace(asked, **changes), stored, said.append)
        except UserError as error:
            found[field.name] = "fixed" if flag(field.name) in str(error) else str(error)
            continue
        assert plan.model == ModelConfig(**stored["model"])
        assert getattr(plan.config, field.name) == other
        found[field.name] = "announced" if any(field.name in line for line in said) else "free"
    return found


def test_every_setting_is_fixed_announced_or_free(place: Path, table: Table) -> None:
    declared = {
        field.name: field.metadata.get("on_resume", "free")
        for field in dataclasses.fields(TrainConfig)
    }
    assert answers(place) == declared
    table.row(
        SETTINGS,
        tries=len(declared),
        lost=NOTHING,
        result="fixed ones refused by name, announced ones said, free ones taken",
    )


# The tokens


def _largest_id(shard: Path) -> None:
    """Put an id outside the vocabulary at the end of a shard, with correct hashes."""
    whole = open_shard(shard)
    ids = whole[:].astype(int)
    ids[-1] = whole.header.vocab_size
    shard.unlink()
    larger = dataclasses.replace(whole.header, vocab_size=whole.header.vocab_size + 1)
    write_shard(shard, ids, larger)
    content = shard.read_bytes()
    packed = whole.header.pack()
    payload = content[len(packed) + 32 :]
    shard.write_bytes(packed + hashlib.sha256(packed + payload).digest() + payload)


SHARD_DAMAGES = {
    "flipped": lambda shard: flip(shard, 0.7),
    "odd length": lambda shard: truncate(shard, 1),
    "empty": lambda shard: truncate(shard, 0),
    "id outside": _largest_id,
}


def with_damaged_shards(place: Path) -> Lost:
    """Losses of a run that is killed four times, with damage to its training shard each time."""
    for damage in SHARD_DAMAGES.values():
        runs.train(place, "tokens", wrong=[f"die-in-step={2 * SAVE_INTERVAL + 1}"], status=-9)
        [shard] = place.glob("data/tokens/*/training-00000.tokens")
        damage(shard)
        with pytest.raises(UserError, match=r"training-00000\.tokens"):
            open_shard(shard)
    assert "training-00000.tokens" in runs.train(place, "tokens")
    return lost(place / "control", place / "tokens")


def test_damaged_shards(place: Path, table: Table) -> None:
    assert with_damaged_shards(place) == NOTHING
    table.row(
        SHARDS, tries=len(SHARD_DAMAGES), lost=NOTHING, result="named, made again, equal to control"
    )


def test_damaged_shards_would_show(place: Path, table: Table) -> None:
    runs.train(place, "tokens", wrong=["die-in-step=12"], status=-9)
    [shard] = place.glob("data/tokens/*/training-00000.tokens")
    flip(shard, *EVERYWHERE)
    folder = ["--checkpoint-dir", "tokens"]
    command = ["train", "--resume", "auto", *runs.RUN, *folder]
    ended = runs.start(place, *command, wrong=["shards-not-verified"]).wait(timeout=runs.LONGEST)
    assert ended != 0 or lost(place / "control", place / "tokens") != NOTHING
    table.red(SHARDS, "shards-not-verified")


def test_records_that_are_torn_or_gone(place: Path, table: Table) -> None:
    runs.train(place, "killed", wrong=["die-in-step=14"], status=-9)
    record = place / "killed" / "metrics.jsonl"
    with record.open("a") as file:
        file.write('{"step": 14, "tok')
    runs.train(place, "killed")
    assert lost(place / "control", place / "killed") == NOTHING
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    again = ["train", "--resume", "--checkpoint-dir", "killed", "--max-steps", STEPS + 1]
    assert "is not the record of this run" in runs.run(place, *again, status=2)
    record.unlink()
    runs.run(place, *again)
    assert [line["step"] for line in kept(place / "killed")] == [STEPS + 1] * 2
    table.row(
        METRICS,
        tries=3,
        lost=NOTHING,
        result="torn: cut back; another run's: refused; deleted: begun anew",
    )


def _replace(before: bytes, after: bytes) -> Any:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        assert before in content
        path.write_bytes(content.replace(before, after, 1))

    return damage


RECORD_DAMAGES = [
    _replace(b'"step": 1,', b'"stdp": 1,'),
    _replace(b'{"step": 1,', b'{"step": 1l'),
    _replace(b'"clipped": ', b'"clipped":,'),
    _replace(b'"step": 2', b'"step": 1'),
    _replace(b'"text": "', b'"text":  '),
    lambda path: flip(path, 0.3),
]


def with_damaged_records(place: Path, *wrong: str) -> int:
    """Number of damages that the resumed run or `verify` did not notice, or that cost the run."""
    missed = 0
    for damage in RECORD_DAMAGES:
        folder = shutil.copytree(place / "control", place / "flipped")
        damage(folder / "metrics.jsonl")
        again = ["train", "--resume", "--checkpoint-dir", "flipped", "--max-steps", STEPS + 1]
        output = runs.run(place, *again, wrong=list(wrong))
        noticed = "metrics.jsonl is damaged" in output and f"\nDone: {STEPS + 1} steps" in output
        try:
            list(verify(folder))
        except UserError:
            pass
        else:
            noticed = False
        missed += not noticed
        shutil.rmtree(folder)
    return missed


def test_damaged_records(place: Path, table: Table) -> None:
    assert with_damaged_records(place) == 0
    table.row(
        RECORDS,
        tries=len(RECORD_DAMAGES),
        lost=NOTHING,
        result="said; the run goes on to its end, its picture leaves the record out; verify names it",
    )


def test_damaged_records_would_show(place: Path, table: Table) -> None:
    assert with_damaged_records(place, "hash-of-the-records-ignored") > 0
    table.red(RECORDS, "hash-of-the-records-ignored")

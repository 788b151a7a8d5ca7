"""Any machine makes any shard of a text, and all come out as one process makes them."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from homespun.data import prepare as prepare_module
from homespun.data import shard_plan
from homespun.data.corpus import survey
from homespun.data.documents import block_of
from homespun.data.files import files_to_read
from homespun.data.kept_facts import keep_facts, kept_facts
from homespun.data.prepare import Prepared, make_shards, prepare
from homespun.data.shard_plan import Plan, make_plan, parts_of, read_plan, write_plan
from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train
from tests.data.files import as_parquet, written

MARK = f"\n{END_OF_TEXT}\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["once upon a time the cat ran away " * 20], 285)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 2_000)


def stories(seed: int, n: int) -> list[str]:
    return [f"{seed} {number} once upon a time the cat ran away " * 3 for number in range(n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all kinds, among them an empty one, a compressed one and a book."""
    folder = tmp_path / "texts"
    folder.mkdir()
    written(folder / "a.txt", MARK.join(stories(0, 60)))
    written(folder / "b.jsonl", "\n".join(f'{{"text": "number {n}"}}' for n in range(500)))
    written(folder / "c.txt", "")
    as_parquet(folder / "d.parquet", text=[*stories(1, 50), None, ""])
    written(folder / "e.txt.gz", gzip.compress(MARK.join(stories(2, 60)).encode()))
    written(folder / "g.txt", "A line of a book.\n\n" * 300)
    return folder


def planned(folder: Path, kept: Path, n_workers: int = 2) -> Plan:
    files = files_to_read(folder)
    kept.mkdir()
    facts = [kept / f"{number}.facts" for number in range(len(files))]
    keep_facts(
        list(zip(files, facts, strict=True)), block_of(files), n_workers, lambda amount: None
    )
    return make_plan(folder, block_of(files), facts)


def tokens_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tokens")}


def control(folder: Path, tokenizer: Tokenizer, tokens: Path) -> Prepared:
    return prepare(survey(folder), tokenizer, tokens)


@pytest.mark.parametrize(("n_parts", "has_long_value"), [(1, False), (5, False), (2, True)])
def test_shards_are_those_of_one_process(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, n_parts: int, has_long_value: bool
) -> None:
    if has_long_value:  # it is cut, and reading cannot start inside of it
        long = "word " * 300_000
        written(folder / "f.jsonl", f'{{"text": "{long}"}}\n{{"text": "last"}}\n')
    expected = control(folder, tokenizer, tmp_path / "control").folder
    plan = planned(folder, tmp_path / "facts")
    assert plan.corpus == survey(folder)
    assert plan.index == prepare_module.read_index(expected)
    home = tmp_path / "shared"
    home.mkdir()
    shares = plan.shares(n_parts)
    assert sorted(shard.name for share in shares for shard in share) == sorted(tokens_in(expected))
    for share in reversed(shares):
        before = len(tokens_in(home))
        parts = parts_of(plan, files_to_read(folder), share)
        make_shards(parts, plan.corpus, tokenizer, home, print, 2, lambda amount: None)
        assert len(tokens_in(home)) == before + len(share)
    assert tokens_in(home) == tokens_in(expected)


def test_shares_have_about_the_same_size(folder: Path, tmp_path: Path) -> None:
    plan = planned(folder, tmp_path / "facts")
    sizes = [sum(shard.n_bytes for shard in share) for share in plan.shares(4)]
    largest = max(shard.n_bytes for shard in plan.shards)
    assert sum(sizes) == plan.corpus.n_bytes
    assert max(sizes) - min(sizes) <= 2 * largest
    many = plan.shares(1_000)  # more machines than shards
    assert sum(map(bool, many)) <= len(plan.shards)


def test_only_the_wanted_documents_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard begins where it begins in its file, and the files before it are not opened."""
    written(folder / "a.txt", MARK.join(stories(0, 2_000)))
    plan = planned(folder, tmp_path / "facts")
    n_read = 0
    read = shard_plan.read

    def counted(*arguments: object) -> Iterator[object]:
        nonlocal n_read
        for found in read(*arguments):  # type: ignore[arg-type]
            n_read += 1
            yield found

    monkeypatch.setattr(shard_plan, "read", counted)
    wanted = [one for one in plan.shards if one.side == "training" and one.last < 1_900]
    for shard in (wanted[10], wanted[-1]):
        n_read = 0
        [(name, part)] = parts_of(plan, files_to_read(folder), [shard])
        assert (name, len(part.documents)) == (shard.name, shard.n_documents)
        assert n_read == shard.last - shard.first + 1
    n_read = 0
    two = parts_of(plan, files_to_read(folder), [wanted[-1], wanted[10]])
    assert [name for name, _ in two] == [wanted[10].name, wanted[-1].name]
    assert n_read < 3 * (wanted[10].last - wanted[10].first + 1)


def test_a_plan_survives_a_file(folder: Path, tmp_path: Path) -> None:
    plan = planned(folder, tmp_path / "facts")
    path = tmp_path / "plan.json"
    assert read_plan(path, folder) is None
    write_plan(path, plan)
    assert read_plan(path, folder) == plan
    path.write_bytes(path.read_bytes().replace(b"training-00001", b"training-00002"))
    assert read_plan(path, folder) is None


@pytest.mark.parametrize("change", ["other words", "other side", "shorter", "gone"])
def test_a_text_that_has_changed_is_named(folder: Path, tmp_path: Path, change: str) -> None:
    plan = planned(folder, tmp_path / "facts")
    files = files_to_read(folder)
    first, *_, last = (one for one in plan.shards if one.side == "training")
    text = files[0].read_text()
    if change == "other words":
        files[0].write_text(text.replace(" once", " Once", 30))
    elif change == "other side":  # all documents become another one
        files[0].write_text(text.replace("cat", "dog"))
    elif change == "shorter":
        first = last
        files[-1].write_text("")
    else:
        files[0].unlink()
    with pytest.raises(UserError, match=r"changed while it was being read|No such file"):
        list(parts_of(plan, files, [first]))


@pytest.mark.parametrize("damage", ["flipped", "shorter", "longer", "gone"])
def test_damaged_facts_are_named(folder: Path, tmp_path: Path, damage: str) -> None:
    planned(folder, tmp_path / "facts")
    kept = tmp_path / "facts/0.facts"
    whole = kept.read_bytes()
    assert len(list(kept_facts(kept))) == 60
    if damage == "gone":
        kept.unlink()
    else:
        changed = bytes([whole[0] ^ 1]) + whole[1:]
        kept.write_bytes(
            {"flipped": changed, "shorter": whole[:-9], "longer": whole + b"x"}[damage]
        )
    with pytest.raises(UserError, match=r"0\.facts: (damaged; delete it|cannot be read)"):
        list(kept_facts(kept))


def test_facts_are_complete_or_absent(folder: Path, tmp_path: Path) -> None:
    written(folder / "b.jsonl", '{"text": "good"}\n{"text": 7}\n')
    with pytest.raises(UserError, match=r"b\.jsonl:2: the document must be a string"):
        planned(folder, tmp_path / "facts", n_workers=1)
    left = sorted(path.name for path in (tmp_path / "facts").iterdir())
    assert "1.facts" not in left
    assert not [name for name in left if not name.endswith(".facts")]


def test_a_text_of_few_documents_is_not_divided(tmp_path: Path) -> None:
    text = written(tmp_path / "book.jsonl", '{"text": "%s"}\n' % ("Once upon a time. " * 500))
    with pytest.raises(
        UserError, match="too few documents for several machines: prepare it on one"
    ):
        planned(text, tmp_path / "facts")

"""Several texts mixed by weight."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from homespun.data import mixture
from homespun.data.corpus import survey
from homespun.data.mixture import BLOCK, MixedDataset, interleaved, mixed_stream
from homespun.data.prepare import already_prepared, prepare
from homespun.data.samples import TextDataset
from homespun.data.shards import TokenStream
from homespun.data.sizing import count_tokens
from homespun.data.text_file import Mixture, read_description
from homespun.errors import UserError
from homespun.tokenizer import train
from tests.data.files import written

SEQ_LEN = 4
WEIGHTS = (5, 2, 1)


def dataset(n_tokens: int = 900) -> MixedDataset:
    """Texts whose tokens tell which text they are from, and where they are in it."""
    texts = [np.arange(n_tokens) + 10_000 * text for text in range(3)]
    return MixedDataset([TextDataset(text, SEQ_LEN) for text in texts], WEIGHTS)


def test_each_text_has_its_share() -> None:
    places = dataset().batches(1).places(0, 3 * BLOCK)
    for n in (BLOCK, 2 * BLOCK, 3 * BLOCK):
        counts = Counter(text for text, _ in places[:n])
        assert [counts[text] * 8 // n for text in range(3)] == [*WEIGHTS]
        assert sum(counts.values()) == n
    # not only after whole blocks, and not one text after the other
    for begin in range(0, 3 * BLOCK, 512):
        counts = Counter(text for text, _ in places[begin : begin + 512])
        assert all(abs(counts[text] / 512 - WEIGHTS[text] / 8) < 0.1 for text in range(3))


def test_the_samples_of_a_text_are_those_of_the_text_alone() -> None:
    mixed = dataset()
    batches, alone = mixed.batches(3), [one.batches(3) for one in mixed.datasets]
    numbers = [itertools.count() for _ in alone]
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for text, number in batches.places(0, 2 * BLOCK):
        seen[text].append(number)
    for text, found in seen.items():
        assert sorted(found) == [next(numbers[text]) for _ in found]  # each once, none left out
    batch = batches.batch(700, 6)
    for row, (text, number) in enumerate(batches.places(700, 6)):
        assert batch.inputs[row].tolist() == alone[text].batch(number, 1).inputs[0].tolist()
        assert set(batch.targets[row] // 10_000) == {text}


def test_the_order_depends_on_the_seed_alone() -> None:
    mixed = dataset()
    whole = mixed.batches(5).batch(0, 64)
    for size, n in ((8, 8), (64, 1), (16, 4)):
        parts = mixed.batches(5).microbatches(0, size, n)
        assert np.array_equal(np.concatenate([part.inputs for part in parts]), whole.inputs)
    begun = BLOCK - 3  # anywhere, without the samples before
    assert dataset().batches(5).places(begun, 6) == mixed.batches(5).places(0, BLOCK + 3)[begun:]
    assert not np.array_equal(mixed.batches(6).batch(0, 64).inputs, whole.inputs)


def test_validation_is_mixed_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "PIECE", 10)
    streams = [TokenStream([np.full(n, text)]) for text, n in enumerate((1000, 70, 1000))]
    ids = mixed_stream(streams, (2, 1, 1))[:].tolist()
    assert ids.count(1) == 70
    assert 260 <= len(ids) <= 280
    assert Counter(ids[:80]) == {0: 40, 1: 20, 2: 20}
    monkeypatch.setattr(mixture, "MAX_VALIDATION", 40)
    assert len(mixed_stream(streams, (2, 1, 1))) == 40


def test_turns_follow_the_weights() -> None:
    turns = list(itertools.islice(interleaved((3, 1)), 40))
    assert turns.count(1) == 10
    assert turns[:4].count(1) == 1


# Files ------------------------------------------------------------------------------------------


def test_a_mixture_file(tmp_path: Path) -> None:
    path = written(
        tmp_path / "mix.toml", '[mixture]\n"a.txt" = 0.75\n"b/*.txt" = 0.1\n"/c" = 5e-2\n'
    )
    texts = (tmp_path / "a.txt", tmp_path / "b/*.txt", Path("/c"))
    assert read_description(path) == Mixture(texts, (15, 2, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mixture", "not valid TOML"),
        ("", "describes no text; for a mixture, write [mixture]"),
        ('[mixture]\n"a" = 1', "a mixture has two or more texts: write [mixture]"),
        ('[mixture]\n"a" = 1\n"b" = 2\n[other]', "describes no text"),
        ('[mixture]\n"a" = 1\n"b" = 0', '"b" is 0: give a number above 0'),
        ('[mixture]\n"a" = 1\n"b" = -1', '"b" is -1'),
        ('[mixture]\n"a" = 1\n"b" = true', '"b" is True'),
        ('[mixture]\n"a" = 1\n"b" = "2"', "\"b\" is '2'"),
        ('[mixture]\n"a" = 1\n"b" = nan', '"b" is nan'),
        ('[mixture]\n"a" = 1\n"b" = inf', '"b" is inf'),
        ('[mixture]\n"a" = 1\n"b" = 2e-4', '"b" is less than 0.1%'),
        ('[mixture]\n"a" = 1\n"mix.toml" = 1', "mix.toml is a mixture, too"),
    ],
)
def test_a_wrong_mixture_file(tmp_path: Path, content: str, message: str) -> None:
    path = written(tmp_path / "mix.toml", content)
    with pytest.raises(UserError) as error:
        read_description(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    """Two texts of different sizes, and a mixture in which the smaller one has the larger share."""
    for name, n in (("cats", 400), ("dogs", 100)):
        stories = [f"story {number} about {name} " * 8 for number in range(n)]
        written(tmp_path / f"{name}.txt", "\n<|endoftext|>\n".join(stories))
    return written(tmp_path / "mix.toml", '[mixture]\n"dogs.txt" = 3\n"cats.txt" = 1\n')


def test_a_mixture_is_a_text(mix: Path) -> None:
    corpus = survey(mix)
    dogs, cats = corpus.sources
    assert corpus.n_documents == dogs.n_documents + cats.n_documents
    assert sorted(corpus.split()) == sorted([*dogs.split(), *cats.split()])
    beginning = "".join(text for text, _ in itertools.islice(corpus.split(), 80))
    assert beginning.count("dogs") == pytest.approx(3 * beginning.count("cats"), rel=0.1)
    others = [written(mix.with_name("other.toml"), mix.read_text().replace("3", "2"))]
    assert corpus.sha256 not in [survey(other).sha256 for other in others]


def test_the_tokens_of_a_mixture_are_those_of_its_texts(mix: Path, tmp_path: Path) -> None:
    corpus = survey(mix)
    tokenizer = train(corpus.training(), 300)
    assert already_prepared(corpus, tokenizer, tmp_path / "tokens") is None
    prepared = prepare(corpus, tokenizer, tmp_path / "tokens")
    alone = [prepare(source, tokenizer, tmp_path / "tokens") for source in corpus.sources]
    assert [one.folder for one in prepared.sources] == [one.folder for one in alone]
    assert prepared.weights == (3, 1)
    assert len(prepared.training) == sum(len(one.training) for one in alone)
    count = count_tokens(corpus, tokenizer, 300, tmp_path / "tokens")
    assert count.training == len(prepared.training)
    total = sum(len(one.validation) for one in alone)
    assert count.bytes_per_token == pytest.approx(corpus.validation_bytes / total)


def test_conversations_cannot_be_mixed(mix: Path) -> None:
    line = '{"prompt": "How are you?", "answer": "Well."}\n'
    written(mix.with_name("chats.jsonl"), "".join(line.replace("you", f"{n}") for n in range(30)))
    mix.write_text('[mixture]\n"dogs.txt" = 3\n"chats.jsonl" = 1\n')
    with pytest.raises(UserError, match=r"chats\.jsonl holds conversations, which cannot be mixed"):
        survey(mix)
    with pytest.raises(UserError, match="describes a text: name a file"):
        survey(mix, as_pairs=True)
